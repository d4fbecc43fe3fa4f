"""A dataset knows its images, and its fingerprint stands for what they show and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_folders import COLOUR, cut, picture, pixels, tree
from PIL import Image, PngImagePlugin

from medimg.data.dataset import Dataset
from medimg.errors import DatasetError, NotFoundError

CHEST = {"train/NORMAL": 3, "train/PNEUMONIA": 4, "test/NORMAL": 2, "test/PNEUMONIA": 2}
GROUP = r"p(\d)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two splits of two classes."""
    return tree(tmp_path / "chest", CHEST)


def read(root: Path) -> Dataset:
    """Reads the folder with its groups."""
    return Dataset.from_folder(root, group=GROUP)


def test_a_sample_is_found_by_its_id(root: Path) -> None:
    """The id is what predictions come back with."""
    dataset = read(root)
    for sample in dataset.samples:
        assert dataset[sample.id] is sample
    with pytest.raises(NotFoundError, match="no image with the id 'x' in chest"):
        dataset["x"]


def test_datasets_do_not_change(root: Path) -> None:
    """`split`, `subset` and `without` return new ones."""
    dataset = Dataset.from_folder(root)
    before = dataset.samples
    dataset.split(test=None, val=0.3)
    dataset.subset(0.5)
    smaller = dataset.without([before[0].id])
    assert dataset.samples == before
    assert smaller.samples == before[1:]
    assert len(smaller) == len(before) - 1


def test_counts_and_splits_are_those_of_the_samples(root: Path) -> None:
    """A split without images is none."""
    dataset = read(root)
    assert dataset.splits == {"train": 7, "test": 4}
    assert dataset.counts("test") == {"NORMAL": 2, "PNEUMONIA": 2}
    assert dataset.counts("val") == {"NORMAL": 0, "PNEUMONIA": 0}
    assert dataset.of("val") == ()
    assert [dataset.label_names(sample) for sample in dataset.of("test")] == [("NORMAL",)] * 2 + [("PNEUMONIA",)] * 2


def test_groups_in_two_splits_are_found(root: Path) -> None:
    """p0 and p1 are patients of train and test alike."""
    assert read(root).groups_in_two_splits() == {"0": ("train", "test"), "1": ("train", "test")}
    assert Dataset.from_folder(root, group=r"(.*)\.png").groups_in_two_splits() == {}
    assert Dataset.from_folder(root).groups_in_two_splits() == {}


def test_two_samples_with_one_id_are_refused(root: Path) -> None:
    """Predictions could not be told apart."""
    sample = read(root).samples[0]
    with pytest.raises(DatasetError, match="have the same id"):
        replace(read(root), samples=(sample, sample))


def test_images_that_cannot_be_read_are_named_with_their_reason(root: Path) -> None:
    """One of each kind; the others are not touched by it."""
    cut(root / "train/NORMAL/p0.png")
    (root / "train/NORMAL/p1.png").write_bytes(b"")
    (root / "test/NORMAL/p0.png").write_text("<html>")
    dataset = read(root)
    (root / "test/NORMAL/p1.png").unlink()
    found = {(str(Path(error.name).relative_to(root)), error.code) for error in dataset.rejected().values()}
    assert found == {
        ("train/NORMAL/p0.png", "truncated"), ("train/NORMAL/p1.png", "empty"), ("test/NORMAL/p0.png", "not-an-image"),
        ("test/NORMAL/p1.png", "missing"),
    }  # fmt: skip
    facts = dataset.index()
    assert {(fact.height, fact.width, fact.channels) for fact in facts.values()} == {(6, 8, 1), (0, 0, 0)}


# -- the fingerprint -------------------------------------------------------------------------------------------------


def renamed(root: Path) -> None:
    """Gives a file a name that sorts elsewhere."""
    (root / "train/NORMAL/p0.png").rename(root / "train/NORMAL/z-p0.png")


def touched(root: Path) -> None:
    """Changes a file's time."""
    os.utime(root / "train/NORMAL/p0.png", (1, 1))


def compressed(root: Path) -> None:
    """Encodes a file anew without loss: another level, another format, colour channels that are equal."""
    for name, options in (("p0", {"compress_level": 0}), ("p1", {"format": "BMP"}), ("p2", {})):
        path = root / f"train/NORMAL/{name}.png"
        image = Image.open(path).copy()
        (image.convert("RGB") if name == "p2" else image).save(path, **options)


def described(root: Path) -> None:
    """Adds metadata."""
    path = root / "train/NORMAL/p0.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Doe^Jane")
    exif = Image.Exif()
    exif[0x010E] = "a description"
    Image.open(path).copy().save(path, pnginfo=text, exif=exif)


def patients_renamed(root: Path) -> None:
    """Calls the same patients otherwise: p0 and p1 change names everywhere."""
    for folder in CHEST:
        for old, new in (("p0", "tmp"), ("p1", "p0"), ("tmp", "p1")):
            (root / folder / f"{old}.png").rename(root / folder / f"{new}.png")


def broken_file_added(root: Path) -> None:
    """Adds an image that cannot be read and so is not in the pack."""
    (root / "train/NORMAL/p9.png").write_bytes(b"")


