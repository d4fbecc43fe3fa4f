"""A JPEG with nothing in it but its picture: what may leave the machine in place of the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from medimg.data.formats.pillow import picture
from medimg.errors import ImageRejected

__all__ = ["bare_jpeg"]

_START, _STOP = b"\xff\xd8", b"\xff\xd9"
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # what is none of it is data, or a restart within
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
_HUFFMAN, _QUANTISATION, _INTERVAL, _SCAN, _END, _COMMENT = 0xC4, 0xDB, 0xDD, 0xDA, 0xD9, 0xFE
_SEQUENTIAL = (0xC0, 0xC1)
_APPLICATIONS = range(0xE0, 0xF0)
_JFIF, _ADOBE = 0xE0, 0xEE  # both decide what the channels mean

_SURPLUS = 16  # bytes after the data of a picture that are cut off; who has more is no usual JPEG
_PIECES = 1_000  # between restarts; each costs some 0.3 ms
_LONGEST = 65_500  # pixels of a side that libjpeg reads


def bare_jpeg(data: bytes, orientation: int = 1) -> bytes | None:
    """Returns a JPEG of the same pixels, without metadata, thumbnails, and bytes that decoders skip.

    What is kept: how the channels are meant, the frame, the tables that the frame and the scan name, and the coded
    data as far as they change a pixel (ISO 10918-1 annexes B and F).

    Args:
        data: The file.
        orientation: EXIF's 1 to 8, to be said in the new file.

    Returns:
        The new file; None where this one is not built as usual: one sequential scan of all components, by tables with
        what sequential coding uses and no more, its data ending where the picture does.
    """
    try:
        coded = _read(data)
        if coded is None:
            return None
        pieces = []
        for piece, file in coded.separate():
            found = _needed(piece, file)
            if found is None:
                return None
            pieces.append(found)
    except (IndexError, KeyError, ImageRejected):
        return None
    return coded.file(pieces, first=_turned(orientation) if orientation > 1 else b"")


@dataclass(frozen=True)
class _Coded:
    """A sequential JPEG of one scan, in its parts.

    Attributes:
        head: The segments that say what the channels mean, and the tables in use.
        frame: The frame's segment.
        scan: The scan's segment.
        interval: Units (MCU) between restarts; 0 without any.
        pieces: The coded data between restarts.
    """

    head: bytes
    frame: bytes
    scan: bytes
    interval: int
    pieces: list[bytes]

    def file(self, pieces: list[bytes], *, first: bytes = b"", size: tuple[int, int] | None = None) -> bytes:
        """Returns a file of some coded data, of another height and width where they are given."""
        frame = self.frame
        if size is not None:
            frame = frame[:5] + b"".join(side.to_bytes(2, "big") for side in size) + frame[9:]
        restarts = _segment(_INTERVAL, self.interval.to_bytes(2, "big")) if self.interval else b""
        data = [pieces[0], *(bytes([0xFF, 0xD0 + at % 8]) + piece for at, piece in enumerate(pieces[1:]))]
        return b"".join([_START, first, self.head, frame, restarts, self.scan, *data, _STOP])

    def separate(self) -> Iterator[tuple[bytes, Callable[[bytes], bytes]]]:
        """Yields each piece, and what makes a picture of its own of it: at a restart, decoding begins anew."""
        if len(self.pieces) == 1:
            yield self.pieces[0], lambda piece: self.file([piece])
            return
        left, height, width = _units(self.frame)
        for piece in self.pieces:
            size = height, min(self.interval, left) * width
            yield piece, lambda piece, size=size: self.file([piece], size=size)  # type: ignore[misc]
            left -= self.interval


def _read(data: bytes) -> _Coded | None:
    """Returns the parts of a file; None where they are not the usual ones."""
    meaning: dict[int, bytes] = {}
    tables: dict[tuple[int, int], bytes] = {}
    frame = scan = coded = b""
    interval = 0
    for marker, body, following in _segments(data):
        if marker == _END:
            break
        if marker == _JFIF and body.startswith(b"JFIF\0"):
            meaning[marker] = _segment(marker, b"JFIF\0\1\1\0\0\1\0\1\0\0")
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            meaning[marker] = _segment(marker, b"Adobe\0d\0\0\0\0" + body[11:12])
        elif marker in _APPLICATIONS or marker == _COMMENT:
            continue
        elif scan:
            return None
        elif marker in (_HUFFMAN, _QUANTISATION):
            tables.update(_tables(marker, body))
        elif marker == _INTERVAL and len(body) == 2:
            interval = int.from_bytes(body, "big")
        elif marker in _SEQUENTIAL and not frame and len(body) == 6 + 3 * body[5]:
            frame = _segment(marker, body)
        elif marker == _SCAN and frame and body[0] == frame[9] and len(body) == 4 + 2 * body[0]:
            scan, coded = _segment(marker, body[:-3] + b"\0\x3f\0"), following
        else:
            return None
    else:
        return None
    split = _RESTART.split(coded)
    pieces, restarts = split[::2], [found[0] - 0xD0 for found in split[1::2]]
    if not scan or len(pieces) > _PIECES or restarts != [at % 8 for at in range(len(restarts))]:
        return None
    units, _, width = _units(frame)
    if len(pieces) != (-(-units // interval) if interval else 1) or (len(pieces) > 1 and interval * width > _LONGEST):
        return None
    used = [(_QUANTISATION, number) for number in frame[12::3]]
    for number in scan[6:-3:2]:
        used += [(_HUFFMAN, number >> 4), (_HUFFMAN, 0x10 | number & 15)]
    named = {key: tables[key] for key in used}
    if not all(_is_usual(table) for (marker, _), table in named.items() if marker == _HUFFMAN):
        return None
    head = [*(meaning[each] for each in sorted(meaning)), *(_segment(key[0], table) for key, table in named.items())]
    return _Coded(b"".join(head), frame, scan, interval, pieces)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yields each segment's marker, its body, and the coded data after a scan's; ends where they do not."""
    place = len(_START)
    while (found := _MARKER.match(data, place)) is not None:
        marker = found[1][0]
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        body, coded = data[found.end() + 2 : place], b""
        if marker == _SCAN:
            following = _MARKER.search(data, place)
            end = following.start() if following else len(data)
            place, coded = end, data[place:end]
        yield marker, body, coded


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def _tables(marker: int, body: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yields the tables of a segment, each by its marker and number, a Huffman table's with its class."""
    place = 0
    while place < len(body):
        first = body[place]
        if marker == _HUFFMAN:
            number, length = first, 17 + sum(body[place + 1 : place + 17])
        else:
            number, length = first & 15, 129 if first >> 4 else 65
        yield (marker, number), body[place : place + length]
        place += length


def _is_usual(huffman: bytes) -> bool:
    """Tells whether a Huffman table's symbols are those of sequential coding with 8 bits (F.1.2), none of them twice.

    Codes that no data use need not be symbols at all.
    """
    symbols = huffman[17:]
    if huffman[0] >> 4 == 0:
        right = all(symbol <= 11 for symbol in symbols)
    else:
        right = all(1 <= symbol & 15 <= 10 or symbol in (0x00, 0xF0) for symbol in symbols)
    return right and len(set(symbols)) == len(symbols)


def _units(frame: bytes) -> tuple[int, int, int]:
    """Returns how many units (MCU) a picture has, and the height and width of one in pixels (A.2)."""
    sampling = frame[11::3]
    high, wide = (1, 1) if len(sampling) == 1 else (max(s & 15 for s in sampling), max(s >> 4 for s in sampling))
    height, width = (int.from_bytes(frame[at : at + 2], "big") for at in (5, 7))
    return -(-height // (8 * high)) * -(-width // (8 * wide)), 8 * high, 8 * wide


def _needed(piece: bytes, file: Callable[[bytes], bytes]) -> bytes | None:
    """Returns a piece of data up to the last byte that changes a pixel; None where that is far from its end.

    Decoders take zeros for bits that are missing, so the pixels tell.

    Args:
        piece: The data.
        file: Makes a file of it.
    """
    whole = picture(file(piece), name="image").pixels
    for _ in range(_SURPLUS):
        shorter = piece[:-2] if piece.endswith(b"\xff\0") else piece[:-1]
        if not shorter or not np.array_equal(picture(file(shorter), name="image").pixels, whole):
            return piece
        piece = shorter
    return None


def _turned(orientation: int) -> bytes:
    """Returns an EXIF segment that says the orientation and nothing else."""
    entry = b"\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0])
    return _segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0")
