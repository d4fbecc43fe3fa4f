"""What comes back from a cloud as one `tar.gz`, unpacked as if somebody else had written it."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, Self, cast

from medimg.errors import BackendError
from medimg.home import storage_errors

__all__ = ["MOST_BYTES", "MOST_FILES", "Readable", "extract", "leads_elsewhere"]

MOST_FILES = 10_000
MOST_BYTES = 20_000_000_000
MOST_RATIO = 200  # of unpacked to packed bytes; weights and pictures reach 2, text 20
ALWAYS_ALLOWED = 100_000_000  # bytes, whatever the ratio: a short file of zeros is no attack
MOST_HEADER = 1 << 20  # bytes of names and other facts about one member, which tarfile reads into memory


class Readable(Protocol):
    """A file that is read from the beginning to the end."""

    def read(self, length: int = -1, /) -> bytes:
        """Returns the next bytes, b"" at the end."""
        ...


def extract(stream: Readable, target: Path, *, name: str, packed_bytes: int, folder: str = "") -> None:
    """Unpacks a `tar.gz` while it is read; leaves nothing of it behind where it fails.

    Only files and folders are accepted: a link, device, absolute name or `..` anywhere refuses the whole archive, and
    so do more files or bytes than a result can have (CVE-2025-4517: `tarfile`'s own filter was not enough).

    Args:
        stream: The archive.
        target: Folder to unpack into; made where it does not exist.
        name: Of the archive, for messages.
        packed_bytes: Its size.
        folder: Only what is below this folder of the archive, without its name; "": all.

    Raises:
        BackendError: The archive is damaged or refused; it says why.
        StorageError: The disk is full.
    """
    made: set[Path] = set()
    inflated = _Inflated(stream, min(MOST_BYTES, max(ALWAYS_ALLOWED, MOST_RATIO * packed_bytes)))
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        try:
            _unpack(inflated, target, PurePosixPath(folder).parts, made)
            while inflated.read(1 << 20):
                pass  # the checksum is at the end
        except BaseException as error:
            for path in made:
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True)
            if isinstance(error, (_Refused, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)):
                raise BackendError(f"the archive {name} is damaged or no result of a job, and was not used: {error}. "
                                   "Delete the job or model and make it again") from error  # fmt: skip
            raise
    if folder and not made:
        raise BackendError(f"the archive {name} has no folder {folder!r}. Delete the model and make it again")


def leads_elsewhere(name: str) -> bool:
    """Tells whether what has this name would be written outside of the folder that it is put into."""
    return name.startswith("/") or ".." in PurePosixPath(name).parts or bool(set(name) & {"\\", "\0"})


class _Refused(Exception):  # noqa: N818 - it is a word of a sentence
    """Why an archive is not unpacked."""


class _Inflated:
    """What gzip holds, up to a limit."""

    def __init__(self, stream: Readable, limit: int) -> None:
        self._file = gzip.GzipFile(fileobj=cast(BinaryIO, stream), mode="rb")  # it only ever reads
        self._left = limit

    def read(self, length: int = -1, /) -> bytes:
        content: bytes = self._file.read(length)
        self._left -= len(content)
        if self._left < 0:
            raise _Refused("it becomes too large")
        return content


class _Member(tarfile.TarInfo):
    """A member whose description fits into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if not (found.isreg() or found.isdir()) and found.size > MOST_HEADER:
            raise _Refused(f"the description of a member has {found.size:,} bytes")
        return found


def _unpack(inflated: _Inflated, target: Path, below: tuple[str, ...], made: set[Path]) -> None:
    with tarfile.open(fileobj=inflated, mode="r|", tarinfo=_Member) as archive:  # type: ignore[call-overload]
        for count, member in enumerate(archive, start=1):
            parts = _parts(member)
            if count > MOST_FILES:
                raise _Refused(f"it has more than {MOST_FILES:,} members")
            if parts[: len(below)] != below or len(parts) == len(below):
                continue
            path = target.joinpath(*parts[len(below) :])
            if not (top := target / parts[len(below)]).exists():
                made.add(top)
            try:
                (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
                if member.isdir():
                    continue
                with path.open("xb") as file:
                    shutil.copyfileobj(archive.extractfile(member), file, 1 << 20)
            except (FileExistsError, NotADirectoryError):
                raise _Refused(f"{member.name!r} is in it twice") from None


def _parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    """Returns the parts of a member's name, if it may be unpacked at all."""
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise _Refused(f"{member.name!r} is neither a file nor a folder")
    parts = PurePosixPath(member.name).parts
    if leads_elsewhere(member.name) or (member.isreg() and not parts):
        raise _Refused(f"{member.name!r} leads elsewhere")
    return parts
