"""What is known of every image's pixels: their hash, size, kind and looks, or why it cannot be read.

Reading is the slow part, so what could be read is kept in a small database under the home folder, by path, size and
time of the last change.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from medimg.data.decode import inspect, read
from medimg.data.formats.pillow import is_jpeg
from medimg.data.pixels import Pixels, as_mode
from medimg.errors import ImageRejected
from medimg.home import cores, home, make_folder
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.data.dataset import Sample

__all__ = ["THUMBNAIL", "Appearance", "PixelFacts", "appearance", "digest", "in_parallel", "pixel_facts"]

# Raised when decode() gives other pixels for the same bytes, or rows hold other facts: old rows are then not believed.
DECODER = 4
DETAIL = 128  # side in pixels at which directions of detail are compared
THUMBNAIL = 32  # side in pixels: enough to know a picture again, too little to read it
BORDER = 0.05  # of each side: where markers, collimators and padding are, and findings are not
EVERY = 1.0  # seconds between two reports; rows are written then too, so a crash loses no more than that
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pixels (
    path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, digest TEXT, height INTEGER, width INTEGER, channels INTEGER,
    mode TEXT, bits INTEGER, orientation INTEGER, mean REAL, std REAL, low REAL, high REAL, border_mean REAL,
    border_std REAL, stretch REAL, thumbnail BLOB, content TEXT, jpeg INTEGER
)
"""
_FIND = """
SELECT digest, height, width, channels, content, jpeg, mode, bits, orientation, mean, std, low, high, border_mean,
    border_std, stretch, thumbnail FROM pixels WHERE path = ? AND size = ? AND mtime = ?
"""
_KEEP = """
INSERT OR REPLACE INTO pixels (
    path, size, mtime, digest, height, width, channels, content, jpeg, mode, bits, orientation, mean, std, low, high,
    border_mean, border_std, stretch, thumbnail
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = tuple[bytes, int, int]  # path, as the system's bytes since it may be no Unicode; size; mtime in ns


@dataclass(frozen=True, slots=True)
class Appearance:
    """How an image is stored and how it looks, as far as the audit asks. Brightness is of the grey picture, 0 to 255.

    Attributes:
        mode: Pillow's name of how the file holds the pixels, such as "L" or "RGB".
        bits: Of one channel in the file.
        orientation: EXIF's 1 to 8, applied; 0 where what the file says has no meaning.
        mean: Mean brightness.
        std: Standard deviation of brightness.
        low: Brightness that 1% of the pixels do not exceed.
        high: Brightness that 99% of the pixels do not exceed.
        border_mean: Mean of the outer 5% on each side.
        border_std: Standard deviation there.
        stretch: How much narrower than tall its details are: 0 where they are alike in both directions. It tells the
            shape that a picture had before it was squashed to a square.
        thumbnail: The whole picture in grey at 32 × 32 pixels: 1,024 bytes, row by row.
    """

    mode: str
    bits: int
    orientation: int
    mean: float
    std: float
    low: float
    high: float
    border_mean: float
    border_std: float
    stretch: float
    thumbnail: bytes


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """What is known of one image.

    Attributes:
        digest: SHA-256 of shape and decoded pixels, so that metadata and lossless compression do not matter.
        height: Rows.
        width: Columns.
        channels: 1 for grey, also where it is stored as colour; 3 for colour; 0 where it cannot be read.
        rejection: Why it cannot be read, or None.
        appearance: What the audit asks; None where it cannot be read.
        content: SHA-256 of the file, by which it is known not to have changed; "" where it cannot be read.
        jpeg: Whether it is a JPEG, which is decoded no larger than a pack needs it.
    """

    digest: str
    height: int
    width: int
    channels: int
    rejection: ImageRejected | None = None
    appearance: Appearance | None = None
    content: str = ""
    jpeg: bool = False


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


def appearance(pixels: Pixels, *, mode: str, bits: int, orientation: int) -> Appearance:
    """Returns how an image looks.

    Args:
        pixels: uint8, (height, width) or (height, width, 3).
        mode: As in `Appearance`.
        bits: As in `Appearance`.
        orientation: As in `Appearance`.
    """
    grey = as_mode(pixels, 1)[..., 0]
    picture = Image.fromarray(grey)
    counts = np.array(picture.histogram(), np.float64)
    levels = np.arange(256.0)
    mean = float(counts @ levels / grey.size)
    std = float(np.sqrt(counts @ (levels - mean) ** 2 / grey.size))
    low, high = np.searchsorted(np.cumsum(counts), [0.01 * grey.size, 0.99 * grey.size])
    rows, columns = (max(1, round(BORDER * side)) for side in grey.shape)
    inner = grey[rows:-rows]
    border = np.concatenate(
        [part.ravel() for part in (grey[:rows], grey[-rows:], inner[:, :columns], inner[:, -columns:])]
    )
    thumbnail = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes()
    return Appearance(
        mode,
        bits,
        orientation,
        mean,
        std,
        float(low),
        float(high),
        float(border.mean()),
        float(border.std()),
        _stretch(picture),
        thumbnail,
    )


def _stretch(picture: Image.Image) -> float:
    """Returns the logarithm of the root mean square of horizontal differences over that of vertical ones.

    At one size for all, since detail depends on it; 1 is added to both, so that a blank picture has 0.
    """
    square = np.asarray(picture.resize((DETAIL, DETAIL), Image.Resampling.BOX), np.float32)
    across, down = (float((np.diff(square, axis=axis) ** 2).mean()) for axis in (1, 0))
    return 0.5 * math.log((across + 1) / (down + 1))


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
            hashed, height, width, channels, content, jpeg, *looks = row
            facts[sample.id] = PixelFacts(
                hashed, height, width, channels, appearance=Appearance(*looks), content=content, jpeg=bool(jpeg)
            )
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
            if key is not None and fact.appearance is not None:
                size = (fact.height, fact.width, fact.channels)
                rows.append((*key, fact.digest, *size, fact.content, fact.jpeg, *astuple(fact.appearance)))
            if time.monotonic() - last >= EVERY or number == len(todo):
                with database:
                    database.executemany(_KEEP, rows)
                rows.clear()
                report(Event("stage", "reading", number, len(todo)))
                last = time.monotonic()
    return facts


def _read(path: Path) -> PixelFacts:
    try:
        data = read(path)
        pixels, stored = inspect(data, name=str(path))
    except ImageRejected as rejection:
        return PixelFacts("", 0, 0, 0, rejection)
    looks = appearance(pixels, mode=stored.mode, bits=stored.bits, orientation=stored.orientation)
    channels = 1 if pixels.ndim == 2 else 3
    return PixelFacts(
        digest(pixels), pixels.shape[0], pixels.shape[1], channels,
        appearance=looks, content=hashlib.sha256(data).hexdigest(), jpeg=is_jpeg(data),
    )  # fmt: skip
