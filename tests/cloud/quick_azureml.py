"""The AzureML backend as tests use it: it asks more often than Azure would like, and is otherwise unchanged."""

from __future__ import annotations

from typing import Any

from medimg.backends.azureml.backend import AzureMLBackend
from medimg.backends.azureml.endpoints import Endpoints
from medimg.backends.azureml.jobs import Jobs
from medimg.backends.azureml.workspace import Workspace

AzureMLBackend.job_poll_seconds = AzureMLBackend.endpoint_poll_seconds = 0.2
AzureMLBackend.log_delay_seconds = 3.0
Jobs.poll_seconds = Endpoints.poll_seconds = Workspace.poll_seconds = 0.2


def backend(**options: Any) -> AzureMLBackend:
    """Returns the backend."""
    return AzureMLBackend(**options)
