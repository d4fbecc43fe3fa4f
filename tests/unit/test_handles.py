"""Handles over a backend that is only a log, a status and a list of what there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from medimg.artifact import ModelFolder
from medimg.backends.base import Backend
from medimg.backends.endpoint import Endpoint
from medimg.backends.job import Job
from medimg.backends.resource import Kind, Resource, Status
from medimg.config import JobSpec, ServeConfig
from medimg.data.encode import encode
from medimg.errors import (
    AccessError,
    BackendError,
    ConfigError,
    EndpointError,
    ImageRejected,
    MedimgError,
    UnreachableError,
)
from medimg.inference.answers import read_answer
from medimg.progress import Report


class Scripted(Backend):
    """Gives the lines it was made with; every other question about the log is not answered."""

    name: ClassVar[str] = "scripted"
    job_poll_seconds: ClassVar[float] = 0.0
    lines: tuple[str, ...] = ()
    reachable = True
    folder = Path()
    answers: ClassVar[list[Any]] = []

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
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, MedimgError):
                raise answer
            return answer
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


# -- endpoints --------------------------------------------------------------------------------------------------------


class Serving(Scripted):
    """Has endpoints whose states follow a script: status and digest, the last of them for ever."""

    name: ClassVar[str] = "serving"
    endpoint_poll_seconds: ClassVar[float] = 0.0

    def __init__(self, *states: tuple[Status, str]) -> None:
        self.states = list(states)
        self.settling: MedimgError | None = None
        self.log: MedimgError | None = None
        self.deleting: MedimgError | None = None
        self.interrupted = False
        self.deleted: list[str] = []
        self.updates: list[str] = []

    def _describe(self, kind: Kind, id: str) -> Resource:
        if self.interrupted:
            raise KeyboardInterrupt
        status, digest = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return Resource(kind, id, status, 100.0, {"digest": digest, "config": {}, "url": "", "reason": "out of luck"})

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        """Starts it: see the script."""

    def _update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        self.updates.append(details["digest"])
        self.states = [("updating", self.states[-1][1]), ("ready", details["digest"])]

    def _settle(self, name: str) -> None:
        if self.settling is not None:
            raise self.settling

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        if self.log is not None:
            raise self.log
        return ["golden inputs differ"], 1

    def _delete(self, kind: Kind, id: str) -> None:
        if self.deleting is not None:
            raise self.deleting
        self.deleted.append(id)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> str:
    """A path whose model has the digest "new"."""
    monkeypatch.setattr(ModelFolder, "load", lambda path, **_: SimpleNamespace(path=path, digest="new"))
    return "model"


@pytest.mark.parametrize("error", [AccessError("no"), BackendError("no"), ConfigError("no"), EndpointError("no")])
def test_a_new_endpoint_that_cannot_be_finished_is_deleted(model: str, error: MedimgError) -> None:
    """Its caller takes it for failed: it must not go on costing money."""
    backend = Serving(("starting", "new"), ("ready", "new"))
    backend.settling = error
    with pytest.raises(type(error)) as caught:
        backend.deploy(model, name="chest")
    assert caught.value is error
    assert backend.deleted == ["chest"]


def test_where_it_cannot_be_deleted_either_the_error_says_so(model: str) -> None:
    """The first error is the one that is raised."""
    backend = Serving(("ready", "new"))
    backend.settling, backend.deleting = AccessError("may not scale"), AccessError("may not delete")
    with pytest.raises(AccessError, match="may not scale") as caught:
        backend.deploy(model, name="chest")
    (note,) = caught.value.__notes__
    assert "may not delete" in note and "backend.endpoint('chest').delete()" in note


def test_an_endpoint_that_was_there_outlives_a_failure_to_finish_it() -> None:
    """Waiting for it is not deploying it."""
    backend = Serving(("ready", "new"))
    backend.settling = AccessError("may not scale")
    with pytest.raises(AccessError):
        Endpoint(backend, "chest").wait()
    assert backend.deleted == []


@pytest.mark.parametrize(
    ("log", "told"), [(None, "golden inputs differ"), (AccessError("no logs"), "Its log cannot be read: no logs")]
)
def test_a_failed_endpoint_stays_with_its_log(model: str, log: MedimgError | None, told: str) -> None:
    """Its log is what one wants to read; not being allowed to hides neither the failure nor its reason."""
    backend = Serving(("starting", "new"), ("failed", "new"))
    backend.log = log
    with pytest.raises(EndpointError, match="failed: out of luck") as caught:
        backend.deploy(model, name="chest")
    assert told in str(caught.value)
    assert backend.deleted == []


def test_who_stops_waiting_is_told_that_the_endpoint_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """And how to end it: after too long as well as by the keyboard."""
    backend = Serving(("starting", "new"))
    with pytest.raises(TimeoutError, match=r"is billed .* delete it with backend\.endpoint\('chest'\)\.delete\(\)"):
        Endpoint(backend, "chest").wait(timeout=0.0)
    backend.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        Endpoint(backend, "chest").wait()
    told = " ".join(capsys.readouterr().err.split())
    assert "is billed" in told and "backend.endpoint('chest').delete()" in told
    assert backend.deleted == []


def test_an_update_waits_for_the_one_that_is_under_way(model: str) -> None:
    """What it leads to decides whether there is anything to do: before, the old model is told as the one served."""
    backend = Serving(("updating", "old"), ("updating", "old"), ("ready", "new"))
    Endpoint(backend, "chest").update(model)
    assert backend.updates == []
    backend = Serving(("updating", "new"), ("ready", "another"))
    Endpoint(backend, "chest").update(model)
    assert backend.updates == ["new"]


# -- cleanup ----------------------------------------------------------------------------------------------------------


class Full(Serving):
    """Has two endpoints, which are deleted at once or not at all, and three jobs, of which one cannot be deleted."""

    name: ClassVar[str] = "full"

    def __init__(self) -> None:
        super().__init__(("ready", "new"))
        self.both = Barrier(2)
        self.tidied = False

    def _list(self, kind: Kind) -> list[Resource]:
        if kind == "model":
            raise UnreachableError("the registry does not answer")
        names = {"endpoint": ("a", "b"), "job": ("c", "d", "e")}[kind]
        return [Resource(kind, name, "ready", float(number)) for number, name in enumerate(names)]

    def _delete(self, kind: Kind, id: str) -> None:
        if kind == "endpoint":
            self.both.wait(timeout=10)
        if id == "d":
            raise AccessError("may not do sagemaker:DeleteTrainingJob")

    def _tidy(self, kinds: object) -> None:
        self.tidied = True


def test_what_cannot_be_deleted_does_not_keep_the_rest() -> None:
    """One error at the end names what is left and why."""
    backend = Full()
    with pytest.raises(BackendError) as caught:
        backend.cleanup()
    told = str(caught.value)
    assert "4 deleted, but not all" in told
    assert "job d: may not do sagemaker:DeleteTrainingJob" in told
    assert "the list of models: the registry does not answer" in told
    assert backend.tidied
    assert [resource.id for resource in Full().cleanup(kinds=["endpoint"])] == ["a", "b"]


def test_an_endpoint_that_is_too_busy_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """429 and 503 are no failures of the image; anything else is told at once, and patience has an end."""
    pauses: list[float] = []
    monkeypatch.setattr("medimg.backends.endpoint.time.sleep", pauses.append)
    backend = Scripted()
    answer = {
        "label": "NODULE", "probabilities": {"CLEAR": 0.2, "NODULE": 0.8}, "positives": ["NODULE"],
        "threshold": {"NODULE": 0.5}, "latency_ms": 3.0,
    }  # fmt: skip
    image = np.zeros((8, 8), np.uint8)
    busy, waits = EndpointError("full", status=503), EndpointError("too many", status=429, retry_after=2.0)
    monkeypatch.setattr(Scripted, "answers", [busy, waits, busy, answer])
    assert Endpoint(backend, "e").predict(image).label == "NODULE"
    assert [low <= pause <= 1.5 * low for low, pause in zip((0.2, 2.0, 0.8), pauses, strict=True)] == [True] * 3

    monkeypatch.setattr(Scripted, "answers", [EndpointError("broken", status=500), answer])
    with pytest.raises(EndpointError, match="broken"):
        Endpoint(backend, "e").predict(image)
    monkeypatch.setattr(Scripted, "answers", [EndpointError("full", status=503, retry_after=100.0), answer])
    with pytest.raises(EndpointError, match="full"):
        Endpoint(backend, "e").predict(image)
    assert len(pauses) == 3


def test_what_an_endpoint_answers_when_it_is_full_is_told_with_when_to_come_back() -> None:
    """Seconds only: a date is not ours."""
    for given, wanted in (("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), (None, None)):
        with pytest.raises(EndpointError, match="503: full") as caught:
            read_answer(503, b'{"error": "full"}', retry_after=given)
        assert (caught.value.status, caught.value.retry_after) == (503, wanted)


def test_a_batch_takes_a_refused_image_for_one_and_another_model_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is too large for the endpoint costs itself; a table must not mix two models."""
    from medimg.cli.prediction import _asked

    image, endpoint = tmp_path / "image.png", Endpoint(Scripted(), "e")
    image.write_bytes(encode(np.zeros((8, 8), np.uint8)))
    monkeypatch.setattr(Scripted, "answers", [EndpointError("takes 6 MB", status=413)])
    with pytest.raises(ImageRejected, match=r"image\.png: takes 6 MB \[too-large\]"):
        _asked(endpoint, "one", image)
    monkeypatch.setattr(Scripted, "answers", [{"digest": "two"}])
    with pytest.raises(EndpointError, match="serves another model since this began"):
        _asked(endpoint, "one", image)
