"""A JPEG with nothing in it but its picture: what may leave the machine in place of the file."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["bare_jpeg"]

_START, _STOP = b"\xff\xd8", b"\xff\xd9"
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # what is none of it is data, or a restart within
_SCAN, _END = 0xDA, 0xD9
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})  # Huffman, arithmetic, quantisation, restarts
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JFIF, _ADOBE = 0xE0, 0xEE  # both decide what the channels mean


def bare_jpeg(data: bytes, orientation: int = 1) -> bytes | None:
    """Returns a JPEG that decodes to the same pixels at every size, without metadata, thumbnails and what follows it.

    The coded picture is copied as it is: its tables, frame and scans (ISO 10918-1 annex B), of the application's
    segments only the fixed fields of JFIF and Adobe.

    Args:
        data: The file.
        orientation: EXIF's 1 to 8, to be said in the new file.

    Returns:
        The new file; None where this one is not built as JPEGs are.
    """
    parts = [_START, *([_turned(orientation)] if orientation > 1 else [])]
    for marker, part in _segments(data):
        if marker in _TABLES or marker in _FRAMES or marker == _SCAN:
            parts.append(part)
        elif marker == _JFIF and part[4:9] == b"JFIF\0" and len(part) >= 18:
            parts.insert(1, b"\xff\xe0\0\x10" + part[4:16] + b"\0\0")  # no thumbnail
        elif marker == _ADOBE and part[4:9] == b"Adobe" and len(part) >= 16:
            parts.append(b"\xff\xee\0\x0e" + part[4:16])
        elif marker == _END:
            return b"".join([*parts, _STOP])
    return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields each segment's marker and its bytes, those of a scan with the data that follow; ends where they do not."""
    place = len(_START)
    while (found := _MARKER.match(data, place)) is not None:
        start, marker = found.end() - 2, found[1][0]
        if marker == _END:
            yield marker, b""
            return
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        if marker == _SCAN:
            following = _MARKER.search(data, place)
            place = following.start() if following else len(data)
        yield marker, data[start:place]


def _turned(orientation: int) -> bytes:
    """Returns an EXIF segment that says the orientation and nothing else."""
    entry = b"\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0])
    content = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
