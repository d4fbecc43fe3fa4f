"""What several tests share: real data where a machine has it, a home of their own, one small trained model."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.config import TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.synthetic import write_phantoms
from medimg.home import locked

# What the tests import stays, and is a million objects: looked through for garbage, it takes minutes of a run.
gc.disable()


def pytest_collection_finish() -> None:
    """Looks for garbage from now on, among what comes now."""
    gc.freeze()
    gc.enable()


# They take the most time, the longest first: begun last, they would leave the other workers with nothing to do.
_LONGEST = (
    "cloud/test_sagemaker_leftovers.py",
    "cloud/test_sagemaker_conformance.py",
    "cloud/test_azure_conformance.py",
    "conformance/test_planted_bugs.py",
    "unit/test_networks.py",
    "cloud/test_sagemaker_faults.py",
    "cloud/test_azure_jobs.py",
    "cloud/test_azure_endpoints.py",
    "cloud/test_sagemaker_jobs.py",
    "robustness/test_interruptions.py",
    "cloud/test_three_places.py",
    "conformance/test_local.py",
    "cloud/test_sagemaker_life.py",
    "conformance/test_plugin.py",
    "unit/test_jax.py",
    "cloud/test_azure_faults.py",
    "cloud/test_azure_races.py",
    "cloud/test_permissions.py",
    "cloud/test_emulator.py",
    "cloud/test_azure_leftovers.py",
    "unit/test_examples.py",
    "browser/test_page.py",
    "unit/test_export.py",
    "unit/test_explaining.py",
    "cloud/test_sagemaker_endpoints.py",
    "cloud/test_azure_emulator.py",
    "cloud/test_azure_execution.py",
    "robustness/test_planted_faults.py",
    "robustness/test_thousand_images.py",
    "unit/test_own_networks.py",
    "robustness/test_notebook_death.py",
    "packaging/test_wheel.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the modules that take longest before the others."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder for each test, so that none sees another's jobs and none touches the user's."""
    home = tmp_path / "medimg-home"
    monkeypatch.setenv("MEDIMG_HOME", str(home))
    monkeypatch.setenv("MEDIMG_SALT", "salt of the tests")
    return home


@pytest.fixture
def terminal() -> Iterator[None]:
    """Has what the test starts end when its terminal does, also where the tests themselves were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic radiographs with splits."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), size=64)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of a run have in common, for what is made once for all of them."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def trained_job(phantoms: Path, shared: Path) -> Iterator[tuple[Path, str]]:
    """A home, and the id of the job in it that the real trainer did."""
    home = shared / "trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(home))
        patch.setenv("MEDIMG_SALT", "salt of the tests")
        dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
        # Fast enough to learn something in 3 epochs: of a network that gives 0.5 for all, rounding turns decisions.
        config = TrainConfig(
            model="small_cnn", weights=None, image_size=64, epochs=3, learning_rate=0.01, batch_size=16, augment=False,
            early_stopping=None,
        )  # fmt: skip
        with locked(shared / "trained.lock"):
            id = backend("local").train(dataset, config).id  # the second worker attaches to the job of the first
        yield home, id


@pytest.fixture(scope="session")
def trained(trained_job: tuple[Path, str]) -> ModelFolder:
    """The model of that job; copy its folder before changing it."""
    home, id = trained_job
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(home))
        return backend("local").job(id).model


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, where this machine has it."""
    given = os.environ.get("MEDIMG_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images here ({folder}); set MEDIMG_SHARED_DATA to run this")
    return folder
