"""Datasets from folders: `root/CLASS/…` or `root/SPLIT/CLASS/…`."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from medimg.data.dataset import Dataset, Sample, Split, decide_task
from medimg.data.labels import clean, listing, positive_class, split_name
from medimg.errors import DatasetError, did_you_mean
from medimg.home import salt

__all__ = ["IMAGE_SUFFIXES", "image_files", "read_folder", "salted"]

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def salted(kind: str, name: str, key: bytes) -> str:
    """Returns the id that stands for a path or a patient outside this machine: 16 hexadecimal digits of an HMAC."""
    return hmac.new(key, f"{kind}:{name}".encode(), hashlib.sha256).hexdigest()[:16]


def image_files(root: Path) -> Iterator[Path]:
    """Yields the image files under a folder in a stable order; hidden ones and `__MACOSX` left out, loops of links cut."""
    yield from _walk(root, frozenset())


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    try:
        identity = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}") from error
    key = (identity.st_dev, identity.st_ino)
    if key in above:
        return
    for entry in entries:
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), above | {key})
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield Path(entry.path)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def read_folder(
    root: Path, *, group: str | Callable[[str], str | None] | None = None, positive: str | None = None
) -> Dataset:
    """Reads a dataset from a folder: see `Dataset.from_folder`."""
    if not root.is_dir():
        near = did_you_mean(root.name, [path.name for path in root.parent.iterdir()]) if root.parent.is_dir() else ""
        raise DatasetError(f"{root} is not a folder.{near if 'Did' in near else ''}")
    name = root.resolve().name
    notices: list[str] = []
    root, split_folders = _find_splits(root, notices)
    found = {split: _class_files(folder) for split, folder in split_folders.items()}
    files = [(split, label, file) for split, classes in found.items() for label, paths in classes.items()
             for file in paths]  # fmt: skip
    if not files:
        raise DatasetError(_no_images(root))
    classes = tuple(sorted({label for _, label, _ in files}))
    _check_classes(found, classes, root, notices)
    task = decide_task(classes, where=str(root))
    find_group = _grouping(group, [file.relative_to(root).as_posix() for _, _, file in files])
    key = salt()
    samples = []
    for split, label, file in files:
        relative = clean(file.relative_to(root).as_posix())
        samples.append(
            Sample(salted("image", relative, key), file, classes.index(label), split, find_group(relative))
        )
    return Dataset(
        samples=tuple(sorted(samples, key=lambda sample: sample.path.as_posix())),
        classes=classes,
        task=task,
        positive=positive_class(classes, positive) if task == "binary" else None,
        name=name,
        notices=tuple(notices),
    )


def _find_splits(root: Path, notices: list[str]) -> tuple[Path, dict[Split | None, Path]]:
    """Returns the folder that holds the splits (or classes) and the folder of each split."""
    folders = _folders(root)
    while len(folders) == 1 and split_name(folders[0].name) is None and _folders(folders[0]):
        # An unpacked archive: chest_xray/chest_xray/train/…
        root, folders = folders[0], _folders(folders[0])
    splits: dict[Split | None, Path] = {}
    others = []
    for folder in folders:
        split = split_name(folder.name)
        if split is None:
            others.append(folder.name)
            continue
        inner = _folders(folder)
        if len(inner) == 1 and split_name(inner[0].name) == split:
            folder = inner[0]  # seg_train/seg_train/…, as Kaggle packs the Intel scenes
        if split in splits:
            raise DatasetError(
                f"{root}: both {splits[split].name!r} and {folder.name!r} are {split}. Rename or remove one"
            )
        splits[split] = folder  # type: ignore[index]
    if not splits:
        return root, {None: root}
    if others:
        notices.append(f"{listing(others)} beside the splits {listing(sorted(map(str, splits)))}: not read")
    if "train" not in splits:
        raise DatasetError(
            f"{root} has {listing(path.name for path in splits.values())} but no train folder. Name it 'train', or put "
            "the class folders directly into the root and call .split()"
        )
    return root, splits


def _class_files(folder: Path) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    for inner in _folders(folder):
        classes.setdefault(clean(inner.name), []).extend(image_files(inner))
    return classes


def _check_classes(
    found: dict[Split | None, dict[str, list[Path]]], classes: tuple[str, ...], root: Path, notices: list[str]
) -> None:
    trained = found.get("train", found.get(None, {}))
    for split, of_split in found.items():
        for name, paths in of_split.items():
            if not paths and name not in classes:
                raise DatasetError(
                    f"the class folder {name!r} holds no images ({root}). Add images to it, or remove the folder"
                )
            if paths and not trained.get(name):
                known = [other for other, files in trained.items() if files]
                raise DatasetError(
                    f"the class {name!r} is in {split} but not in train.{did_you_mean(name, known)} "
                    "Class folders must have the same names in every split"
                )
        absent = [name for name in classes if not of_split.get(name)]
        if absent:
            notices.append(f"{split} has no image of {listing(absent)}")


def _no_images(root: Path) -> str:
    everything = [path for path in root.rglob("*") if path.is_file()]
    if not everything:
        return f"{root} is empty. Expected {root.name}/CLASS/*.png, or {root.name}/train/CLASS/*.png with val and test"
    kinds = Counter(path.suffix.lower() or path.name for path in everything)
    seen = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
    loose = [path for path in everything if path.suffix.lower() in IMAGE_SUFFIXES]
    if loose:
        return (
            f"{root} has images but no class folders. Expected {root.name}/CLASS/*.png; for labels in a table use "
            "Dataset.from_csv"
        )
    return f"{root} holds no images in class folders (it holds {seen}). Known: {', '.join(sorted(IMAGE_SUFFIXES))}"


def _grouping(
    group: str | Callable[[str], str | None] | None, paths: list[str]
) -> Callable[[str], str | None]:
    if group is None:
        return lambda path: None
    if callable(group):
        return group
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DatasetError(f"group={group!r} is not a regular expression: {error}") from None
    if pattern.groups == 0:
        raise DatasetError(f"group={group!r} captures nothing. Put what names the patient in parentheses")

    def find(path: str) -> str | None:
        match = pattern.search(path)
        return "-".join(part for part in match.groups() if part is not None) if match else None

    unmatched = [path for path in paths if not find(clean(path))]
    if unmatched:
        raise DatasetError(
            f"group={group!r} matches nothing in {len(unmatched):,} of {len(paths):,} files, such as "
            f"{listing(unmatched, most=3)}. Extend it with |, or pass a function"
        )
    return find
