"""Job handles over a backend that is only a log and a status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from medimg.artifact import ModelFolder
from medimg.backends.base import Backend
from medimg.backends.handles import Job
from medimg.backends.resource import Kind, Resource
from medimg.config import JobSpec, ServeConfig
from medimg.errors import UnreachableError
from medimg.progress import Report


class Scripted(Backend):
    """Gives the lines it was made with; every other question about the log is not answered."""

    name: ClassVar[str] = "scripted"
    job_poll_seconds: ClassVar[float] = 0.0
    lines: tuple[str, ...] = ()
    reachable = True
    folder = Path()

    def _describe(self, kind: Kind, id: str) -> Resource:
        return Resource(kind, id, "completed", 100.0)

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        if not self.reachable:
            self.reachable = True
            raise UnreachableError("no network")
        return list(self.lines[after : after + 1]), min(after + 1, len(self.lines))

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        (target / "model").mkdir()

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        raise NotImplementedError

    def _list(self, kind: Kind) -> list[Resource]:
        raise NotImplementedError

    def _stop(self, id: str) -> None:
        raise NotImplementedError

    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        raise NotImplementedError

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        raise NotImplementedError

    def _delete(self, kind: Kind, id: str) -> None:
        """Has nothing to delete."""


def test_following_the_log_outlives_a_backend_that_does_not_answer() -> None:
    """Not to be reached is not to have ended; without `follow` it is the caller's to decide."""
    backend = Scripted()
    backend.lines = ("one", "two")
    backend.reachable = False
    assert list(Job(backend, "a").logs(follow=True)) == ["one", "two"]
    backend.reachable = False
    with pytest.raises(UnreachableError):
        list(Job(backend, "a").logs())


def test_timings_name_queueing_stages_and_epochs() -> None:
    """The epochs of fine-tuning go on from those before."""
    backend = Scripted()
    epoch = {"event": "epoch", "done": 1, "values": {"seconds": 2.5}}
    backend.lines = tuple(
        json.dumps(event)
        for event in (
            {"event": "stage", "stage": "importing", "time": 103.0},
            {"event": "stage", "stage": "fitting", "time": 104.0},
            {**epoch, "stage": "fitting", "time": 107.0},
            {**epoch, "stage": "fine-tuning", "time": 109.0},
            {"event": "done", "time": 109.0},
        )
    )
    wanted = {"queueing": 3, "importing": 1, "fitting": 5, "fine-tuning": 0, "epoch 1": 2.5, "epoch 2": 2.5}
    assert Job(backend, "a").timings == wanted


def test_a_model_is_verified_once_by_a_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing its files and opening its interpreter at each access takes seconds; a deleted job has no model."""
    loads: list[Path] = []

    def load(path: Path, **_: Any) -> SimpleNamespace:
        loads.append(path)
        return SimpleNamespace(path=path)

    monkeypatch.setattr(ModelFolder, "load", load)
    backend = Scripted()
    job = Job(backend, "a")
    assert job.model is job.model
    assert len(loads) == 1
    job.delete()
    _ = job.model
    assert len(loads) == 2


def test_an_adapter_without_a_constructor_has_no_options() -> None:
    """`*args` and `**kwargs` are no keywords that can be passed."""
    assert Scripted.options() == ()
