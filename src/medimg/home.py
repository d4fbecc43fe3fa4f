"""Where medimg keeps its local state, and how a file is written so that a crash leaves no half of it."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medimg.errors import StorageError

__all__ = ["atomic_folder", "atomic_write", "home", "locked", "salt", "storage_errors"]


def home() -> Path:
    """Returns the folder of jobs, models, packs and tracking: `MEDIMG_HOME`, else the platform's data folder."""
    configured = os.environ.get("MEDIMG_HOME")
    if configured:
        return Path(configured).expanduser().resolve()
    from platformdirs import user_data_path

    return user_data_path("medimg", appauthor=False)


def salt() -> bytes:
    """Returns the secret that turns file names and patients into ids: `MEDIMG_SALT`, else one made once per home.

    Losing it loses the way back from ids to file names, and nothing else.
    """
    configured = os.environ.get("MEDIMG_SALT")
    if configured:
        return configured.encode()
    path = home() / "salt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".salt-{secrets.token_hex(4)}")
        with storage_errors(path):
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_hex(16).encode())
            try:
                os.link(fresh, path)  # fails if another process was first: then its salt is the salt
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
    return path.read_bytes()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into a `StorageError` that says which and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full: could not write {path}. Free some space, remove what medimg no longer needs with "
                "`medimg rm`, or set MEDIMG_HOME to a folder on a larger disk; finished work is kept"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StorageError(
                f"cannot write {path} ({error.strerror}). Set MEDIMG_HOME to a folder you may write to"
            ) from error
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes while the block runs; the system frees it when a process dies."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def atomic_write(path: Path, content: bytes | memoryview | str, *, private: bool = False) -> None:
    """Writes a file whole or not at all; `private` makes it readable by its owner only.

    Raises:
        StorageError: The disk is full or not writable; the old file, if any, is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
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
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
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
