"""The frame of TFRecord files: a length, its checksum, the data, their checksum; one after another, gzipped or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from medimg.data.pixels import MAX_BYTES
from medimg.data.records.checksum import masked
from medimg.errors import DatasetError

__all__ = ["frame", "read_frames"]

Stream = BinaryIO | gzip.GzipFile

_GZIP = b"\x1f\x8b"
_MOST_RATIO = 100  # of unpacked to packed size; encoded pictures reach 2, and what is made to fill a disk 1,000
_NEVER_A_BOMB = 64_000_000  # bytes
_AGAIN = "Copy or write the file again"


def frame(data: bytes) -> bytes:
    """Returns data as one record of a file."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked(length)), data, struct.pack("<I", masked(data))))


def read_frames(path: Path) -> Generator[tuple[int, bytes]]:
    """Yields the records of a file with their numbers, from 1; both checksums are compared.

    Raises:
        DatasetError: The file is missing, is no TFRecord file, or a record is cut off or damaged; its number is named.
    """
    number = 0
    try:
        with path.open("rb") as packed:
            compressed = packed.read(2) == _GZIP
            packed.seek(0)
            size = path.stat().st_size
            most = max(_MOST_RATIO * size, _NEVER_A_BOMB) if compressed else size
            stream: Stream = gzip.GzipFile(fileobj=packed) if compressed else packed
            while data := _next(stream, path, number + 1, most):
                number += 1
                most -= len(data[0]) + 16
                yield number, data[0]
    except FileNotFoundError:
        raise DatasetError(f"there is no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}, record {number + 1}: cannot be read ({error}). {_AGAIN}") from error


def _next(stream: Stream, path: Path, number: int, most: int) -> tuple[bytes] | None:
    """Returns the next record, alone in a tuple since it may be empty, or None at the end."""
    head = stream.read(12)
    if not head:
        return None
    where = f"{path}, record {number}"
    if len(head) < 12:
        raise DatasetError(f"{where}: the file ends within it. {_AGAIN}")
    length, checksum = struct.unpack("<QI", head)
    if masked(head[:8]) != checksum:
        what = "its length is damaged" if number > 1 else "this is no TFRecord file, or it is damaged at its start"
        raise DatasetError(f"{where}: {what}. {_AGAIN}")
    if length > MAX_BYTES:
        raise DatasetError(f"{where}: it has {length:,} bytes, and at most {MAX_BYTES:,} are read")
    if length + 16 > most:
        raise DatasetError(
            f"{where}: the file ends within it, or unpacks to over {_MOST_RATIO} times its size. {_AGAIN}"
        )
    data = stream.read(length)
    foot = stream.read(4)
    if len(data) < length or len(foot) < 4:
        raise DatasetError(f"{where}: the file ends within it. {_AGAIN}")
    if masked(data) != struct.unpack("<I", foot)[0]:
        raise DatasetError(f"{where}: its checksum is not that of its data. {_AGAIN}")
    return (data,)
