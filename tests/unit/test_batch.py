"""Many files: several at once, each answer kept, and a run that was cut off goes on to the same result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medimg.artifact import ModelFolder
from medimg.data.dataset import Dataset
from medimg.errors import AlreadyExistsError, ImageRejected, StorageError
from medimg.inference.batch import outcomes, predict_files
from medimg.inference.decision import Prediction
from medimg.inference.journal import Journal
from medimg.progress import Event, silent


@pytest.fixture(scope="module")
def folder(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without labels, some in folders in it, and two files that cannot be read."""
    root = tmp_path_factory.mktemp("unlabelled")
    for number, path in enumerate(sorted(phantoms.glob("test/*/*"))[:30]):
        target = root / ("ward" if number % 3 else ".") / f"patient {number}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    (root / "broken.png").write_bytes((root / "patient 0.png").read_bytes()[:200])
    (root / "ward" / "empty.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("no image")
    return root


def answers(folder: Path, out: Path, trained: ModelFolder, *, digest: str = "") -> tuple[bytes, list[str], list[Event]]:
    """Predicts the folder, and returns the table as it is written, the files that were read and the events."""
    dataset, read, events = Dataset.from_images(folder), list[str](), list[Event]()

    def ask(path: Path) -> Prediction:
        read.append(path.name)
        return trained.predict(path)

    with Journal(out.with_name("part"), digest or trained.digest) as journal:
        batch = predict_files(ask, dataset.samples, journal=journal, at_once=2, report=events.append)
    assert batch.table is not None
    return batch.table.to_csv(out, dataset).read_bytes(), read, events


def test_every_file_is_answered_and_told_from_those_that_cannot_be_read(
    folder: Path, trained: ModelFolder, tmp_path: Path
) -> None:
    """In the order of the dataset, as the model says alone; rejections have code and reason."""
    dataset = Dataset.from_images(folder)
    with Journal(tmp_path / "part", trained.digest) as journal:
        batch = predict_files(trained.predict, dataset.samples, journal=journal, at_once=3, report=silent)
    assert batch.table is not None and batch.table.decided is not None
    rejected = {dataset[id].path.name: code for id, code in batch.table.rejected.items()}
    assert rejected == {"broken.png": "truncated", "empty.jpg": "empty"}
    assert list(batch.table.ids) == [sample.id for sample in dataset.samples if sample.id not in batch.reasons]
    for id in batch.table.ids:
        alone, row = trained.predict(dataset[id].path), batch.table[id]
        assert (row.probabilities, row.decision, row.uncertain) == (alone.probabilities, alone.label, alone.uncertain)
    assert (batch.table.task, batch.table.positive) == (trained.record.task, trained.record.positive)


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(folder: Path, trained: ModelFolder, tmp_path: Path) -> None:
    """Nothing that was answered is computed again but what was cut off in the middle of its line."""
    whole, read, _ = answers(folder, tmp_path / "whole" / "out.csv", trained)
    assert len(read) == 32
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from medimg.artifact import ModelFolder\nfrom medimg.data.dataset import Dataset\n"
        "from medimg.inference.batch import predict_files\nfrom medimg.inference.journal import Journal\n"
        "from medimg.progress import silent\n"
        "root, model, part = map(Path, sys.argv[1:])\nmodel = ModelFolder.load(model)\n"
        "def slowly(path):\n    time.sleep(0.02)\n    return model.predict(path)\n"
        "with Journal(part, model.digest) as journal:\n"
        "    predict_files(slowly, Dataset.from_images(root).samples, journal=journal, at_once=2, report=silent)\n"
    )
    part = tmp_path / "cut" / "part"
    process = subprocess.Popen([sys.executable, "-c", program, folder, trained.path, part])
    deadline = time.monotonic() + 60
    while not part.exists() or part.read_bytes().count(b"\n") < 8:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.read_bytes().count(b"\n") - 1  # the first line says what answers
    assert 7 <= kept < 32
    with part.open("ab") as file:
        file.write(b'{"id": "cut off')
    resumed, again, events = answers(folder, tmp_path / "cut" / "out.csv", trained)
    assert resumed == whole
    assert len(again) == 32 - kept
    assert f"goes on after {kept} images" in events[0].message
    assert events[1].done == kept and events[-1].done == 32
    assert "images/s" in events[-2].message and "left" in events[-2].message


