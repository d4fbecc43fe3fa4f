"""The end of an endpoint's time, kept by AWS: one-time schedules that delete it though nobody is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from medimg.backends.sagemaker.account import SCHEDULER_ROLE, Account
from medimg.backends.sagemaker.errors import translated
from medimg.errors import AlreadyExistsError, ConfigError, NotFoundError

__all__ = ["Deletion", "Schedules"]

Deletion = tuple[str, str, Mapping[str, Any]]  # the service, its action in AWS's spelling, what it is given


class Schedules:
    """The one-time schedules of an account.

    Args:
        account: Whose.
    """

    def __init__(self, account: Account) -> None:
        self._account = account

    def require_role(self) -> None:
        """Makes sure that there is a role which may delete what a schedule names.

        Raises:
            ConfigError: There is none: what is deployed would not end.
        """
        try:
            with translated("looking for the scheduler's role"):
                self._account.client("iam").get_role(RoleName=SCHEDULER_ROLE)
        except NotFoundError:
            raise ConfigError(
                f"ttl_hours needs the role {SCHEDULER_ROLE!r}, which deletes the endpoint when its time is up, and "
                "this account has none: nothing was deployed. Make it: medimg aws bootstrap"
            ) from None

    def at(self, name: str, hours: float, deletions: Sequence[Deletion]) -> None:
        """Schedules deletions, one after another from `hours` on, under names that begin with medimg-NAME."""
        client = self._account.client("scheduler")
        due = datetime.now(UTC) + timedelta(hours=hours)
        for number, (service, action, given) in enumerate(deletions):
            with suppress(AlreadyExistsError), translated(f"scheduling the end of {name!r}"):
                client.create_schedule(
                    Name=f"medimg-{name}-{number}",
                    ScheduleExpression=f"at({due + timedelta(seconds=30 * number):%Y-%m-%dT%H:%M:%S})",
                    ScheduleExpressionTimezone="UTC",
                    FlexibleTimeWindow={"Mode": "OFF"},
                    ActionAfterCompletion="DELETE",
                    Description=f"The end of the medimg endpoint {name}",
                    Target={
                        "Arn": f"arn:{self._account.partition}:scheduler:::aws-sdk:{service}:{action}",
                        "RoleArn": self._account.scheduler_role_arn,
                        "Input": json.dumps(given),
                        "RetryPolicy": {"MaximumRetryAttempts": 20, "MaximumEventAgeInSeconds": 86_400},
                    },
                )

    def names(self, name: str | None = None) -> list[str]:
        """Returns the names of an endpoint's schedules, or of all of ours."""
        prefix = "medimg-" if name is None else f"medimg-{name}-"
        with translated("listing the schedules"):
            pages = self._account.client("scheduler").get_paginator("list_schedules").paginate(NamePrefix=prefix)
            found = [schedule["Name"] for page in pages for schedule in page["Schedules"]]
        # Another endpoint's name may begin with this one's.
        return found if name is None else [each for each in found if each.removeprefix(prefix).isdigit()]

    def owners(self) -> set[str]:
        """Returns the names of the endpoints that have schedules."""
        return {name.removeprefix("medimg-").rpartition("-")[0] for name in self.names()}

    def delete(self, name: str | None = None) -> None:
        """Deletes the schedules of an endpoint, or all of ours."""
        for each in self.names(name):
            try:
                with translated(f"deleting the schedule {each!r}"):
                    self._account.client("scheduler").delete_schedule(Name=each)
            except NotFoundError:  # it has just done its work
                continue
