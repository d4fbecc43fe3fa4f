"""Datasets from tables: a CSV file or a DataFrame with a row an image."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medimg.config import Task
from medimg.data.dataset import Dataset, Labels, Sample
from medimg.data.labels import amount, class_name, clean, decide_task, is_negative, listing, positive_class, split_name
from medimg.data.readers.folder import IMAGE_SUFFIXES, group_name, image_files
from medimg.errors import DatasetError, did_you_mean
from medimg.garbage import paused
from medimg.home import salt, salted

__all__ = ["dataframe_rows", "read_csv_rows", "read_table"]

Row = Mapping[str, str]
Rows = Sequence[tuple[int, Row]]  # each with its number, by which messages call it
Labelled = tuple[tuple[str, ...], Task, Mapping[int, Labels]]  # classes, task, labels by row number


@paused()
def read_csv_rows(path: Path) -> Rows:
    """Returns the rows of a CSV file, numbered as a spreadsheet does: the header is row 1.

    Raises:
        DatasetError: The file is missing, is not UTF-8, has no rows, or a row has more or fewer cells than the header.
    """
    try:
        text = path.expanduser().read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"there is no table {path}") from None
    except OSError as error:
        raise DatasetError(f"cannot read the table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 (byte {error.start}). Save it again as 'CSV UTF-8'") from None
    top = re.sub('"[^"]*"', "", text.split("\n", 1)[0])
    # newline="" leaves line ends to the reader, who knows which of them are inside quotes.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=top.count), strict=True)
    try:
        records = list(reader)
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: {error}") from None
    header = [clean(cell) for cell in records[0]] if records else []
    _refuse_repeated(header, str(path))
    rows = []
    for number, cells in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue  # spreadsheets leave blank rows behind
        if len(cells) != len(header):
            raise DatasetError(f"{path}, row {number}: {len(cells)} cells, but the header has {len(header)}")
        rows.append((number, dict(zip(header, cells, strict=True))))
    if not rows:
        raise DatasetError(f"{path} has no rows")
    return rows


def dataframe_rows(frame: Any) -> Rows:
    """Returns the rows of a DataFrame as text, numbered from 0; missing values are empty."""

    def text(value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)) or repr(value) in ("<NA>", "NaT"):
            return ""
        # pandas turns a column of integers with a gap into floats; 1.0 was 1.
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    try:
        header = [clean(str(column)) for column in frame.columns]
        _refuse_repeated(header, "the DataFrame")
        records = frame.to_dict("records")
    except (AttributeError, TypeError):
        raise DatasetError(f"from_dataframe takes a pandas DataFrame, not {type(frame).__name__}") from None
    if not records:
        raise DatasetError("the DataFrame has no rows")
    return [
        (number, dict(zip(header, (text(value) for value in record.values()), strict=True)))
        for number, record in enumerate(records)
    ]


def _refuse_repeated(header: Sequence[str], where: str) -> None:
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    if repeated:
        raise DatasetError(f"{where} has several columns called {repeated[0]!r}. Rename or remove all but one")


@paused()
def read_table(
    rows: Rows,
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
    local: Sequence[str] = (),
    multilabel: bool = False,
    folders: Sequence[Path] | None = None,
) -> Dataset:
    """Reads a dataset from rows of text: see `Dataset.from_csv`.

    Readers of public sets know more of a table than its text says. They also give `local`, columns to keep in the
    samples that never leave the machine; `multilabel`, whether an image may show several labels or none even if none
    in hand does; and `folders`, those in `images` to look in.
    """
    images = images.expanduser().absolute()
    label_columns = [clean(labels)] if isinstance(labels, str) else [clean(label) for label in labels]
    kept = (columns,) if isinstance(columns, str) else tuple(columns)
    wanted = [
        path,
        *label_columns,
        *([group] if isinstance(group, str) else []),
        *([split] if split else []),
        *kept,
        *local,
    ]
    for column in wanted:
        if column not in rows[0][1]:
            raise DatasetError(f"{name} has no column {column!r}.{did_you_mean(column, rows[0][1])}")
    if missing not in ("error", "drop"):
        raise DatasetError(f"missing={missing!r}: 'error' or 'drop'")

    notices: list[str] = []
    files = _match_files(rows, images, path, missing, notices, folders)
    rows = [(number, row) for number, row in rows if number in files]
    classes, task, labels_of = _read_labels(rows, label_columns, separator, name, notices, multilabel=multilabel)

    key = salt()
    by_file: dict[Path, tuple[int, str, Sample]] = {}
    for number, row in rows:
        file = files[number]
        sample = Sample(
            id=salted("image", clean(file.relative_to(images).as_posix()), key),
            path=file,
            labels=labels_of[number],
            split=split_name(row[split]) if split else None,
            group=group_name(group(row) if callable(group) else row[group]) if group else None,
            columns={column: row[column] for column in (*kept, *local)},
        )
        if split and sample.split is None:
            raise DatasetError(f"{name}, row {number}: the split {row[split]!r} is not train, val or test")
        first, written, known = by_file.setdefault(file, (number, row[path], sample))
        if written != row[path]:
            raise DatasetError(
                f"{name}: rows {first} ({written!r}) and {number} ({row[path]!r}) lead to the same image file, "
                f"{file.name}. Write paths that start at images= ({images})"
            )
        if known != sample:
            raise DatasetError(
                f"{name}: rows {first} and {number} are the same image ({file.name}) with different labels, splits, "
                "groups or columns. Keep one"
            )
    if len(by_file) < len(rows):
        notices.append(
            f"{amount(len(rows) - len(by_file), 'row')} repeated an image with the same labels: counted once"
        )
    samples = sorted((sample for _, _, sample in by_file.values()), key=lambda sample: sample.path)
    alone = sum(sample.group is None for sample in samples)
    if group and alone:
        notices.append(f"no group given for {amount(alone, 'image')}: each is taken as a patient of its own")
    return Dataset(
        samples=tuple(samples),
        classes=classes,
        task=task,
        positive=positive_class(classes, positive, task),
        name=name,
        notices=tuple(notices),
        keep=kept,
    )


class _Files:
    """The image files under a folder, found by what a table says of them."""

    def __init__(self, root: Path, folders: Sequence[Path]) -> None:
        self._whole: dict[str, list[Path]] = {}
        self._tails: dict[str, list[Path]] = {}
        for file in (file for folder in folders for file in image_files(folder)):
            for number, tail in enumerate(_tails(clean(file.relative_to(root).as_posix()))):
                for name in {tail, _without_suffix(tail)}:
                    self._tails.setdefault(name, []).append(file)
                    if number == 0:
                        self._whole.setdefault(name, []).append(file)

    def find(self, written: str) -> list[Path]:
        """Returns the files of which one path is the end of the other, best match first.

        The extension counts last: NIH's tables say .png also where the copies are .jpg.
        """
        for name in (written, _without_suffix(written)):
            found = self._whole.get(name) or self._tails.get(name)
            if found:
                return found
            for tail in _tails(name):
                if tail in self._whole:
                    return self._whole[tail]
        return []


def _tails(path: str) -> list[str]:
    """Returns a/b/c, b/c and c for the path a/b/c."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _without_suffix(path: str) -> str:
    # A DICOM UID such as 1.2.840 also has dots, which start no extension.
    name, dot, suffix = path.rpartition(".")
    return name if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES | {".dcm", ".dicom"} else path


