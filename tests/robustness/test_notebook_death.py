"""The notebook's process dies: the job and the endpoint live on, and another process finds them by name."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import medimg

_NOTEBOOK = """
import medimg
dataset = medimg.Dataset.from_folder({folder!r}, group=r"(patient\\d+)")
backend = medimg.backend("local")
job = backend.train(dataset, medimg.TrainConfig(model="small_cnn", weights=None, image_size=64, epochs=40,
                                                batch_size=4, early_stopping=None))
"""
_DEPLOY = """
import time, medimg
endpoint = medimg.backend("local").deploy(name="survivor")
print("deployed", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the story of this module; nothing is left running."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(home))
        yield home
        medimg.backend("local").cleanup()


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for each test."""
    monkeypatch.setenv("MEDIMG_HOME", str(home))
    return home


def wait_until(condition: object, *, seconds: float = 60) -> None:
    """Returns when the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def job(home: Path, phantoms: Path) -> medimg.Job:
    """A job whose notebook was killed while it was fitting."""
    notebook = subprocess.Popen(
        [sys.executable, "-c", _NOTEBOOK.format(folder=str(phantoms))], stderr=subprocess.DEVNULL
    )
    backend = medimg.backend("local")
    wait_until(lambda: backend.jobs() and any('"fitting"' in line for line in backend.jobs()[0].logs()))
    notebook.kill()
    notebook.wait()
    (found,) = backend.jobs()
    return found


def test_training_goes_on_without_its_notebook(job: medimg.Job) -> None:
    """Another process sees it running, waits, and gets the model."""
    assert job.status == "running"
    found = medimg.backend("local").job(job.id).wait(timeout=300)
    assert found.status == "completed"
    assert found.model.record.job == job.id
    assert len(found.history) == 40


def test_an_endpoint_serves_on_without_its_notebook(job: medimg.Job, phantoms: Path) -> None:
    """It is found again by name, answers, and can be deleted."""
    job.wait(timeout=300)
    notebook = subprocess.Popen([sys.executable, "-c", _DEPLOY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert notebook.stdout is not None
    assert notebook.stdout.readline() == b"deployed\n"
    notebook.kill()
    notebook.wait()
    notebook.stdout.close()
    endpoint = medimg.backend("local").endpoint("survivor")
    image = min(phantoms.glob("test/NODULE/*"))
    expected = job.model.predict(image).probabilities
    assert endpoint.predict(image).probabilities == pytest.approx(dict(expected), abs=1e-6)
    endpoint.delete()
    with pytest.raises(medimg.errors.NotFoundError):
        medimg.backend("local").endpoint("survivor")


def test_a_home_that_is_removed_takes_its_servers_with_it(job: medimg.Job, home: Path) -> None:
    """Nobody could find such a server any more, so it must not live on."""
    import http.client
    import shutil

    job.wait(timeout=300)
    endpoint = medimg.backend("local").deploy(job, name="orphan")
    port = int(endpoint.url.rsplit(":", 1)[1].split("/")[0])
    shutil.rmtree(home / "endpoints" / "orphan")

    def gone() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/ping")
            connection.getresponse().read()
        except OSError:
            return True
        finally:
            connection.close()
        return False

    wait_until(gone)
