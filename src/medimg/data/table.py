"""Datasets from tables: a CSV file or a DataFrame with a row an image."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from medimg.config import Task
from medimg.data.dataset import Dataset, Labels, Sample, decide_task
from medimg.data.folder import image_files, salted
from medimg.data.labels import clean, is_negative, listing, positive_class, split_name
from medimg.errors import DatasetError, did_you_mean
from medimg.home import salt

__all__ = ["dataframe_rows", "read_csv_rows", "read_table"]

Row = Mapping[str, str]


def read_csv_rows(path: Path) -> list[Row]:
    """Returns the rows of a CSV file.

    Raises:
        DatasetError: The file is missing, is not UTF-8, has no rows, or a row has more or fewer cells than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"there is no table {path}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 (byte {error.start}). Save it again as 'CSV UTF-8'") from None
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: {error}") from None
    if not rows:
        raise DatasetError(f"{path} has no rows")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DatasetError(f"{path}, row {number}: it has not as many cells as the header")
    return rows


def dataframe_rows(frame: Any) -> list[Row]:
    """Returns the rows of a DataFrame as text; missing values are empty."""

    def text(value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)) or repr(value) in ("<NA>", "NaT"):
            return ""
        # pandas turns a column of integers with a gap into floats; 1.0 was 1.
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    if not hasattr(frame, "to_dict"):
        raise DatasetError(f"from_dataframe takes a pandas DataFrame, not {type(frame).__name__}")
    rows = [{str(name): text(value) for name, value in row.items()} for row in frame.to_dict("records")]
    if not rows:
        raise DatasetError("the DataFrame has no rows")
    return rows


def read_table(
    rows: Sequence[Row],
    *,
    name: str,
    images: Path,
    path: str,
    labels: str | Sequence[str],
    group: str | Callable[[Mapping[str, str]], str | None] | None,
    separator: str | None,
    split: str | None,
    columns: Sequence[str],
    positive: str | None,
    missing: Literal["error", "drop"],
) -> Dataset:
    """Reads a dataset from rows of text: see `Dataset.from_csv`."""
    label_columns = [labels] if isinstance(labels, str) else list(labels)
    wanted = [path, *label_columns, *([group] if isinstance(group, str) else []), *([split] if split else []), *columns]
    for column in wanted:
        if column not in rows[0]:
            raise DatasetError(f"{name} has no column {column!r}.{did_you_mean(column, rows[0])}")
    if missing not in ("error", "drop"):
        raise DatasetError(f"missing={missing!r}: 'error' or 'drop'")

    notices: list[str] = []
    numbered = list(enumerate(rows, start=2))  # as a spreadsheet counts, with the header in row 1
    files = _match_files(numbered, images, path, missing, notices)
    numbered = [(number, row) for number, row in numbered if number in files]
    if separator is not None and len(label_columns) > 1:
        raise DatasetError("separator= is for several labels in one column; with one column a class leave it out")
    classes, task, read = _label_reader(numbered, label_columns, separator, name, notices)

    key = salt()
    by_file: dict[Path, tuple[int, Sample]] = {}
    repeated = 0
    for number, row in numbered:
        file = files[number]
        sample = Sample(
            id=salted("image", clean(file.relative_to(images).as_posix()), key),
            path=file,
            labels=read(number, row),
            split=_split(number, row[split], name) if split else None,  # type: ignore[arg-type]
            group=(group(row) if callable(group) else row[group].strip() or None) if group else None,
            columns={column: row[column] for column in columns},
        )
        if file in by_file:
            first, known = by_file[file]
            if (known.labels, known.split, known.group) != (sample.labels, sample.split, sample.group):
                raise DatasetError(
                    f"{name}: rows {first} and {number} are the same image ({file.name}) with different labels, splits "
                    "or groups. Keep one"
                )
            repeated += 1
        else:
            by_file[file] = (number, sample)
    if repeated:
        notices.append(f"{repeated:,} rows repeat an image with the same labels: counted once")
    if group and any(sample.group is None for _, sample in by_file.values()):
        notices.append("some rows have no group: each such image is its own")
    return Dataset(
        samples=tuple(sorted((sample for _, sample in by_file.values()), key=lambda s: s.path.as_posix())),
        classes=classes,
        task=task,
        positive=positive_class(classes, positive) if task == "binary" else None,
        name=name,
        notices=tuple(notices),
        keep=tuple(columns),
    )


