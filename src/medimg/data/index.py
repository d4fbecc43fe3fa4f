"""What is known of every image's pixels: their hash, size and channels, or why it cannot be read.

Reading is the slow part, so what could be read is kept in a small database under the home folder, by path, size and
time of the last change.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medimg.data.decode import Pixels, decode, read
from medimg.errors import ImageRejected
from medimg.home import cores, home, make_folder
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.data.dataset import Sample

__all__ = ["PixelFacts", "digest", "in_parallel", "pixel_facts"]

DECODER = 1  # raised when decode() gives other pixels for the same bytes: old rows are then not believed
EVERY = 1.0  # seconds between two reports; rows are written then too, so a crash loses no more than that
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pixels (
    path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, digest TEXT, height INTEGER, width INTEGER, channels INTEGER
)
"""
_FIND = "SELECT digest, height, width, channels FROM pixels WHERE path = ? AND size = ? AND mtime = ?"
_KEEP = """
INSERT OR REPLACE INTO pixels (path, size, mtime, digest, height, width, channels) VALUES (?, ?, ?, ?, ?, ?, ?)
"""

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = tuple[bytes, int, int]  # path, as the system's bytes since it may be no Unicode; size; mtime in ns


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


def pixel_facts(samples: Sequence[Sample], report: Report) -> Mapping[str, PixelFacts]:
    """Returns the facts of each sample by its id, reading only files that changed since they were last read."""
    cache = home() / "cache" / f"pixels-{DECODER}.sqlite"
    try:
        make_folder(cache.parent)
        return _with_cache(samples, cache, report)
    except (sqlite3.OperationalError, OSError):
        pass  # a full or read-only disk, or a file system without locks
    except sqlite3.DatabaseError:
        for damaged in (cache, cache.with_name(f"{cache.name}-journal")):
            damaged.unlink(missing_ok=True)
        return _with_cache(samples, cache, report)
    # A cache that cannot be kept costs time, not the answer.
    return _with_cache(samples, ":memory:", report)


def digest(pixels: Pixels) -> str:
    """Returns the SHA-256 of an image's shape and pixels."""
    found = hashlib.sha256(f"{pixels.shape}".encode())
    found.update(pixels.data if pixels.flags.c_contiguous else pixels.tobytes())
    return found.hexdigest()


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yields `function(item)` in order, one thread a core, since decoding releases Python's lock.

    Close it (`contextlib.closing`) to drop what has not begun, such as when the disk is full or the user interrupts.
    """
    with ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(function, items)  # which cancels what is left when it is closed


def _with_cache(samples: Sequence[Sample], cache: Path | str, report: Report) -> dict[str, PixelFacts]:
    with closing(sqlite3.connect(cache, timeout=60)) as database:
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(_SCHEMA)
        facts, todo = _find(samples, database)
        if todo:
            report(Event("stage", "reading", 0, len(todo)))
            facts.update(_read_all(todo, database, report))
        return facts


def _find(
    samples: Sequence[Sample], database: sqlite3.Connection
) -> tuple[dict[str, PixelFacts], list[tuple[Sample, Key | None]]]:
    """Returns what the cache knows, and the samples that must be read with the keys to keep them under."""
    facts: dict[str, PixelFacts] = {}
    todo: list[tuple[Sample, Key | None]] = []
    database.execute("BEGIN")  # one lock for all look-ups
    for sample in samples:
        key = _key(sample.path)
        row = None if key is None else database.execute(_FIND, key).fetchone()
        if row is None:
            todo.append((sample, key))
        else:
            facts[sample.id] = PixelFacts(*row)
    database.rollback()
    return facts, todo


def _key(path: Path) -> Key | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None  # gone since the dataset was made: read() says so
    return os.fsencode(os.path.abspath(path)), status.st_size, status.st_mtime_ns  # noqa: PTH100 - links stay


def _read_all(
    todo: Sequence[tuple[Sample, Key | None]], database: sqlite3.Connection, report: Report
) -> dict[str, PixelFacts]:
    facts: dict[str, PixelFacts] = {}
    rows: list[tuple[object, ...]] = []
    last = time.monotonic()
    with closing(in_parallel(_read, (sample.path for sample, _ in todo))) as results:
        for number, ((sample, key), fact) in enumerate(zip(todo, results, strict=True), start=1):
            facts[sample.id] = fact
            # A rejection is not kept: it may lie in permissions or memory, and the file is to be mended.
            if key is not None and fact.rejection is None:
                rows.append((*key, fact.digest, fact.height, fact.width, fact.channels))
            if time.monotonic() - last >= EVERY or number == len(todo):
                with database:
                    database.executemany(_KEEP, rows)
                rows.clear()
                report(Event("stage", "reading", number, len(todo)))
                last = time.monotonic()
    return facts


def _read(path: Path) -> PixelFacts:
    try:
        pixels = decode(read(path), name=str(path))
    except ImageRejected as rejection:
        return PixelFacts("", 0, 0, 0, rejection)
    return PixelFacts(digest(pixels), pixels.shape[0], pixels.shape[1], 1 if pixels.ndim == 2 else 3)
