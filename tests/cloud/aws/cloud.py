"""What the parts of the emulator share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clock import Clock
from machines.containers import Containers

from .account import Storage
from .calls import AwsError, Call, Operation
from .images import Images
from .records import Records, Tags

__all__ = ["Cloud", "Settings"]

Check = Callable[[Call], None]
Edit = Callable[[Call, dict[str, Any]], None]


@dataclass
class Settings:
    """What tests may change while the emulator runs.

    Attributes:
        grace_seconds: Between SIGTERM and SIGKILL.
        starting_seconds: That an instance takes to start.
        ping_seconds: That a container may take until it answers /ping.
        capacity_errors: Jobs that will find no free machine.
        delete_in_progress: Whether an endpoint may be deleted while it is made or updated; AWS refuses it.
        enforce_iam: Whether policies are checked.
        retry_refused_schedules: Whether a schedule tries again what was refused as wrong, and not only what AWS had no
            time for or failed to do.
    """

    grace_seconds: float = 120.0
    starting_seconds: float = 0.05
    ping_seconds: float = 120.0
    capacity_errors: int = 0
    delete_in_progress: bool = False
    enforce_iam: bool = False
    retry_refused_schedules: bool = False


@dataclass
class Cloud:
    """The emulator's parts that others use.

    Attributes:
        root: Its folder.
        url: Where it answers.
        namespaces: Whether containers have an /opt/ml of their own; None: where this machine allows it.
        operations: What is answered here, by service and operation; moto answers the rest.
        before: What is looked at before moto is asked.
        after: What happens after moto did what it was asked.
        edit: What is changed in moto's answers.
        allows: Tells whether a role may do an action to a resource.
        may: Tells whether the caller may do another action to what the call is about.
    """

    root: Path
    url: str
    namespaces: bool | None = None
    settings: Settings = field(default_factory=Settings)
    clock: Clock = field(default_factory=Clock)
    storage: Storage = field(default_factory=Storage)
    kinds: dict[str, Records] = field(default_factory=dict)
    operations: dict[tuple[str, str], Operation] = field(default_factory=dict)
    before: dict[tuple[str, str], Check] = field(default_factory=dict)
    after: dict[tuple[str, str], Check] = field(default_factory=dict)
    edit: dict[tuple[str, str], Edit] = field(default_factory=dict)
    allows: Callable[[str, str, str], bool] = lambda *_: True
    may: Callable[[Call, str], bool] = lambda *_: True

    def __post_init__(self) -> None:
        self.images = Images(self.root / "images")
        self.containers = Containers(self.root / "containers", self.images.packages, self.namespaces)
        self.tags = Tags(self._exists)
        self.lock = threading.Lock()
        self.serve("sagemaker", self.tags.operations())

    def serve(self, service: str, operations: dict[str, Operation]) -> None:
        """Answers operations of a service."""
        self.operations |= {(service, name): operation for name, operation in operations.items()}

    def records(self, kind: str, missing: str, taken: str, code: str = "ValidationException") -> Records:
        """Returns a new set of records; see `Records`."""
        self.kinds[kind] = Records(kind, missing, taken, code)
        return self.kinds[kind]

    def _exists(self, arn: str) -> bool:
        parts = arn.split(":", 5)
        if len(parts) < 6 or parts[2] != "sagemaker":
            raise AwsError("ValidationException", f"Invalid resource ARN: {arn}")
        kind, _, name = parts[5].partition("/")
        return kind in self.kinds and name.lower() in map(str.lower, self.kinds[kind].names(parts[3]))

    def environment(self, call_region: str) -> dict[str, str]:
        """Returns how a container reaches AWS."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": call_region,
            "AWS_DEFAULT_REGION": call_region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
