"""Datasets from folders: `root/CLASS/…` or `root/SPLIT/CLASS/…`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from medimg.archive import is_archive
from medimg.data.dataset import Dataset, Sample, Split
from medimg.data.labels import amount, class_name, clean, decide_task, listing, positive_class, split_name
from medimg.errors import DatasetError, did_you_mean
from medimg.garbage import paused
from medimg.home import salt, salted

__all__ = ["IMAGE_SUFFIXES", "entries", "group_name", "image_files", "is_image", "read_folder"]

IMAGE_SUFFIXES = frozenset(
    {
        ".bmp", ".dcm", ".dicom", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
        ".webp",
    }
)  # fmt: skip

Splits = dict[Split | None, Path]
Accepts = Callable[[Path], bool]


def group_name(value: object) -> str | None:
    """Returns a group as it is kept: text in composed form, or None for nothing."""
    return None if value is None else clean(str(value)) or None


def is_image(path: Path) -> bool:
    """Tells whether a file is an image by the end of its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def image_files(root: Path, accepts: Accepts = is_image) -> Iterator[Path]:
    """Yields the image files under a folder in a stable order.

    Hidden files and `__MACOSX` are left out. A folder that links lead to twice is read once, so that loops end.

    Args:
        root: The folder; of a file, itself.
        accepts: Tells which files are images.
    """
    if root.is_file():
        yield root
    else:
        yield from _walk(root, accepts, set())


def _walk(folder: Path, accepts: Accepts, seen: set[tuple[int, int]]) -> Iterator[Path]:
    inside = entries(folder)
    found = folder.stat()
    if (found.st_dev, found.st_ino) in seen:
        return
    seen.add((found.st_dev, found.st_ino))
    for entry in inside:
        if entry.is_dir():
            yield from _walk(entry, accepts, seen)
        elif accepts(entry):
            yield entry


