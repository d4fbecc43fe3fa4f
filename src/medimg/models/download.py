"""One file over HTTP, resumed where it was cut and put in place only when it is whole and right."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO

from medimg.errors import StorageError, WeightsError

__all__ = ["Progress", "download", "md5_of"]

Progress = Callable[[int, int | None], None]
"""Called with bytes so far and bytes in all (None: the server does not say)."""

_ATTEMPTS = 4
_CHUNK = 1 << 18


def download(
    url: str,
    path: Path,
    *,
    md5: str | None,
    verify: Callable[[Path], None],
    progress: Progress | None,
    timeout_s: float,
    pause_s: float = 1.0,
) -> None:
    """Fetches `url` to `path`, which appears whole or not at all.

    What arrived before a cut stays in a hidden file beside `path`, and the next attempt or the next call goes on
    from there. Of several processes that ask for the same file one fetches it and the others wait.

    Args:
        url: An http or https address.
        path: Where the file goes; its folder is made.
        md5: The published hash; None: that of the server's `x-goog-hash` header, if it sends one.
        verify: Raises WeightsError if the content is wrong.
        progress: Called about every 256 KB.
        timeout_s: Longest silence of the server.
        pause_s: Wait before the second attempt; doubles with each.

    Raises:
        WeightsError: The content is wrong; nothing is left of it.
        OSError: The server cannot be reached or keeps cutting the connection.
        StorageError: The folder cannot be written.
    """
    with _partial(path) as part:
        if part is None:  # another process fetched it while we waited
            return
        for attempt in range(_ATTEMPTS):
            try:
                hash_sent = _fetch(url, part, progress, timeout_s)
                break
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or attempt + 1 == _ATTEMPTS:
                    raise
                part.truncate(0)
            except (ConnectionError, TimeoutError, HTTPException) as error:
                if attempt + 1 == _ATTEMPTS:
                    raise ConnectionError(f"the connection broke {_ATTEMPTS} times ({error})") from error
                time.sleep(pause_s * 2**attempt)
        temporary = Path(part.name)
        try:
            wanted = md5 or hash_sent
            if wanted and (found := md5_of(temporary)) != wanted:
                raise WeightsError(
                    f"MD5 {found} instead of {wanted}. Try again; if it stays so, a proxy on the way changes downloads"
                )
            verify(temporary)
        except WeightsError as error:
            temporary.unlink()
            raise WeightsError(f"{url} did not send what was asked for, nothing of it was kept: {error}") from error
        temporary.replace(path)


def md5_of(path: Path) -> str:
    """Returns a file's MD5 in hexadecimal, the hash that Keras publishes: it finds damage, not forgery."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch(url: str, part: IO[bytes], progress: Progress | None, timeout_s: float) -> str | None:
    """Appends the rest of `url` to a file; returns the MD5 that the server states."""
    done = part.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={done}-"} if done else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  the address is Keras' own or the caller's
    with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            done = 0
            part.truncate(0)
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        while chunk := response.read(_CHUNK):
            try:
                part.write(chunk)
                part.flush()
            except OSError as error:
                raise _unwritable(Path(part.name), error) from error
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        if total is not None and done < total:
            raise ConnectionError(f"{done:,} of {total:,} bytes arrived")
        return _stated_md5(response.headers.get_all("x-goog-hash") or [])


def _stated_md5(headers: list[str]) -> str | None:
    for entry in ",".join(headers).split(","):
        kind, _, value = entry.strip().partition("=")
        if kind == "md5":
            return base64.b64decode(value).hex()
    return None


@contextmanager
def _partial(path: Path) -> Iterator[IO[bytes] | None]:
    """Yields the half-finished file, locked; None if `path` came into being while another process held the lock."""
    temporary = path.with_name(f".{path.name}.part")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("ab")
        except OSError as error:
            raise _unwritable(temporary, error) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():
                yield None
                return
            # The holder before us may have removed the file that we opened: then the lock is on nothing.
            if temporary.exists() and os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                yield file
                return


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write {path} ({error.strerror}). Free some space, or set KERAS_HOME to a folder you may write to"
    )
