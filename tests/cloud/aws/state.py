"""The emulator's own state: everything that exists and is not AWS's own, by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from moto.apigatewayv2.models import apigatewayv2_backends
from moto.applicationautoscaling.models import applicationautoscaling_backends
from moto.awslambda.models import lambda_backends
from moto.cloudformation.models import cloudformation_backends
from moto.iam.models import iam_backends
from moto.logs.models import logs_backends
from moto.s3.models import s3_backends
from moto.scheduler.models import scheduler_backends
from moto.ssm.models import ssm_backends

from .calls import ACCOUNT
from .cloud import Cloud

__all__ = ["forget", "state"]

_BACKENDS: tuple[Any, ...] = (
    apigatewayv2_backends, applicationautoscaling_backends, cloudformation_backends, lambda_backends, logs_backends,
    scheduler_backends, ssm_backends,
)  # fmt: skip


def state(cloud: Cloud, region: str | None = None) -> dict[str, list[str]]:
    """Returns the names of what exists, by kind; kinds of which there is nothing are left out.

    Args:
        cloud: The emulator.
        region: Only what is there, with what belongs to no region; None: all.
    """
    found = {kind.replace("-", "_") + "s": records.names(region) for kind, records in cloud.kinds.items()}
    s3 = s3_backends[ACCOUNT]["aws"]
    buckets = [bucket for bucket in s3.buckets.values() if region in (None, bucket.region_name)]
    found["buckets"] = [bucket.name for bucket in buckets]
    found["objects"] = [f"{bucket.name}/{key}" for bucket in buckets for key, _ in bucket.keys.items()]
    iam = iam_backends[ACCOUNT]["aws"]
    found["roles"] = [role.name for role in iam.roles.values()]
    found["policies"] = [policy.name for policy in iam.managed_policies.values() if policy.arn.split(":")[4]]
    found["users"] = list(iam.users)
    for kind, names in _REGIONAL.items():
        found[kind] = [name for where in _regions(region) for name in names(where)]
    return {kind: sorted(names) for kind, names in sorted(found.items()) if names}


def forget(region: str) -> None:
    """Makes moto forget what it keeps in a region, its buckets too."""
    for backend in _BACKENDS:
        backend[ACCOUNT][region].reset()
    buckets = s3_backends[ACCOUNT]["aws"].buckets
    for name in [name for name, bucket in buckets.items() if bucket.region_name == region]:
        buckets.pop(name)
        s3_backends.bucket_accounts.pop(name, None)


def _regions(region: str | None) -> list[str]:
    if region is not None:
        return [region]
    # Only those that were used: moto makes the others when they are asked for.
    return sorted({region for backend in _BACKENDS for region in dict.keys(backend[ACCOUNT])})


def _logs(region: str) -> Iterable[str]:
    return logs_backends[ACCOUNT][region].groups


def _log_streams(region: str) -> Iterable[str]:
    groups = logs_backends[ACCOUNT][region].groups
    return [f"{name}/{stream}" for name, group in groups.items() for stream in group.streams]


def _functions(region: str) -> Iterable[str]:
    return [function.function_name for function in lambda_backends[ACCOUNT][region].list_functions()]


def _apis(region: str) -> Iterable[str]:
    return [api.name for api in apigatewayv2_backends[ACCOUNT][region].apis.values()]


def _schedules(region: str) -> Iterable[str]:
    groups = scheduler_backends[ACCOUNT][region].schedule_groups.values()
    return [name for group in groups for name in group.schedules]


def _scalable_targets(region: str) -> Iterable[str]:
    targets = applicationautoscaling_backends[ACCOUNT][region].targets
    return [resource for dimension in targets.values() for resource in dimension]


def _scaling_policies(region: str) -> Iterable[str]:
    return [policy.policy_name for policy in applicationautoscaling_backends[ACCOUNT][region].policies.values()]


def _parameters(region: str) -> Iterable[str]:
    # What begins with /aws is AWS's own.
    return [name for name in ssm_backends[ACCOUNT][region]._parameters if not name.startswith("/aws/")]


def _stacks(region: str) -> Iterable[str]:
    return [stack.name for stack in cloudformation_backends[ACCOUNT][region].stacks.values()]


_REGIONAL: dict[str, Callable[[str], Iterable[str]]] = {
    "log_groups": _logs,
    "log_streams": _log_streams,
    "functions": _functions,
    "apis": _apis,
    "schedules": _schedules,
    "scalable_targets": _scalable_targets,
    "scaling_policies": _scaling_policies,
    "ssm_parameters": _parameters,
    "stacks": _stacks,
}
