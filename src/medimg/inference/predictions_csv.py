"""Predictions as a CSV that describes itself: task, classes, positive class and labels are all in its columns."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import numpy as np

from medimg.config import Task
from medimg.errors import DatasetError
from medimg.home import atomic_write
from medimg.inference.consistency import Label
from medimg.inference.predictions import Predictions

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset

__all__ = ["Cell", "header", "read", "rows", "table", "write"]

Cell = str | int | float | None


def header(predictions: Predictions, dataset: Dataset | None = None) -> list[str]:
    """Returns the names of the columns: see `Predictions.to_csv`."""
    image = [] if dataset is None else ["image"]
    positive = [] if predictions.positive is None else ["positive"]
    truth = [] if predictions.labels is None else _of_classes(predictions, "label")
    decision = [] if predictions.decided is None else [*_of_classes(predictions, "decision"), "uncertain"]
    named = [f"column:{name}" for name in predictions.columns or {}]
    shares = [f"p:{name}" for name in predictions.classes]
    rejected = ["rejected", "reason"] if predictions.rejected else []
    return [
        "id", *image, "split", "group", "task", *positive, *truth, *decision, *named, *shares, *rejected,
    ]  # fmt: skip


def _of_classes(predictions: Predictions, name: str) -> list[str]:
    return [f"{name}:{one}" for one in predictions.classes] if predictions.task == "multilabel" else [name]


def rows(predictions: Predictions, dataset: Dataset | None = None) -> Iterator[list[Cell]]:
    """Yields one row a sample, in the columns of `header`; those that could not be read come last."""
    positive = [] if predictions.positive is None else [predictions.positive]
    columns = (predictions.columns or {}).values()
    for row, sample in enumerate(predictions.ids):
        label: Label = () if predictions.labels is None else predictions.labels[row]
        truth: list[Cell] = [predictions.classes[label]] if isinstance(label, int) else list(label)
        group = predictions.groups[row] if predictions.groups else None
        yield [
            sample, *_image(sample, dataset), predictions.split, group, predictions.task, *positive, *truth,
            *_decision(predictions, row), *(values[row] for values in columns),
            *predictions.probabilities[row].tolist(), *([None, None] if predictions.rejected else []),
        ]  # fmt: skip
    if predictions.rejected:
        from medimg.data.decode import REJECTIONS  # with Pillow, which whoever reads a table needs not have

        cells = len(header(predictions, dataset))
        for sample, code in predictions.rejected.items():
            known = [sample, *_image(sample, dataset), predictions.split, None, predictions.task, *positive]
            yield [*known, *[None] * (cells - len(known) - 2), code, REJECTIONS.get(code, "")]


def _image(sample: str, dataset: Dataset | None) -> list[str]:
    # A name may hold bytes that are no Unicode, and no file of text may.
    return [] if dataset is None else [os.fsencode(dataset[sample].path).decode(errors="backslashreplace")]


def _decision(predictions: Predictions, row: int) -> list[Cell]:
    if predictions.decided is None or predictions.uncertain is None:
        return []
    doubt = int(predictions.uncertain[row])
    if predictions.task == "multilabel":
        return [*(int(name in predictions.decided[row]) for name in predictions.classes), doubt]
    return [predictions.decisions[row], doubt]


def write(predictions: Predictions, path: Path, dataset: Dataset | None = None) -> Path:
    """Writes the table whole or not at all, and returns its path."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header(predictions, dataset))
    writer.writerows(rows(predictions, dataset))
    atomic_write(path, text.getvalue())
    return path


