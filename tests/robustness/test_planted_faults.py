"""Every fault planted in a clean set is caught by its own check and by no other; the clean set has no finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medimg.data.dataset import Dataset, Sample, Split
from medimg.data.synthetic import write_phantoms

SIDE = 64  # smaller, the finding is so large a part of the picture that brightness tells of it
NODULE = 1
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def phantoms_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clean set, and the home in which its images were read."""
    root = tmp_path_factory.mktemp("planted")
    write_phantoms(root / "clean", patients=400, size=SIDE)
    return root


@pytest.fixture
def clean(phantoms_at: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The clean set, with one cache for all tests, so that each reads only what it plants."""
    monkeypatch.setenv("MEDIMG_HOME", str(phantoms_at / "home"))
    return Dataset.from_folder(phantoms_at / "clean", group=r"(patient\d+)")


class Planter:
    """Plants faults in a dataset; the files of the original stay as they are.

    Args:
        dataset: The clean set.
        folder: Where changed files go.
    """

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self._count = 0

    def of(self, split: Split | None, label: int | None = None) -> list[Sample]:
        """Returns the samples of a split (None: of all) and class."""
        return [s for s in self.dataset.samples if split in (None, s.split) and label in (None, s.labels)]

    def written(
        self, sample: Sample, change: Change = lambda pixels: pixels, suffix: str = ".png", **options: object
    ) -> Path:
        """Returns a new file with a sample's pixels, changed."""
        self._count += 1
        path = self.folder / f"{self._count}{suffix}"
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(change(np.asarray(Image.open(sample.path)))).save(path, **options)
        return path

    def changed(self, chosen: list[Sample], change: Change, **options: object) -> Dataset:
        """Returns the set with the pixels of some samples changed."""
        new = {sample.id: self.written(sample, change, **options) for sample in chosen}
        samples = (replace(s, path=new[s.id]) if s.id in new else s for s in self.dataset.samples)
        return replace(self.dataset, samples=tuple(samples))

    def with_copy(self, sample: Sample, path: Path, split: Split, labels: int) -> Dataset:
        """Returns the set with one more file, of a patient of its own."""
        copy = Sample(f"copy-{path.name}", path, labels, split, "another patient")
        return replace(self.dataset, samples=(*self.dataset.samples, copy))

    def only(self, kept: Callable[[Sample], bool]) -> Dataset:
        """Returns the samples for which `kept` holds."""
        return self.dataset.without(sample.id for sample in self.dataset.samples if not kept(sample))


def border(pixels: np.ndarray) -> np.ndarray:
    """Returns a picture with a white frame of two pixels."""
    framed = pixels.copy()
    framed[[0, 1, -2, -1]] = framed[:, [0, 1, -2, -1]] = 255
    return framed


def tag(pixels: np.ndarray) -> np.ndarray:
    """Returns a picture with a scanner's tag burnt into a corner."""
    tagged = pixels.copy()
    tagged[1:5, 1:15] = 255
    return tagged


def bright(pixels: np.ndarray) -> np.ndarray:
    """Returns a picture that is brighter by a tenth of the range."""
    return np.clip(pixels.astype(int) + 25, 0, 255).astype(np.uint8)


def dark(pixels: np.ndarray) -> np.ndarray:
    """Returns a picture at two thirds of its brightness."""
    return (pixels * 0.65).astype(np.uint8)


def scaled(side: int) -> Change:
    """Returns the change of a picture to another size."""
    return lambda pixels: np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def truncated(plant: Planter) -> Dataset:
    """Returns the set with one file in fifty cut in half."""
    dataset = plant.changed(plant.of("train")[::50], lambda pixels: pixels)
    for sample in dataset.samples:
        if sample.path.parent == plant.folder:
            sample.path.write_bytes(sample.path.read_bytes()[:900])
    return dataset


def turned(plant: Planter, orientation: int) -> Dataset:
    """Returns the set with one class lying, and an EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    chosen = plant.of(None, NODULE) if orientation <= 8 else plant.of("train", NODULE)[:1]
    return plant.changed(chosen, lambda pixels: np.rot90(pixels, 1), exif=exif)


def copied(
    plant: Planter, into: Split, change: Change = lambda pixels: pixels, *, other: bool = False, **options: object
) -> Dataset:
    """Returns the set with a copy of a test image in another split or with the other label."""
    sample = plant.of("test", NODULE)[5]
    return plant.with_copy(sample, plant.written(sample, change, **options), into, 1 - NODULE if other else NODULE)


def leak(plant: Planter) -> Dataset:
    """Returns the set with one image of a test patient in train."""
    patient = next(s.group for s in plant.of("test") if sum(o.group == s.group for o in plant.of("test")) > 1)
    moved = next(s for s in plant.of("test") if s.group == patient)
    samples = tuple(replace(s, split="train") if s is moved else s for s in plant.dataset.samples)
    return replace(plant.dataset, samples=samples)


def few(plant: Planter, kept: int) -> Dataset:
    """Returns the set with only some validation images of each class."""
    left = {sample.id for label in (0, 1) for sample in plant.of("val", label)[:kept]}
    return plant.only(lambda sample: sample.split != "val" or sample.id in left)


FAULTS: dict[str, tuple[Callable[[Planter], Dataset], str, set[str]]] = {
    "a patient of test in train": (leak, "error", {"group-leakage"}),
    "no patient key": (
        lambda plant: replace(plant.dataset, samples=tuple(replace(s, group=None) for s in plant.dataset.samples)),
        "warning", {"group-leakage"},
    ),
    "an image of test in train": (lambda plant: copied(plant, "train"), "error", {"duplicate-images"}),
    "an image of test in validation": (lambda plant: copied(plant, "val"), "error", {"duplicate-images"}),
    "an image of test there twice": (lambda plant: copied(plant, "test"), "warning", {"duplicate-images"}),
    "one image with two labels": (
        lambda plant: copied(plant, "test", other=True), "warning", {"duplicate-images", "conflicting-labels"},
    ),
    "a test image saved anew in train": (
        lambda plant: copied(plant, "train", suffix=".jpeg", quality=60), "warning", {"near-duplicates"},
    ),
    "a test image enlarged in train": (
        lambda plant: copied(plant, "train", scaled(96)), "warning", {"near-duplicates"},
    ),
    "a test image brightened in train": (lambda plant: copied(plant, "train", bright), "warning", {"near-duplicates"}),
    "30 validation images a class": (lambda plant: few(plant, 30), "warning", {"tiny-validation"}),
    "8 images of one class": (
        lambda plant: plant.only(lambda s: s.labels != NODULE or s in plant.of("train", NODULE)[:8]),
        "error", {"tiny-validation", "absent-classes", "imbalance"},
    ),
    "a class missing in test": (
        lambda plant: plant.only(lambda s: s.split != "test" or s.labels != NODULE), "warning", {"absent-classes"},
    ),
    "one image in ten with the finding": (
        lambda plant: plant.only(lambda s: (s.split, s.labels) != ("train", NODULE) or s.id[0] == "0"),
        "warning", {"imbalance"},
    ),
    "a white frame on one class": (
        lambda plant: plant.changed(plant.of(None, NODULE), border), "warning", {"shortcuts"},
    ),
    "a scanner's tag on one class": (
        lambda plant: plant.changed(plant.of(None, NODULE), tag), "warning", {"shortcuts"},
    ),
    "one class larger": (lambda plant: plant.changed(plant.of(None, NODULE), scaled(80)), "warning", {"shortcuts"}),
    "one class in 16 bits": (
        lambda plant: plant.changed(plant.of(None, NODULE), lambda pixels: pixels.astype(np.uint16) * 257),
        "warning", {"file-kinds"},
    ),
    "one class stored as colour": (
        lambda plant: plant.changed(plant.of(None, NODULE), lambda pixels: np.repeat(pixels[..., None], 3, axis=2)),
        "warning", {"file-kinds"},
    ),
    "truncated files": (truncated, "error", {"rejected-images"}),
    "one class turned by EXIF": (lambda plant: turned(plant, 6), "warning", {"orientation"}),
    "an orientation that means nothing": (lambda plant: turned(plant, 9), "error", {"orientation"}),
    "darker test images of one class": (
        lambda plant: plant.changed(plant.of("test", NODULE), dark), "warning", {"shift"},
    ),
}  # fmt: skip


def test_a_clean_set_has_no_finding(clean: Dataset) -> None:
    """No error, no warning and nothing left unknown."""
    audit = clean.audit()
    assert {finding.level for finding in audit.findings} == {"fine"}, audit
    assert len(audit.findings) == 12
    assert (audit.notices, audit.duplicates, audit.near_duplicates, audit.examples) == ((), (), (), {})


def test_every_planted_fault_is_caught_by_its_own_check(clean: Dataset, tmp_path: Path) -> None:
    """Planted × caught, with the level of the first check that is named for it."""
    rows = []
    for number, (name, (plant, level, checks)) in enumerate(FAULTS.items()):
        audit = plant(Planter(clean, tmp_path / str(number))).audit()
        told = {finding.check: finding.level for finding in (*audit.errors, *audit.warnings)}
        rows.append((name, told, set(told) == checks and level in told.values()))
    width = max(map(len, FAULTS))
    table = "\n".join(
        f"{'caught' if right else 'WRONG '}  {name:<{width}}  "
        + ", ".join(f"{check} ({level})" for check, level in told.items())
        for name, told, right in rows
    )
    print(f"\n{table}\n{sum(right for *_, right in rows)} of {len(rows)} caught, by their own check alone")
    assert all(right for *_, right in rows), table
