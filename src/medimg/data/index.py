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
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from medimg.data.decode import look, read
from medimg.data.formats.pillow import USUAL, is_jpeg, reduction
from medimg.data.formats.rejection import rejection
from medimg.data.pixels import Picture
from medimg.errors import ImageRejected
from medimg.garbage import paused
from medimg.home import cores, home, make_folder
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.data.dataset import Sample
    from medimg.data.kept import KeptPixels

__all__ = [
    "THUMBNAIL",
    "Appearance",
    "PixelFacts",
    "appearance",
    "digest",
    "in_parallel",
    "is_decoded_anew",
    "pixel_facts",
]

# Raised when decode() gives other pixels for the same bytes, or rows hold other facts: old rows are then not believed.
DECODER = 6
DETAIL = 128  # side in pixels at which looks are compared
THUMBNAIL = 32  # side in pixels: enough to know a picture again, too little to read it
BORDER = 0.05  # of each side: where markers, collimators and padding are, and findings are not
AHEAD = 32  # images a core that may be done before they are asked for: none waits long for a large one
EVERY = 1.0  # seconds between two reports; rows are written then too, so a crash loses no more than that
_LEVELS = np.arange(256.0)
_POWERS = np.stack([_LEVELS**0, _LEVELS, _LEVELS**2])
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
    """How an image is stored and how it looks, as far as the audit asks.

    Brightness is of the grey picture, 0 to 255, brought to 128 to 255 pixels a side where it has more.

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


_looks = attrgetter(*(field.name for field in fields(Appearance)))


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """What is known of one image.

    Attributes:
        digest: SHA-256 of size and pixels, so that metadata and lossless compression do not matter. Of a JPEG of 896
            pixels and more a side, of the pixels that all packs of up to 224 are made of: decoded at 1/2, 1/4 or 1/8.
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


def pixel_facts(samples: Sequence[Sample], report: Report, kept: KeptPixels | None = None) -> Mapping[str, PixelFacts]:
    """Returns the facts of each sample by its id, reading only files that changed since they were last read.

    Args:
        samples: What to read.
        report: Told of progress.
        kept: Given the pixels of what is read, where they are those of a pack of its size.
    """
    cache = home() / "cache" / f"pixels-{DECODER}.sqlite"
    try:
        make_folder(cache.parent)
        return _with_cache(samples, cache, report, kept)
    except (sqlite3.OperationalError, OSError):
        pass  # a full or read-only disk, or a file system without locks
    except sqlite3.DatabaseError:
        for damaged in (cache, cache.with_name(f"{cache.name}-journal")):
            damaged.unlink(missing_ok=True)
        return _with_cache(samples, cache, report, kept)
    # A cache that cannot be kept costs time, not the answer.
    return _with_cache(samples, ":memory:", report, kept)


def digest(picture: Picture) -> str:
    """Returns the SHA-256 of an image's height and width, and of the pixels that were decoded of it."""
    found = hashlib.sha256(f"{tuple(picture.size)} {picture.shape}".encode())
    for piece in picture.pieces():
        found.update(piece)
    return found.hexdigest()


def is_decoded_anew(fact: PixelFacts, size: int) -> bool:
    """Tells whether a pack of a size is made of other pixels of the file than those that the facts are of."""
    usual, wanted = (reduction(fact.height, fact.width, side) for side in (USUAL, size))
    return fact.jpeg and usual != wanted


