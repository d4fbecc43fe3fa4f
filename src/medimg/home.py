"""Where medimg keeps its local state, and how a file is written so that a crash leaves no half of it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from medimg.errors import StorageError

__all__ = [
    "Use",
    "atomic_copy",
    "atomic_folder",
    "atomic_write",
    "cores",
    "drop",
    "home",
    "locked",
    "make_folder",
    "salt",
    "salted",
    "storage_errors",
]

_SALT_SECONDS = 2.0  # in which another process must have written the salt that it has begun


def home() -> Path:
    """Returns the folder of jobs, models, packs and tracking: `MEDIMG_HOME`, else the platform's data folder."""
    configured = os.environ.get("MEDIMG_HOME")
    if configured:
        return Path(configured).expanduser().resolve()
    from platformdirs import user_data_path

    return user_data_path("medimg", appauthor=False)


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_folder(folder: Path) -> None:
    """Makes a folder with its parents; the home itself is made for its owner alone, since it holds patients' pixels.

    Raises:
        StorageError: The disk is full or not writable.
    """
    root = home()
    with storage_errors(folder):
        if folder.is_relative_to(root) and not root.exists():
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)


def salt() -> bytes:
    """Returns the secret that turns file names and patients into ids: `MEDIMG_SALT`, else one made once per home.

    Losing it loses the way back from ids to file names, and nothing else.

    Raises:
        StorageError: It cannot be kept, or its file is empty.
    """
    configured = os.environ.get("MEDIMG_SALT")
    if configured:
        return configured.encode()
    path = home() / "salt"
    if not path.exists():
        make_folder(path.parent)
        with storage_errors(path):
            _make_salt(path)
    deadline = time.monotonic() + _SALT_SECONDS
    while not (found := path.read_bytes()):
        if time.monotonic() > deadline:
            # An empty key would make ids that anybody can turn back into names.
            raise StorageError(f"{path} is empty: the disk may have been full. Remove it and try again")
        time.sleep(0.01)
    return found


def _make_salt(path: Path) -> None:
    content = secrets.token_hex(16).encode()
    fresh = path.with_name(f".salt-{secrets.token_hex(4)}")
    try:
        _create(fresh, content)
        os.link(fresh, path)  # fails if another process was first: then its salt is the salt
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        with suppress(FileExistsError):  # a file system without hard links
            _create(path, content)
    finally:
        fresh.unlink(missing_ok=True)


def _create(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def salted(kind: str, name: str, key: bytes) -> str:
    """Returns the id that stands for a path or a patient outside this machine: 16 hexadecimal digits of an HMAC."""
    # File names may hold bytes that are no Unicode; Python carries them as surrogates.
    return hmac.new(key, f"{kind}:{name}".encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:16]


@contextmanager
def storage_errors(path: Path, *, elsewhere: str = "set MEDIMG_HOME to a folder") -> Iterator[None]:
    """Turns a full or read-only disk into a `StorageError` that says which and what to do.

    A file elsewhere that may not be read is not what `path` suffers from: that error passes unchanged.

    Args:
        path: What is written.
        elsewhere: How the user has it written to another folder.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full: could not write {path}. Free some space, remove what medimg no longer needs with "
                f"`medimg rm`, or {elsewhere} on a larger disk; finished work is kept"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and _concerns(error, path):
            raise StorageError(
                f"cannot write {path} ({error.strerror}). {elsewhere[0].upper()}{elsewhere[1:]} you may write to"
            ) from error
        raise


def _concerns(error: OSError, path: Path) -> bool:
    """Tells whether an error is about a path, a neighbour (such as a temporary file), or a folder above it."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    here = path.absolute()
    return not names or any(
        here.is_relative_to(named) or named.is_relative_to(here.parent)
        for named in (Path(name).absolute() for name in names[-1:])  # of a copy or a link, the second is the target
    )


@contextmanager
def locked(path: Path, *, parents: bool = True) -> Iterator[None]:
    """Holds a lock between processes while the block runs; the system frees it when a process dies.

    Args:
        path: The lock's file.
        parents: Whether a missing folder is made; else that is a `FileNotFoundError`.
    """
    if parents:
        make_folder(path.parent)
    with storage_errors(path):
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Use:
    """Keeps what lies at a path from being dropped (see `drop`) for as long as this object lives.

    Attributes:
        path: A file or folder that several jobs share.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        with storage_errors(path):
            descriptor = os.open(_use_lock(path), os.O_RDWR | os.O_CREAT, 0o600)
        weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for no more than a removal


def drop(path: Path, *, wanted: Callable[[], bool]) -> bool:
    """Removes a shared file or folder, unless some process holds a `Use` of it; returns whether it did.

    Args:
        path: What to remove.
        wanted: Whether something on record still needs it. Asked when no new `Use` can begin, so that what was put on
            record by a `Use` that has just ended is seen.
    """
    if not path.exists():
        return False
    with ExitStack() as held:
        try:
            file = held.enter_context(_use_lock(path).open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False  # in use; or the disk is full, on which jobs must be deleted all the same
        if wanted():
            return False
        if path.is_dir():
            # Renamed first, so that it is gone at once and whole for everybody else.
            grave = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
            path.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return True  # the lock's empty file stays: one who waits on a removed file would lock nothing


def _use_lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.used")


def atomic_write(path: Path, content: bytes | memoryview | str, *, private: bool = False, parents: bool = True) -> None:
    """Writes a file whole or not at all.

    Args:
        path: The file.
        content: Text is written as UTF-8.
        private: Whether it is readable by its owner only.
        parents: Whether a missing folder is made; else that is a `FileNotFoundError`.

    Raises:
        StorageError: The disk is full or not writable; the old file, if any, is untouched.
    """
    with _replacing(path, private, parents) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def atomic_copy(source: Path, target: Path) -> None:
    """Copies a file of any size whole or not at all.

    Raises:
        StorageError: The disk is full or not writable.
    """
    with source.open("rb") as stream, _replacing(target) as file:
        shutil.copyfileobj(stream, file, 1 << 20)


@contextmanager
def _replacing(path: Path, private: bool = False, parents: bool = True) -> Iterator[BinaryIO]:
    if parents:
        make_folder(path.parent)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with storage_errors(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends without an error.

    If `path` appears meanwhile (another process built the same content), that one stays and ours is dropped.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with storage_errors(path):
        temporary.mkdir()
        try:
            yield temporary
            try:
                temporary.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
