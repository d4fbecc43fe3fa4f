"""The SageMaker backend as tests use it: it asks more often than a bill would like, and is otherwise unchanged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from medimg.backends.sagemaker.account import EXECUTION_ROLE, LAMBDA_ROLE, SCHEDULER_ROLE
from medimg.backends.sagemaker.backend import SageMakerBackend
from medimg.backends.sagemaker.endpoints import Endpoints
from medimg.backends.sagemaker.http_api import HttpApis
from medimg.backends.sagemaker.jobs import Jobs

if TYPE_CHECKING:
    from aws.handle import Emulator

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

SageMakerBackend.job_poll_seconds = SageMakerBackend.endpoint_poll_seconds = 0.2
SageMakerBackend.log_delay_seconds = 3.0
Jobs.poll_seconds = Endpoints.poll_seconds = HttpApis.poll_seconds = 0.2


def make_roles(aws: Emulator) -> None:
    """Makes the roles that `medimg aws bootstrap` makes."""
    for role, service in ((EXECUTION_ROLE, "sagemaker"), (LAMBDA_ROLE, "lambda"), (SCHEDULER_ROLE, "scheduler")):
        aws.role(role, f"{service}.amazonaws.com")


def remove_roles(aws: Emulator) -> None:
    """Removes them, whoever made them: other tests in the same process leave theirs."""
    iam = aws.client("iam")
    for role in iam.list_roles()["Roles"]:
        if role["RoleName"] in (EXECUTION_ROLE, LAMBDA_ROLE, SCHEDULER_ROLE):
            for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
                iam.delete_role_policy(RoleName=role["RoleName"], PolicyName=name)
            iam.delete_role(RoleName=role["RoleName"])


def backend(**options: Any) -> SageMakerBackend:
    """Returns the backend; what is laid beside its code in an image is built for the Python that runs the tests."""
    return SageMakerBackend(**{"create_bucket": True, "serving_python": PYTHON, "lambda_python": PYTHON, **options})
