"""Images that lie in a file with thousands of others, unpacked once into files of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from medimg.errors import StorageError
from medimg.home import atomic_folder, make_folder
from medimg.progress import Event, Report

__all__ = ["BLOCK", "check_room", "image_path", "missing_blocks", "unpack"]

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


def missing_blocks(folder: Path, part: str, total: int) -> list[int]:
    """Returns the numbers of the first images of those blocks of a part that are not unpacked."""
    return [start for start in range(0, total, BLOCK) if not (folder / image_path(part, start, "")).parent.is_dir()]


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


def unpack(
    folder: Path, part: str, total: int, read: Callable[[], Generator[bytes]], suffix: str, report: Report
) -> None:
    """Writes the images of a part into files; a run that was cut off goes on where it stopped.

    Args:
        folder: Of the whole set, named by its content.
        part: Of the set, such as a split.
        total: Number of images in the part.
        read: Called if any is missing: the files' content, in order.
        suffix: Of the files.
        report: Told of progress.

    Raises:
        StorageError: The disk is full; finished blocks are kept.
    """
    missing = missing_blocks(folder, part, total)
    if not missing:
        return
    with closing(read()) as images:
        for start in range(0, missing[-1] + 1, BLOCK):
            block: Iterator[bytes] = islice(images, min(BLOCK, total - start))
            if start not in missing:
                for _ in block:
                    pass  # what is before the missing ones must be read past
                continue
            with atomic_folder((folder / image_path(part, start, suffix)).parent) as temporary:
                for number, content in enumerate(block, start=start):
                    (temporary / Path(image_path(part, number, suffix)).name).write_bytes(content)
            report(Event("stage", "unpacking", min(start + BLOCK, total), total, message=part))
