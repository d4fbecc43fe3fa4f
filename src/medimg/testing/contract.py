"""The contract itself: verbs are final, primitives have their signature, nothing is lost, left over or given away."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medimg.artifact import ModelFolder
from medimg.backends.base import Backend
from medimg.backends.endpoint import Endpoint
from medimg.backends.job import Job
from medimg.backends.primitives import Primitives
from medimg.backends.resource import Resource
from medimg.data.dataset import Dataset
from medimg.errors import NotFoundError
from medimg.progress import silent
from medimg.testing.suite import WARD, Suite, Trained
from medimg.testing.workspace import Workspace

__all__ = ["ContractTests"]

_STATUSES = {
    "job": {"queued", "running", "completed", "failed", "cancelled"},
    "model": {"registered"},
    "endpoint": {"starting", "ready", "updating", "failed"},
}
_DETAILS: dict[str, dict[str, type]] = {
    "job": {"task": str, "checkpoints": str, "timings": dict, "workload": dict},
    "model": {"digest": str, "job": str, "metrics": dict},
    "endpoint": {"digest": str, "config": dict, "url": str},
}
_NOBODY = "medimg-0000000000-1"


class ContractTests(Suite):
    """What can be seen without knowing what a job is."""

    def test_the_verbs_are_those_of_the_base_class(self, workspace: Workspace) -> None:
        """An adapter fills in primitives; where it changes a verb, the same call would mean something else there."""
        backend = workspace.backend()
        written_once = [name for name, value in vars(Backend).items() if getattr(value, "__final__", False)]
        assert {"train", "deploy", "register", "jobs", "cleanup"} <= set(written_once)
        changed = [
            name
            for name in written_once
            if inspect.getattr_static(backend, name) is not inspect.getattr_static(Backend, name)
        ]
        assert not changed, f"{type(backend).__name__} overrides {', '.join(changed)}"

    def test_the_primitives_have_the_signature_of_the_base_class(self, workspace: Workspace) -> None:
        """The base class passes arguments by position today and may pass them by name tomorrow."""
        backend = workspace.backend()
        written = {**vars(Primitives), **vars(Backend)}
        may_differ = {name for name, value in written.items() if inspect.isroutine(value) and name[:2] != "__"}
        assert {"_submit", "_stop", "_deploy", "_delete"} <= may_differ
        for name in sorted(may_differ):
            assert _shape(getattr(type(backend), name)) == _shape(getattr(Backend, name)), name

    def test_the_backend_names_itself_and_its_options(self, workspace: Workspace) -> None:
        """`medimg.backend` refuses options that the constructor does not list."""
        backend = workspace.backend()
        assert backend.name and backend.name == type(backend).name
        assert {"self", "options", "args", "kwargs"}.isdisjoint(backend.options())

    @pytest.mark.parametrize("unknown", [_NOBODY, "..", "../jobs", "medimg/1", ""])
    def test_what_does_not_exist_is_not_found(self, workspace: Workspace, tmp_path: Path, unknown: str) -> None:
        """Every question about an unknown name, also one that tries to leave its folder, raises NotFoundError."""
        backend = workspace.backend()
        asked: dict[str, Callable[[], object]] = {
            "job": lambda: backend.job(unknown),
            "status": lambda: Job(backend, unknown).status,
            "logs": lambda: list(Job(backend, unknown).logs()),
            "cancel": Job(backend, unknown).cancel,
            "delete a job": Job(backend, unknown).delete,
            "fetch a job": lambda: backend._fetch("job", unknown, tmp_path, silent),
            "endpoint": lambda: backend.endpoint(unknown),
            "endpoint logs": lambda: list(Endpoint(backend, unknown).logs()),
            "predict": lambda: Endpoint(backend, unknown).predict(np.zeros((8, 8), np.uint8)),
            "delete an endpoint": lambda: backend._delete("endpoint", unknown),
            "model": lambda: backend._describe("model", unknown),
            "fetch a model": lambda: backend._fetch("model", unknown, tmp_path, silent),
            "delete a model": lambda: backend._delete("model", unknown),
        }
        for what, question in asked.items():
            try:
                answer = question()
            except NotFoundError:
                continue
            pytest.fail(f"{what} of {unknown!r}: {answer!r} instead of NotFoundError")
        assert backend.models("nobody") == ()

    def test_the_inventory_describes_everything_with_the_promised_details(
        self, new_place: Workspace, dataset: Dataset, model: ModelFolder
    ) -> None:
        """One thing of each kind is listed once, as JSON, with its own time, and the same from a new backend."""
        before = time.time()
        _one_of_each(new_place, dataset, model)
        found = new_place.backend().inventory()
        assert [resource.kind for resource in found] == ["endpoint", "job", "model"], "endpoints first: they cost money"
        for resource in found:
            assert resource.status in _STATUSES[resource.kind], resource
            assert json.loads(json.dumps(resource.details)) == dict(resource.details), "details are plain JSON"
            for name, kind in _DETAILS[resource.kind].items():
                assert isinstance(resource.details.get(name), kind), f"{resource.kind}.details[{name!r}]"
            # Clocks may differ a little between here and there.
            assert before - 120 < resource.created < time.time() + 120, resource
        again = new_place.backend().inventory()
        assert [(r.kind, r.id, r.created) for r in again] == [(r.kind, r.id, r.created) for r in found]
        digests = {resource.details.get("digest") for resource in found if resource.kind != "job"}
        assert digests == {model.digest}

    def test_cleanup_leaves_nothing(self, new_place: Workspace, dataset: Dataset, model: ModelFolder) -> None:
        """Everything of ours is deleted, told, and gone for every process."""
        job, endpoint = _one_of_each(new_place, dataset, model)
        deleted = new_place.backend().cleanup()
        assert sorted(resource.kind for resource in deleted) == ["endpoint", "job", "model"]
        backend = new_place.backend()
        assert (backend.inventory(), backend.jobs(), backend.models(), backend.endpoints()) == ((), (), (), ())
        with pytest.raises(NotFoundError):
            backend.job(job.id)
        with pytest.raises(NotFoundError):
            backend.endpoint(endpoint.name)

    def test_cleanup_of_one_kind_spares_the_others(
        self, new_place: Workspace, dataset: Dataset, model: ModelFolder
    ) -> None:
        """An endpoint costs money, a registered model is what one wants to keep."""
        backend = new_place.backend()
        version = backend.register(model, name="kept")
        job = backend.predict_batch(model, dataset, split="test")
        assert [resource.id for resource in backend.cleanup(kinds=["job"])] == [job.id]
        new_place.forget()
        assert [kept.id for kept in new_place.backend().models()] == [version.id]
        assert version.load().digest == model.digest

    def test_no_file_name_leaves_the_machine(self, workspace: Workspace, dataset: Dataset, trained: Trained) -> None:
        """Neither what is submitted nor what the backend tells of it holds a path, a file's name or a patient."""
        told = [json.dumps(_plain(resource)) for resource in workspace.backend().inventory()]
        texts = {
            "specification": trained.spec.model_dump_json(),
            "pack": "".join(path.read_text() for path in sorted(trained.pack.glob("*.json*"))),
            "names of files": " ".join(path.name for path in trained.pack.rglob("*")),
            "inventory": "\n".join(told),
            "log": "\n".join(trained.job.logs()),
        }
        secrets = {WARD, *(sample.path.name for sample in dataset.samples)}
        secrets |= {sample.path.stem for sample in dataset.samples} | {str(sample.group) for sample in dataset.samples}
        for where, text in texts.items():
            assert text, where
            assert not [secret for secret in secrets if secret in text], f"the {where} names images or patients"


def _one_of_each(place: Workspace, dataset: Dataset, model: ModelFolder) -> tuple[Job, Endpoint]:
    backend = place.backend()
    backend.register(model, name="one")
    endpoint = backend.deploy(model, place.flags.serve, name="one")
    return backend.predict_batch(model, dataset, split="test"), endpoint


def _plain(resource: Resource) -> dict[str, Any]:
    return {"id": resource.id, "details": dict(resource.details)}


def _shape(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
