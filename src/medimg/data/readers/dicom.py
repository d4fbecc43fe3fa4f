"""Datasets from DICOM files: labels from class folders, a table or the headers; patients from the headers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from medimg.data.dataset import Dataset
from medimg.data.formats.dicom.header import identifies, is_keyword, read_header
from medimg.data.index import in_parallel
from medimg.data.labels import amount, clean, listing
from medimg.data.readers.folder import group_name, image_files, read_folder
from medimg.data.readers.layouts import existing_folder
from medimg.data.readers.table import Rows, dataframe_rows, read_csv_rows, read_table
from medimg.errors import DatasetError, did_you_mean
from medimg.progress import Event, Report

__all__ = ["LOCAL", "read_dicom"]

LOCAL = (
    "PatientSex", "PatientAge", "ViewPosition", "Manufacturer", "Modality", "BodyPartExamined", "BurnedInAnnotation",
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
)  # fmt: skip
"""Columns that every sample has; they leave the machine only where the user names them."""

_PATH = "file in the folder"  # the column with each file's path, beside those of the user's table
_EVERY = 200  # files between two reports

Headers = Mapping[Path, Mapping[str, str]]


def read_dicom(
    root: Path,
    *,
    labels: str | Sequence[str] | None,
    table: str | Path | Any | None,
    key: str | None,
    by: str,
    group: str | Callable[[Mapping[str, str]], str | None] | None,
    separator: str | None,
    split: str | None,
    columns: Sequence[str],
    positive: str | None,
    missing: Literal["error", "drop"],
    report: Report,
) -> Dataset:
    """Reads a dataset from DICOM files: see `Dataset.from_dicom`."""
    root = existing_folder(root, "from_dicom")
    named = (columns,) if isinstance(columns, str) else tuple(columns)
    rows = _rows(table)
    of_table = set(rows[0][1]) if rows else set()
    asked = [*(name for name in named if name not in of_table), *([by] if by != "file" else [])]
    if labels is not None and rows is None:
        asked += [labels] if isinstance(labels, str) else labels
    if isinstance(group, str) and group not in of_table:
        asked.append(group)
    for name in asked:
        if not is_keyword(name):
            near = did_you_mean(name, {*of_table, *LOCAL, "AccessionNumber", "PatientID"})
            raise DatasetError(f"{name!r} is neither a column of the table nor a DICOM element.{near}")
    for name in named:
        if name not in of_table and identifies(name):
            raise DatasetError(
                f"columns={name!r} tells who the patient is, and would go into the pack, the report and the model's "
                f"card. Leave it out; group={name!r} keeps the images of one together, and a salted hash of it leaves"
            )
    notices: list[str] = []
    headers = _headers(root, (*LOCAL, "PatientID", *asked), notices, report)

    if rows is not None:
        dataset = _from_table(
            root, headers, rows, labels=labels, key=key, by=by, separator=separator, split=split,
            group=group if isinstance(group, str) and group in of_table else None,
            columns=[name for name in named if name in of_table], positive=positive, missing=missing, notices=notices,
        )  # fmt: skip
    elif key is not None or split is not None or separator is not None:
        raise DatasetError("key=, split= and separator= are of a table: pass table=")
    elif labels is not None:
        dataset = _from_headers(root, headers, [labels] if isinstance(labels, str) else labels, positive)
    else:
        if all(file.parent == root for file in headers):
            raise DatasetError(
                f"{root} has DICOM images but no class folders. Give the labels in a table (table=, key=), or name the "
                "element that holds them (labels=)"
            )
        dataset = read_folder(root, positive=positive, accepts=headers.__contains__)
        _refuse_patients(dataset, headers)
    if not (isinstance(group, str) and group in of_table):
        dataset = _grouped(dataset, headers, group, notices)
    return replace(
        dataset,
        samples=tuple(
            replace(
                sample,
                columns={
                    **{name: headers[sample.path][name] for name in (*LOCAL, *named) if name in headers[sample.path]},
                    **sample.columns,
                },
            )
            for sample in dataset.samples
        ),
        name=root.resolve().name,
        notices=(*dataset.notices, *notices),
        keep=named,
    )


def _rows(table: str | Path | Any | None) -> Rows | None:
    if table is None:
        return None
    return read_csv_rows(Path(table)) if isinstance(table, str | Path) else dataframe_rows(table)


def _headers(root: Path, keywords: Sequence[str], notices: list[str], report: Report) -> Headers:
    """Returns the header fields of each DICOM image in the folder, and nothing for a file that cannot be opened."""
    files = list(image_files(root, accepts=Path.is_file))
    headers: dict[Path, Mapping[str, str]] = {}
    closed: list[OSError] = []

    def header_of(file: Path) -> Mapping[str, str] | OSError | None:
        try:
            return read_header(file, keywords)
        except OSError as error:
            return error

    report(Event("stage", "reading", 0, len(files)))
    with closing(in_parallel(header_of, files)) as found:
        for number, (file, header) in enumerate(zip(files, found, strict=True), start=1):
            if isinstance(header, OSError):
                closed.append(header)
                headers[file] = dict.fromkeys(keywords, "")  # it may be an image: to decode it tells its name
            elif header is not None:
                headers[file] = header
            if number % _EVERY == 0 or number == len(files):
                report(Event("stage", "reading", number, len(files)))
    if not headers:
        what = f"{amount(len(files), 'file')}, none of them a DICOM image" if files else "no files"
        raise DatasetError(f"{root} holds {what}. For pictures in class folders use Dataset.from_folder")
    if len(headers) < len(files):
        notices.append(f"not read: {amount(len(files) - len(headers), 'file')} that are no DICOM images")
    if closed:
        reasons = sorted({error.strerror or type(error).__name__ for error in closed})
        notices.append(f"cannot be opened: {amount(len(closed), 'file')} ({'; '.join(reasons)}). rejected() names them")
    return headers


def _inside(root: Path, file: Path) -> str:
    return clean(file.relative_to(root).as_posix())


def _from_table(
    root: Path,
    headers: Headers,
    rows: Rows,
    *,
    labels: str | Sequence[str] | None,
    key: str | None,
    by: str,
    group: str | None,
    separator: str | None,
    split: str | None,
    columns: Sequence[str],
    positive: str | None,
    missing: Literal["error", "drop"],
    notices: list[str],
) -> Dataset:
    if labels is None or key is None:
        raise DatasetError("with table= pass labels= (the column with the class) and key= (that which tells the image)")
    if key not in rows[0][1]:
        raise DatasetError(f"the table has no column {key!r}.{did_you_mean(key, rows[0][1])}")
    if by != "file":
        rows = _matched(root, headers, rows, key, by, missing, notices)
    dataset = read_table(
        rows, name="the table", images=root, path=key if by == "file" else _PATH, labels=labels, group=group,
        separator=separator, split=split, columns=columns, positive=positive, missing=missing, folders=list(headers),
    )  # fmt: skip
    if len(dataset) < len(headers):
        notices.append(f"not read: {amount(len(headers) - len(dataset), 'image')} that no row of the table names")
    return dataset


def _matched(root: Path, headers: Headers, rows: Rows, key: str, by: str, missing: str, notices: list[str]) -> Rows:
    """Returns a row for each image whose header says what a row does: a study or a patient may have several."""
    files: dict[str, list[Path]] = defaultdict(list)
    for file, header in headers.items():
        files[clean(header[by])].append(file)
    files.pop("", None)
    matched: list[tuple[int, Mapping[str, str]]] = []
    absent = []
    unused = count(rows[-1][0] + 1)  # the first image has its row's number, by which messages call it
    for number, row in rows:
        found = files.get(clean(row[key]), [])
        for place, file in enumerate(found):
            matched.append((next(unused) if place else number, {**row, _PATH: _inside(root, file)}))
        if not found:
            absent.append(f"row {number}: {row[key]!r}")
    if absent and (missing == "error" or not matched):
        raise DatasetError(
            f"no image under {root} has the {by} of {len(absent):,} of {amount(len(rows), 'row')}: "
            f"{listing(absent)}. Fix the rows or the folder, choose another by="
            + (", or pass missing='drop' to leave them out" if matched else "")
        )
    if absent:
        notices.append(f"left out: {amount(len(absent), 'row')} without an image")
    return matched


def _from_headers(root: Path, headers: Headers, labels: Sequence[str], positive: str | None) -> Dataset:
    empty = [_inside(root, file) for file, header in headers.items() if not all(header[name] for name in labels)]
    if empty:
        raise DatasetError(
            f"{listing(labels)} is empty in the headers of {amount(len(empty), 'image')}: {listing(empty)}. Move them "
            "away, or give the labels in a table: table=, key="
        )
    rows = [
        (number, {_PATH: _inside(root, file), **{name: header[name] for name in labels}})
        for number, (file, header) in enumerate(headers.items())
    ]
    return read_table(
        rows, name="the headers", images=root, path=_PATH, labels=labels, group=None, separator=None, split=None,
        columns=(), positive=positive, missing="error", folders=list(headers),
    )  # fmt: skip


def _refuse_patients(dataset: Dataset, headers: Headers) -> None:
    """Refuses folders that are patients, as archives export them, and not classes."""
    patients: dict[str, set[str]] = defaultdict(set)
    for sample in dataset.samples:
        for label in dataset.label_names(sample):
            patients[label].add(headers[sample.path]["PatientID"])
    alone = [next(iter(found)) for found in patients.values() if len(found) == 1]
    if len(patients) > 2 and len(set(alone)) == len(patients):
        raise DatasetError(
            f"each of the {len(patients)} folders holds one patient: they are no classes. Give the labels in a table "
            "(table=, key=), or name the element that holds them (labels=)"
        )


def _grouped(
    dataset: Dataset,
    headers: Headers,
    group: str | Callable[[Mapping[str, str]], str | None] | None,
    notices: list[str],
) -> Dataset:
    """Returns the dataset with each image's patient, else its study."""
    if group is None:
        return dataset
    if callable(group):
        found = {sample.path: group(_Elements(headers[sample.path])) for sample in dataset.samples}
    else:
        found = {sample.path: headers[sample.path][group] for sample in dataset.samples}
    if group == "PatientID":
        _by_study_where_unknown(found, headers, notices)
    alone = sum(not group_name(value) for value in found.values())
    if alone:
        notices.append(f"no group given for {amount(alone, 'image')}: each is taken as a patient of its own")
    samples = tuple(replace(sample, group=group_name(found[sample.path])) for sample in dataset.samples)
    return replace(dataset, samples=samples)


