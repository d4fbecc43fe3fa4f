"""The table that a model's answers travel in: keyed by sample id, never by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.errors import ConfigError, DatasetError
from medimg.inference.consistency import Label, check_parts, check_probabilities, checked_label, some

if TYPE_CHECKING:
    import pandas as pd

    from medimg.config import Task
    from medimg.data.dataset import Dataset

__all__ = ["Label", "Predictions", "Row"]


@dataclass(frozen=True)
class Row:
    """What is known about one sample.

    Attributes:
        id: The sample's id.
        probabilities: Class to probability.
        truth: The class (binary, multiclass), or class to True, False or None (multilabel); None without labels.
        group: The sample's patient, or None.
        decision: What the model decided, as `Prediction.label`; None where the table holds no decisions.
        uncertain: As in `Prediction`; None where the table holds no decisions.
    """

    id: str
    probabilities: dict[str, float]
    truth: str | dict[str, bool | None] | None
    group: str | None
    decision: str | None = None
    uncertain: bool | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """Probabilities of every sample, keyed by sample id; with labels where they are known.

    Attributes:
        classes: Names in the order of the columns of `probabilities`.
        task: "binary", "multiclass" or "multilabel".
        ids: Sample ids, each once; at least one, unless all were rejected.
        probabilities: float64 (len(ids), len(classes)), read-only. Rows of binary and multiclass tasks sum to 1.
        positive: The positive class of a binary task, else None.
        labels: One label a sample, in the order of `ids`; None where labels are not known.
        groups: One patient (or lesion) a sample, or None.
        split: "train", "val" or "test", or None.
        columns: Name to one value a sample, in the order of `ids`: what the user named of each image, such as its view;
            or None.
        decided: The classes that each sample was decided to be, as `Prediction.positives`; or None.
        uncertain: Whether each decision is uncertain, as in `Prediction`; there where `decided` is.
        rejected: Samples that could not be read, by id, each with a code of `medimg.data.decode.REJECTIONS`; none of
            them is in `ids`.

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
    decided: tuple[tuple[str, ...], ...] | None = None
    uncertain: tuple[bool, ...] | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)
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
        object.__setattr__(self, "rejected", dict(self.rejected))
        check_parts(self)
        object.__setattr__(self, "_position", {name: row for row, name in enumerate(self.ids)})
        check_probabilities(self)
        if self.labels is not None:
            labels = tuple(checked_label(self, *pair) for pair in zip(self.ids, self.labels, strict=True))
            object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, sample: object) -> bool:
        return sample in self._position

    def __getitem__(self, sample: str) -> Row:
        if sample not in self._position:
            raise DatasetError(f"no prediction for {sample!r}; there are {len(self):,}: {some(self.ids)}")
        row = self._position[sample]
        probabilities = dict(zip(self.classes, self.probabilities[row].tolist(), strict=True))
        return Row(
            id=sample,
            probabilities=probabilities,
            truth=self._truth_of(row),
            group=self.groups[row] if self.groups else None,
            decision=None if self.decided is None else self.decisions[row],
            uncertain=None if self.uncertain is None else self.uncertain[row],
        )

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
        names = (
            "classes", "task", "positive", "ids", "labels", "groups", "split", "columns", "decided", "uncertain",
            "rejected",
        )  # fmt: skip
        same = all(getattr(self, name) == getattr(other, name) for name in names)
        return same and np.array_equal(self.probabilities, other.probabilities)

    __hash__ = None  # type: ignore[assignment]  # equality by value, over an array: no cheap hash

    @cached_property
    def decisions(self) -> tuple[str, ...]:
        """What was decided for each sample, as `Prediction.label` says it.

        Raises:
            DatasetError: The table has no decisions.
        """
        if self.decided is None:
            raise DatasetError("these predictions have no decisions; predictions.decide(thresholds) makes some")
        if self.task == "multilabel":
            return tuple(" | ".join(names) or "none" for names in self.decided)
        negative = next((name for name in self.classes if name != self.positive), "")
        return tuple(names[0] if names else negative for names in self.decided)

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
            raise DatasetError(f"no threshold for {some(missing)}")
        return self.scores >= np.array([thresholds[name] for name in self.targets])

    def select(self, ids: Iterable[str]) -> Predictions:
        """Returns the table of some samples, in the order in which they are named.

        Raises:
            DatasetError: An id has no prediction, is repeated, or there is none.
        """
        chosen = tuple(ids)
        if unknown := [name for name in chosen if name not in self._position]:
            raise DatasetError(f"no prediction for {some(unknown)}; there are {len(self):,}: {some(self.ids)}")
        rows = [self._position[name] for name in chosen]
        return replace(
            self,
            ids=chosen,
            probabilities=self.probabilities[rows],
            labels=None if self.labels is None else tuple(self.labels[row] for row in rows),
            groups=None if self.groups is None else tuple(self.groups[row] for row in rows),
            columns={name: tuple(values[row] for row in rows) for name, values in (self.columns or {}).items()},
            decided=None if self.decided is None else tuple(self.decided[row] for row in rows),
            uncertain=None if self.uncertain is None else tuple(self.uncertain[row] for row in rows),
            rejected={},
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
        if found := [f"{problem} for {some(names)}" for problem, names in problems if names]:
            raise DatasetError(f"labels and predictions do not match: {'; '.join(found)}")
        return replace(self, labels=tuple(known[name] for name in self.ids))

    def to_csv(self, path: str | Path, dataset: Dataset | None = None) -> Path:
        """Writes the table and returns its path.

        Columns: `id`, `split`, `group`, `task`, `positive` (binary), `label` with the true class's name (multilabel:
        one `label:<class>` with 1, 0 or nothing), `decision` with the decided one (multilabel: one `decision:<class>`
        with 1 or 0) and `uncertain` with 1 or 0 where there are decisions, one `column:<name>` for each of `columns`,
        one `p:<class>` a class, exact to the last bit; where images could not be read, these come last, with the code
        in `rejected` and what it means in `reason`. UTF-8.

        Args:
            path: Of the file.
            dataset: Where the samples are from: adds the column `image` with their paths. Keep such a file to yourself.

        Raises:
            StorageError: The disk is full or not writable.
            NotFoundError: A sample is not in the dataset.
        """
        from medimg.inference import predictions_csv

        return predictions_csv.write(self, Path(path), dataset)

    @classmethod
    def from_csv(cls, path: str | Path) -> Predictions:
        """Returns a table that `to_csv` wrote.

        Raises:
            DatasetError: The file is not such a table; the message names the line or the column.
        """
        from medimg.inference import predictions_csv

        return predictions_csv.read(Path(path))

    def to_parquet(self, path: str | Path, dataset: Dataset | None = None) -> Path:
        """Writes the table as Parquet, with the columns of `to_csv`, and returns its path.

        Args:
            path: Of the file.
            dataset: As in `to_csv`.

        Raises:
            ConfigError: pyarrow is not installed.
            StorageError: The disk is full or not writable.
            NotFoundError: A sample is not in the dataset.
        """
        written: Path = _parquet().write(self, Path(path), dataset)
        return written

    @classmethod
    def from_parquet(cls, path: str | Path) -> Predictions:
        """Returns a table that `to_parquet` wrote.

        Raises:
            ConfigError: pyarrow is not installed.
            DatasetError: The file is not such a table; the message names the line or the column.
        """
        found: Predictions = _parquet().read(Path(path))
        return found

    def to_dataframe(self, dataset: Dataset | None = None) -> pd.DataFrame:
        """Returns the table as a pandas DataFrame with the columns of `to_csv`, indexed by sample id; needs pandas.

        Args:
            dataset: As in `to_csv`.

        Raises:
            NotFoundError: A sample is not in the dataset.
        """
        import pandas as pd

        from medimg.inference import predictions_csv

        header = predictions_csv.header(self, dataset)
        return pd.DataFrame(list(predictions_csv.rows(self, dataset)), columns=header).set_index("id")

    def __repr__(self) -> str:
        labelled = "without labels" if self.labels is None else "with labels"
        split = "" if self.split is None else f" of {self.split}"
        rejected = f", {len(self.rejected):,} rejected" if self.rejected else ""
        classes = " | ".join(self.classes)
        return f"<Predictions: {len(self):,} samples{split}, {self.task}, {classes}, {labelled}{rejected}>"

    def _repr_html_(self) -> str:
        shown = 5
        head = "".join(f"<th>{escape(name)}</th>" for name in ("id", *self.classes))
        body = "".join(
            f"<tr><td>{escape(sample)}</td>{''.join(f'<td>{value:.4f}</td>' for value in row)}</tr>"
            for sample, row in zip(self.ids[:shown], self.probabilities[:shown].tolist(), strict=True)
        )
        more = f"<p>… and {len(self) - shown:,} more</p>" if len(self) > shown else ""
        return f"<p>{escape(repr(self)[1:-1])}</p><table><tr>{head}</tr>{body}</table>{more}"


def _parquet() -> ModuleType:
    try:
        from medimg.inference import predictions_parquet
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise ConfigError("Parquet needs pyarrow, which is not installed. Run: pip install pyarrow") from error
    return predictions_parquet
