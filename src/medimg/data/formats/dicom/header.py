"""The header fields of DICOM files that a reader of datasets asks for, without their pixels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue

from medimg.data.formats.dicom import is_dicom
from medimg.data.formats.dicom.file import parse, quiet
from medimg.data.formats.strictness import strict_decoders

__all__ = ["identifies", "is_keyword", "read_header"]

_TELLING = frozenset({"DA", "DT", "PN", "TM", "UI"})  # value representations of dates, names and unique ids
_IDS = frozenset(
    {
        "AccessionNumber", "OtherPatientIDs", "PatientAddress", "PatientComments", "PatientID",
        "PatientTelephoneNumbers", "StudyID",
    }
)  # fmt: skip
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def is_keyword(name: str) -> bool:
    """Tells whether a word is the name of a DICOM element, such as "BodyPartExamined"."""
    return tag_for_keyword(name) is not None


def identifies(name: str) -> bool:
    """Tells whether an element says who the patient is, or when they came: names, dates, unique and other ids."""
    return dictionary_VR(name) in _TELLING or name in _IDS


def read_header(path: Path, keywords: Iterable[str]) -> Mapping[str, str] | None:
    """Returns the named elements of a DICOM image as text: "" where one is missing, the age in years.

    Args:
        path: The file.
        keywords: Names of elements, such as "PatientID".

    Returns:
        The texts by keyword; all of them "" where the header is damaged; None where the file is no DICOM image.

    Raises:
        OSError: The file cannot be opened or read.
    """
    names = tuple(keywords)
    try:
        with path.open("rb") as stream:
            if not is_dicom(stream.read(256)):
                return None
            stream.seek(0)
            with strict_decoders(), quiet():
                header = parse(stream, (*names, "Rows"), pixels=False)
                return {name: _text(name, header.get(name)) for name in names} if "Rows" in header else None
    except OSError:
        raise
    except Exception:  # pydicom's errors are many; decoding the image tells what is wrong with it
        return dict.fromkeys(names, "")


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    return _in_years(text) if name == "PatientAge" else text.strip()


def _in_years(age: str) -> str:
    """Returns an age such as 018M (PS3.5, value representation AS) in years, with a decimal where it is under two."""
    found = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", age)
    if found is None:
        return ""
    years = int(found[1]) * _YEARS[found[2]]
    return f"{years:.1f}" if years < 2 else f"{years:.0f}"
