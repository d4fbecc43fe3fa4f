"""MedMNIST's files become datasets with their official splits; damaged, hostile and 3-D ones are refused."""

from __future__ import annotations

import io
import random
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from medimg.data.dataset import Dataset
from medimg.data.decode import decode, read
from medimg.data.readers import unpacked
from medimg.data.readers.medmnist import CLASSES
from medimg.errors import DatasetError, StorageError

SIZES = {"train": 7, "val": 3, "test": 4}


def arrays(classes: int = 2, shape: tuple[int, ...] = (28, 28), labels: int = 1) -> dict[str, np.ndarray]:
    """Returns what such a file holds: pictures, and the class's number or a 1 for each of several labels."""
    draw = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for split, count in SIZES.items():
        found[f"{split}_images"] = draw.integers(0, 256, (count, *shape), np.uint8)
        answers = np.arange(count * labels).reshape(count, labels) % classes
        found[f"{split}_labels"] = answers.astype(np.uint8)
    return found


def npz(path: Path, content: Mapping[str, np.ndarray]) -> Path:
    """Writes a file as they are published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **content)  # type: ignore[arg-type]
    return path


def refused(path: Path) -> str:
    """Returns the message with which a file is refused."""
    with pytest.raises(DatasetError) as caught:
        Dataset.from_medmnist(path)
    return str(caught.value)


@pytest.mark.parametrize(("shape", "name"), [((28, 28), "pneumoniamnist.npz"), ((64, 64, 3), "pneumoniamnist_64.npz")])
def test_pixels_labels_and_splits_are_those_of_the_file(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    """Grey and colour, bit for bit; the file's name gives the classes at every size."""
    content = arrays(shape=shape)
    dataset = Dataset.from_medmnist(npz(tmp_path / name, content))
    assert dataset.splits == SIZES
    assert (dataset.classes, dataset.positive, dataset.task) == (("normal", "pneumonia"), "pneumonia", "binary")
    for split, count in SIZES.items():
        samples = sorted(dataset.of(split), key=lambda sample: sample.path)
        assert len(samples) == count
        for number, sample in enumerate(samples):
            pixels = decode(read(sample.path), name="")
            np.testing.assert_array_equal(pixels, content[f"{split}_images"][number])
            assert sample.labels == content[f"{split}_labels"][number, 0]
    assert "patients cannot be kept apart" in dataset.notices[0]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_each_of_the_twelve_sets_has_its_classes(tmp_path: Path, name: str) -> None:
    """Sorted by name; each image keeps the class that its number means."""
    several = name == "chestmnist"
    labels = len(CLASSES[name]) if several else 1
    content = arrays(2 if several else len(CLASSES[name]), labels=labels)
    if not several:
        content["train_labels"] = np.arange(7, dtype=np.uint8)[:, None] % len(CLASSES[name])
        content["test_labels"][0] = len(CLASSES[name]) - 1
    dataset = Dataset.from_medmnist(npz(tmp_path / f"{name}.npz", content))
    first = next(sample for sample in dataset.samples if "/train/" in sample.path.as_posix())
    if several:
        assert (dataset.task, dataset.classes) == ("multilabel", tuple(sorted(CLASSES[name])))
        assert dataset.label_names(first) == tuple(sorted(CLASSES[name][1::2]))
    else:
        assert set(dataset.classes) <= set(CLASSES[name])
        assert dataset.label_names(first) == (CLASSES[name][0],)
    assert dataset.positive == {"breastmnist": "malignant", "pneumoniamnist": "pneumonia"}.get(name)
    assert ("TrainConfig(ordinal=True)" in " ".join(dataset.notices)) == (name == "retinamnist")


def test_a_file_of_another_name_has_numbers_for_classes(tmp_path: Path) -> None:
    """And one named as a set that it is not is refused."""
    assert Dataset.from_medmnist(npz(tmp_path / "mine.npz", arrays(3))).classes == ("0", "1", "2")
    assert Dataset.from_medmnist(npz(tmp_path / "ours.npz", arrays()), positive="0").positive == "0"
    many = arrays(1) | {"train_labels": np.array([[0], [1], [2], [9], [10], [11], [3]], np.uint8)}
    dataset = Dataset.from_medmnist(npz(tmp_path / "many.npz", many))
    assert dataset.classes == ("0", "1", "2", "3", "9", "10", "11")
    ordered = sorted(dataset.of("train"), key=lambda sample: sample.path)
    assert [dataset.label_names(sample) for sample in ordered] == [(str(n),) for (n,) in many["train_labels"]]
    assert "Rename the file" in refused(npz(tmp_path / "pneumoniamnist.npz", arrays(3)))


