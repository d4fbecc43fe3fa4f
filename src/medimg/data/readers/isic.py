"""The skin lesions of HAM10000 and of the ISIC challenges of 2018, 2019 and 2020."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medimg.data.dataset import Dataset
from medimg.data.labels import amount, clean, listing
from medimg.data.readers.folder import entries
from medimg.data.readers.layouts import existing_folder, not_this_set, top_files
from medimg.data.readers.table import Row, Rows, read_csv_rows, read_table
from medimg.errors import ConfigError, DatasetError, did_you_mean

__all__ = ["MALIGNANT", "read_isic"]

# As HAM10000 and the challenges abbreviate them. Actinic keratosis counts as malignant by convention, as a form of
# squamous cell carcinoma in situ; HAM10000's class has Bowen's disease in it (Tschandl et al., Sci Data 2018).
MALIGNANT: Mapping[str, bool] = {
    "ak": True, "akiec": True, "bcc": True, "bkl": False, "df": False, "mel": True, "nv": False, "scc": True,
    "vasc": False,
}  # fmt: skip
_UNKNOWN = "unk"  # the class of "none of these" in the test of 2019, which train lacks

_LONGEST_HEADER = 1 << 16

_SET = "HAM10000 or an ISIC challenge"
_IMAGE = ("image_id", "image_name", "image")
_LOCAL = (
    "age", "age_approx", "anatom_site_general", "anatom_site_general_challenge", "dataset", "diagnosis", "dx_type",
    "localization", "sex",
)  # fmt: skip
# Columns that we add, under names that no table of theirs has.
_NAME, _CLASS, _GROUP, _SPLIT = "image file", "class of the lesion", "patient or lesion", "split of the challenge"


@dataclass(frozen=True)
class _Table:
    """A table with a row an image that says what the lesions are.

    Attributes:
        file: Where it is.
        rows: As read.
        image: The column with the image's name.
        onehot: The columns of the diagnoses, if there is one a diagnosis.
        diagnoses: Whether it says the diagnosis, and not only whether the lesion is malignant.
    """

    file: Path
    rows: Rows
    image: str
    onehot: tuple[str, ...]
    diagnoses: bool


def read_isic(
    root: Path,
    *,
    classes: Literal["diagnosis", "malignancy"] | None = None,
    table: str | Path | None = None,
    images: str | Path | None = None,
    columns: Sequence[str] = (),
    missing: Literal["error", "drop"] = "error",
) -> Dataset:
    """Reads a set: see `Dataset.from_isic`."""
    if classes not in (None, "diagnosis", "malignancy"):
        raise ConfigError(f"classes={classes!r}: 'diagnosis' or 'malignancy'")
    root = existing_folder(root, "from_isic")
    tables = _find_tables(root, table)
    by_diagnosis = all(each.diagnoses for each in tables)
    if classes == "diagnosis" and not by_diagnosis:
        raise ConfigError(
            f"classes='diagnosis': {tables[0].file.name} says which lesions are malignant; most of its diagnoses are "
            "unknown. Use classes='malignancy'"
        )
    notices: list[str] = []
    rows = _merged(tables, root, "diagnosis" if by_diagnosis and classes != "malignancy" else "malignancy", notices)
    found = sorted({row[_CLASS] for _, row in rows})
    worst = max(found, key=lambda name: MALIGNANT.get(name, name == "malignant"))
    kept = (columns,) if isinstance(columns, str) else tuple(columns)
    place = root / images if images is not None else root
    dataset = read_table(
        rows, name=root.name, images=place, path=_NAME, labels=_CLASS, group=_GROUP, separator=None,
        split=_SPLIT if len(tables) > 1 else None, columns=kept, missing=missing,
        positive=worst if len(found) == 2 else None,  # benign and malignant, or part of a set that was picked by hand
        local=[column for column in _LOCAL if column in rows[0][1] and column not in kept],
        folders=_image_folders(place) if place.is_dir() else None,  # if it is none, the table's reader says so
    )  # fmt: skip
    return replace(dataset, notices=(*notices, *dataset.notices))


# -- which tables ------------------------------------------------------------------------------------------------------


def _find_tables(root: Path, table: str | Path | None) -> list[_Table]:
    """Returns the table of labels, or one for each split."""
    if table is not None:
        found = _labels_in(root / table)
        if found is None:
            raise DatasetError(
                f"{root / table} says no lesion's diagnosis: it has neither a column dx, target or benign_malignant, "
                f"nor a column a diagnosis ({', '.join(sorted(MALIGNANT)).upper()})"
            )
        return [found]
    tables = [found for file in _tables_of_images(root) if (found := _labels_in(file)) is not None]
    if not tables:
        raise not_this_set(root, _SET, "it has no table of diagnoses, such as HAM10000_metadata.csv", "from_isic")
    names = [each.file.relative_to(root).as_posix() for each in tables]
    if len(tables) > 1 and len({_split_of(each.file) for each in tables}) < len(tables):
        raise DatasetError(
            f"{root} has {len(tables)} tables of diagnoses: {listing(names)}. Say which: table={names[0]!r}"
        )
    return tables


def _tables_of_images(root: Path) -> Iterator[Path]:
    """Yields the tables with a column of images, by their header alone: beside them lie tables of pixels."""
    # HAM10000_metadata has no extension where it was downloaded from Harvard's Dataverse.
    for file in top_files(root, (".csv", ".tab", "ham10000_metadata")):
        try:
            with file.open(encoding="utf-8-sig", errors="replace") as text:
                header = [cell.strip(' "\r\n') for cell in re.split(r"[,;\t]", text.readline(_LONGEST_HEADER))]
        except OSError as error:
            raise DatasetError(f"cannot read the table {file}: {error.strerror}") from error
        if set(header) & set(_IMAGE) and not file.name.lower().startswith("sample_submission"):
            yield file


def _labels_in(file: Path) -> _Table | None:
    rows = read_csv_rows(file)
    header = rows[0][1]
    image = next((name for name in _IMAGE if name in header), None)
    onehot = tuple(name for name in header if name.lower() in MALIGNANT or name.lower() == _UNKNOWN)
    if image is None:
        return None
    if "dx" in header or len(onehot) > 1:
        return _Table(file, rows, image, () if "dx" in header else onehot, diagnoses=True)
    if "benign_malignant" in header or "target" in header:
        return _Table(file, rows, image, (), diagnoses=False)
    return None


def _split_of(file: Path) -> str:
    """Returns the split that the name of a challenge's table says; HAM10000 is what was trained on in 2018."""
    name = file.name.lower()
    return "test" if "test" in name else "val" if "validation" in name else "train"