class _Elements(dict[str, str]):
    """What a function for `group` is given."""

    def __missing__(self, name: str) -> str:
        way = f" For that element alone pass group={name!r}" if is_keyword(name) else did_you_mean(name, self)
        raise DatasetError(f"group=: a function of a header is not given {name!r}, only {', '.join(self)}.{way}")


def _by_study_where_unknown(found: dict[Path, str | None], headers: Headers, notices: list[str]) -> None:
    """Puts in the place of a patient's id that is missing that of the study, else the study; or where all are alike."""
    ids = Counter(value for value in found.values() if value)
    studies = {headers[file]["StudyInstanceUID"] for file in found}
    if len(ids) == 1 and len(studies) > 1 and ids.total() == len(found):
        notices.append("all images have the same PatientID, as after anonymisation: grouped by study instead")
        found.update((file, _study(headers[file])) for file in found)
        return
    patients: dict[str, set[str]] = defaultdict(set)  # by study; images that are not in the dataset count too
    for header in headers.values():
        if header["StudyInstanceUID"] and group_name(header["PatientID"]):
            patients[header["StudyInstanceUID"]].add(clean(header["PatientID"]))
    unknown = [file for file, value in found.items() if not value]
    alone = [file for file in unknown if headers[file]["StudyInstanceUID"] not in patients]
    torn = [file for file in unknown if len(patients.get(headers[file]["StudyInstanceUID"], ())) > 1]
    if torn:
        raise DatasetError(
            f"{amount(len(torn), 'image')} without a PatientID, in studies where other images have two or more: "
            f"{listing(file.name for file in torn)}. Write the right one into the headers, or pass "
            "group='StudyInstanceUID'"
        )
    shared = sum(len(patients.get(study, ())) > 1 for study in studies)
    if shared:
        notices.append(
            f"several PatientIDs in {shared:,} of {len(studies):,} studies: if an id was changed, that patient's "
            "images are in two groups. Correct the headers, or name a column of the table that tells the patient"
        )
    if len(unknown) > len(alone):
        count = amount(len(unknown) - len(alone), "image")
        notices.append(f"no PatientID in {count}: taken from other images of the same study")
    if alone:
        notices.append(f"no PatientID in {amount(len(alone), 'image')}: grouped by study instead")
    for file in unknown:
        (patient,) = patients.get(headers[file]["StudyInstanceUID"], (_study(headers[file]),))
        found[file] = patient


def _study(header: Mapping[str, str]) -> str | None:
    return f"study {header['StudyInstanceUID']}" if header["StudyInstanceUID"] else None