def test_images_are_unpacked_once_and_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished blocks are not written again, a missing one is; the size is said before."""
    monkeypatch.setattr(unpacked, "BLOCK", 2)
    file = npz(tmp_path / "mine.npz", arrays())
    dest = tmp_path / "unpacked"
    first = Dataset.from_medmnist(file, dest=dest)
    assert "unpacking 14 images once, about 0 MB" in capsys.readouterr().err
    assert all(sample.path.is_relative_to(dest) for sample in first.samples)
    written = {sample.path: sample.path.stat().st_mtime_ns for sample in first.samples}
    gone = first.of("train")[3].path.parent
    shutil.rmtree(gone)
    again = Dataset.from_medmnist(file, dest=dest)
    assert again == first
    changed = {path for path, when in written.items() if path.stat().st_mtime_ns != when}
    assert changed == {path for path in written if path.parent == gone}
    assert "unpacking 2 images" in capsys.readouterr().err
    Dataset.from_medmnist(file, dest=dest)
    assert "unpacking" not in capsys.readouterr().err


def test_nothing_of_a_damaged_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels changed in the last block, stored as they are: what came before would else be found again later."""
    monkeypatch.setattr(unpacked, "BLOCK", 2)
    file = tmp_path / "mine.npz"
    np.savez(file, **arrays())  # type: ignore[arg-type]
    content = file.read_bytes()
    last = arrays()["test_images"][3].tobytes()
    file.write_bytes(content.replace(last, last[::-1]))
    with pytest.raises(DatasetError, match="no intact"):
        Dataset.from_medmnist(file, dest=tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").rglob("*.png"))


def test_other_pixels_under_the_same_name_are_other_images(tmp_path: Path) -> None:
    """The folder is named by the content."""
    before = Dataset.from_medmnist(npz(tmp_path / "mine.npz", arrays()))
    content = arrays()
    content["test_images"][0, 0, 0] ^= 1
    after = Dataset.from_medmnist(npz(tmp_path / "mine.npz", content))
    assert before.fingerprint != after.fingerprint


def test_a_disk_without_room_stops_before_anything_is_written(tmp_path: Path) -> None:
    """With what is needed, what is left and where else it could go; small files take whole blocks of the disk."""
    assert unpacked.check_room(tmp_path / "new", 1000, 900) == 4_096_000
    with pytest.raises(StorageError, match=r"1,000,000,000 images take up to 1,003,520\.0 GB .*dest=…"):
        unpacked.check_room(tmp_path, 10**9, 10**6)


def test_volumes_are_refused(tmp_path: Path) -> None:
    """The 3-D sets, with one that is 2-D named."""
    assert "28 × 28 × 28 voxels" in refused(npz(tmp_path / "organmnist3d.npz", arrays(shape=(28, 28, 28))))


def test_files_that_are_not_medmnist_s_are_refused(tmp_path: Path) -> None:
    """Arrays that are missing, of other types or lengths; what is no archive at all."""
    lacking = arrays()
    del lacking["val_labels"]
    assert "it lacks 'val_labels'" in refused(npz(tmp_path / "a.npz", lacking))
    assert "uint8 (n, height, width" in refused(
        npz(tmp_path / "b.npz", arrays() | {"val_images": np.zeros((3, 28), "u1")})
    )
    assert "2 images" in refused(npz(tmp_path / "c.npz", arrays() | {"val_images": np.zeros((2, 28, 28), "u1")}))
    assert "float32" in refused(npz(tmp_path / "d.npz", arrays() | {"val_labels": np.zeros((3, 1), "f4")}))
    assert "neither numbers of classes" in refused(
        npz(tmp_path / "e.npz", arrays() | {"val_labels": np.full((3, 1), -1)})
    )
    assert "a 0 or 1 for each" in refused(npz(tmp_path / "g.npz", arrays(3, labels=14)))
    (tmp_path / "f.npz").write_bytes(b"<html>")
    assert "no intact .npz file" in refused(tmp_path / "f.npz")


def test_objects_in_a_file_are_never_run(tmp_path: Path) -> None:
    """An array of pickled objects is refused by its header."""

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "run",)

    np.savez(tmp_path / "g.npz", **arrays() | {"val_labels": np.array([[Hostile()]] * 3)})  # type: ignore[arg-type]
    assert "no intact .npz file" in refused(tmp_path / "g.npz")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", [(10**12, 28, 28), (10**5, 28, 28)])
def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A header that says more than there is, and zeros that fill a disk."""
    path = npz(tmp_path / "mine.npz", arrays())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=True) as member:
                if name != "train_images.npy":
                    member.write(content)
                    continue
                member.write(header.getvalue())
                for _ in range(10 if shape[0] < 10**6 else 1):
                    member.write(bytes(28 * 28 * 10_000))
    message = refused(path)
    assert "over 100 times its size" in message if shape[0] < 10**6 else "is not what it says" in message


def test_a_file_damaged_anywhere_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    """Bytes changed or cut off at random: the same images, or one typed error; never half a set."""
    path = npz(tmp_path / "mine.npz", arrays(shape=(8, 8)))
    whole = Dataset.from_medmnist(path, dest=tmp_path / "whole")
    pixels = [decode(read(sample.path), name="").tobytes() for sample in whole.samples]
    content = path.read_bytes()
    draw = random.Random(0)
    outcomes = set()
    for number in range(150):
        damaged = bytearray(content)
        if number % 3:
            damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(content)) :]
        path.write_bytes(damaged)
        dest = tmp_path / str(number)
        try:
            found = Dataset.from_medmnist(path, dest=dest)
        except DatasetError:
            outcomes.add("refused")
            continue
        outcomes.add("read")
        assert [decode(read(sample.path), name="").tobytes() for sample in found.samples] == pixels
    assert "refused" in outcomes
