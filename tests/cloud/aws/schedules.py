"""One-time schedules: moto keeps them; here they are checked and, by the emulator's clock, done."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.scheduler.models import Schedule, ScheduleGroup, scheduler_backends

from .account import role_credentials, trusted_role
from .calls import ACCOUNT, AwsError, Call
from .cloud import Cloud

__all__ = ["INTERNAL", "Schedules"]

_TICK_SECONDS = 0.2
_RETRY_SECONDS = 1.0  # AWS waits longer from try to try
_BUSY = ("Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown")
_TARGET = re.compile(r"arn:aws:scheduler:::aws-sdk:([a-z0-9]+):([a-z][A-Za-z0-9]+)")
INTERNAL = "emulator-scheduler"  # in the user agent of what schedules do: faults pass it by


class Schedules:
    """The schedules of all regions.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._lock = threading.Lock()
        self._failed: dict[str, tuple[int, float]] = {}  # ARN to how often it failed, and when it is tried again
        self._session = botocore.session.get_session()
        self._services = _services(self._session)
        cloud.before["scheduler", "CreateSchedule"] = self._check
        cloud.before["scheduler", "UpdateSchedule"] = self._check
        threading.Thread(target=self._watch, daemon=True).start()

    def fire(self) -> None:
        """Does what is due, and returns when it is done."""
        with self._lock:
            for region in list(dict.keys(scheduler_backends[ACCOUNT])):
                for group in list(scheduler_backends[ACCOUNT][region].schedule_groups.values()):
                    due = [schedule for schedule in group.schedules.values() if self._is_due(schedule)]
                    for schedule in sorted(due, key=_due):
                        self._do(region, group, schedule)

    def _watch(self) -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            with contextlib.suppress(RuntimeError):  # schedules came or went meanwhile
                self.fire()

    def _is_due(self, schedule: Schedule) -> bool:
        if schedule.state != "ENABLED" or not schedule.schedule_expression.startswith("at("):
            return False
        again = self._failed.get(schedule.arn, (0, 0.0))[1]
        return _due(schedule) <= self._cloud.clock.now() and again <= time.monotonic()

    def _do(self, region: str, group: ScheduleGroup, schedule: Schedule) -> None:
        target = schedule.target
        tries = self._failed.get(schedule.arn, (0, 0.0))[0]
        try:
            if not trusted_role(target["RoleArn"], "scheduler.amazonaws.com"):
                raise AwsError("AccessDeniedException", "the schedule's role cannot be assumed")
            self._call(region, target)
        except (AwsError, BotoCoreError, ClientError) as error:
            print(f"schedule {schedule.name} failed: {error}", flush=True)
            again = self._cloud.settings.retry_refused_schedules or not _is_refused(error)
            if again and tries < int(target["RetryPolicy"].get("MaximumRetryAttempts", 185)):
                self._failed[schedule.arn] = (tries + 1, time.monotonic() + _RETRY_SECONDS)
                return
        self._failed.pop(schedule.arn, None)
        if schedule.action_after_completion == "DELETE":
            group.schedules.pop(schedule.name, None)
        else:
            schedule.state = "DISABLED"

    def _call(self, region: str, target: dict[str, Any]) -> None:
        service, operation = self._found(target["Arn"])
        credentials = role_credentials(target["RoleArn"], "scheduler", region)
        client = boto3.Session(
            aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=credentials["AWS_SESSION_TOKEN"],
            region_name=region,
        ).client(service, endpoint_url=self._cloud.url, config=Config(user_agent_extra=INTERNAL))
        client._make_api_call(operation, json.loads(target.get("Input") or "{}"))

    def _found(self, arn: str) -> tuple[str, str]:
        """Returns boto3's name of a target's service and AWS's name of its operation."""
        found = _TARGET.fullmatch(arn)
        if found is None:
            raise AwsError("ValidationException", f"Provided Arn is not in correct format: {arn}")
        service = self._services.get(found[1])
        operation = found[2][0].upper() + found[2][1:]
        model = self._session.get_service_model(service) if service is not None else None
        if service is None or model is None or operation not in model.operation_names:
            raise AwsError("ValidationException", f"{arn} is not a supported target")
        return service, operation

    def _check(self, call: Call) -> None:
        given = call.parameters
        if not trusted_role(given["Target"]["RoleArn"], "scheduler.amazonaws.com"):
            raise AwsError(
                "ValidationException",
                "The execution role you provide must allow AWS EventBridge Scheduler to assume the role.",
            )
        if ":scheduler:::aws-sdk:" in given["Target"]["Arn"]:
            self._found(given["Target"]["Arn"])
            try:
                json.loads(given["Target"].get("Input") or "{}")
            except ValueError:
                raise AwsError("ValidationException", "Input must be valid JSON") from None
        expression = given["ScheduleExpression"]
        if expression.startswith("at(") and not re.fullmatch(r"at\(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\)", expression):
            raise AwsError("ValidationException", f"Invalid Schedule Expression {expression}.")


def _due(schedule: Schedule) -> float:
    """Returns when a schedule is due, in seconds since the epoch."""
    moment = datetime.fromisoformat(schedule.schedule_expression.removeprefix("at(").removesuffix(")"))
    return moment.replace(tzinfo=ZoneInfo(schedule.schedule_expression_timezone or "UTC")).timestamp()


def _is_refused(error: Exception) -> bool:
    """Tells whether AWS takes an error for the caller's fault, which another try would not mend."""
    if isinstance(error, AwsError):
        return error.status < 500
    if not isinstance(error, ClientError):
        return False
    status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    return 400 <= status < 500 and status != 429 and code not in _BUSY


def _services(session: botocore.session.Session) -> dict[str, str]:
    """Returns boto3's names of services by the names that universal targets use."""
    used = ("apigatewayv2", "application-autoscaling", "lambda", "logs", "s3", "sagemaker", "scheduler", "ssm")
    return {str(session.get_service_model(name).service_id).lower().replace(" ", ""): name for name in used}
