"""The table that a model's answers travel in: keyed by sample id, never by position."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd

    from medimg.config import Task

__all__ = ["Label", "Predictions", "Row"]

Label = int | tuple[int | None, ...]
"""A class index (binary, multiclass), or one of 1, 0 and None (unknown) for every class (multilabel)."""

# A softmax that was quantised to 8 bits misses 1 by a few 256ths; anything further off is no distribution.
_SUM_TOLERANCE = 0.02


@dataclass(frozen=True)
class Row:
    """What is known about one sample.

    Attributes:
        id: The sample's id.
        probabilities: Class to probability.
        truth: The class (binary, multiclass), or class to True, False or None (multilabel); None without labels.
        group: The sample's patient, or None.
    """

    id: str
    probabilities: dict[str, float]
    truth: str | dict[str, bool | None] | None
    group: str | None


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """Probabilities of every sample, keyed by sample id; with labels where they are known.

    Attributes:
        classes: Names in the order of the columns of `probabilities`.
        task: "binary", "multiclass" or "multilabel".
        ids: Sample ids, each once.
        probabilities: float64 (len(ids), len(classes)), read-only. Rows of binary and multiclass tasks sum to 1.
        positive: The positive class of a binary task, else None.
        labels: One label a sample, in the order of `ids`; None where labels are not known.
        groups: One patient (or lesion) a sample, or None.
        split: "train", "val" or "test", or None.
        columns: Name to one value a sample, in the order of `ids`: what the user named of each image, such as its view;
            or None.

    Raises:
        DatasetError: The parts do not fit together; the message names the ids.
    """

    classes: tuple[str, ...]
    task: Task
    ids: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    positive: str | None = None
    labels: tuple[Label, ...] | None = None
    groups: tuple[str | None, ...] | None = None
    split: str | None = None
    columns: Mapping[str, tuple[str, ...]] | None = None
    _position: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        table = np.array(self.probabilities, dtype=np.float64)  # a copy: freezing must not touch the caller's array
        table.setflags(write=False)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "probabilities", table)
        object.__setattr__(self, "groups", None if self.groups is None else tuple(self.groups))
        columns = {name: tuple(values) for name, values in (self.columns or {}).items()}
        object.__setattr__(self, "columns", columns or None)
        self._check_shape()
        object.__setattr__(self, "_position", {name: row for row, name in enumerate(self.ids)})
        self._check_values()
        if self.labels is not None:
            labels = tuple(self._label(*pair) for pair in zip(self.ids, self.labels, strict=True))
            object.__setattr__(self, "labels", labels)

    def _check_shape(self) -> None:
        if repeated := [name for name, count in Counter(self.classes).items() if count > 1]:
            raise DatasetError(f"classes must be different names; repeated: {_some(repeated)}")
        if self.task == "binary" and (len(self.classes) != 2 or self.positive not in self.classes):
            raise DatasetError(
                f"a binary task has two classes and names the positive one; got {self.classes}, {self.positive!r}"
            )
        if self.task != "binary" and self.positive is not None:
            raise DatasetError(f"only a binary task has a positive class; this one is {self.task}")
        if not self.ids:
            raise DatasetError("a table of predictions needs at least one sample")
        if repeated := [name for name, count in Counter(self.ids).items() if count > 1]:
            raise DatasetError(f"every sample id must occur once; repeated: {_some(repeated)}")
        if self.probabilities.shape != (expected := (len(self.ids), len(self.classes))):
            raise DatasetError(
                f"probabilities have the shape {self.probabilities.shape}; {len(self.ids)} samples and "
                f"{len(self.classes)} classes need {expected}"
            )
        for name in ("labels", "groups"):
            column: Sequence[object] | None = getattr(self, name)
            if column is not None and len(column) != len(self.ids):
                raise DatasetError(f"{len(column)} {name} for {len(self.ids)} samples")
        for name, values in (self.columns or {}).items():
            if len(values) != len(self.ids):
                raise DatasetError(f"{len(values)} values of the column {name!r} for {len(self.ids)} samples")
            if wrong := [sample for sample, value in zip(self.ids, values, strict=True) if not isinstance(value, str)]:
                raise DatasetError(f"the column {name!r} must hold text; it does not for {_some(wrong)}")

    def _check_values(self) -> None:
        table = self.probabilities
        # Written so that NaN fails too.
        wrong: npt.NDArray[np.bool_] = np.logical_not(((table >= 0) & (table <= 1)).all(axis=1))
        if wrong.any():
            raise DatasetError(f"probabilities outside 0 to 1, or not numbers, for {_some(self._ids_where(wrong))}")
        if self.task != "multilabel":
            wrong = np.abs(table.sum(axis=1) - 1) > _SUM_TOLERANCE
            if wrong.any():
                raise DatasetError(f"probabilities that do not sum to 1 for {_some(self._ids_where(wrong))}")

    def _ids_where(self, mask: npt.NDArray[np.bool_]) -> list[str]:
        return [self.ids[row] for row in np.flatnonzero(mask)]

    def _label(self, sample: str, label: Label) -> Label:
        try:
            if self.task == "multilabel":
                values = tuple(None if value is None else int(operator.index(value)) for value in label)  # type: ignore[union-attr]
                if len(values) == len(self.classes) and all(value in (0, 1, None) for value in values):
                    return values
            elif 0 <= (index := int(operator.index(label))) < len(self.classes):  # type: ignore[arg-type]
                return index
        except TypeError:
            pass
        wanted = (
            f"{len(self.classes)} values of 1, 0 or None"
            if self.task == "multilabel"
            else f"a class index from 0 to {len(self.classes) - 1}"
        )
        raise DatasetError(f"the label of {sample!r} is {label!r}; a {self.task} task needs {wanted}")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, sample: object) -> bool:
        return sample in self._position

    def __getitem__(self, sample: str) -> Row:
        if sample not in self._position:
            raise DatasetError(f"no prediction for {sample!r}; there are {len(self):,}: {_some(self.ids)}")
        row = self._position[sample]
        probabilities = dict(zip(self.classes, self.probabilities[row].tolist(), strict=True))
        return Row(sample, probabilities, self._truth_of(row), self.groups[row] if self.groups else None)

    def _truth_of(self, row: int) -> str | dict[str, bool | None] | None:
        if self.labels is None:
            return None
        label = self.labels[row]
        if isinstance(label, int):
            return self.classes[label]
        return {name: None if value is None else bool(value) for name, value in zip(self.classes, label, strict=True)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Predictions):
            return NotImplemented
        names = ("classes", "task", "positive", "ids", "labels", "groups", "split", "columns")
        same = all(getattr(self, name) == getattr(other, name) for name in names)
        return same and np.array_equal(self.probabilities, other.probabilities)

    __hash__ = None  # type: ignore[assignment]  # equality by value, over an array: no cheap hash

    @property
    def targets(self) -> tuple[str, ...]:
        """The classes that are measured: the positive one of a binary task, else all."""
        return self.classes if self.positive is None else (self.positive,)

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        """Probabilities of the targets, float64 (n, len(targets))."""
        return np.stack([self.probabilities[:, self.classes.index(name)] for name in self.targets], axis=1)

    @cached_property
    def truth(self) -> npt.NDArray[np.float64]:
        """1, 0 or NaN (unknown) for every sample and target, float64 (n, len(targets)).

        Raises:
            DatasetError: The table has no labels.
        """
        if self.labels is None:
            raise DatasetError("these predictions have no labels; add them with predictions.join({id: label, …})")
        if self.task == "multilabel":
            return np.array(self.labels, dtype=np.float64)  # None becomes NaN
        indices = [self.classes.index(name) for name in self.targets]
        present: npt.NDArray[np.float64] = (np.array(self.labels)[:, None] == indices).astype(np.float64)
        return present

    def decide(self, thresholds: Mapping[str, float]) -> npt.NDArray[np.bool_]:
        """Returns whether each sample is decided to be each target, bool (n, len(targets)).

        A probability equal to the threshold is positive. A multiclass task has no thresholds: the most probable class
        is decided, the first of equals.

        Raises:
            DatasetError: A target has no threshold, or a multiclass task has some.
        """
        if self.task == "multiclass":
            if thresholds:
                raise DatasetError("a multiclass task decides for the most probable class and takes no thresholds")
            decided: npt.NDArray[np.bool_] = np.arange(len(self.classes)) == self.scores.argmax(axis=1)[:, None]
            return decided
        if missing := [name for name in self.targets if name not in thresholds]:
            raise DatasetError(f"no threshold for {_some(missing)}")
        return self.scores >= np.array([thresholds[name] for name in self.targets])

    def select(self, ids: Iterable[str]) -> Predictions:
        """Returns the table of some samples, in the order in which they are named.

        Raises:
            DatasetError: An id has no prediction, is repeated, or there is none.
        """
        chosen = tuple(ids)
        if unknown := [name for name in chosen if name not in self._position]:
            raise DatasetError(f"no prediction for {_some(unknown)}; there are {len(self):,}: {_some(self.ids)}")
        rows = [self._position[name] for name in chosen]
        return replace(
            self,
            ids=chosen,
            probabilities=self.probabilities[rows],
            labels=None if self.labels is None else tuple(self.labels[row] for row in rows),
            groups=None if self.groups is None else tuple(self.groups[row] for row in rows),
            columns={name: tuple(values[row] for row in rows) for name, values in (self.columns or {}).items()},
        )

    def join(self, labels: Mapping[str, Label] | Iterable[tuple[str, Label]]) -> Predictions:
        """Returns the table with labels, joined by sample id.

        Args:
            labels: Sample id to label, or pairs of them, in any order; exactly the ids of this table.

        Raises:
            DatasetError: An id is repeated, has no label, or has no prediction; the message names it.
        """
        pairs = list(labels.items() if isinstance(labels, Mapping) else labels)
        known = dict(pairs)
        repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        without_label = [name for name in self.ids if name not in known]
        without_prediction = [name for name in known if name not in self._position]
        problems = (
            ("more than one label", repeated),
            ("no label", without_label),
            ("a label but no prediction", without_prediction),
        )
        if found := [f"{problem} for {_some(names)}" for problem, names in problems if names]:
            raise DatasetError(f"labels and predictions do not match: {'; '.join(found)}")
        return replace(self, labels=tuple(known[name] for name in self.ids))

    def to_csv(self, path: str | Path) -> Path:
        """Writes the table and returns its path.

        Columns: `id`, `split`, `group`, `task`, `positive` (binary), `label` with the class's name (multilabel: one
        `label:<class>` with 1, 0 or nothing), one `column:<name>` for each of `columns`, and one `p:<class>` a class,
        exact to the last bit. UTF-8.

        Raises:
            StorageError: The disk is full or not writable.
        """
        from medimg.inference import predictions_csv

        return predictions_csv.write(self, Path(path))

    @classmethod
    def from_csv(cls, path: str | Path) -> Predictions:
        """Returns a table that `to_csv` wrote.

        Raises:
            DatasetError: The file is not such a table; the message names the line or the column.
        """
        from medimg.inference import predictions_csv

        return predictions_csv.read(Path(path))

    def to_dataframe(self) -> pd.DataFrame:
        """Returns the table as a pandas DataFrame, indexed by sample id; needs pandas."""
        import pandas as pd

        from medimg.inference import predictions_csv

        return pd.DataFrame(list(predictions_csv.rows(self)), columns=predictions_csv.header(self)).set_index("id")

    def __repr__(self) -> str:
        labelled = "without labels" if self.labels is None else "with labels"
        split = "" if self.split is None else f" of {self.split}"
        return f"<Predictions: {len(self):,} samples{split}, {self.task}, {' | '.join(self.classes)}, {labelled}>"

    def _repr_html_(self) -> str:
        shown = 5
        head = "".join(f"<th>{escape(name)}</th>" for name in ("id", *self.classes))
        body = "".join(
            f"<tr><td>{escape(sample)}</td>{''.join(f'<td>{value:.4f}</td>' for value in row)}</tr>"
            for sample, row in zip(self.ids[:shown], self.probabilities[:shown].tolist(), strict=True)
        )
        more = f"<p>… and {len(self) - shown:,} more</p>" if len(self) > shown else ""
        return f"<p>{escape(repr(self)[1:-1])}</p><table><tr>{head}</tr>{body}</table>{more}"


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
