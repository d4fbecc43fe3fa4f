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

import numpy as np
import pytest
from PIL import Image

from medimg.artifact import ModelFolder
from medimg.data.dataset import Dataset
from medimg.data.decode import ImageLike
from medimg.errors import AlreadyExistsError, ImageRejected, StorageError
from medimg.inference.batch import outcomes, predict_files
from medimg.inference.decision import Prediction
from medimg.inference.journal import Journal, stamp
from medimg.inference.predictions import Predictions
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

    def ask(image: ImageLike) -> Prediction:
        assert isinstance(image, Path)
        read.append(image.name)
        return trained.predict(image)

    with Journal(out.with_name("part"), digest or trained.digest) as journal:
        batch = predict_files(ask, dataset.samples, journal=journal, at_once=2, report=events.append)
    return batch.table.to_csv(out, dataset).read_bytes(), read, events


def test_every_file_is_answered_and_told_from_those_that_cannot_be_read(
    folder: Path, trained: ModelFolder, tmp_path: Path
) -> None:
    """In the order of the dataset, as the model says alone; rejections have code and reason."""
    dataset = Dataset.from_images(folder)
    with Journal(tmp_path / "part", trained.digest) as journal:
        batch = predict_files(trained.predict, dataset.samples, journal=journal, at_once=3, report=silent)
    assert batch.table.decided is not None
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
    """A file that was mended is read again, and so is what could not be; another model begins anew."""
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    answers(own, tmp_path / "out.csv", trained)
    assert sorted(answers(own, tmp_path / "out.csv", trained)[1]) == ["broken.png", "empty.jpg"]
    shutil.copyfile(own / "patient 0.png", own / "patient 3.png")
    assert sorted(answers(own, tmp_path / "out.csv", trained)[1]) == ["broken.png", "empty.jpg", "patient 3.png"]
    assert len(answers(own, tmp_path / "out.csv", trained, digest="another")[1]) == 32


def test_another_patients_file_of_the_same_name_size_and_time_is_not_taken_for_the_first(
    trained: ModelFolder, tmp_path: Path
) -> None:
    """Neither that of another folder, nor one that was put in the place of the first, nor where folders changed names.

    Scanners name files by numbers, pictures without compression are all of one size, and archives set one time.
    """
    wards = {name: tmp_path / name for name in ("first", "second", "third")}
    for shade, ward in enumerate(wards.values(), start=1):
        ward.mkdir()
        Image.fromarray(np.full((64, 64), 60 * shade, np.uint8)).save(ward / "1.bmp")
        os.utime(ward / "1.bmp", ns=(10**18, 10**18))
    assert len({tuple(stamp(ward / "1.bmp")[:2]) for ward in wards.values()}) == 1
    wanted = {name: answers(ward, tmp_path / name / "out.csv", trained)[0] for name, ward in wards.items()}
    assert len(set(wanted.values())) == 3
    out = tmp_path / "out.csv"
    assert answers(wards["first"], out, trained)[:2] == (wanted["first"], ["1.bmp"])
    assert answers(wards["first"], out, trained)[1] == []
    assert [event.message for event in answers(wards["second"], out, trained)[2] if "goes on" in event.message] == []
    (wards["first"] / "1.bmp").unlink()
    (wards["third"] / "1.bmp").rename(wards["first"] / "1.bmp")
    replaced, read, _ = answers(wards["first"], out, trained)
    assert read == ["1.bmp"]
    assert replaced == wanted["third"].replace(b"/third/", b"/first/")


def test_a_rejection_that_may_pass_is_no_answer_to_go_on_from(
    folder: Path, trained: ModelFolder, tmp_path: Path
) -> None:
    """A server was busy, or memory was short: the next run asks again. The table says what to do."""
    samples = Dataset.from_images(folder).samples[1:5]

    def busy(image: ImageLike) -> Prediction:
        if image == samples[2].path:
            raise ImageRejected("too-slow", "image", "takes longer than 10 s to read")
        return trained.predict(image)

    with Journal(tmp_path / "part", "x") as journal:
        first = predict_files(busy, samples, journal=journal, at_once=2, report=silent)
    assert first.table.rejected == {samples[2].id: "too-slow"}
    assert 'too-slow,"A server took too long' in first.table.to_csv(tmp_path / "out.csv").read_text()
    with Journal(tmp_path / "part", "x") as journal:
        assert len(journal) == 3
        again = predict_files(trained.predict, samples, journal=journal, at_once=2, report=silent)
    assert not again.table.rejected and len(again.table) == 4


