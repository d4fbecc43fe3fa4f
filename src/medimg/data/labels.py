"""Class names, split names and which class is the positive one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from medimg.errors import DatasetError, did_you_mean

__all__ = ["NEGATIVES", "clean", "positive_class", "split_name"]

# What data sets call the class without disease. "No finding" counts as no label in multilabel cells.
NEGATIVES = frozenset(
    {
        "absent", "benign", "clear", "control", "healthy", "negative", "no finding", "no findings", "none", "normal",
        "0", "false", "no",
    }
)  # fmt: skip

_SPLITS = {
    "train": "train", "training": "train", "seg_train": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "seg_val": "val",
    "test": "test", "testing": "test", "seg_test": "test",
}  # fmt: skip


def clean(name: str) -> str:
    """Returns a name in Unicode's composed form without outer blanks, so that é equals é however it was typed."""
    return unicodedata.normalize("NFC", name).strip()


def split_name(name: str) -> str | None:
    """Returns "train", "val" or "test" for the usual names of splits in any case, else None."""
    return _SPLITS.get(clean(name).lower())


def is_negative(name: str) -> bool:
    """Tells whether a class name is one of the usual names for "no disease"."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower() in NEGATIVES


def positive_class(classes: Sequence[str], positive: str | None) -> str:
    """Returns the positive one of two classes: the named one, else the one that is not a known negative.

    Raises:
        DatasetError: The named one is no class, or neither or both are known negatives.
    """
    if positive is not None:
        if clean(positive) not in classes:
            raise DatasetError(f"positive={positive!r} is not a class.{did_you_mean(positive, classes)}")
        return clean(positive)
    others = [name for name in classes if not is_negative(name)]
    if len(others) == 1:
        return others[0]
    first, second = classes
    raise DatasetError(
        f"which class is the positive one (the finding to detect), {first!r} or {second!r}? "
        f"Say it: positive={second!r}"
    )


def listing(names: Iterable[str], *, most: int = 5) -> str:
    """Returns the first few names for a message, and how many more there are."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
