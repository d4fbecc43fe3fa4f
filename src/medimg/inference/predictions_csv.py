"""Predictions as a CSV that describes itself: task, classes, positive class and labels are all in its columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np

from medimg.config import Task
from medimg.errors import DatasetError
from medimg.home import atomic_write
from medimg.inference.predictions import Label, Predictions

__all__ = ["header", "read", "rows", "write"]

Cell = str | int | float | None


def header(predictions: Predictions) -> list[str]:
    """Returns the names of the columns: see `Predictions.to_csv`."""
    truth: list[str] = []
    if predictions.labels is not None:
        multilabel = predictions.task == "multilabel"
        truth = [f"label:{name}" for name in predictions.classes] if multilabel else ["label"]
    positive = [] if predictions.positive is None else ["positive"]
    named = [f"column:{name}" for name in predictions.columns or {}]
    return ["id", "split", "group", "task", *positive, *truth, *named, *(f"p:{name}" for name in predictions.classes)]


def rows(predictions: Predictions) -> Iterator[list[Cell]]:
    """Yields one row a sample, in the columns of `header`."""
    positive = [] if predictions.positive is None else [predictions.positive]
    for row, sample in enumerate(predictions.ids):
        label: Label = () if predictions.labels is None else predictions.labels[row]
        truth: list[Cell] = [predictions.classes[label]] if isinstance(label, int) else list(label)
        group = predictions.groups[row] if predictions.groups else None
        probabilities = predictions.probabilities[row].tolist()
        named = [values[row] for values in (predictions.columns or {}).values()]
        yield [sample, predictions.split, group, predictions.task, *positive, *truth, *named, *probabilities]


def write(predictions: Predictions, path: Path) -> Path:
    """Writes the table whole or not at all, and returns its path."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header(predictions))
    writer.writerows(rows(predictions))
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
    if len(lines) < 2:
        raise DatasetError(f"{path} has no predictions in it")
    columns = lines[0]
    if missing := [name for name in ("id", "split", "group", "task") if name not in columns]:
        raise DatasetError(f"{path} is no table of predictions: it has no column {', '.join(missing)}")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(columns):
            raise DatasetError(f"{path}, row {number}: {len(line)} cells for {len(columns)} columns")
    if not any(name.startswith("p:") for name in columns):
        raise DatasetError(f"{path} has no column of probabilities: they are called p:<class>")
    table = {name: [line[column] for line in lines[1:]] for column, name in enumerate(columns)}

    classes = tuple(name.removeprefix("p:") for name in columns if name.startswith("p:"))
    groups = tuple(value or None for value in table["group"])
    named = {name.removeprefix("column:"): tuple(table[name]) for name in columns if name.startswith("column:")}
    task = _the_one(path, "task", table["task"])
    if task not in get_args(Task):
        raise DatasetError(f"{path}: the task is {task!r}; it must be one of {', '.join(get_args(Task))}")
    return Predictions(
        classes=classes,
        task=cast(Task, task),
        ids=tuple(table["id"]),
        probabilities=np.stack([_numbers(path, f"p:{name}", table[f"p:{name}"]) for name in classes], axis=1),
        positive=_the_one(path, "positive", table["positive"]) if "positive" in table else None,
        labels=_labels(path, classes, table),
        groups=groups if any(groups) else None,
        split=_the_one(path, "split", table["split"]) or None,
        columns=named or None,
    )


def _the_one(path: Path, column: str, values: Sequence[str]) -> str:
    distinct = sorted(set(values))
    if len(distinct) > 1:
        raise DatasetError(f"{path}: the column {column!r} must hold one value; it holds {', '.join(distinct[:5])}")
    return distinct[0]


def _numbers(path: Path, column: str, values: Sequence[str]) -> np.ndarray:
    try:
        return np.array([float(value) for value in values])
    except ValueError as error:
        raise DatasetError(f"{path}, column {column!r}: {error}") from None


def _labels(path: Path, classes: tuple[str, ...], table: dict[str, list[str]]) -> tuple[Label, ...] | None:
    if "label" in table:
        known = {name: index for index, name in enumerate(classes)}
        for sample, value in zip(table["id"], table["label"], strict=True):
            if value not in known:
                raise DatasetError(
                    f"{path}: the label of {sample!r} is {value!r}; the classes are {', '.join(classes)}"
                )
        return tuple(known[value] for value in table["label"])
    columns = [f"label:{name}" for name in classes]
    if not any(name in table for name in columns):
        return None
    meaning: dict[str, int | None] = {"1": 1, "0": 0, "": None}
    for name in columns:
        for sample, value in zip(table["id"], table.get(name, ["?"]), strict=False):
            if value not in meaning:
                raise DatasetError(f"{path}, column {name!r}: the label of {sample!r} is {value!r}, not 1, 0 or empty")
    return tuple(tuple(meaning[value] for value in row) for row in zip(*(table[name] for name in columns), strict=True))