# -- what they say -----------------------------------------------------------------------------------------------------


def _merged(tables: Sequence[_Table], root: Path, classes: str, notices: list[str]) -> Rows:
    """Returns the rows of all tables with the columns that we add."""
    lesions = _lesions(root)
    found: list[tuple[int, Row]] = []
    unknown = 0
    shared = set.intersection(*(set(each.rows[0][1]) for each in tables))
    for each in tables:
        for number, row in each.rows:
            where = f"{each.file.name}, row {number}"
            label = _class_of(each, row, classes, where)
            if label is None:
                unknown += 1
                continue
            name = clean(row[each.image])
            patient = clean(row.get("patient_id", ""))
            lesion = clean(row.get("lesion_id", "")) or lesions.get(name, "")
            added = {
                _NAME: name,
                _CLASS: label,
                # A patient's lesions are more alike than those of two: the patient goes before the lesion.
                _GROUP: f"patient {patient}" if patient else f"lesion {lesion}" if lesion else "",
                _SPLIT: _split_of(each.file),
            }
            # Rows of two tables may have the same number.
            found.append(
                (number if len(tables) == 1 else len(found), {**{column: row[column] for column in shared}, **added})
            )
    if not found:
        raise DatasetError(f"{root}: no image in {listing(each.file.name for each in tables)} has a known diagnosis")
    if unknown:
        notices.append(f"left out: {amount(unknown, 'row')} of unknown diagnosis")
    return found


def _lesions(root: Path) -> dict[str, str]:
    """Returns the lesion of each image, from the tables beside those with the diagnoses."""
    found: dict[str, str] = {}
    for file in _tables_of_images(root):
        rows = read_csv_rows(file)
        image = next(name for name in _IMAGE if name in rows[0][1])
        if "lesion_id" in rows[0][1]:
            found.update((clean(row[image]), clean(row["lesion_id"])) for _, row in rows)
    return found


def _class_of(table: _Table, row: Row, classes: str, where: str) -> str | None:
    """Returns the name of a row's class, or None where nobody knows it."""
    if not table.diagnoses:
        text = clean(row.get("benign_malignant") or row.get("target", "")).lower()
        known = {"benign": "benign", "malignant": "malignant", "0": "benign", "1": "malignant"}
        if text not in known:
            raise DatasetError(f"{where}: {text!r} is neither benign nor malignant")
        return known[text]
    diagnosis = _onehot(table.onehot, row, where) if table.onehot else clean(row["dx"]).lower()
    if diagnosis in (_UNKNOWN, ""):
        return None
    if diagnosis not in MALIGNANT:
        raise DatasetError(f"{where}: {diagnosis!r} is no diagnosis of these sets.{did_you_mean(diagnosis, MALIGNANT)}")
    if classes == "diagnosis":
        return diagnosis
    return "malignant" if MALIGNANT[diagnosis] else "benign"


def _onehot(columns: Sequence[str], row: Row, where: str) -> str:
    try:
        chosen = [column for column in columns if float(row[column] or 0) == 1]
    except ValueError:
        chosen = []
    if len(chosen) != 1:
        raise DatasetError(f"{where}: not exactly one of {listing(columns, most=9)} is 1")
    return chosen[0].lower()


# -- where the images are ----------------------------------------------------------------------------------------------


def _image_folders(root: Path) -> list[Path] | None:
    """Returns the folders to look for images in, or None for all of them.

    Kaggle's copy of HAM10000 has each of its two folders twice, as HAM10000_images_part_1 and ham10000_images_part_1.
    """
    folders = [path for path in entries(root) if path.is_dir()]
    once = {path.name.lower(): path for path in reversed(folders)}
    return None if len(once) == len(folders) else sorted(once.values())
