"""What is known of every image's pixels: their hash, size and channels, or why it cannot be read.

Reading is the slow part, so results are kept in a small database under the home folder, by path, size and time of the
last change.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medimg.data.decode import decode, read
from medimg.errors import ImageRejected
from medimg.home import home, storage_errors
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.data.dataset import Sample

__all__ = ["PixelFacts", "pixel_facts", "workers"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pixels (
    path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER,
    digest TEXT, height INTEGER, width INTEGER, channels INTEGER, code TEXT, reason TEXT
)
"""
DECODER = 1  # raised when decode() gives other pixels for the same bytes: old rows are then not believed
_BATCH = 256  # rows written at a time: what a crash in the middle of reading can lose


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """What is known of one image.

    Attributes:
        digest: SHA-256 of shape and decoded pixels, so that metadata and lossless compression do not matter.
        height: Rows.
        width: Columns.
        channels: 1 for grey, also where it is stored as colour; 3 for colour; 0 where it cannot be read.
        rejection: Why it cannot be read, or None.
    """

    digest: str
    height: int
    width: int
    channels: int
    rejection: ImageRejected | None = None


def workers() -> int:
    """Returns how many images to decode at once: one a core, since decoding releases Python's lock."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pixel_facts(samples: Sequence[Sample], report: Report) -> Mapping[str, PixelFacts]:
    """Returns the facts of each sample by its id, reading only files that changed since they were last read."""
    folder = home() / "cache"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(folder / f"pixels-{DECODER}.sqlite", timeout=60)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(_SCHEMA)
            return _facts(samples, database, report)


def _facts(samples: Sequence[Sample], database: sqlite3.Connection, report: Report) -> dict[str, PixelFacts]:
    known = _known(database, [str(sample.path.resolve()) for sample in samples])
    facts: dict[str, PixelFacts] = {}
    todo: list[tuple[Sample, str, int, int]] = []
    for sample in samples:
        path = str(sample.path.resolve())
        try:
            status = sample.path.stat()
            size, mtime = status.st_size, status.st_mtime_ns
        except OSError:
            size, mtime = -1, -1  # gone since the dataset was made: read() says so below
        row = known.get(path)
        if row is not None and row[:2] == (size, mtime):
            facts[sample.id] = _from_row(row, sample.path.name)
        else:
            todo.append((sample, path, size, mtime))
    if not todo:
        return facts

    report(Event("stage", "reading", 0, len(todo)))
    rows: list[tuple[object, ...]] = []
    with ThreadPoolExecutor(workers()) as pool:
        read_all = pool.map(lambda item: _read(item[0].path), todo, chunksize=16)
        for number, ((sample, path, size, mtime), fact) in enumerate(zip(todo, read_all, strict=True), start=1):
            facts[sample.id] = fact
            code, reason = (fact.rejection.code, str(fact.rejection)) if fact.rejection else (None, None)
            if size >= 0:
                rows.append((path, size, mtime, fact.digest, fact.height, fact.width, fact.channels, code, reason))
            if len(rows) >= _BATCH or number == len(todo):
                _write(database, rows)
                rows.clear()
                report(Event("stage", "reading", number, len(todo)))
    return facts


def _known(database: sqlite3.Connection, paths: Iterable[str]) -> dict[str, tuple[object, ...]]:
    wanted = set(paths)
    query = "SELECT path, size, mtime, digest, height, width, channels, code, reason FROM pixels"
    if len(wanted) > 5_000:
        found: Iterator[tuple[object, ...]] = (row for row in database.execute(query) if row[0] in wanted)
    else:
        found = (
            row for path in wanted for row in database.execute(f"{query} WHERE path = ?", (path,))  # noqa: S608
        )
    return {str(row[0]): tuple(row[1:]) for row in found}


def _write(database: sqlite3.Connection, rows: list[tuple[object, ...]]) -> None:
    try:
        with database:
            database.executemany("INSERT OR REPLACE INTO pixels VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    except sqlite3.OperationalError as error:
        # SQLite hides the errno of a full disk in its message.
        if "full" in str(error):
            import errno

            raise OSError(errno.ENOSPC, "the disk is full") from error
        raise


def _from_row(row: tuple[object, ...], name: str) -> PixelFacts:
    _, _, digest, height, width, channels, code, reason = row
    rejection = None
    if code is not None:
        text = str(reason).removeprefix(f"{name}: ").removesuffix(f" [{code}]")
        rejection = ImageRejected(str(code), name, text)
    return PixelFacts(str(digest), int(height), int(width), int(channels), rejection)  # type: ignore[call-overload]


def _read(path: Path) -> PixelFacts:
    try:
        pixels = decode(read(path), name=path.name)
    except ImageRejected as rejection:
        return PixelFacts("", 0, 0, 0, rejection)
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(pixels.data if pixels.flags.c_contiguous else pixels.tobytes())
    channels = 1 if pixels.ndim == 2 else 3
    return PixelFacts(digest.hexdigest(), pixels.shape[0], pixels.shape[1], channels)
