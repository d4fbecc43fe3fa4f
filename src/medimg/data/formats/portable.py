"""Netpbm's pictures (PBM, PGM, PPM; binary or as text), read with NumPy: Pillow goes through their values one by one.

Values are scaled to 8 bits over the full range, round(255 · value / maximum); a value above the maximum is white.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medimg.data.formats.rejection import check_size, rejection
from medimg.data.pixels import Pixels, Stored, grey_if_equal

__all__ = ["is_portable", "picture"]

_SIGNATURE = re.compile(rb"P[1-6][\s#]")
_GAP = rb"(?:\s++|#[^\r\n]*+)++"
_NUMBER = re.compile(_GAP + rb"(\d{1,9})(?=[\s#])")
_COMMENT = re.compile(rb"#[^\r\n]*+")
_SPACE = re.compile(rb"\s")
_NUMBERS = re.compile(rb"[\s\d]*+")
_CHUNK = 2**20  # bytes of text, or values, that are turned into numbers at a time


def is_portable(data: bytes) -> bool:
    """Tells whether the first bytes of a file are those of a Netpbm picture."""
    return _SIGNATURE.match(data) is not None


def picture(data: bytes, *, name: str) -> tuple[Pixels, Stored]:
    """Returns a file's pixels, and how it holds them.

    Args:
        data: The whole file.
        name: What to call the image in an error.

    Raises:
        ImageRejected: With a code of `medimg.data.decode.REJECTIONS`.
    """
    try:
        header = _header(data)
        check_size(header.width, header.height, name)
        pixels = header.pixels(data)
    except (EOFError, ValueError, MemoryError) as error:
        raise rejection(error, name) from error
    bits = 1 if header.maximum == 1 else 16 if header.maximum > 255 else 8
    if header.samples == 3:
        return grey_if_equal(pixels), Stored("RGB", bits, orientation=1)
    return pixels, Stored({1: "1", 8: "L", 16: "I;16"}[bits], bits, orientation=1)


@dataclass(frozen=True, slots=True)
class _Header:
    """What the header of a Netpbm picture says.

    Attributes:
        width: Columns.
        height: Rows.
        samples: 1 for grey, 3 for colour.
        maximum: The value of white; 1 for black and white, which is stored the other way round.
        kind: The digit of the signature: 1 to 3 are text, 4 to 6 binary; 1 and 4 are black and white.
        start: Where the values begin.
    """

    width: int
    height: int
    samples: int
    maximum: int
    kind: int
    start: int

    def pixels(self, data: bytes) -> Pixels:
        """Returns the picture, uint8 (height, width) or (height, width, 3).

        Args:
            data: The whole file.

        Raises:
            EOFError: It ends before its pixels do.
            ValueError: It has something else where a number should be.
        """
        if self.kind == 4:
            row = (self.width + 7) // 8
            packed = self._stored(data, "u1", self.height * row).reshape(self.height, row)
            return np.where(np.unpackbits(packed, axis=1, count=self.width), np.uint8(0), np.uint8(255))
        shape = (self.height, self.width) if self.samples == 1 else (self.height, self.width, 3)
        pixels = np.empty(self.height * self.width * self.samples, np.uint8)
        if self.kind < 4:
            self._from_text(data, pixels)
        else:
            stored = self._stored(data, ">u2" if self.maximum > 255 else "u1", pixels.size)
            for start in range(0, pixels.size, _CHUNK):
                pixels[start : start + _CHUNK] = self._scaled(stored[start : start + _CHUNK])
        return pixels.reshape(shape)

    def _stored(self, data: bytes, dtype: str, count: int) -> npt.NDArray[Any]:
        if len(data) - self.start < count * np.dtype(dtype).itemsize:
            raise EOFError
        return np.frombuffer(data, dtype, count, self.start)

    def _scaled(self, values: npt.NDArray[Any]) -> Pixels:
        if self.maximum == 255:
            narrow: Pixels = np.minimum(values, 255).astype(np.uint8)
            return narrow
        wide = np.minimum(values, self.maximum).astype(np.uint32)
        scaled: Pixels = ((wide * 255 + self.maximum // 2) // self.maximum).astype(np.uint8)
        return scaled

    def _from_text(self, data: bytes, pixels: Pixels) -> None:
        place, done = self.start, 0
        if data.find(b"#", place) >= 0:
            data, place = _COMMENT.sub(b"", data[place:]), 0
        while done < pixels.size and place < len(data):
            gap = _SPACE.search(data, place + _CHUNK)
            end = gap.start() if gap else len(data)
            values = self._numbers(data[place:end])[: pixels.size - done]
            pixels[done : done + values.size] = values
            done, place = done + values.size, end
        if done < pixels.size:
            raise EOFError

    def _numbers(self, text: bytes) -> Pixels:
        if not _NUMBERS.fullmatch(text):
            raise ValueError("no number where one should be")
        if not text.strip():
            return np.empty(0, np.uint8)  # where NumPy would see a zero
        if self.kind == 1:  # digits, with spaces or without
            digits = np.frombuffer(text.translate(None, b" \t\n\r\v\f"), np.uint8)
            return np.where(digits == ord("0"), np.uint8(255), np.uint8(0))
        return self._scaled(np.fromstring(text, np.int64, sep=" "))


def _header(data: bytes) -> _Header:
    """Returns what the header says.

    Args:
        data: The whole file, which begins with P1 to P6.

    Raises:
        EOFError: It ends within the header.
        ValueError: The header has something else where a number should be, or a number that means nothing.
    """
    kind = int(data[1:2])
    numbers, place = [], 2
    for _ in range(2 if kind in (1, 4) else 3):
        found = _NUMBER.match(data, place)
        if not found:
            raise EOFError if len(data) - place < 100 else ValueError("no number where one should be")
        numbers.append(int(found[1]))
        place = found.end()
    width, height, maximum = (*numbers, 1)[:3]
    if not width or not height or not 0 < maximum < 65536:
        raise ValueError(f"{width} × {height} pixels, white at {maximum}")
    return _Header(width, height, 3 if kind in (3, 6) else 1, maximum, kind, place + 1)