def appearance(picture: Picture) -> Appearance:
    """Returns how an image looks."""
    grey = picture.image if len(picture.shape) == 2 else picture.image.convert("L")
    # What is finer costs most of the time, and is where a JPEG and a PNG of one film differ.
    grey = grey.reduce(max(1, min(grey.size) // DETAIL))
    columns, rows = (max(1, round(BORDER * side)) for side in grey.size)
    inner = grey.crop((columns, rows, max(columns, grey.width - columns), max(rows, grey.height - rows)))
    counts = np.array([grey.histogram(), inner.histogram()], np.float64)
    counts[1] = counts[0] - counts[1]
    number, total, squares = _POWERS @ counts.T  # exact: whole numbers below 2**53
    means = total / number
    spreads = np.sqrt(np.maximum(squares / number - means**2, 0))
    low, high = np.searchsorted(np.cumsum(counts[0]), [0.01 * number[0], 0.99 * number[0]])
    square = grey.resize((DETAIL, DETAIL), Image.Resampling.BOX)
    return Appearance(
        picture.stored.mode,
        picture.stored.bits,
        picture.stored.orientation,
        float(means[0]),
        float(spreads[0]),
        float(low),
        float(high),
        float(means[1]),
        float(spreads[1]),
        _stretch(np.asarray(square, np.float32)),
        square.reduce(DETAIL // THUMBNAIL).tobytes(),
    )


def _stretch(square: npt.NDArray[np.float32]) -> float:
    """Returns the logarithm of the root mean square of horizontal differences over that of vertical ones.

    At one size for all, since detail depends on it; 1 is added to both, so that a blank picture has 0.
    """
    across, down = (square[:, 1:] - square[:, :-1]).ravel(), (square[1:] - square[:-1]).ravel()
    return 0.5 * math.log((float(across @ across) / across.size + 1) / (float(down @ down) / down.size + 1))


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yields `function(item)` in order, one thread a core, since decoding releases Python's lock.

    Close it (`contextlib.closing`) to drop what has not begun, such as when the disk is full or the user interrupts.
    """
    ahead = AHEAD * cores()
    with ThreadPoolExecutor(cores()) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def _with_cache(
    samples: Sequence[Sample], cache: Path | str, report: Report, kept: KeptPixels | None
) -> dict[str, PixelFacts]:
    with closing(sqlite3.connect(cache, timeout=60)) as database:
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(_SCHEMA)
        facts, todo = _find(samples, database)
        if todo:
            report(Event("stage", "reading", 0, len(todo)))
            facts.update(_read_all(todo, database, report, kept))
        return facts


@paused()
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
    todo: Sequence[tuple[Sample, Key | None]],
    database: sqlite3.Connection,
    report: Report,
    kept: KeptPixels | None,
) -> dict[str, PixelFacts]:
    facts: dict[str, PixelFacts] = {}
    rows: list[tuple[object, ...]] = []
    last = time.monotonic()
    with closing(in_parallel(lambda pair: _read(pair[0], kept), todo)) as results:
        for number, ((sample, key), fact) in enumerate(zip(todo, results, strict=True), start=1):
            if (looks := fact.appearance) is not None:
                # Copied by this thread: what lasts among all that the others free would hold ten times its memory.
                own = replace(looks, thumbnail=bytes(memoryview(looks.thumbnail)))
                fact = replace(fact, appearance=own)
            facts[sample.id] = fact
            # A rejection is not kept: it may lie in permissions or memory, and the file is to be mended.
            if key is not None and fact.appearance is not None:
                size = (fact.height, fact.width, fact.channels)
                rows.append((*key, fact.digest, *size, fact.content, fact.jpeg, *_looks(fact.appearance)))
            if time.monotonic() - last >= EVERY or number == len(todo):
                with database:
                    database.executemany(_KEEP, rows)
                rows.clear()
                report(Event("stage", "reading", number, len(todo)))
                last = time.monotonic()
    return facts


def _read(sample: Sample, kept: KeptPixels | None) -> PixelFacts:
    name = str(sample.path)
    try:
        data = read(sample.path)
        picture = look(data, name=name, size=(USUAL, USUAL))
        looks = appearance(picture)
    except ImageRejected as error:
        return PixelFacts("", 0, 0, 0, error)
    except MemoryError as error:
        return PixelFacts("", 0, 0, 0, rejection(error, name))
    fact = PixelFacts(
        digest(picture), *picture.size, 1 if len(picture.shape) == 2 else 3,
        appearance=looks, content=hashlib.sha256(data).hexdigest(), jpeg=is_jpeg(data),
    )  # fmt: skip
    if kept is not None and not is_decoded_anew(fact, kept.size):
        kept.keep(sample.id, picture.resized((kept.size, kept.size)))
    return fact