def _match_files(
    rows: Sequence[tuple[int, Row]], images: Path, path: str, missing: str, notices: list[str]
) -> dict[int, Path]:
    """Returns the image file of each row number."""
    if not images.is_dir():
        raise DatasetError(f"images={str(images)!r} is not a folder")
    by_key: dict[str, list[Path]] = {}
    for file in image_files(images):
        relative = PurePosixPath(clean(file.relative_to(images).as_posix()))
        # A row may give the path, the name, or either without its extension.
        for key in {str(relative), relative.name, str(relative.with_suffix("")), relative.stem}:
            by_key.setdefault(key, []).append(file)
    files: dict[int, Path] = {}
    absent: list[str] = []
    for number, row in rows:
        written = clean(row[path]).replace("\\", "/").removeprefix("./")
        # The last resort is the stem: NIH tables say .png also where the copies are .jpg.
        found = next(
            (by_key[key] for key in (written, PurePosixPath(written).name, PurePosixPath(written).stem)
             if written and key in by_key), None,
        )  # fmt: skip
        if found is None:
            absent.append(f"row {number}: {row[path]!r}")
        elif len(found) > 1:
            raise DatasetError(
                f"row {number}: {row[path]!r} may be any of {listing(str(f.relative_to(images)) for f in found)}. "
                "Give the path inside images= with its extension"
            )
        else:
            files[number] = found[0]
    if absent and (missing == "error" or not files):
        shown = "; ".join(absent[:5]) + (f"; and {len(absent) - 5:,} more" if len(absent) > 5 else "")
        raise DatasetError(
            f"{len(absent):,} of {len(rows):,} rows have no image file under {images}: {shown}. "
            "Fix the rows or the folder, or pass missing='drop' to leave them out"
        )
    if absent:
        notices.append(f"{len(absent):,} rows without their image file were left out")
    return files


Reader = Callable[[int, Row], Labels]


def _label_reader(
    rows: Sequence[tuple[int, Row]], columns: list[str], separator: str | None, name: str, notices: list[str]
) -> tuple[tuple[str, ...], Task, Reader]:
    if separator is not None:
        return _cell_labels(rows, columns[0], separator, name)
    if len(columns) > 1:
        return _column_labels(rows, columns, name, notices)
    column = columns[0]
    empty = [number for number, row in rows if not row[column].strip()]
    if empty:
        raise DatasetError(f"{name}: {len(empty):,} rows have no {column!r}, such as row {empty[0]}. Fill or remove them")
    classes = tuple(sorted({clean(row[column]) for _, row in rows}))
    task = decide_task(classes, where=f"{name}, column {column!r}")
    if len(classes) > max(50, len(rows) // 2):
        raise DatasetError(
            f"{name}: column {column!r} has {len(classes):,} different values in {len(rows):,} rows; is it the label? "
            'For several labels in a cell pass separator="|"'
        )
    position = {value: index for index, value in enumerate(classes)}
    return classes, task, lambda number, row: position[clean(row[column])]


def _cell_labels(
    rows: Sequence[tuple[int, Row]], column: str, separator: str, name: str
) -> tuple[tuple[str, ...], Task, Reader]:
    def names(row: Row) -> set[str]:
        parts = {clean(part) for part in row[column].split(separator)} - {""}
        return {part for part in parts if not is_negative(part)}

    for number, row in rows:
        if not row[column].strip():
            raise DatasetError(f"{name}, row {number}: {column!r} is empty. Write 'No Finding' for an image without one")
    classes = tuple(sorted(set().union(*(names(row) for _, row in rows))))
    if not classes:
        raise DatasetError(f"{name}: no row of {column!r} has a finding")

    def read(number: int, row: Row) -> Labels:
        found = names(row)
        return tuple(int(label in found) for label in classes)

    return classes, "multilabel", read


def _column_labels(
    rows: Sequence[tuple[int, Row]], columns: list[str], name: str, notices: list[str]
) -> tuple[tuple[str, ...], Task, Reader]:
    def cell(number: int, row: Row, column: str) -> int | None:
        text = row[column].strip().lower()
        if text in ("", "nan", "-1", "-1.0", "unknown"):
            return None  # CheXpert writes -1 for "uncertain"
        if re.fullmatch(r"0(\.0+)?|false|no", text):
            return 0
        if re.fullmatch(r"1(\.0+)?|true|yes", text):
            return 1
        raise DatasetError(f"{name}, row {number}, column {column!r}: {row[column]!r} is not 1, 0 or empty")

    table = {number: tuple(cell(number, row, column) for column in columns) for number, row in rows}
    if all(sum(value or 0 for value in values) == 1 and None not in values for values in table.values()):
        notices.append("every row has exactly one class: read as exclusive classes")
        order = sorted(range(len(columns)), key=lambda index: clean(columns[index]))
        classes = tuple(clean(columns[index]) for index in order)
        return classes, decide_task(classes, where=name), lambda number, row: order.index(table[number].index(1))
    return tuple(clean(column) for column in columns), "multilabel", lambda number, row: table[number]


def _split(number: int, value: str, name: str) -> str:
    split = split_name(value)
    if split is None:
        raise DatasetError(f"{name}, row {number}: the split {value!r} is not train, val or test")
    return split
