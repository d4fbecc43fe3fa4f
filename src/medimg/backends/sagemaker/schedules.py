"""The end of an endpoint's time, kept by AWS: one-time schedules that delete it though nobody is there.

A schedule is called medimg-ENDPOINT-TOKEN-NUMBER. The token is that of the deploy or update that made it, so that one
of them never touches what another has made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from medimg.backends.sagemaker.account import SCHEDULER_ROLE, Account
from medimg.backends.sagemaker.errors import translated
from medimg.errors import AlreadyExistsError, ConfigError, NotFoundError

__all__ = ["Deletion", "Schedules"]

_NAME = re.compile(r"medimg-(.+)-([0-9a-f]{8})-\d+")


@dataclass(frozen=True, slots=True)
class Deletion:
    """One call that a schedule makes.

    Attributes:
        service: AWS's name of the service in the ARN of a universal target.
        action: Its action, spelt as there.
        given: What the call is given.
        after: Seconds after the endpoint's time is up.
    """

    service: str
    action: str
    given: Mapping[str, Any]
    after: float = 0.0


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

    def at(self, name: str, token: str, hours: float, deletions: Sequence[Deletion]) -> None:
        """Schedules deletions from `hours` on; what is scheduled under the token already stays as it is."""
        client, targets = self._account.client("scheduler"), f"arn:{self._account.partition}:scheduler:::aws-sdk"
        due = datetime.now(UTC) + timedelta(hours=hours)
        for number, deletion in enumerate(deletions):
            with suppress(AlreadyExistsError), translated(f"scheduling the end of {name!r}"):
                client.create_schedule(
                    Name=f"medimg-{name}-{token}-{number}",
                    ScheduleExpression=f"at({due + timedelta(seconds=deletion.after):%Y-%m-%dT%H:%M:%S})",
                    ScheduleExpressionTimezone="UTC",
                    FlexibleTimeWindow={"Mode": "OFF"},
                    ActionAfterCompletion="DELETE",
                    Description=f"The end of the medimg endpoint {name}",
                    Target={
                        "Arn": f"{targets}:{deletion.service}:{deletion.action}",
                        "RoleArn": self._account.scheduler_role_arn,
                        "Input": json.dumps(deletion.given),
                        "RetryPolicy": {"MaximumRetryAttempts": 20, "MaximumEventAgeInSeconds": 86_400},
                    },
                )

    def owners(self) -> set[str]:
        """Returns the names of the endpoints that have schedules."""
        return {found[1] for found in map(_NAME.fullmatch, self._names("medimg-")) if found}

    def _names(self, prefix: str) -> list[str]:
        with translated("listing the schedules"):
            pages = self._account.client("scheduler").get_paginator("list_schedules").paginate(NamePrefix=prefix)
            return [schedule["Name"] for page in pages for schedule in page["Schedules"]]

    def delete(self, name: str, *, only: str | None = None, keep: str | None = None) -> None:
        """Deletes the schedules of an endpoint.

        Args:
            name: The endpoint's.
            only: Token of those to delete; None: all.
            keep: Token of those that stay.
        """
        for each in self._names(f"medimg-{name}-"):
            found = _NAME.fullmatch(each)
            # Another endpoint's name may begin with this one's.
            if found is None or found[1] != name or found[2] == keep or only not in (None, found[2]):
                continue
            with suppress(NotFoundError), translated(f"deleting the schedule {each!r}"):
                self._account.client("scheduler").delete_schedule(Name=each)
