"""Class names, split names and which class is the positive one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from medimg.config import Task
from medimg.errors import DatasetError, did_you_mean

__all__ = [
    "NEGATIVES", "amount", "class_name", "clean", "decide_task", "is_negative", "listing", "positive_class",
    "split_name",
]  # fmt: skip

# What data sets call the class without disease. "No finding" counts as no label in multilabel cells.
NEGATIVES = frozenset(
    {
        "absent", "benign", "clear", "control", "healthy", "negative", "no finding", "no findings", "none", "normal",
        "0", "false", "no",
    }
)  # fmt: skip

_SPLITS: dict[str, Literal["train", "val", "test"]] = {
    "train": "train", "training": "train", "seg_train": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "seg_val": "val",
    "test": "test", "testing": "test", "seg_test": "test",
}  # fmt: skip


def clean(name: str) -> str:
    """Returns a name in Unicode's composed form without outer blanks, so that é equals é however it was typed."""
    return unicodedata.normalize("NFC", name).strip()


def class_name(name: str) -> str:
    """Returns a class's name as it is shown: as `clean` gives it, on one line.

    Raises:
        DatasetError: The name of a folder is not Unicode, so that it could not travel as JSON.
    """
    shown = " ".join(clean(name).split())
    if not shown.isascii() and re.search("[\ud800-\udfff]", shown):
        raise DatasetError(f"the class name {shown!r} is not Unicode text. Rename the folder")
    return shown


def split_name(name: str) -> Literal["train", "val", "test"] | None:
    """Returns "train", "val" or "test" for the usual names of splits in any case, else None."""
    return _SPLITS.get(re.sub(r"[\s-]+", "_", clean(name)).lower())


def is_negative(name: str) -> bool:
    """Tells whether a class name is one of the usual names for "no disease"."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower() in NEGATIVES


def decide_task(classes: Sequence[str], *, where: str) -> Literal["binary", "multiclass"]:
    """Returns the task for exclusive classes.

    Raises:
        DatasetError: Fewer than two classes.
    """
    if len(classes) < 2:
        several = ". If images can show several findings or none, pass separator= or one column a class to from_csv"
        raise DatasetError(
            f"{where}: only one class found ({listing(classes)}). A classifier needs at least two, for instance the "
            f"normal images beside those with the finding{'' if is_negative(classes[0]) else several}"
        )
    return "binary" if len(classes) == 2 else "multiclass"


def positive_class(classes: Sequence[str], positive: str | None, task: Task) -> str | None:
    """Returns the positive one of two classes: the named one, else the one that is not a known negative.

    Raises:
        DatasetError: The named one is no class, neither or both are known negatives, or there are not two classes.
    """
    if task != "binary":
        if positive is not None:
            raise DatasetError(
                f"positive={positive!r} names one of two classes, and this dataset is {task} with {len(classes)}: "
                f"{listing(classes)}. Leave it out"
            )
        return None
    if positive is not None:
        if class_name(str(positive)) not in classes:
            raise DatasetError(f"positive={positive!r} is not a class.{did_you_mean(str(positive), classes)}")
        return class_name(str(positive))
    others = [name for name in classes if not is_negative(name)]
    if len(others) == 1:
        return others[0]
    first, second = classes
    raise DatasetError(
        f"which class is the positive one (the finding to detect), {first!r} or {second!r}? Say it: positive={second!r}"
    )


def amount(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 image", "1,234 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listing(names: Iterable[str], *, most: int = 5) -> str:
    """Returns the first few names for a message, and how many more there are."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
