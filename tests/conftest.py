"""What several tests share: real data where a machine has it, a home of their own, one small trained model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.config import TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.synthetic import write_phantoms


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder for each test, so that none sees another's jobs and none touches the user's."""
    home = tmp_path / "medimg-home"
    monkeypatch.setenv("MEDIMG_HOME", str(home))
    monkeypatch.setenv("MEDIMG_SALT", "salt of the tests")
    return home


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic radiographs with splits."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), size=64)


@pytest.fixture(scope="session")
def trained_job(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A home, and the id of the job in it that the real trainer did."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(home))
        patch.setenv("MEDIMG_SALT", "salt of the tests")
        dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
        config = TrainConfig(
            model="small_cnn", weights=None, image_size=64, epochs=3, batch_size=16, augment=False, early_stopping=None
        )
        yield home, backend("local").train(dataset, config).id


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
