"""The members of a zip archive, in the order in which they lie in the file."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from medimg.archive.rules import Budget, Counted, Limits, Member, Refused

__all__ = ["MAGIC", "declared_bytes", "members"]

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
"""The first bytes of a zip archive with and without members."""

_MOST_DIRECTORY = 1 << 27  # bytes of the list of members, which zipfile reads into memory ten times as large
_COUNTED_TO = 1 << 16  # members, after which the number at the end begins again at 0
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: by password, strongly, and the names too
_LOCAL = struct.Struct("<4s22xHH")  # of what stands before each content: signature, lengths of its name and extra
_END = struct.Struct("<4s6xHL6x")  # signature, number of members, bytes of their list
_LOCATOR = struct.Struct("<4s4xQ4x")  # of an archive over 4 GB: signature, place of the next
_END_64 = struct.Struct("<4s28xQQ8x")  # as _END, of an archive over 4 GB or 65,534 members


def members(path: Path, limits: Limits, budget: Budget) -> Iterator[Member]:
    """Yields the members of a zip archive.

    Raises:
        Refused: A member is encrypted, no file or folder, or shares its bytes with another (which is how a short file
            becomes petabytes without a nested archive: David Fifield, "A better zip bomb", WOOT 2019).
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        ends = [entry.header_offset for entry in entries[1:]] + [path.stat().st_size]
        if len(entries) > limits.files:
            raise Refused(f"it has more than {limits.files:,} members")
        if not entries:
            raise Refused("it is empty")
        for entry, end in zip(entries, ends, strict=True):
            _check(entry)
            if _data_end(file, entry) > end:
                raise Refused(f"{entry.filename!r} shares its bytes with another member")
            yield Member(entry.filename, entry.is_dir(), lambda: Counted(archive.open(entry), budget))  # noqa: B023


def declared_bytes(path: Path) -> int:
    """Returns the bytes that the members say they have together, which nobody need believe.

    Raises:
        Refused: The list of members is too long to be read.
    """
    with path.open("rb") as file:
        count, length = _list_of_members(file, path.stat().st_size)
        if length > _MOST_DIRECTORY:
            raise Refused(f"the list of its members has {length:,} bytes")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        if (len(entries) - count) % _COUNTED_TO:
            raise Refused(f"it says that it has {count:,} members and lists {len(entries):,}")
        return sum(entry.file_size for entry in entries)


def _check(entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & _ENCRYPTED:
        raise Refused(f"{entry.filename!r} is encrypted")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(f"{entry.filename!r} is neither a file nor a folder")
    if "\0" in entry.orig_filename or "\\" in entry.orig_filename:  # zipfile cuts one name and rewrites the other
        raise Refused(f"{entry.orig_filename!r} leads elsewhere")


def _data_end(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    file.seek(max(0, entry.header_offset))
    signature, name, extra = _LOCAL.unpack(_exactly(file, _LOCAL.size))
    if signature != MAGIC[0]:
        raise Refused(f"{entry.filename!r} is not where the list of members says")
    return entry.header_offset + _LOCAL.size + int(name) + int(extra) + entry.compress_size


def _list_of_members(file: BinaryIO, size: int) -> tuple[int, int]:
    """Returns how many members the end of a zip says there are, and the size of their list as zipfile will have it."""
    file.seek(max(0, size - (1 << 16) - _END.size))
    tail = file.read()
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != MAGIC[1] or tail[-2:] != b"\0\0":
        at = tail.rfind(MAGIC[1])
    if at < 0 or len(tail) - at < _END.size:
        raise Refused("it has no list of members")
    _, count, length = _END.unpack_from(tail, at)
    locator = at - _LOCATOR.size
    if locator >= 0 and tail.startswith(b"PK\x06\x07", locator):
        # Where it says, and just before it: versions of zipfile differ in which they take.
        just_before = size - len(tail) + locator - _END_64.size
        for place in (int(_LOCATOR.unpack_from(tail, locator)[1]), just_before):
            file.seek(min(max(place, 0), size))
            record = file.read(_END_64.size)
            if len(record) == _END_64.size and record.startswith(b"PK\x06\x06"):
                _, count, length_64 = _END_64.unpack(record)
                length = max(length, length_64)
    return int(count), int(length)


def _exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) < length:
        raise Refused("it is cut off")
    return content