def read(path: Path) -> Predictions:
    """Returns the table in the file.

    Raises:
        DatasetError: The file is not one that `write` made; the message names the line or the column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table of predictions: {error}") from error
    return table(path, lines[0] if lines else [], lines[1:])


def table(path: Path, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Predictions:
    """Returns the table that is in a file's cells, all of them text.

    Args:
        path: The file, for messages.
        columns: Their names.
        lines: One row a sample.

    Raises:
        DatasetError: They are not those of `rows`; the message names the line or the column.
    """
    if not lines:
        raise DatasetError(f"{path} has no predictions in it")
    if missing := [name for name in ("id", "split", "group", "task") if name not in columns]:
        raise DatasetError(f"{path} is no table of predictions: it has no column {', '.join(missing)}")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(columns):
            raise DatasetError(f"{path}, row {number}: {len(line)} cells for {len(columns)} columns")
    if not any(name.startswith("p:") for name in columns):
        raise DatasetError(f"{path} has no column of probabilities: they are called p:<class>")
    # These are in every row; of what could not be read, nothing else is.
    task, split, positive = (
        _the_one(path, name, [line[columns.index(name)] for line in lines]) if name in columns else None
        for name in ("task", "split", "positive")
    )
    if task not in get_args(Task):
        raise DatasetError(f"{path}: the task is {task!r}; it must be one of {', '.join(get_args(Task))}")
    rejected: dict[str, str] = {}
    if "rejected" in columns:
        id, code = columns.index("id"), columns.index("rejected")
        rejected = {line[id]: line[code] for line in lines if line[code]}
        lines = [line for line in lines if not line[code]]
    cells = {name: [line[column] for line in lines] for column, name in enumerate(columns)}

    classes = tuple(name.removeprefix("p:") for name in columns if name.startswith("p:"))
    groups = tuple(value or None for value in cells["group"])
    named = {name.removeprefix("column:"): tuple(cells[name]) for name in columns if name.startswith("column:")}
    decided = _decided(path, classes, positive, cells)
    return Predictions(
        classes=classes,
        task=cast(Task, task),
        ids=tuple(cells["id"]),
        probabilities=np.stack([_numbers(path, f"p:{name}", cells[f"p:{name}"]) for name in classes], axis=1),
        positive=positive,
        labels=_labels(path, classes, cells),
        groups=groups if any(groups) else None,
        split=split or None,
        columns=named or None,
        decided=decided,
        uncertain=None if decided is None else tuple(_flags(path, "uncertain", cells)),
        rejected=rejected,
    )


def _the_one(path: Path, column: str, values: Sequence[str]) -> str:
    distinct = sorted(set(values))
    if len(distinct) != 1:
        raise DatasetError(f"{path}: the column {column!r} must hold one value; it holds {', '.join(distinct[:5])}")
    return distinct[0]


def _numbers(path: Path, column: str, values: Sequence[str]) -> np.ndarray:
    try:
        return np.array([float(value) for value in values])
    except ValueError as error:
        raise DatasetError(f"{path}, column {column!r}: {error}") from None


def _labels(path: Path, classes: tuple[str, ...], cells: dict[str, list[str]]) -> tuple[Label, ...] | None:
    if "label" in cells:
        known = {name: index for index, name in enumerate(classes)}
        return tuple(known[value] for value in _names(path, "label", classes, cells))
    columns = [f"label:{name}" for name in classes]
    if not any(name in cells for name in columns):
        return None
    meaning: dict[str, int | None] = {"1": 1, "0": 0, "": None}
    for name in columns:
        for sample, value in zip(cells["id"], cells.get(name, ["?"]), strict=False):
            if value not in meaning:
                raise DatasetError(f"{path}, column {name!r}: the label of {sample!r} is {value!r}, not 1, 0 or empty")
    return tuple(tuple(meaning[value] for value in row) for row in zip(*(cells[name] for name in columns), strict=True))


def _decided(
    path: Path, classes: tuple[str, ...], positive: str | None, cells: dict[str, list[str]]
) -> tuple[tuple[str, ...], ...] | None:
    if "decision" in cells:
        names = _names(path, "decision", classes, cells)
        return tuple((name,) if positive in (None, name) else () for name in names)
    columns = [f"decision:{name}" for name in classes]
    if not any(name in cells for name in columns):
        return None
    flags = zip(*(_flags(path, name, cells) for name in columns), strict=True)
    return tuple(tuple(name for name, flag in zip(classes, row, strict=True) if flag) for row in flags)


def _names(path: Path, column: str, classes: tuple[str, ...], cells: dict[str, list[str]]) -> list[str]:
    for sample, value in zip(cells["id"], cells[column], strict=True):
        if value not in classes:
            raise DatasetError(f"{path}: the {column} of {sample!r} is {value!r}; the classes are {', '.join(classes)}")
    return cells[column]


def _flags(path: Path, column: str, cells: dict[str, list[str]]) -> list[bool]:
    values = cells.get(column, ["?"])
    for sample, value in zip(cells["id"], values, strict=False):
        if value not in ("1", "0"):
            raise DatasetError(f"{path}, column {column!r}: the value of {sample!r} is {value!r}, not 1 or 0")
    return [value == "1" for value in values]