def _match_files(
    rows: Rows, images: Path, path: str, missing: str, notices: list[str], folders: Sequence[Path] | None
) -> dict[int, Path]:
    """Returns the image file of each row number."""
    if not images.is_dir():
        raise DatasetError(f"images={str(images)!r} is not a folder")
    known = _Files(images, [images] if folders is None else folders)
    files: dict[int, Path] = {}
    absent: list[str] = []
    for number, row in rows:
        found = known.find("/".join(_tails(clean(row[path]).replace("\\", "/"))[:1]))
        if len(found) > 1:
            raise DatasetError(
                f"row {number}: {row[path]!r} may be any of "
                f"{listing(str(file.relative_to(images)) for file in found)}. Give the path inside images= with its "
                "extension"
            )
        if found:
            files[number] = found[0]
        else:
            absent.append(f"row {number}: {row[path]!r}")
    if absent and (missing == "error" or not files):
        shown = "; ".join(absent[:5]) + (f"; and {len(absent) - 5:,} more" if len(absent) > 5 else "")
        raise DatasetError(
            f"no image file under {images} for {len(absent):,} of {amount(len(rows), 'row')}: {shown}. "
            "Fix the rows or the folder" + (", or pass missing='drop' to leave them out" if files else "")
        )
    if absent:
        notices.append(f"left out: {amount(len(absent), 'row')} without an image file")
    return files


