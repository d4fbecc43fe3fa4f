"""The emulator as tests see it: started, told what to do wrong, and asked what there is."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import boto3
import pytest
from botocore.config import Config
from process import EmulatorProcess, start_process

__all__ = ["Emulator"]

_KEY = "AKIAEMULATORROOT0001"
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": ""}, "Action": "sts:AssumeRole"}],
}


class Emulator(EmulatorProcess):
    """A running emulator; use `Emulator.start`.

    Attributes:
        url: Where it answers: what `AWS_ENDPOINT_URL` is set to.
        root: Its folder.
        region: Of `environment`.
    """

    region = "eu-central-1"

    @classmethod
    def start(cls, root: Path, *, region: str = "eu-central-1", namespaces: bool = True) -> Self:
        """Starts an emulator of its own process, which ends with this one.

        Args:
            root: A folder for what it writes.
            region: The default region of clients.
            namespaces: False: as on machines that forbid user namespaces.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        more = ["--no-namespaces"] * (not namespaces)
        emulator = cls(*start_process(Path(__file__).with_name("__main__.py"), root, more, environment))
        emulator.region = region
        return emulator

    # -- clients ------------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs in its environment, so that boto3 takes nothing from anywhere else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-emulator",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def apply(self, patch: pytest.MonkeyPatch, region: str | None = None) -> None:
        """Sets the environment, for the test that `patch` belongs to."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in self.environment.items():
            patch.setenv(name, value)
        if region is not None:
            patch.setenv("AWS_DEFAULT_REGION", region)

    def client(self, service: str, region: str | None = None, *, attempts: int | None = None) -> Any:
        """Returns a boto3 client that may do everything; `attempts`: how often it tries, where that matters."""
        session = boto3.Session(_KEY, "secret-of-the-emulator", region_name=region or self.region)
        config = None if attempts is None else Config(retries={"total_max_attempts": attempts})
        return session.client(service, endpoint_url=self.url, config=config)

    def role(self, name: str, service: str = "sagemaker.amazonaws.com", policy: Any = None) -> str:
        """Makes a role that a service may assume, where there is none of that name, and returns its ARN.

        Args:
            name: The role's name.
            service: Who may assume it.
            policy: What it may do; None: everything.
        """
        iam = self.client("iam")
        trust: Any = json.loads(json.dumps(_TRUST))
        trust["Statement"][0]["Principal"]["Service"] = service
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        try:
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        except iam.exceptions.EntityAlreadyExistsException:
            pass
        else:
            iam.put_role_policy(RoleName=name, PolicyName="policy", PolicyDocument=json.dumps(policy or everything))
        return str(iam.get_role(RoleName=name)["Role"]["Arn"])

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def faults(
        self,
        *,
        rate: float = 0.0,
        statuses: Sequence[int] = (429, 503),
        operations: Collection[str] | None = None,
        fail: tuple[str, int, str] | Iterable[tuple[str, int, str]] = (),
        performed: bool = False,
        seed: int = 0,
    ) -> None:
        """Makes calls fail, until `clear_faults`.

        Args:
            rate: Share of the calls that are answered as too many, half of them after they were performed.
            statuses: Of those answers; S3's are always 503.
            operations: Concerned by `rate`, by AWS's names; None: all.
            fail: Operation, number n and code: the nth call of it from now on fails with the code. One or several.
            performed: Whether what `fail` says is performed all the same.
            seed: Of the shares.
        """
        several = [fail] if fail and isinstance(next(iter(fail)), str) else list(fail)
        self.tell(
            "faults", rate=rate, statuses=list(statuses), operations=_listed(operations), fail=several,
            performed=performed, seed=seed,
        )  # fmt: skip

    def outage(
        self, *, seconds: float | None = None, calls: int | None = None, operations: Collection[str] | None = None
    ) -> None:
        """Closes connections without an answer, for a time or for so many calls."""
        self.tell("faults", outage_seconds=seconds, outage_calls=calls, operations=_listed(operations))

    def latency(self, seconds: float) -> None:
        """Makes every request wait."""
        self.tell("faults", latency_seconds=seconds)

    def capacity_errors(self, jobs: int) -> None:
        """Makes the next jobs find no free machine."""
        self.tell("settings", capacity_errors=jobs)

    def quota(self, name: str, value: float, region: str | None = None) -> None:
        """Sets a quota, such as "ml.g5.xlarge for training job usage"."""
        self.tell("quota", region=region or self.region, name=name, value=value)

    def clear_faults(self) -> None:
        """Takes back all faults, quotas and errors of capacity."""
        self.tell("clear_faults")

    def settings(self, **values: float) -> None:
        """Changes `cloud.Settings`: grace_seconds, starting_seconds, ping_seconds."""
        self.tell("settings", **values)

    def interrupt_spot(self, job: str, region: str | None = None) -> None:
        """Takes the spot instance of a training job away."""
        self.tell("interrupt_spot", job=job, region=region or self.region)

    def advance(self, seconds: float) -> None:
        """Moves the clock of the schedules on; what is due by then is done when this returns.

        It stays ahead, and schedules made later come too early: `reset_clock` takes it back.
        """
        self.tell("advance", seconds=seconds)

    def reset_clock(self) -> None:
        """Makes the clock of the schedules show the real time again."""
        self.tell("reset_clock")

    def enforce_iam(self, on: bool = True) -> None:
        """Checks the policies of users and roles; `environment` and `client` still may do everything."""
        self.tell("settings", enforce_iam=on)

    # -- what there is ------------------------------------------------------------------------------------------------

    def calls(self, service: str | None = None, operation: str | None = None) -> list[dict[str, Any]]:
        """Returns the calls since the start or the last mark, oldest first: see `journal.Entry`."""
        entries: list[dict[str, Any]] = self.tell("calls", mark=self._mark)
        return [
            entry
            for entry in entries
            if service in (None, entry["service"]) and operation in (None, entry["operation"])
        ]

    def state(self, region: str | None = None) -> dict[str, list[str]]:
        """Returns the names of all that exists by kind: buckets, objects, training_jobs, endpoints, roles and so on."""
        found: dict[str, list[str]] = self.tell("state", region=region)
        return found

    def reset_region(self, region: str) -> None:
        """Ends and forgets everything of a region."""
        self.tell("reset_region", region=region)


def _listed(operations: Collection[str] | None) -> list[str] | None:
    return None if operations is None else [operations] if isinstance(operations, str) else list(operations)
