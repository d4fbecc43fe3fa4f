"""What the public sets look like on disk, to tell who is given another one's folder which method reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from medimg.archive import is_archive
from medimg.data.labels import clean, split_name
from medimg.data.readers.folder import entries
from medimg.errors import DatasetError

__all__ = ["existing_folder", "not_this_set", "outermost", "top_files"]

_MOST = 2000  # names to look at before giving up: a hint may not take long
# By the path in the folder of a file or folder that only this set has.
_MARKS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), name, reader)
    for pattern, name, reader in (
        (r"(^|/)(Data_Entry[^/]*\.csv|train_val_list\.txt)$", "NIH ChestX-ray14", "from_nih"),
        (r"(^|/)(HAM10000|ISIC_?\d)", "HAM10000 or ISIC", "from_isic"),
        (r"(^|/)seg_(train|test|pred)$", "the Intel scenes", "from_intel"),
        (r"(^|/)train/(PNEUMONIA|CNV|DRUSEN)$", "the sets of Kermany et al.", "from_kermany"),
        (r"(^|/)[a-z]+mnist(_\d+)?\.npz$", "a MedMNIST file", "from_medmnist"),
        (r"\.tfrec(ord)?s?(\.gz|-\d+-of-\d+)?$", "TFRecord files", "from_tfrecord"),
        (r"(^|/)DICOMDIR$|\.dcm$", "DICOM files", "from_dicom"),
    )
)  # fmt: skip


def existing_folder(root: Path, reader: str) -> Path:
    """Returns a folder by its full path, so that a dataset outlives a change of the working directory.

    Args:
        root: What the user gave.
        reader: The method that it was given to.

    Raises:
        DatasetError: It is no folder.
    """
    root = root.expanduser().absolute()
    if root.is_dir():
        return root
    if root.exists():
        what = f"an archive. Unpack it first: medimg unpack '{root}' FOLDER" if is_archive(root) else "a file"
        raise DatasetError(f"{reader} takes the set's folder, and {root} is {what}")
    raise DatasetError(f"there is no folder {root}")


def outermost(root: Path) -> Path:
    """Returns the first folder, from `root` downwards, that holds a split, a file or several folders.

    Archives wrap what is in them: `archive/chest_xray/chest_xray/train`.
    """
    while True:
        inside = entries(root)
        if len(inside) != 1 or not inside[0].is_dir() or split_name(inside[0].name):
            return root
        root = inside[0]


def top_files(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Returns the files in a folder, and in the folders in it, that end so (in any case)."""
    near = [root, *(path for path in entries(root) if path.is_dir())]
    return [
        path for folder in near for path in entries(folder) if path.name.lower().endswith(suffixes) and path.is_file()
    ]


def not_this_set(root: Path, what: str, reason: str, reader: str) -> DatasetError:
    """Returns the error for a folder that is not the set that a reader reads, which names the right reader if it can.

    Args:
        root: The folder.
        what: The set that was asked for.
        reason: What is missing or does not fit.
        reader: The method that was called.
    """
    names = list(islice(_names(root), _MOST))
    for pattern, name, other in _MARKS:
        if other != reader and any(pattern.search(path) for path in names):
            return DatasetError(f"{root} is not {what}: {reason}. It looks like {name}: use Dataset.{other}")
    return DatasetError(
        f"{root} is not {what}: {reason}. For class folders of another set use Dataset.from_folder, for a table "
        "Dataset.from_csv"
    )


def _names(root: Path) -> Iterator[str]:
    """Yields the paths inside a folder, down to the second level."""
    for path in entries(root):
        yield clean(path.name)
        if path.is_dir():
            with suppress(DatasetError):  # what may not be read gives no hint
                yield from (f"{clean(path.name)}/{clean(inner.name)}" for inner in islice(entries(path), _MOST))
