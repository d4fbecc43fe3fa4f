"""Images that lie in a file with thousands of others, unpacked once into files of their own."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medimg.data.labels import amount
from medimg.errors import StorageError
from medimg.home import atomic_folder, home, make_folder
from medimg.progress import Event, Report

__all__ = ["BLOCK", "Part", "check_room", "image_path", "unpack"]

BLOCK = 1000  # images in a folder: few enough to list at once, enough that a crash loses little
_SMALLEST = 4096  # bytes that a file takes on most disks, however short it is


def image_path(part: str, number: int, suffix: str) -> str:
    """Returns where `unpack` puts an image: its path below the folder.

    Args:
        part: Of the set, such as a split.
        number: Of the image in that part, from 0.
        suffix: Of the file.
    """
    return f"{part}/{number // BLOCK:05d}/{number:08d}{suffix}"


@dataclass(frozen=True)
class Part:
    """A part of a set, such as a split.

    Attributes:
        name: Of its folder.
        total: Number of its images.
        size: Bytes of all of them together as files, about.
        suffix: Of the files.
        read: Called if any is missing: the files' content, in order.
    """

    name: str
    total: int
    size: int
    suffix: str
    read: Callable[[], Generator[bytes]]


def unpack(
    parts: Sequence[Part], kind: str, name: str, content: bytes, *, dest: Path | None, check: Callable[[], None] | None,
    report: Report,
) -> Path:  # fmt: skip
    """Writes images into files, unless they are there; a run that was cut off goes on where it stopped.

    Args:
        parts: What there is to unpack.
        kind: Of the set: the folder in the cache.
        name: What the set's folder begins with.
        content: What tells this set from any other; the set's folder is named by its hash.
        dest: Where the set's folder will lie; None: in the cache under `MEDIMG_HOME`.
        check: Called before anything is written, if any is missing.
        report: Told of progress, and before it of the bytes that are needed.

    Returns:
        The set's folder.

    Raises:
        StorageError: The disk has too little room; finished blocks are kept.
    """
    parent = home() / "cache" / kind if dest is None else dest.expanduser().absolute()
    folder = parent / f"{name}{hashlib.sha256(content).hexdigest()[:16]}"
    count = sum(min(BLOCK, part.total - start) for part in parts for start in _missing(folder, part))
    if count:
        mean = sum(part.size for part in parts) // sum(part.total for part in parts)
        size = check_room(parent, count, mean)
        message = f"unpacking {amount(count, 'image')} once, about {size / 1e6:,.0f} MB, into {folder}"
        report(Event("log", message=message))
        if check is not None:
            check()
    for part in parts:
        _unpack(folder, part, report)
    return folder


def _missing(folder: Path, part: Part) -> list[int]:
    """Returns the numbers of the first images of those blocks of a part that are not unpacked."""
    blocks = range(0, part.total, BLOCK)
    return [start for start in blocks if not (folder / image_path(part.name, start, "")).parent.is_dir()]


def check_room(folder: Path, images: int, size: int) -> int:
    """Returns how many bytes images take at most as files.

    Args:
        folder: Where they will lie.
        images: How many.
        size: Bytes of each.

    Raises:
        StorageError: The disk has not as many left.
    """
    needed = images * -(-size // _SMALLEST) * _SMALLEST
    make_folder(folder)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{images:,} images take up to {needed / 1e9:,.1f} GB as files, and {folder} has {free / 1e9:,.1f} GB. "
            "Free some space, or name a folder on a larger disk: dest=…"
        )
    return needed


def _unpack(folder: Path, part: Part, report: Report) -> None:
    missing = _missing(folder, part)
    if not missing:
        return
    with closing(part.read()) as images:
        for start in range(0, missing[-1] + 1, BLOCK):
            block: Iterator[bytes] = islice(images, min(BLOCK, part.total - start))
            if start not in missing:
                for _ in block:
                    pass  # what is before the missing ones must be read past
                continue
            with atomic_folder((folder / image_path(part.name, start, part.suffix)).parent) as temporary:
                for number, content in enumerate(block, start=start):
                    (temporary / Path(image_path(part.name, number, part.suffix)).name).write_bytes(content)
            report(Event("stage", "unpacking", min(start + BLOCK, part.total), part.total, message=part.name))
