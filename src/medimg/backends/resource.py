"""What a backend tells of a thing it keeps: plain data, the same shape everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Kind", "Resource", "Status"]

Kind = Literal["job", "model", "endpoint"]
Status = Literal[
    "queued", "running", "completed", "failed", "cancelled",  # jobs
    "registered",  # models
    "starting", "ready", "updating",  # endpoints, which can also be failed; one that is updating still answers
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resource:
    """A job, a registered model version or an endpoint, as its backend describes it.

    Attributes:
        kind: "job", "model" or "endpoint".
        id: The job's id; "name/version" of a model; the endpoint's name.
        status: What it is doing.
        created: Seconds since the epoch.
        details: By kind, and more where the backend has it. Jobs: `task` ("train" or "predict"), `checkpoints` and
            `workload` (as in the specification), `reason` where it failed, `timings` (stage to seconds: what was before
            the job's own log, and beside it), `url` (its page in the cloud's console), and for the bill `instance`,
            `count`, `spot`, `training_seconds`, `billable_seconds`. Models: `digest`, `job`, `metrics`, `approval`.
            Endpoints: `digest`, `config` (the ServeConfig), `url`, `reason` where it or its last update failed,
            `key_command` where an API key is asked for (the shell command that prints it; "": none is asked).
    """

    kind: Kind
    id: str
    status: Status
    created: float
    details: Mapping[str, Any] = field(default_factory=dict)
