"""The job of many predictions: it goes on where it was killed, and tells what could not be read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.config import JobSpec
from medimg.data.dataset import Dataset
from medimg.data.pack import build
from medimg.errors import DatasetError
from medimg.inference.decision import decide
from medimg.progress import Event, parse

# Runs the job, saves at every step, and is killed after 128 images.
_KILLED = """
import os, signal, sys
from medimg import predict
from medimg.job import run_job
predict.EVERY = 0.0
class Kept(predict.Kept):
    def keep(self, probabilities):
        super().keep(probabilities)
        if len(probabilities) >= 128:
            os.kill(os.getpid(), signal.SIGKILL)
predict.Kept = Kept
run_job("medimg.predict", predict.work, sys.argv[1:])
"""


def _events(output: str) -> list[Event]:
    return [event for event in map(parse, output.splitlines()) if event is not None]


def test_a_job_that_is_killed_goes_on_to_the_same_bytes(trained: ModelFolder, phantoms: Path, tmp_path: Path) -> None:
    """What was saved is not computed again; the table has the model's decisions."""
    dataset = Dataset.from_images(phantoms)
    pack = build(dataset, 64, facts=dataset.index())
    assert len(pack) > 128
    spec = JobSpec(
        kind="predict", base="x", checkpoints="x", data=pack.fingerprint, pack=pack.path.name, samples=pack.manifest,
        inputs={"model": "model"}, rejected={"0123": "truncated"}, code="x",
    )  # fmt: skip
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "model").symlink_to(trained.path)

    def arguments(name: str) -> list[str]:
        given = {"spec": tmp_path / "spec.json", "data": pack.path, "inputs": tmp_path / "inputs"}
        given |= {"out": tmp_path / name / "out", "checkpoints": tmp_path / name / "checkpoints"}
        return [text for option, path in given.items() for text in (f"--{option}", str(path))]

    def job(name: str) -> tuple[bytes, list[Event]]:
        command = [sys.executable, "-m", "medimg.predict", *arguments(name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return (tmp_path / name / "out" / "predictions.csv").read_bytes(), _events(done.stdout)

    whole, told = job("whole")
    assert next(event.done for event in told if event.stage == "predicting") == 0
    killed = subprocess.run([sys.executable, "-c", _KILLED, *arguments("cut")], capture_output=True, timeout=300)
    assert killed.returncode == -9
    resumed, told = job("cut")
    assert resumed == whole
    assert next(event.done for event in told if event.stage == "predicting") == 128
    assert "goes on after the 128 images" in next(event.message for event in told if event.kind == "log")
    assert any("images/s" in event.message for event in told)
    assert told[-1].message == f"{len(pack)} predictions, 1 rejected"
    lines = whole.decode().splitlines()
    assert lines[-1].startswith("0123,") and ",truncated," in lines[-1]


def test_a_folder_without_labels_is_predicted_with_decisions_and_rejections(
    trained: ModelFolder, phantoms: Path, tmp_path: Path
) -> None:
    """A broken file costs that file only; its code travels, and no name of any file does."""
    root = tmp_path / "ward 7"
    root.mkdir()
    for number, path in enumerate(sorted(phantoms.glob("test/*/*"))[:5]):
        shutil.copyfile(path, root / f"Müller {number}.png")
    (root / "Meier broken.png").write_bytes((root / "Müller 0.png").read_bytes()[:200])
    (root / "again.png").write_bytes((root / "Müller 0.png").read_bytes())
    local = backend("local")
    job = local.predict_batch(trained, root)
    table, dataset = job.predictions, Dataset.from_images(root)
    by_name = {dataset[id].path.name: id for id in (*table.ids, *table.rejected)}
    assert set(by_name) == {path.name for path in root.iterdir()}
    assert table.rejected == {by_name["Meier broken.png"]: "truncated"}
    assert np.array_equal(table.select([by_name["again.png"]]).scores, table.select([by_name["Müller 0.png"]]).scores)
    for id in table.ids:
        wanted = decide(trained.record, list(table[id].probabilities.values()), latency_ms=0)
        assert (table[id].decision, table[id].uncertain, table[id].truth) == (wanted.label, wanted.uncertain, None)
    for file in (*(tmp_path / "medimg-home" / "jobs").rglob("*"), *(tmp_path / "medimg-home" / "packs").rglob("*")):
        assert not file.is_file() or (b"ller" not in file.read_bytes() and b"Meier" not in file.read_bytes())
    assert local.predict_batch(trained, sorted(root.iterdir())).id == job.id, "the same files are the same job"
    assert json.loads((tmp_path / "medimg-home" / "jobs" / job.id / "spec.json").read_text())["rejected"]


def test_what_has_no_labels_cannot_be_trained_on(phantoms: Path) -> None:
    """It says what reads labels."""
    with pytest.raises(DatasetError, match=r"no labels: Dataset\.from_images is for"):
        backend("local").train(Dataset.from_images(phantoms))
