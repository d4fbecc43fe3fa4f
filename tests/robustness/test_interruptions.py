"""Training that is killed or stopped at any point goes on to the same bits as training that was left alone.

`MEDIMG_KILLS=20` kills as often as the project's goal says; by default a few kills keep the suite short.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

from medimg.artifact import ModelFolder
from medimg.config import Augment, JobSpec, TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.pack import build
from medimg.data.synthetic import write_phantoms
from medimg.progress import parse
from medimg.training.checkpoints import Checkpoint, Checkpoints

FIT = {"fitting", "fine-tuning"}
KILLS = int(os.environ.get("MEDIMG_KILLS", "2"))


@dataclass(frozen=True)
class Job:
    """A job's folders, and how to run it."""

    root: Path
    pack: Path
    spec: JobSpec

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Starts the trainer; runs of the same name share checkpoints."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "spec.json").write_text(self.spec.model_dump_json())
        paths = {"spec": folder / "spec.json", "data": self.pack, "inputs": self.root, "out": folder / "out",
                 "checkpoints": folder / "checkpoints"}  # fmt: skip
        with (folder / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "medimg.train", *(a for k, v in paths.items() for a in (f"--{k}", str(v)))],
                stdout=log,
                stderr=log,
                env=os.environ | {"MEDIMG_CHECKPOINT_SECONDS": "0.2"},
            )

    def wait_for(self, name: str, stages: set[str], process: subprocess.Popen[bytes]) -> None:
        """Returns when the job that was just started reports one of the stages."""
        while process.poll() is None:
            events = map(parse, (self.root / name / "log").read_text().splitlines())
            if any(event is not None and event.stage in stages for event in events):
                return
            time.sleep(0.02)
        raise AssertionError((self.root / name / "log").read_text()[-2000:])

    def finish(self, name: str) -> ModelFolder:
        """Runs the job to its end."""
        code = self.start(name).wait()
        assert code == 0, (code, (self.root / name / "log").read_text()[-2000:])
        return ModelFolder.load(self.root / name / "out" / "model")


def weights_of(model: ModelFolder) -> list[np.ndarray]:
    """Returns every weight of the trained network."""
    return keras.saving.load_model(model.path / "model.keras", compile=False).get_weights()


@pytest.fixture(scope="module", params=["from scratch, augmented", "frozen with views, then fine-tuned"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job on phantoms that takes a few seconds to fit, with every source of randomness in play."""
    root = tmp_path_factory.mktemp("interruptions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(root / "home"))
        dataset = Dataset.from_folder(write_phantoms(root / "phantoms", size=64), group=r"(patient\d+)")
        common = {"batch_size": 8, "early_stopping": None, "seed": 3}
        inputs = {}
        if request.param.startswith("from"):
            config = TrainConfig(model="small_cnn", weights=None, image_size=64, epochs=8, **common)
        else:
            # Random weights, but loaded from a file as real ones are.
            backbone = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
            backbone.save_weights(root / "backbone.weights.h5")
            inputs = {"weights": "backbone.weights.h5"}
            config = TrainConfig(model_options={"alpha": 0.35}, weights="backbone.weights.h5", image_size=32, epochs=3,
                                 fine_tune_epochs=2, fine_tune_learning_rate=1e-4, cases=0,
                                 augment=Augment(stretch=0.2, views=2), **common)  # fmt: skip
        pack = build(dataset, config.image_size, facts=dataset.index())
        spec = JobSpec(base="exact", checkpoints="exact", config=config, data="data", pack=pack.path.name,
                       samples=pack.manifest, inputs=inputs, code="code",
                       allow=("constant-predictions",))  # fmt: skip
        yield Job(root, pack.path, spec)


@pytest.fixture(scope="module")
def undisturbed(job: Job) -> list[np.ndarray]:
    """The weights of a run that was left alone."""
    return weights_of(job.finish("undisturbed"))


def test_a_job_stopped_and_killed_again_and_again_ends_with_the_same_bits(
    job: Job, undisturbed: list[np.ndarray]
) -> None:
    """SIGTERM once, then kill -9 at random moments of importing, fitting and fine-tuning, then a run left alone."""
    process = job.start("killed")
    job.wait_for("killed", FIT, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143, "the exit status says that the job was stopped"
    assert list((job.root / "killed" / "checkpoints").glob("step-*"))
    draw = random.Random(5)
    landed = 0
    for _ in range(KILLS):
        process = job.start("killed")
        job.wait_for("killed", draw.choice([{"importing"}, FIT, FIT, FIT]), process)
        time.sleep(draw.uniform(0, 0.8))
        landed += process.poll() is None
        process.kill()
        process.wait()
    assert landed == KILLS, "every kill must meet a running job"
    for found, expected in zip(weights_of(job.finish("killed")), undisturbed, strict=True):
        np.testing.assert_array_equal(found, expected)


def _checkpoint(value: float) -> Checkpoint:
    return Checkpoint({"step": value}, {"variables": [np.full(3, value), np.array(value)], "best": []})


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    """A damaged one is passed over for the one before; two are kept."""
    checkpoints = Checkpoints(tmp_path, "job")
    for value in (1.0, 2.0, 3.0):
        checkpoints.save(_checkpoint(value))
    folders = sorted(tmp_path.glob("step-*"))
    assert len(folders) == 2
    content = bytearray((folders[-1] / "arrays.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folders[-1] / "arrays.npz").write_bytes(content)
    found = checkpoints.latest()
    assert found is not None
    assert found.state == {"step": 2.0}
    np.testing.assert_array_equal(found.arrays["variables"][0], np.full(3, 2.0))


def test_a_checkpoint_of_another_job_is_not_believed(tmp_path: Path) -> None:
    """Other data or another configuration must not go on from here."""
    Checkpoints(tmp_path, "one").save(_checkpoint(1.0))
    assert Checkpoints(tmp_path, "another").latest() is None


def test_a_full_disk_leaves_the_last_checkpoint_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the disk, and what was saved before can still be read."""
    import errno

    from medimg.errors import StorageError

    checkpoints = Checkpoints(tmp_path, "job")
    checkpoints.save(_checkpoint(1.0))
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        checkpoints.save(_checkpoint(2.0))
    monkeypatch.setattr(os, "fsync", real)
    found = checkpoints.latest()
    assert found is not None
    assert found.state == {"step": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