def entries(folder: Path) -> list[Path]:
    """Returns what is in a folder, sorted, without hidden files and `__MACOSX`.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}") from error
    return [path for path in found if not path.name.startswith((".", "__MACOSX"))]


def _folders(root: Path) -> list[Path]:
    return [path for path in entries(root) if path.is_dir()]


@paused()
def read_folder(
    root: Path,
    *,
    group: str | Callable[[str], str | None] | None = None,
    positive: str | None = None,
    accepts: Accepts = is_image,
) -> Dataset:
    """Reads a dataset from a folder: see `Dataset.from_folder`; `accepts` tells which files are images."""
    root = root.expanduser().absolute()  # so that the dataset outlives a change of the working directory
    if not root.is_dir():
        raise DatasetError(_no_folder(root))
    name = root.resolve().name
    notices: list[str] = []
    root, splits = _find_splits(root, notices)
    found = {split: _class_files(folder, accepts) for split, folder in splits.items()}
    classes = tuple(sorted({label for of_split in found.values() for label, files in of_split.items() if files}))
    if not classes:
        raise DatasetError(_no_images(root, accepts))
    _check_classes(found, classes, root)
    loose = sum(accepts(path) for folder in {root, *splits.values()} for path in entries(folder))
    if loose:
        notices.append(f"not read: {amount(loose, 'image')} beside the class folders")
    task = decide_task(classes, where=str(root))

    files = sorted((file, split, label) for split, of_split in found.items() for label in of_split
                   for file in of_split[label])  # fmt: skip
    relative = [clean(file.relative_to(root).as_posix()) for file, _, _ in files]
    find_group = _grouping(group, relative)
    key = salt()
    return Dataset(
        samples=tuple(
            Sample(salted("image", inside, key), file, classes.index(label), split, find_group(inside))
            for (file, split, label), inside in zip(files, relative, strict=True)
        ),
        classes=classes,
        task=task,
        positive=positive_class(classes, positive, task),
        name=name,
        notices=tuple(notices),
    )


def _find_splits(root: Path, notices: list[str]) -> tuple[Path, Splits]:
    """Returns the folder that holds the splits (or classes) and the folder of each split."""
    folders, top = _folders(root), root
    while len(folders) == 1 and split_name(folders[0].name) is None and _folders(folders[0]):
        # An unpacked archive: chest_xray/chest_xray/train/…
        root, folders = folders[0], _folders(folders[0])
    splits: Splits = {}
    others = []
    for folder in folders:
        split = split_name(folder.name)
        if split is None:
            others.append(folder)
            continue
        if split in splits:
            raise DatasetError(
                f"{root}: both {splits[split].name!r} and {folder.name!r} are {split}. Rename or remove one"
            )
        inner = _folders(folder)
        # seg_train/seg_train/…, as Kaggle packs the Intel scenes
        splits[split] = inner[0] if len(inner) == 1 and split_name(inner[0].name) == split else folder
    if not splits:
        if root != top:
            notices.append("the root holds one folder only: the folders in it were read as the classes")
        return root, {None: root}
    if "train" not in splits:
        raise DatasetError(
            f"{root} has {listing(path.name for path in splits.values())} but no train folder. Name it 'train', or put "
            "the class folders directly into the root and call .split()"
        )
    if others:
        notices.append(
            f"not read: {amount(len(others), 'folder')} beside the splits {listing(sorted(map(str, splits)))}"
        )
    return root, splits


def _class_files(folder: Path, accepts: Accepts) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    for inner in _folders(folder):
        classes.setdefault(class_name(inner.name), []).extend(image_files(inner, accepts))
    return classes


def _check_classes(found: dict[Split | None, dict[str, list[Path]]], classes: tuple[str, ...], root: Path) -> None:
    empty = sorted({name for of_split in found.values() for name in of_split} - set(classes))
    if empty:
        raise DatasetError(
            f"the class folder {empty[0]!r} holds no images ({root}). Add images to it, or remove the folder"
        )
    trained = [name for name, files in found.get("train", found.get(None, {})).items() if files]
    for split, of_split in found.items():
        for name, files in of_split.items():
            if files and name not in trained:
                raise DatasetError(
                    f"the class {name!r} is in {split} but not in train.{did_you_mean(name, trained)} "
                    "Class folders must have the same names in every split"
                )


def _no_folder(root: Path) -> str:
    if root.suffix.lower() in (".csv", ".tsv"):
        return f"{root} is a table, not a folder. Use Dataset.from_csv"
    if root.is_file():
        if is_archive(root):
            return f"{root} is an archive, not a folder. Unpack it first: medimg unpack '{root}' FOLDER"
        return f"{root} is a file, not a folder"
    beside = [path.name for path in _folders(root.parent)] if root.parent.is_dir() else []
    near = did_you_mean(root.name, beside)
    return f"there is no folder {root}.{near if 'Did' in near else ''}"


def _no_images(root: Path, accepts: Accepts) -> str:
    everything = [path for path in root.rglob("*") if path.is_file()]
    if not everything:
        return f"{root} is empty. Expected {root.name}/CLASS/*.png, or {root.name}/train/CLASS/*.png with val and test"
    if any(accepts(path) for path in everything):
        return (
            f"{root} has images but no class folders. Expected {root.name}/CLASS/*.png; for labels in a table use "
            "Dataset.from_csv"
        )
    kinds = Counter(path.suffix.lower() or path.name for path in everything)
    seen = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
    return (
        f"{root} holds no images in class folders (it holds {seen}). Known: {', '.join(sorted(IMAGE_SUFFIXES))}; DICOM "
        "files of any other name are read by Dataset.from_dicom"
    )


def _grouping(group: str | Callable[[str], str | None] | None, paths: list[str]) -> Callable[[str], str | None]:
    if group is None:
        return lambda _: None
    if callable(group):
        return lambda path: group_name(group(path))
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DatasetError(f"group={group!r} is not a regular expression: {error}") from None
    if pattern.groups == 0:
        raise DatasetError(f"group={group!r} captures nothing. Put what names the patient in parentheses")

    def find(path: str) -> str | None:
        match = pattern.search(path)
        return group_name("-".join(part for part in match.groups() if part is not None)) if match else None

    unmatched = [path for path in paths if find(path) is None]
    if unmatched:
        raise DatasetError(
            f"group={group!r} matches nothing in {len(unmatched):,} of {len(paths):,} files, such as "
            f"{listing(unmatched, most=3)}. Extend it with |, or pass a function"
        )
    return find
