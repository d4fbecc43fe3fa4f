"""Phantoms are the same for the same seed, keep patients apart, and hide their finding from simple statistics."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from medimg.data.decode import decode, read
from medimg.data.synthetic import CLASSES, golden_files, phantom, write_phantoms
from medimg.errors import ConfigError, DatasetError


def files_of(root: Path) -> dict[str, bytes]:
    """Returns every file below a folder by its relative path."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def patients_of(root: Path, split: str, label: str) -> set[str]:
    """Returns the patients of one class in one split."""
    return {path.name.split("-")[0] for path in (root / split / label).iterdir()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default dataset, small."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "cxr", size=32)


def test_a_phantom_is_a_square_of_bytes_and_says_where_its_finding_is() -> None:
    """The place is in the picture; a clear one has none."""
    for size in (16, 64, 128):
        rng = np.random.default_rng(1)
        clear, nowhere = phantom(rng, finding=False, size=size)
        pixels, place = phantom(rng, finding=True, size=size)
        assert clear.shape == pixels.shape == (size, size)
        assert clear.dtype == pixels.dtype == np.uint8
        assert nowhere is None
        assert place is not None
        row, column, radius = place
        assert radius <= row < size - radius
        assert radius <= column < size - radius
    with pytest.raises(ConfigError, match="size=8"):
        phantom(np.random.default_rng(), finding=True, size=8)


def test_the_finding_is_where_it_is_said_to_be() -> None:
    """Over many phantoms the named place is brighter than its mirror image in the other lung."""
    differences = []
    rng = np.random.default_rng(2)
    for _ in range(60):
        pixels, place = phantom(rng, finding=True)
        assert place is not None
        row, column, radius = place
        near = np.s_[row - radius // 2 : row + radius // 2 + 1]
        here = pixels[near, column - radius // 2 : column + radius // 2 + 1].mean()
        mirror = 127 - column
        there = pixels[near, max(0, mirror - radius // 2) : mirror + radius // 2 + 1].mean()
        # The heart lies in the mirrored place of low findings in the right lung.
        if column > 64 or row < 50:
            differences.append(here - there)
    assert len(differences) > 30
    assert np.mean(np.array(differences) > 10) > 0.9


def test_lungs_are_darker_than_the_midline() -> None:
    """A phantom has the gross look of a frontal chest film."""
    rng = np.random.default_rng(3)
    films = np.mean([phantom(rng, finding=False)[0] for _ in range(40)], axis=0)
    right, midline, left = films[40:60, 24:44].mean(), films[40:60, 60:68].mean(), films[40:60, 84:104].mean()
    assert right + 50 < midline
    assert left + 50 < midline
    assert films[110:120, 30:98].mean() > max(right, left) + 30


def test_no_simple_statistic_gives_the_class_away() -> None:
    """Mean, spread, brightest and darkest tell little more than a coin; 99% bounds of 400 images."""
    rng = np.random.default_rng(4)
    labels = np.arange(400) % 2
    films = [phantom(rng, finding=bool(label), size=64)[0] for label in labels]
    for statistic in (np.mean, np.std, np.max, np.min, np.median):
        assert 0.4 < roc_auc_score(labels, [statistic(film) for film in films]) < 0.62, statistic.__name__


def test_the_same_seed_writes_the_same_pixels(root: Path, tmp_path: Path) -> None:
    """And another seed writes others."""
    again = write_phantoms(tmp_path / "again", size=32)
    assert files_of(again) == files_of(root)
    other = write_phantoms(tmp_path / "other", size=32, seed=1)
    assert not set(files_of(other).values()) & set(files_of(root).values())


def test_no_patient_is_in_two_splits_or_classes(root: Path) -> None:
    """Patients are disjoint; val has at least 12 images and patients of each class."""
    cells = {(split, label): patients_of(root, split, label) for split in ("train", "val", "test") for label in CLASSES}
    assert sum(map(len, cells.values())) == len(set.union(*cells.values())) == 120
    assert {cell: len(patients) for cell, patients in cells.items()} == {
        ("train", "CLEAR"): 36, ("train", "NODULE"): 36,
        ("val", "CLEAR"): 12, ("val", "NODULE"): 12,
        ("test", "CLEAR"): 12, ("test", "NODULE"): 12,
    }  # fmt: skip


def test_files_are_named_by_patient_and_called_synthetic(root: Path) -> None:
    """One or two images a patient, each noting in the file that no patient was there."""
    names = list(files_of(root))
    assert all(re.fullmatch(r"(train|val|test)/(CLEAR|NODULE)/patient\d{4}-[12]\.png", name) for name in names)
    assert 120 < len(names) < 240
    with Image.open(root / names[0]) as image:
        assert "Synthetic" in image.info["Comment"]
    assert decode(read(root / names[0]), name=names[0]).shape == (32, 32)


def test_images_of_one_patient_resemble_each_other(root: Path) -> None:
    """Anatomy belongs to the patient, the exposure to the image."""
    pairs = sorted(path for path in root.rglob("*-2.png"))

    def film(path: Path) -> np.ndarray:
        return decode(read(path), name=path.name).astype(float).ravel()

    first = [film(path.with_name(path.name.replace("-2", "-1"))) for path in pairs]
    second = [film(path) for path in pairs]
    same = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)])
    different = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(first, second[1:] + second[:1], strict=True)])
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert same > different + 0.02


