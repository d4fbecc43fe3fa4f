"""A public set on this disk: downloaded, compared with its hashes and unpacked, once."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from medimg.archive import unpack
from medimg.data.public import kaggle
from medimg.data.public.catalogue import PublicSet, RemoteFile
from medimg.download import download, md5_of, sha256_of
from medimg.errors import ArchiveError, DatasetError, DownloadError
from medimg.home import atomic_write, home, locked, storage_errors
from medimg.progress import Event, Report, silent

__all__ = ["acquire"]

_RECORD = ".medimg-download.json"  # hidden, so that readers of folders do not take it for data
_ELSEWHERE = "give another DEST"
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PAGE = (b"<!doctype html", b"<html")
_MOST_BYTES = 1_000_000_000_000  # of a file of which nobody states a length


@dataclass(frozen=True, slots=True)
class _Kept:
    """What became of one file.

    Attributes:
        url: Where it was.
        bytes: Its length.
        sha256: Its hash.
        folder: What it is unpacked to; None: it lies there as it came.
        downloaded: Whether it came from that address; otherwise the user put it there, and it is not ours to remove.
    """

    url: str
    bytes: int
    sha256: str
    folder: str | None
    downloaded: bool


def acquire(chosen: PublicSet, dest: Path, *, accept_changed: bool = False, report: Report = silent) -> None:
    """Brings a public set to a folder; a second call asks nobody.

    What was downloaded before a cut or a kill is not downloaded again. Archives are unpacked, each to a folder of its
    name, and removed. A file without a published hash is compared with what it was at its first download on this
    machine. A file of the set that the user put there is used in place of a download, and stays.

    Args:
        chosen: The set.
        dest: The folder: new, empty, of an earlier call, or with files of the set as they were published.
        accept_changed: Whether a file without a published hash may be another one than at the first download.
        report: Told of progress in megabytes, and once of the licence and what to cite.

    Raises:
        DatasetError: The set needs an agreement or a key; `dest` holds something else; a file has changed.
        DownloadError: A server cannot be reached, or sends something else.
        ArchiveError: An archive is damaged or dangerous.
        StorageError: The disk is full or cannot be written.
    """
    if chosen.host == "manual":
        raise DatasetError(
            f"{chosen.name} is given only to those who sign for it themselves ({chosen.licence}). Ask for it at "
            f"{chosen.page}, download it there, and read it with Dataset.{chosen.reader}"
        )
    dest = dest.expanduser().absolute()
    with storage_errors(dest, elsewhere=_ELSEWHERE), _held(dest):
        kept = _read_record(chosen, dest)
        missing = [file for file in chosen.files if not _is_there(kept.get(file.name), dest, file.name)]
        if missing and not kept:
            report(Event("log", message=f"{chosen.title}\nLicence: {chosen.licence}\nCite: {chosen.citation}"))
        for name, facts in kept.items():
            if _is_unfinished(facts, dest, dest / name):
                _finish(facts, dest / name)
        found = {file.name: _found(chosen, file, dest, kept.get(file.name), accept_changed, report) for file in missing}
        for number, file in enumerate(missing, start=1):
            note = f"{file.name} ({number} of {len(missing)})" if len(missing) > 1 else file.name
            facts = found[file.name] or _fetch(chosen, file, dest / file.name, accept_changed, report, note)
            kept[file.name] = facts
            _write_record(chosen, dest, kept)  # before all else: what it does not name is the user's
            if facts.folder is not None:
                try:
                    unpack(dest / file.name, dest / facts.folder, report=report)
                except ArchiveError as error:
                    del kept[file.name]
                    _write_record(chosen, dest, kept)
                    if not facts.downloaded:
                        raise ArchiveError(f"{error}. Move it away and call again to download it") from error
                    (dest / file.name).unlink()
                    raise ArchiveError(f"{error}. It was removed: call again to download it anew") from error
            _finish(facts, dest / file.name)


def _found(
    chosen: PublicSet, file: RemoteFile, dest: Path, before: _Kept | None, accept_changed: bool, report: Report
) -> _Kept | None:
    """Returns what lies where a file goes, None for nothing; whatever is not the file is an error, and not touched."""
    path, folder = dest / file.name, _folder(file.name)
    if folder is not None and os.path.lexists(dest / folder):
        raise DatasetError(f"{dest / folder} was not made by medimg. Move it away, and call again to unpack {path}")
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():
            raise DatasetError("it is no file")
        if file.bytes is not None and (length := path.stat().st_size) != file.bytes:
            raise DatasetError(f"it has {length:,} bytes instead of {file.bytes:,}")
        sha256 = sha256_of(path)
        if before is not None and before.downloaded and before.sha256 != sha256:
            raise DatasetError("it was changed after its download")
        _check(chosen, file, path, accept_changed, hashed=True)
    except DatasetError as error:
        raise DatasetError(
            f"{path} is not known to be the published file: {error}. Move it away, and call again to download it"
        ) from error
    ours = before is not None and before.downloaded
    if not ours:
        unsure = "" if file.md5 or file.sha256 else ", unchecked, as nobody publishes its hash"
        report(Event("log", message=f"{path} was there: it is used as it is{unsure}, and stays"))
    return _Kept(file.url, path.stat().st_size, sha256, folder, ours)


def _fetch(chosen: PublicSet, file: RemoteFile, path: Path, accept_changed: bool, report: Report, note: str) -> _Kept:
    failed: DownloadError | None = None
    by_hand = f"download {file.name} in a browser, at {file.url}"
    try:
        if chosen.kaggle is not None:
            _fetch_from_kaggle(chosen, chosen.kaggle, file, path, accept_changed, report)
        else:
            by_hand = f"curl -L -o {file.name} {shlex.quote(file.url)}"
            _fetch_from_host(chosen, file, path, accept_changed, report, note)
    except DownloadError as error:
        if chosen.kaggle is None and error.__cause__ is None:
            raise  # the server was reached and sent something else, as it would again
        failed = error
    if failed is not None:  # raised here, so that nothing that Kaggle's package raised is its context
        raise DownloadError(
            f"{failed}\n"
            f"On a machine with internet:  {by_hand}\n"
            f"then put the file here:      {path}\n"
            f"and call again. If it has moved, see {chosen.page}"
        )
    return _Kept(file.url, path.stat().st_size, sha256_of(path), _folder(file.name), downloaded=True)


def _fetch_from_kaggle(
    chosen: PublicSet, reference: str, file: RemoteFile, path: Path, accept_changed: bool, report: Report
) -> None:
    half = path.parent / ".kaggle" / path.name  # Kaggle's package gives a half-finished file its name
    half.parent.mkdir(exist_ok=True)
    try:
        kaggle.fetch(reference, half, report)
        try:
            _check(chosen, file, half, accept_changed, hashed=True)
        except DatasetError:
            half.unlink()
            raise
        half.replace(path)
    finally:
        with suppress(OSError):
            half.parent.rmdir()  # stays where it holds a beginning


def _fetch_from_host(
    chosen: PublicSet, file: RemoteFile, path: Path, accept_changed: bool, report: Report, note: str
) -> None:
    def progress(done: int, total: int | None) -> None:
        megabytes, so_far = math.ceil((total or 0) / 1e6), math.ceil(done / 1e6)
        message = f"{note}, in MB" if total else f"{note}: {so_far:,} MB"
        report(Event("stage", "downloading", min(so_far, megabytes), megabytes, message))

    download(
        file.url, path, md5=file.md5, sha256=file.sha256, size=file.bytes,
        most_bytes=int(2e9 * file.about_gb) + 10_000_000 if file.about_gb else _MOST_BYTES,
        verify=lambda part: _check(chosen, file, part, accept_changed, hashed=False),
        progress=progress, elsewhere=_ELSEWHERE,
    )  # fmt: skip


def _is_unfinished(facts: _Kept, dest: Path, path: Path) -> bool:
    """Tells whether a call was killed between unpacking what it had downloaded and removing it."""
    if facts.folder is None or not facts.downloaded or not (dest / facts.folder).is_dir() or not path.is_file():
        return False
    return sha256_of(path) == facts.sha256


def _finish(facts: _Kept, path: Path) -> None:
    """Remembers the hash of what was downloaded and is whole, and removes the archive, which is unpacked."""
    if facts.downloaded:
        _pin(facts.url, facts.sha256)
        if facts.folder is not None:
            path.unlink(missing_ok=True)


def _check(chosen: PublicSet, file: RemoteFile, path: Path, accept_changed: bool, *, hashed: bool) -> None:
    """Raises what says that a file is not the one that was published, or was there before.

    Args:
        chosen: Its set.
        file: What it should be.
        path: Where it is.
        accept_changed: See `acquire`.
        hashed: Whether to compare it with its published hash too.
    """
    with path.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
    if start.startswith(_PAGE):
        raise DatasetError(
            f"{file.url} sent a page in place of {file.name}. Open {chosen.page} to see what has changed"
        )
    for right, hash_of in ((file.sha256, sha256_of), (file.md5, md5_of)):
        if right is not None:
            if hashed and (found := hash_of(path)) != right:
                raise DatasetError(f"{file.name} has the hash {found} instead of {right}")
            return
    pinned = _pins().get(file.url)
    if pinned is not None and not accept_changed and (found := sha256_of(path)) != pinned["sha256"]:
        raise DatasetError(
            f"{file.name} is another file than at its first download on {pinned['day']}: its SHA-256 is {found} "
            f"instead of {pinned['sha256']}, and its publisher states none. If you know that they changed it: "
            f"medimg download {chosen.name} DEST --accept-changed"
        )


# -- what is remembered ------------------------------------------------------------------------------------------------


def _pins() -> dict[str, dict[str, str]]:
    """Returns the hash at the first download of each address, on this machine."""
    try:
        content = json.loads((home() / "downloads.json").read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DatasetError(f"{home() / 'downloads.json'} is damaged ({error}). Remove it and try again") from error


def _pin(url: str, sha256: str) -> None:
    with locked(home() / "downloads.lock"):
        pins = _pins()
        if pins.get(url, {}).get("sha256") != sha256:
            pins[url] = {"sha256": sha256, "day": time.strftime("%Y-%m-%d", time.gmtime())}
            atomic_write(home() / "downloads.json", json.dumps(pins, indent=1, sort_keys=True))


def _read_record(chosen: PublicSet, dest: Path) -> dict[str, _Kept]:
    """Returns what earlier calls brought to a folder."""
    path = dest / _RECORD
    if not path.exists():
        ours = {file.name for file in chosen.files}
        strange = sorted(entry.name for entry in dest.iterdir() if entry.name not in ours and entry.name[0] != ".")
        if strange:
            raise DatasetError(f"{dest} is not empty (it holds {strange[0]!r}). Give a folder that does not exist")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, kept = content["set"], {name: _Kept(**facts) for name, facts in content["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is damaged. Remove {dest} and download again") from error
    if name != chosen.name:
        raise DatasetError(f"{dest} holds {name}, not {chosen.name}. Give another folder")
    return kept


def _write_record(chosen: PublicSet, dest: Path, kept: dict[str, _Kept]) -> None:
    if not kept:
        (dest / _RECORD).unlink(missing_ok=True)
        return
    content = {
        "set": chosen.name,
        "licence": chosen.licence,
        "citation": chosen.citation,
        "files": {name: asdict(facts) for name, facts in kept.items()},
    }
    atomic_write(dest / _RECORD, json.dumps(content, indent=1, ensure_ascii=False))


def _folder(name: str) -> str | None:
    """Returns what an archive is unpacked to, None for another file."""
    return next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), None)


def _is_there(kept: _Kept | None, dest: Path, name: str) -> bool:
    if kept is None:
        return False
    if kept.folder is not None:
        return (dest / kept.folder).is_dir()
    path = dest / name
    return path.is_file() and path.stat().st_size == kept.bytes


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Makes a folder and lets one process at a time work in it, where the disk has locks.

    After an error nothing that was made here stays empty.
    """
    while True:
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
                continue  # the holder before us removed it
            yield
            return
        except BaseException:
            for each in new:
                with suppress(OSError):
                    each.rmdir()
            raise
        finally:
            os.close(descriptor)