def one_pixel(root: Path) -> None:
    """Changes one pixel by one."""
    path = root / "train/NORMAL/p0.png"
    array = np.array(Image.open(path))
    array[3, 4] ^= 1
    Image.fromarray(array).save(path)


def reshaped(root: Path) -> None:
    """Keeps the bytes of the pixels in another shape."""
    path = root / "train/NORMAL/p0.png"
    Image.fromarray(np.array(Image.open(path)).reshape(8, 6)).save(path)


def relabelled(root: Path) -> None:
    """Moves an image to the other class."""
    (root / "train/NORMAL/p0.png").rename(root / "train/PNEUMONIA/p0-2.png")


def class_renamed(root: Path) -> None:
    """Calls a class otherwise."""
    for split in ("train", "test"):
        (root / split / "PNEUMONIA").rename(root / split / "COVID")


def resplit(root: Path) -> None:
    """Moves an image to another split."""
    (root / "train/NORMAL/p2.png").rename(root / "test/NORMAL/p2.png")


def regrouped(root: Path) -> None:
    """Gives an image to another patient."""
    (root / "train/NORMAL/p2.png").rename(root / "train/NORMAL/x-p1.png")


def removed(root: Path) -> None:
    """Takes an image away."""
    (root / "train/NORMAL/p2.png").unlink()


def doubled(root: Path) -> None:
    """Adds a copy of an image to the same patient."""
    shutil.copy(root / "train/NORMAL/p2.png", root / "train/NORMAL/x-p2.png")


@pytest.mark.parametrize("change", [renamed, touched, compressed, described, patients_renamed, broken_file_added])
def test_the_fingerprint_stays(root: Path, change: Callable[[Path], None]) -> None:
    """Where pixels, labels, splits and groups stay."""
    before = read(root).fingerprint
    change(root)
    assert read(root).fingerprint == before


@pytest.mark.parametrize(
    "change", [one_pixel, reshaped, relabelled, class_renamed, resplit, regrouped, removed, doubled]
)
def test_the_fingerprint_changes(root: Path, change: Callable[[Path], None]) -> None:
    """Where any of them changes."""
    before = read(root).fingerprint
    change(root)
    assert read(root).fingerprint != before


def test_the_fingerprint_changes_with_the_file_also_on_the_same_object(root: Path) -> None:
    """A notebook that runs for days sees what is on the disk."""
    dataset = read(root)
    before = dataset.fingerprint
    one_pixel(root)
    assert dataset.fingerprint != before


def test_the_fingerprint_depends_on_grouping_and_splitting(root: Path) -> None:
    """With other arguments the same folder is another dataset."""
    prints = [
        read(root).fingerprint,
        Dataset.from_folder(root).fingerprint,
        Dataset.from_folder(root, group=r"(.*)").fingerprint,
        read(root).split().fingerprint,
        read(root).subset(0.5).fingerprint,
    ]
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_depends_on_neither_salt_nor_order_nor_place(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine with a copy of the folder finds the same."""
    before = read(root).fingerprint
    dataset = read(root)
    assert replace(dataset, samples=dataset.samples[::-1]).fingerprint == before
    monkeypatch.setenv("MEDIMG_SALT", "another")
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "home 2"))
    assert read(Path(shutil.copytree(root, tmp_path / "copy"))).fingerprint == before


def test_a_table_and_a_folder_of_the_same_content_have_one_fingerprint(root: Path) -> None:
    """It does not matter where labels, splits and groups were written."""
    dataset = read(root)
    rows = [f"{s.path.relative_to(root)},{dataset.label_names(s)[0]},{s.split},{s.group}" for s in dataset.samples]
    csv = root.parent / "table.csv"
    csv.write_text("\n".join(["file,label,split,patient", *rows]))
    table = Dataset.from_csv(csv, images=root, path="file", labels="label", split="split", group="patient")
    assert table.fingerprint == dataset.fingerprint
    assert [sample.id for sample in table.samples] == [sample.id for sample in dataset.samples]


def test_the_order_of_a_group_s_images_in_other_groups_matters_not(tmp_path: Path) -> None:
    """The same partition of equal images into patients, found in another order."""
    for name, seed in (("a-1", "x"), ("a-2", "y"), ("b-1", "x"), ("b-2", "z")):
        picture(tmp_path / "1/ill" / f"{name}.png", seed)
        picture(tmp_path / "2/ill" / f"{name.translate(str.maketrans('ab', 'ba'))}.png", seed)
    for number in "12":
        picture(tmp_path / number / "normal/c-1.png", "n")
    first, second = (Dataset.from_folder(tmp_path / number, group="(.)-") for number in "12")
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != Dataset.from_folder(tmp_path / "1", group="-(.)").fingerprint


def test_colour_and_grey_are_told_apart(root: Path) -> None:
    """Grey that is stored as colour is grey; colour is not."""
    picture(root / "train/NORMAL/p0.png", "c", COLOUR)
    Image.fromarray(pixels("g")).convert("RGB").save(root / "train/NORMAL/p1.png")
    dataset = read(root)
    facts = dataset.index()
    channels = {s.path.name: facts[s.id].channels for s in dataset.of("train") if s.path.parent.name == "NORMAL"}
    assert channels == {"p0.png": 3, "p1.png": 1, "p2.png": 1}