@pytest.mark.parametrize(
    ("task", "positive", "answer"),
    [
        ("binary", "b", Prediction("b", {"a": 0.4, "b": 0.6}, ("b",), {"b": 0.5}, 1.0)),
        ("multiclass", None, Prediction("b", {"a": 0.4, "b": 0.6}, ("b",), {}, 1.0)),
        ("multilabel", None, Prediction("a", {"a": 0.6}, ("a",), {"a": 0.5}, 1.0)),
        ("multilabel", None, Prediction("none", {"a": 0.2, "b": 0.3}, (), {"a": 0.5, "b": 0.5}, 1.0)),
    ],
)
def test_the_task_is_known_by_an_answer(
    task: str, positive: str | None, answer: Prediction, folder: Path, tmp_path: Path
) -> None:
    """An endpoint tells no more; where nothing could be read, it is asked of a picture that is none of the user's."""
    samples = Dataset.from_images(folder).samples[:2]

    def ask(image: ImageLike) -> Prediction:
        if isinstance(image, Path) and rejects:
            raise ImageRejected("truncated", "image", "ends before its pixels do")
        return answer

    for rejects in (False, True):
        with Journal(tmp_path / f"part {rejects}", "x") as journal:
            table = predict_files(ask, samples, journal=journal, at_once=1, report=silent).table
        assert (table.task, table.positive, table.classes) == (task, positive, tuple(answer.probabilities))
        assert (len(table), len(table.rejected)) == ((0, 2) if rejects else (2, 0))
        assert rejects or table.decisions == (answer.label,) * 2
        assert Predictions.from_csv(table.to_csv(tmp_path / "out.csv")) == table


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
    """A real file system of 24 kB where we may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or not sys.platform.startswith("linux") or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_and_the_next_run_goes_on(
    folder: Path, trained: ModelFolder, small_disk: Path, tmp_path: Path
) -> None:
    """What was written before counts; the result is that of a run without the trouble."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(20_480))
    with pytest.raises(StorageError, match=r"the disk is full: could not write .*part"):
        answers(folder, small_disk / "out.csv", trained)
    ballast.unlink()
    lines = (small_disk / "part").read_bytes().splitlines()
    kept = [json.loads(line)["file"] for line in lines[1:-1]]
    resumed, again, _ = answers(folder, small_disk / "out.csv", trained)
    assert 5 < len(kept) <= 32 - len(again)
    assert resumed == answers(folder, tmp_path / "out.csv", trained)[0]


# -- datasets without labels ------------------------------------------------------------------------------------------


def test_a_dataset_without_labels_is_read_from_folders_and_files(folder: Path) -> None:
    """Each file once, however often it is named; what is no image is counted; nothing is said of any class."""
    dataset = Dataset.from_images(folder)
    assert (len(dataset), dataset.classes) == (32, ())
    assert dataset.notices == ("not read: 1 file that is no image by name or signature: notes.txt",)
    assert "without labels" in dataset.summary()
    assert len(Dataset.from_images(folder, recursive=False)) == 11
    some = Dataset.from_images([folder / "patient 0.png", folder, folder / "ward", tmp := folder / "absent.png"])
    assert len(some) == 33 and isinstance(some.rejected()[some.samples[-1].id], ImageRejected)
    assert some.samples[-1].path == tmp
    ids = {sample.path: sample.id for sample in dataset.samples}
    assert all(ids[sample.path] == sample.id for sample in Dataset.from_images(folder, recursive=False).samples)


def test_dicom_files_are_known_by_their_signature(tmp_path: Path) -> None:
    """Scanners name them by numbers. Of a pipe nothing is read: it may never have an end."""
    (tmp_path / "1.2.840.1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "1.2.840.2").write_bytes(b"something else")
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)  # its other end, so that who reads is not kept waiting
    try:
        assert os.write(pipe, bytes(128) + b"DICM") == 132
        (sample,) = Dataset.from_images(tmp_path).samples
        assert sample.path.name == "1.2.840.1"
        assert len(os.read(pipe, 200)) == 132
    finally:
        os.close(pipe)
