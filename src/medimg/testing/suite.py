"""What the parts of the suite share: flags, a workspace, data, and the one job that is trained to its end."""

from __future__ import annotations

import json
import shutil
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from medimg.artifact import ModelFolder
from medimg.backends.job import Job
from medimg.config import JobSpec, TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.synthetic import write_phantoms
from medimg.errors import did_you_mean
from medimg.progress import Report
from medimg.testing.workspace import Flags, Workspace, phantom_dataset, recipe

__all__ = ["WARD", "Suite", "Trained"]

WARD = "confidential-ward-7"  # a folder's name that must not leave the machine


@dataclass(frozen=True)
class Trained:
    """The completed job, and what the backend was handed for it.

    Attributes:
        job: The job.
        config: How it was trained.
        spec: What `_submit` was given.
        pack: Likewise.
        inputs: Likewise.
        between: When it was submitted and when it had ended, in seconds since the epoch.
    """

    job: Job
    config: TrainConfig
    spec: JobSpec
    pack: Path
    inputs: Path
    between: tuple[float, float]


class Suite:
    """The fixtures. A backend's test class sets `factory`, `flags` and, where needed, the methods below."""

    factory: ClassVar[str]
    flags: ClassVar[Flags] = Flags()

    @classmethod
    def options(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003 - for those who override it
        """Returns the keywords of the backend, as JSON values.

        Args:
            folder: New and empty for each workspace; its name is unique. What one workspace keeps must not be seen in
                another, so let a root, a prefix or a project follow from it.
        """
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def surroundings(cls) -> Iterator[Mapping[str, str]]:
        """Starts what the backend needs, such as an emulator, and yields environment variables."""
        yield {}

    # -- flags --------------------------------------------------------------------------------------------------------

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        tests = [name for name in dir(cls) if name.startswith("test_")]
        for name in (*cls.flags.skips, *cls.flags.unsupported):
            if name not in tests:
                raise LookupError(f"{cls.__name__}.flags: there is no {name!r}.{did_you_mean(name, tests)}")
        for name, reason in cls.flags.skips.items():
            setattr(cls, name, pytest.mark.skip(reason=reason)(_copy(getattr(cls, name))))
        for name, error in cls.flags.unsupported.items():
            mark = pytest.mark.xfail(raises=error, strict=True, reason="not yet supported")
            setattr(cls, name, mark(_copy(getattr(cls, name))))

    # -- places -------------------------------------------------------------------------------------------------------

    @classmethod
    @contextmanager
    def new_workspace(cls, folder: Path, variables: Mapping[str, str]) -> Iterator[Workspace]:
        """Yields a place of its own, which is emptied at the end."""
        with pytest.MonkeyPatch.context() as patch:
            # The ids of samples must be the same in a process with another home: hence the salt.
            own = {"MEDIMG_HOME": str(folder / "home"), "MEDIMG_SALT": "conformance"}
            for name, value in (variables := {**variables, **own}).items():
                patch.setenv(name, value)
            account = folder / "account"
            account.mkdir(parents=True)
            workspace = Workspace(cls.factory, dict(cls.options(account)), variables, cls.flags)
            try:
                yield workspace
            finally:
                workspace.backend().cleanup()

    @pytest.fixture(scope="class")
    @classmethod
    def workspace(
        cls, tmp_path_factory: pytest.TempPathFactory, surroundings: Mapping[str, str]
    ) -> Iterator[Workspace]:
        """The place that the tests of a class share."""
        with cls.new_workspace(tmp_path_factory.mktemp("workspace", numbered=True), surroundings) as workspace:
            yield workspace

    @pytest.fixture(autouse=True)
    def at_home(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sets the variables for each test again: a `conftest.py` above may give each a home of its own."""
        for name, value in workspace.variables.items():
            monkeypatch.setenv(name, value)

    @pytest.fixture
    def new_place(self, tmp_path: Path, surroundings: Mapping[str, str]) -> Iterator[Workspace]:
        """A second place for one test, which starts with nothing in it."""
        with self.new_workspace(tmp_path, surroundings) as place:
            yield place

    # -- data and results ---------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls, workspace: Workspace) -> Dataset:
        """72 phantoms of as many patients, in a folder with a telling name."""
        root = workspace.home.parent / WARD
        return phantom_dataset(write_phantoms(root, patients=72, images_per_patient=(1, 1), size=48))

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, workspace: Workspace, dataset: Dataset) -> Trained:
        """A job that was trained to its end."""
        backend, handed = workspace.backend(), []
        original = backend._submit

        def note(spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
            handed.append((spec, pack, inputs))
            original(spec, pack, inputs, report)

        backend._submit = note  # type: ignore[method-assign]
        before = time.time()
        job = backend.train(dataset, recipe(), name="conformance")
        after = time.time()
        spec, pack, inputs = handed[0]
        return Trained(workspace.backend().job(job.id), recipe(), spec, pack, inputs, (before, after))

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
        """The model of the trained job, in a folder that stays when the fetched copies are removed."""
        copy = tmp_path_factory.mktemp("model") / "model"
        shutil.copytree(trained.job.model.path, copy)
        return ModelFolder.load(copy)

    @pytest.fixture(scope="class")
    @classmethod
    def other_model(cls, model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
        """The same network at another threshold, by which every answer tells who gave it, and uncertain of all."""
        copy = tmp_path_factory.mktemp("other") / "model"
        shutil.copytree(model.path, copy)
        thresholds = dict.fromkeys(model.record.thresholds, 0.0123)
        bands = dict.fromkeys(thresholds, (0.0, 1.0))
        return ModelFolder.seal(copy, model.record.model_copy(update={"thresholds": thresholds, "uncertain": bands}))

    @pytest.fixture(scope="class")
    @classmethod
    def drifting_model(cls, model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
        """A sealed model that no server gives the golden probabilities for."""
        copy = tmp_path_factory.mktemp("drifting") / "model"
        shutil.copytree(model.path, copy)
        golden = copy / "golden" / "golden.json"
        rows = json.loads(golden.read_text())
        golden.unlink()  # not written in place: a sealed file is for reading only
        golden.write_text(json.dumps({name: [value / 2 for value in values] for name, values in rows.items()}))
        return ModelFolder.seal(copy, model.record)

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls, dataset: Dataset, model: ModelFolder) -> list[Path]:
        """Images of which the model says clearly different things, in a shuffled order."""
        said = sorted((model.predict(s.path).probabilities[model.record.classes[0]], s.path) for s in dataset.samples)
        chosen = [said[0]]
        for row in said[1:]:
            if row[0] - chosen[-1][0] > 0.002:
                chosen.append(row)
        assert len(chosen) >= 6, "the model says nearly the same of all phantoms: nothing could be told apart"
        paths = [path for _, path in chosen]
        return paths[1::2] + paths[::2][::-1]


def _copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a test that can be marked without marking it for the other backends."""
    assert isinstance(function, types.FunctionType)
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__dict__.update(function.__dict__)
    copy.__doc__, copy.__annotations__ = function.__doc__, function.__annotations__
    return copy
