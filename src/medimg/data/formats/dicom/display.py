"""From a DICOM file to the 8-bit picture that it means: see `medimg.data.formats.dicom` for the rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue

from medimg.data.formats.dicom.file import Unreadable, quiet
from medimg.data.formats.dicom.pixels import Values, frames_of, open_picture, stored_values
from medimg.data.formats.effort import TooComplex
from medimg.data.pixels import Pixels, Stored, bands, grey_if_equal
from medimg.errors import ImageRejected

__all__ = ["picture"]

Floats = npt.NDArray[np.float64]

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_LEVELS = 65_536


def picture(data: bytes, *, name: str) -> tuple[Pixels, Stored]:
    """Returns a file's pixels, and how it holds them.

    Args:
        data: The whole file.
        name: What to call the image in an error.

    Raises:
        ImageRejected: With a code of `medimg.data.decode.REJECTIONS`; no value of the header is in its message.
    """
    try:
        with quiet(), np.errstate(all="ignore"):
            header = open_picture(data)
            stored = Stored(str(header.PhotometricInterpretation), int(header.BitsStored), orientation=1)
            return _shown(header, stored), stored
    except Unreadable as error:
        raise ImageRejected(error.code, name, error.message) from None
    except TooComplex as error:
        raise ImageRejected("too-complex", name, f"is built of too many pieces ({error}). Export it again") from None
    except MemoryError:
        raise ImageRejected("too-large", name, "is too large to decode") from None
    except Exception:
        # What pydicom says of a damaged element quotes it, and it may be the patient's name.
        raise ImageRejected("corrupt", name, "is DICOM that cannot be decoded. Copy or export it again") from None


def _shown(header: FileDataset, kind: Stored) -> Pixels:
    photometric, bits = kind.mode, kind.bits
    if photometric not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        raise Unreadable("unsupported", "has colours of a kind that is not read here. Export it as RGB")
    if (photometric in _COLOUR) != (int(header.SamplesPerPixel) == 3):
        raise Unreadable("corrupt", "has another number of channels than its kind of colours has. Export it again")
    if frames_of(header) > 1:
        raise Unreadable("multi-frame", "has several frames. Save the one that the label means as a file of its own")
    if not 1 <= bits <= int(header.BitsAllocated):
        raise Unreadable("corrupt", "has a header whose depth in bits means nothing. Export it again")
    stored = stored_values(header)
    if photometric in _COLOUR:
        return grey_if_equal(_narrow(stored, bits))
    low, high = int(stored.min()), int(stored.max())
    levels = _levels(low, high)
    if photometric == "PALETTE COLOR":
        shades = _palette(levels, header)
    else:
        present = np.zeros(levels.size, bool)
        for band in bands(stored):
            present[_places(stored[band], low, high)] = True
        shades = _shades(levels, present, header, bits)
    pixels = np.empty((*stored.shape, *shades.shape[1:]), np.uint8)
    for band in bands(stored):
        pixels[band] = shades[_places(stored[band], low, high)]
    return grey_if_equal(pixels) if pixels.ndim == 3 else pixels


def _levels(low: int, high: int) -> Floats:
    """Returns the values that pixels may have: all between two, or of a wider range 65,536 at equal distances."""
    return np.linspace(low, high, min(high - low + 1, _LEVELS))


def _places(stored: Values, low: int, high: int) -> npt.NDArray[np.int64]:
    """Returns the place of each pixel among `_levels`."""
    places = stored.astype(np.int64) - low
    return places if high - low < _LEVELS else places * (_LEVELS - 1) // (high - low)


def _shades(levels: Floats, present: npt.NDArray[np.bool_], header: FileDataset, bits: int) -> Pixels:
    """Returns the shade of grey of each level: uint8."""
    values, changed = _modality(levels, header)
    voi = _voi_lut(header)
    window = _window(header)
    if voi is not None:
        shown = _scaled(voi.of(values), voi.entries)
    elif window is not None:
        shown = window.of(values)
    elif not changed and bits <= 8 and int(header.PixelRepresentation) == 0:
        shown = values / (2**bits - 1)
    else:
        picture = present & ~_padding(levels, header)
        shown = _scaled(values, values[picture if picture.any() else present])
    if str(header.PhotometricInterpretation) == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE":
        shown = 1 - shown
    return (np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)


def _padding(levels: Floats, header: FileDataset) -> npt.NDArray[np.bool_]:
    """Returns which levels are padding: one value, or a range of them (PS3.3 C.7.5.1.1.2)."""
    value, limit = _number(header, "PixelPaddingValue"), _number(header, "PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(levels.size, bool)
    ends = (value, value if limit is None else limit)
    return (levels >= min(ends)) & (levels <= max(ends))


def _number(header: FileDataset, name: str) -> float | None:
    """Returns an element's first value, or None where there is no such element or it is empty."""
    value = header.get(name)
    first = value[0] if isinstance(value, MultiValue) and value else value
    return None if first is None or str(first).strip() == "" else float(first)