def test_answers_of_another_model_or_of_a_file_that_changed_are_not_believed(
    folder: Path, trained: ModelFolder, tmp_path: Path
) -> None:
    """A file that was mended is read again; another model begins anew."""
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    answers(own, tmp_path / "out.csv", trained)
    assert answers(own, tmp_path / "out.csv", trained)[1] == []
    shutil.copyfile(own / "patient 0.png", own / "broken.png")
    assert answers(own, tmp_path / "out.csv", trained)[1] == ["broken.png"]
    assert len(answers(own, tmp_path / "out.csv", trained, digest="another")[1]) == 32


def test_two_at_once_do_not_write_one_journal(tmp_path: Path) -> None:
    """The second is told of the first."""
    with Journal(tmp_path / "part", "x"), pytest.raises(AlreadyExistsError, match="another process is predicting"):
        Journal(tmp_path / "part", "x")


def test_files_are_drawn_no_further_ahead_than_is_worked_on(folder: Path, trained: ModelFolder) -> None:
    """So that a hundred thousand take no more memory than a hundred; what is not wanted any more is not begun."""
    samples = Dataset.from_images(folder).samples
    drawn = 0

    def draw() -> Iterator[object]:
        nonlocal drawn
        for sample in samples:
            drawn += 1
            yield sample

    found = outcomes(trained.predict, draw(), at_once=2)  # type: ignore[arg-type]
    for taken, _ in enumerate(found, start=1):
        assert drawn <= taken + 4
        if taken == 6:
            break
    found.close()
    assert drawn <= 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 16 kB where we may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or not sys.platform.startswith("linux") or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_and_the_next_run_goes_on(
    folder: Path, trained: ModelFolder, small_disk: Path, tmp_path: Path
) -> None:
    """What was written before counts; the result is that of a run without the trouble."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(12_288))
    with pytest.raises(StorageError, match=r"the disk is full: could not write .*part"):
        answers(folder, small_disk / "out.csv", trained)
    ballast.unlink()
    lines = (small_disk / "part").read_bytes().splitlines()
    kept = [json.loads(line)["id"] for line in lines[1:-1]]
    resumed, again, _ = answers(folder, small_disk / "out.csv", trained)
    assert 5 < len(kept) <= 32 - len(again)
    assert resumed == answers(folder, tmp_path / "out.csv", trained)[0]


# -- datasets without labels ------------------------------------------------------------------------------------------


def test_a_dataset_without_labels_is_read_from_folders_and_files(folder: Path) -> None:
    """Each file once, however often it is named; what is no image is counted; nothing is said of any class."""
    dataset = Dataset.from_images(folder)
    assert (len(dataset), dataset.classes) == (32, ())
    assert dataset.notices == ("not read: 1 file that are no images by name or signature",)
    assert "without labels" in dataset.summary()
    assert len(Dataset.from_images(folder, recursive=False)) == 11
    some = Dataset.from_images([folder / "patient 0.png", folder, folder / "ward", tmp := folder / "absent.png"])
    assert len(some) == 33 and isinstance(some.rejected()[some.samples[-1].id], ImageRejected)
    assert some.samples[-1].path == tmp
    ids = {sample.path: sample.id for sample in dataset.samples}
    assert all(ids[sample.path] == sample.id for sample in Dataset.from_images(folder, recursive=False).samples)


def test_dicom_files_are_known_by_their_signature(tmp_path: Path) -> None:
    """Scanners name them by numbers."""
    (tmp_path / "1.2.840.1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "1.2.840.2").write_bytes(b"something else")
    (sample,) = Dataset.from_images(tmp_path).samples
    assert sample.path.name == "1.2.840.1"
