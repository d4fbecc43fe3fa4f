"""What must hold of a table of predictions."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.errors import DatasetError

if TYPE_CHECKING:
    from medimg.inference.predictions import Predictions

__all__ = ["Label", "check_parts", "check_probabilities", "checked_label", "some"]

Label = int | tuple[int | None, ...]
"""A class index (binary, multiclass), or one of 1, 0 and None (unknown) for every class (multilabel)."""

# A softmax that was quantised to 8 bits misses 1 by a few 256ths; anything further off is no distribution.
_SUM_TOLERANCE = 0.02


def check_parts(table: Predictions) -> None:
    """Checks that the parts of a table fit together.

    Raises:
        DatasetError: They do not; the message names the ids.
    """
    if repeated := _repeated(table.classes):
        raise DatasetError(f"classes must be different names; repeated: {some(repeated)}")
    if table.task == "binary" and (len(table.classes) != 2 or table.positive not in table.classes):
        raise DatasetError(
            f"a binary task has two classes and names the positive one; got {table.classes}, {table.positive!r}"
        )
    if table.task != "binary" and table.positive is not None:
        raise DatasetError(f"only a binary task has a positive class; this one is {table.task}")
    if not table.ids and not table.rejected:
        raise DatasetError("a table of predictions needs at least one sample")
    if repeated := _repeated(table.ids):
        raise DatasetError(f"every sample id must occur once; repeated: {some(repeated)}")
    if table.probabilities.shape != (expected := (len(table.ids), len(table.classes))):
        raise DatasetError(
            f"probabilities have the shape {table.probabilities.shape}; {len(table.ids)} samples and "
            f"{len(table.classes)} classes need {expected}"
        )
    for name in ("labels", "groups", "decided", "uncertain"):
        column: Sequence[object] | None = getattr(table, name)
        if column is not None and len(column) != len(table.ids):
            raise DatasetError(f"{len(column)} {name} for {len(table.ids)} samples")
    if (table.decided is None) != (table.uncertain is None):
        raise DatasetError("a table has decisions and whether they are uncertain, or neither")
    if unknown := {name for names in table.decided or () for name in names} - set(table.classes):
        raise DatasetError(f"decided for {some(sorted(unknown))}; the classes are {', '.join(table.classes)}")
    if both := [name for name in table.ids if name in table.rejected]:
        raise DatasetError(f"both a prediction and a rejection for {some(both)}")
    for name, values in (table.columns or {}).items():
        if len(values) != len(table.ids):
            raise DatasetError(f"{len(values)} values of the column {name!r} for {len(table.ids)} samples")
        if wrong := [sample for sample, value in zip(table.ids, values, strict=True) if not isinstance(value, str)]:
            raise DatasetError(f"the column {name!r} must hold text; it does not for {some(wrong)}")


def check_probabilities(table: Predictions) -> None:
    """Checks that probabilities are from 0 to 1, and sum to 1 unless the task is multilabel.

    Raises:
        DatasetError: They do not; the message names the ids.
    """
    found = table.probabilities
    # Written so that NaN fails too.
    wrong: npt.NDArray[np.bool_] = np.logical_not(((found >= 0) & (found <= 1)).all(axis=1))
    if wrong.any():
        raise DatasetError(f"probabilities outside 0 to 1, or not numbers, for {some(_where(table, wrong))}")
    if table.task != "multilabel":
        wrong = np.abs(found.sum(axis=1) - 1) > _SUM_TOLERANCE
        if wrong.any():
            raise DatasetError(f"probabilities that do not sum to 1 for {some(_where(table, wrong))}")


def checked_label(table: Predictions, sample: str, label: Label) -> Label:
    """Returns a sample's label as plain numbers.

    Raises:
        DatasetError: It is none of the task's.
    """
    try:
        if table.task == "multilabel":
            values = tuple(None if value is None else int(operator.index(value)) for value in label)  # type: ignore[union-attr]
            if len(values) == len(table.classes) and all(value in (0, 1, None) for value in values):
                return values
        elif 0 <= (index := int(operator.index(label))) < len(table.classes):  # type: ignore[arg-type]
            return index
    except TypeError:
        pass
    wanted = (
        f"{len(table.classes)} values of 1, 0 or None"
        if table.task == "multilabel"
        else f"a class index from 0 to {len(table.classes) - 1}"
    )
    raise DatasetError(f"the label of {sample!r} is {label!r}; a {table.task} task needs {wanted}")


def some(names: Sequence[str], most: int = 5) -> str:
    """Returns the first few names for a message, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _where(table: Predictions, mask: npt.NDArray[np.bool_]) -> list[str]:
    return [table.ids[row] for row in np.flatnonzero(mask)]
