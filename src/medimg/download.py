"""One file over HTTP, resumed where it was cut and put in place only when it is whole and right."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any, cast

from medimg.errors import DownloadError, MedimgError, StorageError
from medimg.home import storage_errors

__all__ = ["Progress", "download", "md5_of", "sha256_of"]

Progress = Callable[[int, int | None], None]
"""Called with bytes so far and bytes in all (None: the server does not say)."""

_ATTEMPTS = 4
_CHUNK = 1 << 18
_AGAIN = {429, 500, 502, 503, 504}  # answers of a server that may do better in a moment


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a download must be: see `download`."""

    url: str
    md5: str | None
    sha256: str | None
    size: int | None
    most_bytes: int | None
    elsewhere: str


def download(
    url: str,
    path: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    most_bytes: int | None = None,
    verify: Callable[[Path], None] = lambda _: None,
    progress: Progress | None = None,
    elsewhere: str = "name a folder",
    timeout_s: float = 30.0,
    pause_s: float = 1.0,
) -> None:
    """Fetches `url` to `path`, which appears whole or not at all.

    What arrived before a cut stays in a hidden file beside `path`, and the next attempt or the next call goes on
    from there, unless the server says that its file is another one by now. Of several processes that ask for the same
    file one fetches it and the others wait.

    Args:
        url: An https address, or http; a redirection from https to http is refused.
        path: Where the file goes; its folder is made.
        md5: The published hash; where there is none, that of the server's `x-goog-hash` header, if it sends one.
        sha256: The published hash.
        size: The published number of bytes.
        most_bytes: More than this is not the file, whatever the server says.
        verify: Raises a MedimgError if the content is wrong.
        progress: Called as bytes arrive.
        elsewhere: How the user has it written to another folder, for messages.
        timeout_s: Longest silence of the server.
        pause_s: Wait before the second attempt; doubles with each.

    Raises:
        DownloadError: The server cannot be reached or keeps cutting the connection; or the content is wrong, and
            nothing is left of it.
        StorageError: The disk is too small or cannot be written.
    """
    wanted = _Wanted(url, md5, sha256, size, most_bytes, elsewhere)
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"{url!r} is no address that begins with https://")
    with _partial(path, elsewhere) as part:
        if part is None:  # another process fetched it while we waited
            return
        temporary, notes = Path(part.name), _notes_of(path)
        for attempt in range(_ATTEMPTS):
            try:
                stated, resumed = _fetch(wanted, part, notes, progress, timeout_s)
                problem = _problem(wanted, temporary, stated, verify)
            except MedimgError as error:
                if not isinstance(error, StorageError):
                    _forget(temporary, notes)
                raise
            except (OSError, HTTPException) as error:
                _wait_or_give_up(error, url, part, attempt, pause_s)
                continue
            if problem is None:
                break
            if resumed and attempt + 1 < _ATTEMPTS:
                part.truncate(0)  # the beginning may be of an older file
                continue
            _forget(temporary, notes)
            raise DownloadError(f"{url} did not send what was asked for, nothing of it was kept: {problem}")
        with storage_errors(path, elsewhere=elsewhere):
            temporary.replace(path)
            notes.unlink(missing_ok=True)


def md5_of(path: Path) -> str:
    """Returns a file's MD5 in hexadecimal, the hash that many publishers state: it finds damage, not forgery."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def sha256_of(path: Path) -> str:
    """Returns a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(
    wanted: _Wanted, part: IO[bytes], notes: Path, progress: Progress | None, timeout_s: float
) -> tuple[str | None, bool]:
    """Appends the rest of a file; returns the MD5 that the server states, and whether it went on from a part."""
    done = there = part.seek(0, os.SEEK_END)
    identity = _noted(notes, wanted.url)
    if identity is None and not (wanted.md5 or wanted.sha256):
        done = 0  # nothing would tell whether the beginning is of the same file
    headers = {"User-Agent": "medimg"}  # some hosts refuse the name that Python gives itself
    if done:
        headers["Range"] = f"bytes={done}-"
    if done and identity:
        headers["If-Range"] = identity
    request = urllib.request.Request(wanted.url, headers=headers)  # noqa: S310 - `download` checked the scheme
    with _opener().open(request, timeout=timeout_s) as response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT and _first_byte(response) == done > 0
        if not resumed:
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                part.truncate(0)
                raise ConnectionError("the server sent another part than was asked for")
            done = 0
            if there:
                part.truncate(0)
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else None
        _check_size(wanted, total or 0, exactly=total is not None)
        _check_space(wanted, Path(part.name), (total or 0) - done)
        with storage_errors(Path(part.name), elsewhere=wanted.elsewhere):
            _note(notes, wanted.url, response)
        while chunk := response.read1(_CHUNK):  # what has come, so that a silence loses nothing
            with storage_errors(Path(part.name), elsewhere=wanted.elsewhere):
                _write(part, chunk)
            done += len(chunk)
            _check_size(wanted, done)
            if progress is not None:
                progress(done, total)
        if total is not None and done < total:
            raise ConnectionError(f"{done:,} of {total:,} bytes arrived")
        return _stated_md5(response.headers.get_all("x-goog-hash") or []), resumed