def _read_labels(
    rows: Rows, columns: Sequence[str], separator: str | None, name: str, notices: list[str], *, multilabel: bool
) -> Labelled:
    if not columns:
        raise DatasetError("labels= names no column")
    if len(set(columns)) < len(columns):
        raise DatasetError(f"labels= names a column twice: {listing(columns)}")
    if separator is not None:
        if len(columns) > 1 or not separator:
            raise DatasetError(
                f"separator={separator!r} is what stands between several labels in one column; with one column a class "
                "leave it out"
            )
        return _cell_labels(rows, columns[0], separator, name, notices)
    if len(columns) > 1 or multilabel:
        return _column_labels(rows, columns, name, notices, exclusive=not multilabel)
    return _class_labels(rows, columns[0], name)


def _class_labels(rows: Rows, column: str, name: str) -> Labelled:
    empty = [number for number, row in rows if not row[column].strip()]
    if empty:
        raise DatasetError(
            f"{name}: {column!r} is empty in {amount(len(empty), 'row')}, such as row {empty[0]}. Fill or remove them"
        )
    of_row = {number: class_name(row[column]) for number, row in rows}
    classes = tuple(sorted(set(of_row.values())))
    if len(classes) > max(50, len(rows) // 2):
        raise DatasetError(
            f"{name}: column {column!r} has {len(classes):,} different values in {len(rows):,} rows; is it the label? "
            'For several labels in a cell pass separator="|"'
        )
    position = {value: index for index, value in enumerate(classes)}
    task = decide_task(classes, where=f"{name}, column {column!r}")
    return classes, task, {number: position[value] for number, value in of_row.items()}


def _cell_labels(rows: Rows, column: str, separator: str, name: str, notices: list[str]) -> Labelled:
    found: dict[int, set[str]] = {}
    negatives: list[str] = []
    for number, row in rows:
        parts = {class_name(part) for part in row[column].split(separator)} - {""}
        found[number] = {part for part in parts if not is_negative(part)}
        if not parts:
            raise DatasetError(
                f"{name}, row {number}: {column!r} is empty. Write 'No Finding' for an image without one"
            )
        if found[number] and len(found[number]) < len(parts):
            raise DatasetError(f"{name}, row {number}: {row[column]!r} says both that there is a finding and none")
        negatives.extend(parts - found[number])
    classes = tuple(sorted(set().union(*found.values())))
    if not classes:
        raise DatasetError(f"{name}: no row of {column!r} has a finding")
    if len(classes) > 1:
        return classes, "multilabel", {n: tuple(int(label in has) for label in classes) for n, has in found.items()}
    # One label that is there or not is a question of two classes.
    notices.append(f"{column!r} has one label only: read as two classes")
    both = tuple(sorted({classes[0], *negatives[:1]}))
    task = decide_task(both, where=f"{name}, column {column!r}")
    return both, task, {number: int((both[1] == classes[0]) == bool(has)) for number, has in found.items()}


def _column_labels(rows: Rows, columns: Sequence[str], name: str, notices: list[str], *, exclusive: bool) -> Labelled:
    def cell(number: int, row: Row, column: str) -> int | None:
        text = row[column].strip().lower()
        if text in ("0", "1"):
            return int(text)  # what nearly all are: most of a large table's time goes by here
        if text in ("", "nan", "-1", "-1.0", "unknown"):
            return None  # CheXpert writes -1 for "uncertain"
        if re.fullmatch(r"0(\.0+)?|false|no", text):
            return 0
        if re.fullmatch(r"1(\.0+)?|true|yes", text):
            return 1
        raise DatasetError(f"{name}, row {number}, column {column!r}: {row[column]!r} is not 1, 0 or empty")

    order = sorted(columns, key=class_name)
    classes = tuple(class_name(column) for column in order)
    table = {number: tuple(cell(number, row, column) for column in order) for number, row in rows}
    never = [label for label, values in zip(classes, zip(*table.values(), strict=True), strict=True) if 1 not in values]
    if len(never) == len(classes):
        raise DatasetError(f"{name}: no row has a 1 in any of {listing(classes)}")
    if exclusive and all(values.count(1) == 1 and None not in values for values in table.values()):
        notices.append("every row has exactly one class: read as exclusive classes")
        return classes, decide_task(classes, where=name), {number: values.index(1) for number, values in table.items()}
    if never:
        notices.append(f"no image has {listing(never)}: nothing can be learnt of it")
    return classes, "multilabel", table
