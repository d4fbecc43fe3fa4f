"""From an archive to a folder: whole, or with nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import gzip
import lzma
import math
import shutil
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from medimg.archive import tape, zipped
from medimg.archive.rules import DATA, RESULT, Budget, Limits, Member, Readable, Refused, Tree
from medimg.errors import ArchiveError, MedimgError, StorageError
from medimg.home import storage_errors
from medimg.progress import Event, Report, silent

__all__ = ["extract", "is_archive", "unpack"]

_DAMAGED = (
    Refused, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, struct.error, EOFError,
    LookupError, MemoryError, NotImplementedError, OverflowError, RecursionError, ValueError,
)  # fmt: skip
_IMPOSSIBLE_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_ANOTHER_PLACE = "unpack it to a folder"
_CHUNK = 1 << 20


def extract(
    stream: Readable, target: Path, *, name: str, packed_bytes: int, folder: str = "", limits: Limits = RESULT
) -> None:
    """Unpacks a `tar.gz` while it is read; leaves nothing of it behind where it fails.

    Only files and folders are accepted: a link, device, absolute name or `..` anywhere refuses the whole archive, and
    so do more files or bytes than it can have (CVE-2025-4517: `tarfile`'s own filter was not enough).

    Args:
        stream: The archive.
        target: Folder to unpack into; made where it does not exist. What is in it stays.
        name: Of the archive, for messages.
        packed_bytes: Its size.
        folder: Only what is below this folder of the archive, without its name; "": all.
        limits: How much it may hold.

    Raises:
        ArchiveError: The archive is damaged or refused; it says why.
        StorageError: The disk is full.
    """
    budget = Budget(limits, packed_bytes)
    with storage_errors(target), _refusals(name):
        made = _write(tape.members(stream, "gzip", budget), target, limits, below=PurePosixPath(folder).parts)
    if folder and not made:
        raise ArchiveError(f"the archive {name} has no folder {folder!r}")


def is_archive(path: Path) -> bool:
    """Tells whether a file is, by its first bytes, an archive that `unpack` reads."""
    return _kind(path) is not None


def unpack(archive: Path, target: Path, *, limits: Limits = DATA, report: Report = silent) -> None:
    """Unpacks a zip or tar archive to a new folder, which appears when it is whole.

    Args:
        archive: A `.zip`, `.tar`, `.tar.gz`, `.tar.bz2` or `.tar.xz`, whatever its name.
        target: The folder; it must not exist.
        limits: How much the archive may hold.
        report: Told of progress, in megabytes.

    Raises:
        ArchiveError: The archive is damaged or refused, no archive, or `target` exists.
        StorageError: The disk is full or cannot be written.
    """
    archive, target = archive.expanduser().absolute(), target.expanduser().absolute()
    if not archive.is_file():
        raise ArchiveError(f"there is no file {archive}")
    if (kind := _kind(archive)) is None:
        raise ArchiveError(f"{archive} is no zip or tar archive. Unpack it with the program that made it")
    half = target.with_name(f".{target.name}.unpacking")
    with archive.open("rb") as stream, storage_errors(target, elsewhere=_ANOTHER_PLACE), _refusals(str(archive)):
        with suppress(OSError):  # a network's disk may have no locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if target.exists():
            raise ArchiveError(f"{target} exists already. Remove it, or unpack to another folder")
        shutil.rmtree(half, ignore_errors=True)  # of an attempt that was killed
        half.parent.mkdir(parents=True, exist_ok=True)
        budget = Budget(limits, size := archive.stat().st_size)
        try:
            if kind == "zip":
                meter = _Meter(report, archive.name, total := zipped.declared_bytes(archive))
                budget.expect(total)
                _check_space(target, total)
                _write(zipped.members(archive, limits, budget), half, limits, step=meter.add)
            else:
                meter = _Meter(report, archive.name, size)
                _write(tape.members(stream, kind, budget), half, limits, step=lambda _: meter.at(stream.tell()))
            meter.finish()
            half.rename(target)
        finally:
            shutil.rmtree(half, ignore_errors=True)


def _kind(path: Path) -> str | None:
    """Returns "zip", what packs a tar archive ("": nothing does), or None for what is neither."""
    with path.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    if start.startswith(zipped.MAGIC):
        return "zip"
    for magic, packed_by in tape.MAGIC.items():
        if start.startswith(magic):
            return packed_by
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")  # its checksum is right
    except (tarfile.TarError, ValueError):
        return None
    return ""


def _write(
    members: Iterable[Member],
    target: Path,
    limits: Limits,
    *,
    below: tuple[str, ...] = (),
    step: Callable[[int], None] = lambda _: None,
) -> set[Path]:
    """Writes the members to a folder; returns what is new at its top, of which nothing is left after an error."""
    target.mkdir(parents=True, exist_ok=True)
    tree = Tree(target)
    try:
        for count, member in enumerate(members, start=1):
            if count > limits.files:
                raise Refused(f"it has more than {limits.files:,} members")
            place = tree.place(member.name, member.folder, below)
            if place is None:
                continue
            if place.again:
                _compare(member, place.path, step)
                continue
            path = place.path
            try:
                (path if member.folder else path.parent).mkdir(parents=True, exist_ok=True)
                if not member.folder:
                    _copy(member, path, step)
            except (FileExistsError, NotADirectoryError):
                raise Refused(f"{member.name!r} is there already") from None
            except OSError as error:
                if error.errno in _IMPOSSIBLE_NAME:
                    raise Refused(f"no file here can be called {member.name!r}") from None
                raise
    except BaseException:
        for path in tree.made:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        raise
    return tree.made


def _copy(member: Member, path: Path, step: Callable[[int], None]) -> None:
    content = member.open()
    with path.open("xb") as file:
        while chunk := content.read(_CHUNK):
            file.write(chunk)
            step(len(chunk))


def _compare(member: Member, path: Path, step: Callable[[int], None]) -> None:
    """Lets a second member of one name pass where it says the same, as in copies that pack each image twice."""
    content = member.open()
    with path.open("rb") as file:
        same = True
        while same and (chunk := content.read(_CHUNK)):
            same = file.read(len(chunk)) == chunk
            step(len(chunk))
        if not same or file.read(1):
            raise Refused(
                f"{member.name!r} is in it twice (capitals and ways to store an accent do not count), with two "
                "contents. If you trust it, unpack it with your system's own program"
            )


def _check_space(target: Path, wanted: int) -> None:
    if wanted > (free := shutil.disk_usage(target.parent).free):
        raise StorageError(
            f"{target} needs {wanted / 1e9:,.1f} GB and {target.parent} has {free / 1e9:,.1f} GB free. Free some "
            f"space, or {_ANOTHER_PLACE} on a larger disk"
        )


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    try:
        yield
    except MedimgError:
        raise
    except _DAMAGED as error:
        raise ArchiveError(f"the archive {name} is damaged or refused, and was not used: {error}") from error


class _Meter:
    """Turns bytes into progress in megabytes."""

    EVERY = 0.1  # seconds between two reports

    def __init__(self, report: Report, name: str, total: int) -> None:
        self._report, self._name, self._total = report, name, total
        self._done = 0
        self._told = 0.0
        self._said = -1

    def add(self, count: int) -> None:
        self.at(self._done + count)

    def at(self, done: int) -> None:
        self._done = done
        if (now := time.monotonic()) - self._told >= self.EVERY:
            self._told = now
            self._tell(min(done, self._total))

    def finish(self) -> None:
        self._tell(self._total)

    def _tell(self, done: int) -> None:
        total = math.ceil(self._total / 1e6)
        megabytes = min(math.ceil(done / 1e6), total)
        if megabytes != self._said:
            self._said = megabytes
            self._report(Event("stage", "unpacking", megabytes, total, f"{self._name}, in MB"))