def _write(part: IO[bytes], content: bytes) -> None:
    """Writes to an unbuffered file, which may take less than it is given just before the disk is full."""
    left = memoryview(content)
    while left:
        left = left[part.write(left) :]


def _check_size(wanted: _Wanted, found: int, *, exactly: bool = False) -> None:
    if exactly and wanted.size is not None and found != wanted.size:
        raise DownloadError(f"{wanted.url} has {found:,} bytes instead of {wanted.size:,}: the file has changed, or a "
                            "page was sent in its place. Nothing of it was kept")  # fmt: skip
    most = wanted.size if wanted.size is not None else wanted.most_bytes
    if most is not None and found > most:
        raise DownloadError(f"{wanted.url} sends more than the {most:,} bytes that it can have; nothing of it was kept")


def _check_space(wanted: _Wanted, part: Path, missing: int) -> None:
    if missing > (free := shutil.disk_usage(part.parent).free):
        raise StorageError(
            f"{wanted.url} needs {missing / 1e9:,.1f} GB more and {part.parent} has {free / 1e9:,.1f} GB free. Free "
            f"some space, or {wanted.elsewhere} on a larger disk; what has arrived is kept"
        )


def _problem(wanted: _Wanted, part: Path, stated: str | None, verify: Callable[[Path], None]) -> str | None:
    """Returns what is wrong with a whole file, None if nothing is."""
    for kind, hash_of, right in (
        ("SHA-256", sha256_of, wanted.sha256),
        ("MD5", md5_of, wanted.md5 or (None if wanted.sha256 else stated)),
    ):
        if right and (found := hash_of(part)) != right:
            return (
                f"{kind} {found} instead of {right}. Try again; if it stays so, the file has changed, or a proxy on "
                "the way changes downloads"
            )
    if wanted.size is not None and (length := part.stat().st_size) != wanted.size:
        return f"{length:,} bytes instead of {wanted.size:,}"
    try:
        verify(part)
    except MedimgError as error:
        return str(error)
    return None


def _wait_or_give_up(error: Exception, url: str, part: IO[bytes], attempt: int, pause_s: float) -> None:
    """Returns when the next attempt may begin, or raises what says why there is none."""
    last = attempt + 1 == _ATTEMPTS
    if isinstance(error, urllib.error.HTTPError):
        code = error.code
        error.close()
        if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and not last:
            part.truncate(0)
            return
        if code not in _AGAIN or last:
            raise DownloadError(f"{url} could not be fetched: {error}") from error
    elif not isinstance(error, ConnectionError | TimeoutError | HTTPException):
        raise DownloadError(f"{url} could not be fetched: {error}") from error
    elif last:
        raise DownloadError(
            f"{url} could not be fetched: the connection broke {_ATTEMPTS} times ({error}). What arrived is kept: "
            "call again to go on from there"
        ) from error
    time.sleep(pause_s * 2**attempt)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, never away from encryption."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https://",) if req.full_url.startswith("https://") else ("https://", "http://")
        if not newurl.startswith(allowed):
            raise DownloadError(
                f"{req.full_url} leads to {newurl.split('?')[0]}, which is not encrypted, and was not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _first_byte(response: HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _stated_md5(headers: list[str]) -> str | None:
    for entry in ",".join(headers).split(","):
        kind, _, value = entry.strip().partition("=")
        if kind == "md5":
            return base64.b64decode(value).hex()
    return None


def _notes_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.json")


def _noted(notes: Path, url: str) -> str | None:
    """Returns what names the server's file that the part at hand is of: its ETag, or its time of last change."""
    try:
        content = cast(Any, json.loads(notes.read_text(encoding="utf-8")))
        return str(content["identity"]) if content["url"] == url else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _note(notes: Path, url: str, response: HTTPResponse) -> None:
    tag = response.headers.get("ETag") or ""
    identity = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    if identity:
        notes.write_text(json.dumps({"url": url, "identity": identity}), encoding="utf-8")
    else:
        notes.unlink(missing_ok=True)


def _forget(temporary: Path, notes: Path) -> None:
    temporary.unlink(missing_ok=True)
    notes.unlink(missing_ok=True)


@contextmanager
def _partial(path: Path, elsewhere: str) -> Iterator[IO[bytes] | None]:
    """Yields the half-finished file, locked; None if `path` came into being while another process held the lock."""
    temporary = path.with_name(f".{path.name}.part")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("ab", buffering=0)  # closing must not write again what a full disk refused
        except OSError as error:
            raise StorageError(
                f"cannot write {temporary} ({error.strerror}). Free some space, or {elsewhere} you may write to"
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():
                yield None
                return
            # The holder before us may have removed the file that we opened: then the lock is on nothing.
            if temporary.exists() and os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                try:
                    yield file
                finally:
                    if temporary.exists() and not temporary.stat().st_size:
                        temporary.unlink()
                return