def test_small_and_unsplit_datasets(tmp_path: Path) -> None:
    """Six patients are enough for one of each class in each split; splits can be left out."""
    tiny = write_phantoms(tmp_path / "tiny", patients=6, images_per_patient=(1, 1), size=16)
    assert len(files_of(tiny)) == 6
    assert {path.rsplit("/", 1)[0] for path in files_of(tiny)} == {
        f"{split}/{label}" for split in ("train", "val", "test") for label in CLASSES
    }
    small = write_phantoms(tmp_path / "small", patients=80, images_per_patient=(1, 1), size=16)
    assert [len(patients_of(small, split, "NODULE")) for split in ("train", "val", "test")] == [20, 12, 8]
    flat = write_phantoms(tmp_path / "flat", patients=7, images_per_patient=(2, 2), size=16, splits=False)
    assert sorted(path.name for path in flat.iterdir()) == list(CLASSES)
    assert len(files_of(flat)) == 14


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    """Too few patients, a wrong range, a folder in use."""
    with pytest.raises(ConfigError, match="patients=5"):
        write_phantoms(tmp_path / "x", patients=5)
    with pytest.raises(ConfigError, match="images_per_patient"):
        write_phantoms(tmp_path / "x", images_per_patient=(2, 1))
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DatasetError, match="not an empty folder"):
        write_phantoms(tmp_path, patients=6)
    assert files_of(tmp_path) == {"mine.txt": b"keep"}


def test_golden_files_are_small_steady_and_decode_to_phantoms() -> None:
    """Each kind exercises its own way through the decoder."""
    files = golden_files()
    assert files == golden_files()
    assert {name: len(data) < 40_000 for name, data in files.items()} == dict.fromkeys(files, True)
    shapes = {name: decode(data, name=name).shape for name, data in files.items()}
    assert shapes == {
        "grey.jpeg": (96, 96),
        "colour.png": (96, 96, 3),
        "turned.jpeg": (96, 72),
        "wide.png": (96, 96),
        "alpha.png": (96, 96),
    }
    stored = {name: Image.open(io.BytesIO(data)) for name, data in files.items()}
    assert stored["grey.jpeg"].mode == "L"
    assert stored["turned.jpeg"].size == (96, 72)  # width, height: lying down until EXIF is applied
    assert stored["turned.jpeg"].getexif()[0x0112] == 6
    assert stored["wide.png"].mode == "I;16"
    assert stored["alpha.png"].mode == "RGBA"
    turned = decode(files["turned.jpeg"], name="turned").astype(float)
    assert turned[30:45, 32:40].mean() > turned[30:45, 8:20].mean() + 30  # the midline is upright again
    assert len(np.unique(np.asarray(stored["wide.png"]))) > 256
