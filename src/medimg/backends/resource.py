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
    "starting", "ready",  # endpoints, which can also be failed
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resource:
    """A job, a registered model version or an endpoint, as its backend describes it.

    Attributes:
        kind: "job", "model" or "endpoint".
        id: The job's id; "name/version" of a model; the endpoint's name.
        status: What it is doing.
        created: Seconds since the epoch.
        details: By kind. Jobs: `task` ("train" or "predict"), `checkpoints` (as in the specification), `reason` where
            it failed. Models: `digest`, `job`, `metrics`. Endpoints: `digest`, `config` (the ServeConfig),
            `url`, `reason` where it failed, `key_file` where the key is in a file on this machine ("": none is asked).
    """

    kind: Kind
    id: str
    status: Status
    created: float
    details: Mapping[str, Any] = field(default_factory=dict)
