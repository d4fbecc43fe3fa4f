"""Small DICOM files for the tests, of a patient who never was."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

NAME, PATIENT, BIRTH, ACCESSION = "DOE^CANARY^JANE", "MRN-8675309", "19550605", "ACC-424242"
"""What must never leave the machine, nor be in a message."""

_CR = "1.2.840.10008.5.1.4.1.1.1"


def header(**elements: Any) -> Dataset:
    """Returns a data set without pixels; `elements` by keyword, None for one that is missing."""
    found = Dataset()
    found.SOPClassUID = _CR
    given = {
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "PatientName": NAME,
        "PatientID": PATIENT,
        "PatientBirthDate": BIRTH,
        "AccessionNumber": ACCESSION,
        **elements,
    }
    for keyword, value in given.items():
        if value is not None:
            setattr(found, keyword, value)
    return found


def encoded(found: Dataset, *, syntax: str = ExplicitVRLittleEndian, prefix: bool = True) -> bytes:
    """Returns a data set as the bytes of a file, with the Part-10 header or without."""
    buffer = io.BytesIO()
    if prefix:
        found.file_meta = FileMetaDataset()
        found.file_meta.TransferSyntaxUID = syntax
        found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
        found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
        found.save_as(buffer, enforce_file_format=True)
    else:
        found.save_as(buffer, implicit_vr=True, little_endian=True)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, prefix: bool = True, **elements: Any) -> bytes:
    """Returns a DICOM file with such pixels: (rows, columns), or with three samples (rows, columns, 3).

    Args:
        pixels: Integers; their type says how many bits are allocated and stored, and whether they are signed.
        syntax: The transfer syntax.
        prefix: False leaves the Part-10 header out.
        elements: By keyword, over those that the pixels give; None leaves one out.
    """
    samples = 3 if pixels.ndim == 3 and pixels.shape[2] == 3 else 1
    bits = pixels.dtype.itemsize * 8
    given = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB" if samples == 3 else "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
        **({"PlanarConfiguration": 0} if samples == 3 else {}),
        **elements,
    }
    given.setdefault("HighBit", (given["BitsStored"] or 1) - 1)
    return encoded(header(**given), syntax=syntax, prefix=prefix)


def look_up_table(first: int, entries: np.ndarray, bits: int, *, representation: str = "US") -> list[Dataset]:
    """Returns the sequence of a modality or VOI LUT; `representation` "SS" is for a first value below 0."""
    item = Dataset()
    item.add_new("LUTDescriptor", representation, [len(entries), first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [item]


def write(path: Path, data: bytes) -> Path:
    """Writes a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