def _scaled(values: Floats, ends: Floats) -> Floats:
    """Returns values so that the lowest of `ends` is 0 and the highest 1; all 0 where they are one."""
    low, high = float(ends.min()), float(ends.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _modality(levels: Floats, header: FileDataset) -> tuple[Floats, bool]:
    """Returns stored values in the modality's units, and whether that changed them (PS3.3 C.11.1)."""
    lut = _first_lut(header, "ModalityLUTSequence")
    if lut is not None:
        return _lut(lut.LUTDescriptor, lut.LUTData, header, signed=header.PixelRepresentation == 1).of(levels), True
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    if slope is None or intercept is None:
        return levels, False
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        raise Unreadable("corrupt", "has a rescale slope or intercept that means nothing. Export it again")
    return levels * slope + intercept, (slope, intercept) != (1, 0)


@dataclass(frozen=True, slots=True)
class _Lut:
    """A look-up table: what is below its first value has its first entry, what is above its last value the last."""

    first: int
    entries: Floats

    def of(self, values: Floats) -> Floats:
        return self.entries[np.clip(np.round(values) - self.first, 0, self.entries.size - 1).astype(np.int64)]


def _voi_lut(header: FileDataset) -> _Lut | None:
    """Returns the first VOI LUT, or None.

    Its first value has the sign of its value representation; where the file does not say one, it is signed if the
    modality's lowest possible value is (PS3.3 C.11.2.1.1).
    """
    lut = _first_lut(header, "VOILUTSequence")
    if lut is None:
        return None
    signed = lut["LUTDescriptor"].VR == "SS"
    if lut.original_encoding[0]:
        bits = int(header.BitsStored)
        lowest = -(2 ** (bits - 1)) if header.PixelRepresentation == 1 else 0
        values, _ = _modality(np.array([lowest, lowest + 2**bits - 1], np.float64), header)
        signed = bool(values.min() < 0)
    return _lut(lut.LUTDescriptor, lut.LUTData, header, signed=signed)


def _first_lut(header: FileDataset, sequence: str) -> Dataset | None:
    """Returns the first table of a sequence, or None where there is none or it is empty."""
    items = header.get(sequence)
    if not items or not items[0].get("LUTDescriptor") or items[0].get("LUTData") in (None, b""):
        return None
    table: Dataset = items[0]
    return table


def _lut(descriptor: Any, data: Any, header: Dataset, *, signed: bool) -> _Lut:
    """Returns a table; of modality LUTs and palettes the first value has the sign of the pixels (PS3.3 C.11.1.1.1)."""
    count, first, bits = (int(value) for value in descriptor)
    count, first = count & 0xFFFF or 65_536, first & 0xFFFF
    if signed and first > 32_767:
        first -= 65_536
    if isinstance(data, bytes):
        little = header.original_encoding[1]
        kind = "u1" if bits <= 8 and len(data) < 2 * count else "<u2" if little else ">u2"
        entries = np.frombuffer(data, kind, count=min(count, len(data) // np.dtype(kind).itemsize))
    else:
        entries = np.array(data, np.int64).reshape(-1)[:count] & 0xFFFF
    if entries.size < count:
        raise Unreadable("corrupt", "has a look-up table that is shorter than it says. Export it again")
    return _Lut(first, entries.astype(np.float64))


@dataclass(frozen=True, slots=True)
class _Window:
    """A window of values that are shown from black to white (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""

    centre: float
    width: float
    function: str

    def of(self, values: Floats) -> Floats:
        if self.function == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (values - self.centre) / self.width))
        if self.function == "LINEAR_EXACT":
            return (values - self.centre) / self.width + 0.5
        if self.width == 1:  # LINEAR: black up to the centre less a half, white above
            return (values > self.centre - 0.5).astype(np.float64)
        return (values - (self.centre - 0.5)) / (self.width - 1) + 0.5


def _window(header: FileDataset) -> _Window | None:
    """Returns the first window, or None where there is none or it has no width."""
    centre, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    if centre is None or width is None:
        return None
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or not math.isfinite(centre) or not math.isfinite(width):
        raise Unreadable("corrupt", "has a window that means nothing. Export it again")
    return _Window(centre, width, function) if width >= (1 if function == "LINEAR" else 1e-6) else None


def _palette(levels: Floats, header: FileDataset) -> Pixels:
    """Returns the colour of each level: uint8 (levels, 3) (PS3.3 C.7.6.3.1.5)."""
    tables = []
    for colour in ("Red", "Green", "Blue"):
        data = header.get(f"{colour}PaletteColorLookupTableData")
        if data is None:
            raise Unreadable("unsupported", "has no palette, or a segmented one. Export it as RGB")
        descriptor = header[f"{colour}PaletteColorLookupTableDescriptor"].value
        entries = _lut(descriptor, data, header, signed=header.PixelRepresentation == 1)
        tables.append(entries.of(levels) / (257 if int(descriptor[2]) > 8 else 1))
    return np.round(np.stack(tables, axis=1)).clip(0, 255).astype(np.uint8)


def _narrow(stored: Values, bits: int) -> Pixels:
    """Returns colours in 8 bits over the full range."""
    if stored.dtype.kind != "u":
        raise Unreadable("unsupported", "has signed colours. Export it as RGB with 8 or 16 bits")
    if stored.dtype == np.uint8 and bits == 8:
        return stored
    white = 2**bits - 1
    pixels = np.empty(stored.shape, np.uint8)
    for band in bands(stored):
        pixels[band] = (np.minimum(stored[band], white).astype(np.uint64) * 255 + white // 2) // white
    return pixels
