"""NIH ChestX-ray14 (Wang et al., CVPR 2017): fourteen findings read from reports, with the official test list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from medimg.data.dataset import Dataset
from medimg.data.labels import amount, clean, is_negative, listing
from medimg.data.readers.layouts import existing_folder, not_this_set, top_files
from medimg.data.readers.table import Rows, read_csv_rows, read_table
from medimg.errors import ConfigError, DatasetError, did_you_mean

__all__ = ["ANY_FINDING", "FINDINGS", "read_nih"]

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
ANY_FINDING = "any finding"

_SET = "NIH ChestX-ray14"
_PATH, _LABELS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"
# Of the patient and the film. The names of NIH's other columns hold commas that its table does not quote.
_LOCAL = ("Follow-up #", "Patient Age", "Patient Gender", "View Position")
_TEST_LIST, _OTHER_LIST = "test_list.txt", "train_val_list.txt"
_SPLIT, _ANSWER = "official split", "answer"  # columns that we add


def read_nih(
    root: Path,
    *,
    labels: str | Sequence[str] | None = None,
    table: str | Path | None = None,
    images: str | Path | None = None,
    columns: Sequence[str] = (),
    missing: Literal["error", "drop"] = "error",
) -> Dataset:
    """Reads the set: see `Dataset.from_nih`."""
    root = existing_folder(root, "from_nih")
    file = root / table if table is not None else _find_table(root)
    rows = read_csv_rows(file)
    for column in (_PATH, _LABELS, _PATIENT):
        if column not in rows[0][1]:
            raise not_this_set(root, _SET, f"its table {file.name} has no column {column!r}", "from_nih")
    wanted = _wanted(labels)
    notices: list[str] = []
    rows, divided = _with_official_split(rows, file.parent, notices)
    rows = [(number, {**row, **_answers(row, wanted, f"{file.name}, row {number}")}) for number, row in rows]
    kept = (columns,) if isinstance(columns, str) else tuple(columns)
    folder = root / (images or "images")
    dataset = read_table(
        rows, name=root.name, images=folder if images or folder.is_dir() else root, path=_PATH,
        labels=wanted if len(wanted) > 1 else _ANSWER, group=_PATIENT, separator=None,
        split=_SPLIT if divided else None, columns=kept,
        positive=_two_classes(wanted[0])[1] if len(wanted) == 1 else None, missing=missing,
        local=[column for column in _LOCAL if column in rows[0][1] and column not in kept], multilabel=len(wanted) > 1,
    )  # fmt: skip
    return replace(dataset, notices=(*notices, *dataset.notices))


def _find_table(root: Path) -> Path:
    tables = [
        path for path in top_files(root, (".csv",)) if path.name.lower().startswith(("data_entry", "sample_labels"))
    ]
    if not tables:
        raise not_this_set(root, _SET, "it has no table Data_Entry_2017.csv or Data_Entry_2017_v2020.csv", "from_nih")
    if len(tables) > 1:
        names = [str(path.relative_to(root)) for path in tables]
        raise DatasetError(
            f"{root} has {len(tables)} tables of labels, {listing(names)}, which do not agree on every image. Say "
            f"which: table={names[-1]!r}"
        )
    return tables[0]


def _wanted(labels: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the findings asked for as the table writes them; or any finding alone."""
    if labels is None:
        return FINDINGS
    known = {_plain(name): name for name in (*FINDINGS, ANY_FINDING)}
    found = []
    for label in (labels,) if isinstance(labels, str) else labels:
        if _plain(label) not in known:
            raise ConfigError(f"labels: there is no finding {label!r}.{did_you_mean(label, known.values())}")
        found.append(known[_plain(label)])
    if not found or len(set(found)) < len(found) or (ANY_FINDING in found and len(found) > 1):
        raise ConfigError(
            f"labels={list(found)}: name one finding or several, each once, or {ANY_FINDING!r} alone; all fourteen "
            "without labels="
        )
    return tuple(found)


def _plain(name: str) -> str:
    return clean(name).casefold().replace("_", " ")


def _two_classes(finding: str) -> tuple[str, str]:
    """Returns what an image without and one with a finding is called."""
    return ("No Finding", "Finding") if finding == ANY_FINDING else (f"No {finding}", finding)


def _answers(row: Mapping[str, str], wanted: Sequence[str], where: str) -> dict[str, str]:
    """Returns the columns that say which of the wanted findings a row has."""
    parts = {clean(part) for part in row[_LABELS].split("|")} - {""}
    has = {part for part in parts if not is_negative(part)}
    strange = sorted(has - set(FINDINGS))
    if strange:
        raise DatasetError(
            f"{where}: {strange[0]!r} is none of the fourteen findings.{did_you_mean(strange[0], FINDINGS)}"
        )
    if not parts or (has and has != parts):
        raise DatasetError(f"{where}: {row[_LABELS]!r} is neither findings nor 'No Finding'")
    if len(wanted) > 1:
        return {finding: str(int(finding in has)) for finding in wanted}
    return {_ANSWER: _two_classes(wanted[0])[bool(has) if wanted[0] == ANY_FINDING else wanted[0] in has]}


def _with_official_split(rows: Rows, folder: Path, notices: list[str]) -> tuple[Rows, bool]:
    """Returns the rows with the split of the lists beside the table, and whether there are lists."""
    test, others = _read_list(folder / _TEST_LIST), _read_list(folder / _OTHER_LIST)
    if test is None:
        if others is not None:
            raise DatasetError(
                f"{folder} has {_OTHER_LIST} and not {_TEST_LIST}. Put both beside the table, or neither"
            )
        notices.append(f"without {_TEST_LIST} beside the table there is no official test split to compare figures on")
        return rows, False
    found = []
    for number, row in rows:
        name = _stem(row[_PATH])
        if name in test or others is None or name in others:
            found.append((number, {**row, _SPLIT: "test" if name in test else "train"}))
    known = {_stem(row[_PATH]) for _, row in rows}
    if not known & test:
        raise DatasetError(
            f"none of the {amount(len(rows), 'image')} in the table is named in {folder / _TEST_LIST}, which begins "
            f"with {min(test)!r}. Put the list of these images there, or remove it and {_OTHER_LIST} to divide the "
            "images yourself"
        )
    absent = len((test | (others or set())) - known)
    if absent:
        notices.append(f"the official lists name {amount(absent, 'image')} that the table has not")
    if len(found) < len(rows):
        notices.append(f"left out: {amount(len(rows) - len(found), 'row')} in neither of the official lists")
    return found, True


def _read_list(path: Path) -> set[str] | None:
    """Returns the names in a list without their extension, which copies of the images may have changed."""
    if not path.is_file():
        return None
    try:
        names = {_stem(line) for line in path.read_text(encoding="utf-8-sig").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the list {path}: {error}") from error
    if not names:
        raise DatasetError(f"{path} is empty. Download it again, or remove it to divide the images yourself")
    return names


def _stem(name: str) -> str:
    return PurePosixPath(clean(name).replace("\\", "/")).stem
