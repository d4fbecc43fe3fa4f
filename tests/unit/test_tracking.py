"""What MLflow is told of a job, from a process beside it, and how a registered version is looked up without MLflow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medimg import ModelFolder, backend
from medimg.backends.local_registry import Registry
from medimg.errors import NotFoundError
from medimg.job import Interrupted
from medimg.progress import Event
from medimg.training.tracking import Tracker

_LOOK = """
import sys
from pathlib import Path
from medimg.backends.local_registry import Registry
print(Registry(Path(sys.argv[1])).folder("looked-up/2"), "mlflow" in sys.modules)
"""


@pytest.fixture
def home(own_home: Path, trained_job: tuple[Path, str]) -> Path:
    """A home whose MLflow has its tables already: making them takes seconds."""
    own_home.mkdir()
    shutil.copyfile(trained_job[0] / "mlflow.sqlite", own_home / "mlflow.sqlite")
    return own_home


def test_a_run_holds_what_was_told_and_how_the_job_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second attempt goes on in the same run; what cannot be estimated is left out, and nothing else.

    A line is told that is longer than a pipe holds, before MLflow is imported.
    """
    from mlflow import MlflowClient

    uri = f"sqlite:///{home / 'mlflow.sqlite'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    told: list[Event] = []
    monkeypatch.setattr("medimg.training.tracking._STOPPED_SECONDS", 120.0)  # however busy this machine is
    many = {f"figure_{number:03d}_{'x' * 200}": float(number) for number in range(400)}
    with pytest.raises(Interrupted), Tracker("job-1", told.append) as tracker:
        tracker.parameters({"epochs": 2})
        tracker.metrics({"loss": 0.5, "auroc": None, **many}, step=1)
        raise Interrupted("stopped")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("medimg")
    assert experiment is not None

    def run() -> tuple[str, dict[str, str], dict[str, float]]:
        (found,) = client.search_runs([experiment.experiment_id], "tags.`medimg.job` = 'job-1'")
        return found.info.status, found.data.params, found.data.metrics

    assert run() == ("KILLED", {"epochs": "2"}, {"loss": 0.5, **many})
    with Tracker("job-1", told.append) as tracker:
        tracker.metrics({"loss": 0.25}, step=2)
    assert run() == ("FINISHED", {"epochs": "2"}, {"loss": 0.25, **many})
    assert told == []


def test_a_tracking_process_that_is_killed_is_told_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a system that has no memory left: it cannot say so itself."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.sqlite'}")
    told: list[Event] = []
    with Tracker("job-1", told.append) as tracker:
        assert tracker._process is not None
        tracker._process.kill()
        tracker._process.wait()
        for step in range(100):
            tracker.metrics({"loss": 0.5}, step=step)
    assert [event.message for event in told] == ["MLflow tracking stopped: its process ended with -9"]


def test_a_tracking_server_that_fails_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job goes on, however much it has to tell."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file' / 'mlflow.sqlite'}")
    told: list[Event] = []
    with Tracker("job-1", told.append) as tracker:
        for step in range(2000):  # more than a pipe holds
            tracker.metrics({"loss": 0.5}, step=step)
    assert [event.kind for event in told] == ["warning"]
    assert told[0].message.startswith("MLflow tracking stopped: ")


def test_versions_are_what_mlflow_says_they_are_and_mlflow_is_not_loaded(home: Path, trained: ModelFolder) -> None:
    """Also after one was deleted, which stays in its tables."""
    registry = Registry(home)
    assert registry.versions() == []
    versions = [backend("local").register(trained, name=name) for name in ("looked-up", "looked-up", "other")]
    backend("local").register(trained, name="other").delete()

    def told() -> list[tuple[str, float, str]]:
        found = registry._client.search_model_versions(max_results=10)
        return [(f"{one.name}/{one.version}", one.creation_timestamp / 1000, one.tags["digest"]) for one in found]

    assert [(one.id, one.created, one.details["digest"]) for one in registry.versions()] == told()
    assert {one.id for one in versions} == {one.id for one in registry.versions()}
    with pytest.raises(NotFoundError, match=r"no registered model 'other/2'\. See backend\.models\(\)"):
        registry.describe("other/2")
    looked = subprocess.run([sys.executable, "-c", _LOOK, str(home)], capture_output=True, text=True, check=True)
    assert looked.stdout.split() == [str(home / "registry" / trained.digest), "False"]
