"""The members of a tar archive, plain or packed by gzip, bzip2 or xz, in one pass from its beginning to its end."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, Self, cast

from medimg.archive.rules import Budget, Counted, Member, Readable, Refused

__all__ = ["MAGIC", "members"]

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
"""The first bytes of what packs a tar archive."""

_MOST_HEADER = 1 << 20  # bytes of names and other facts about one member, which tarfile reads into memory
_MOST_DICTIONARY = 1 << 28  # bytes that xz may ask for; `xz -9` takes 65 MB
_CHUNK = 1 << 18


def members(stream: Readable, packed_by: str, budget: Budget) -> Iterator[Member]:
    """Yields the members of a tar archive.

    Args:
        stream: The archive.
        packed_by: "gzip", "bzip2", "xz", or "" for none.
        budget: What it may become, names and padding included.

    Raises:
        Refused: A member is neither a file nor a folder.
    """
    ending = _Ending(stream)
    content = Counted(_inflated(stream, packed_by) if packed_by else ending, budget)
    with tarfile.open(fileobj=content, mode="r|", tarinfo=_Member) as archive:  # type: ignore[call-overload]
        for member in archive:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise Refused(f"{member.name!r} is neither a file nor a folder")
            yield Member(member.name, member.isdir(), lambda: cast(Readable, archive.extractfile(member)))  # noqa: B023
    while content.read(1 << 20):
        pass  # the checksum is at the end
    if not packed_by and ending.last != bytes(tarfile.BLOCKSIZE):
        raise Refused("it is cut off")


def _inflated(stream: Readable, packed_by: str) -> Readable:
    if packed_by == "gzip":
        return gzip.GzipFile(fileobj=cast(BinaryIO, stream), mode="rb")  # it only ever reads
    if packed_by == "bzip2":
        return _Inflated(stream, bz2.BZ2Decompressor)
    return _Inflated(stream, lambda: lzma.LZMADecompressor(memlimit=_MOST_DICTIONARY))


class _Ending:
    """A file whose last block is known; a tar archive ends with empty ones, and has no checksum of its own."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.last = b""

    def read(self, length: int = -1, /) -> bytes:
        content = self._file.read(length)
        self.last = (self.last + content[-tarfile.BLOCKSIZE :])[-tarfile.BLOCKSIZE :]
        return content


class _Decompressor(Protocol):
    """What bz2's and lzma's have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Inflated:
    """What one or several packed streams hold; never more than is asked for is in memory."""

    def __init__(self, stream: Readable, new: Callable[[], _Decompressor]) -> None:
        self._stream, self._new = stream, new
        self._unit = new()

    def read(self, length: int = -1, /) -> bytes:
        while True:
            data = b""
            if self._unit.eof:
                data = self._unit.unused_data.lstrip(b"\0") or self._stream.read(_CHUNK).lstrip(b"\0")
                if not data:
                    return b""
                self._unit = self._new()
            elif self._unit.needs_input and not (data := self._stream.read(_CHUNK)):
                raise EOFError("it is cut off")
            try:
                content = self._unit.decompress(data, length)
            except OSError as error:  # bz2 says so, without a number
                raise Refused(str(error)) from None
            if content:
                return content


class _Member(tarfile.TarInfo):
    """A member whose description fits into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if not (found.isreg() or found.isdir()) and found.size > _MOST_HEADER:
            raise Refused(f"the description of a member has {found.size:,} bytes")
        return found
