"""Features on disk: the resume points of a run, and what a later run of the same images and backbone starts from.

    PACK/KEY/00001024.f32   features of images 1,024 to 2,047, float32 (n, d), then the SHA-256 of that

The key is a hash of all that decides the values, so nothing here is ever out of date. Whatever cannot be read, or is
not what was written, is computed again; whatever cannot be written costs the next run time, and this one nothing. So
a disk that is nearly full gets no more of them: a checkpoint needs what is left.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from medimg.errors import StorageError
from medimg.home import atomic_write, make_folder

__all__ = ["KeptFeatures", "key_of"]

MOST_BYTES = 10_000_000_000
"""Of all features that are kept in one place; those least recently used go first."""

LEAST_FREE_BYTES = 1_000_000_000
"""What features leave of a disk to checkpoints and models, without which a job fails."""

_DIGEST = hashlib.sha256().digest_size


def key_of(identity: Mapping[str, object]) -> str:
    """Returns the name of features: a hash of what they are of, by what, and how."""
    return hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:24]


class KeptFeatures:
    """A folder of features, safe for several jobs at once: a part is written whole or not at all, and never changed.

    Args:
        root: The folder.
        pack: The pack's name: with a pack that nobody needs any more, its features go.
        warn: Told once, if features cannot be written.
    """

    def __init__(self, root: Path, pack: str, warn: Callable[[str], None]) -> None:
        self._root, self._pack, self._warn = root, pack, warn
        self._used: set[Path] = set()
        self._full = False

    def find(self, key: str, start: int, rows: int, width: int) -> np.ndarray | None:
        """Returns a part, memory-mapped, or None where it is not there or damaged: float32 (rows, width).

        Args:
            key: Of what they are.
            start: First row.
            rows: Number of images.
            width: Number of features.
        """
        file = self._file(key, start)
        values = rows * width
        with suppress(OSError, ValueError):  # ValueError: the file is too short
            content = _mapped(file, 4 * values + _DIGEST)
            if hashlib.sha256(content[:-_DIGEST].data).digest() == content[-_DIGEST:].tobytes():
                return np.asarray(content[:-_DIGEST]).view(np.float32).reshape(rows, width)
        return None

    def keep(self, key: str, start: int, part: np.ndarray) -> np.ndarray:
        """Writes a part and returns it, memory-mapped where it could be written.

        Args:
            key: Of what they are.
            start: First row.
            part: float32 (n, d).
        """
        file = self._file(key, start)
        if not self._full:
            content = np.ascontiguousarray(part).data.cast("B")
            try:
                make_folder(file.parent)
                self._make_room(file.parent)
                atomic_write(file, bytes(content) + hashlib.sha256(content).digest())
            except (StorageError, OSError) as error:
                self._full = True
                self._warn(f"features are not kept: {error}")
        found = self.find(key, start, *part.shape)
        return part if found is None else found

    def tidy(self, most: int | None = None) -> None:
        """Removes what was least recently used, until the rest fits; never what this run uses.

        A job that is reading what goes keeps it in memory, and computes again what it has not opened yet.

        Args:
            most: Bytes that may stay; None: `MOST_BYTES`.
        """
        most = MOST_BYTES if most is None else most
        total = 0
        for folder in sorted(self._root.glob("*/*"), key=_last_used, reverse=True):
            with suppress(OSError):  # another job has just removed it
                total += sum(file.stat().st_size for file in folder.iterdir())
            if total > most and folder not in self._used:
                shutil.rmtree(folder, ignore_errors=True)

    def _make_room(self, folder: Path) -> None:
        """Raises `StorageError` where the disk is nearly full, even without what other runs have kept."""
        if _short(folder):
            self.tidy(most=0)
            if _short(folder):
                raise StorageError(f"the disk of {self._root} has less than {LEAST_FREE_BYTES / 1e9:g} GB left")

    def _file(self, key: str, start: int) -> Path:
        folder = self._root / self._pack / key
        if folder not in self._used:
            self._used.add(folder)
            with suppress(OSError):  # it is not there yet
                os.utime(folder)
        return folder / f"{start:08d}.f32"


def _mapped(file: Path, size: int) -> np.ndarray:
    try:
        return np.memmap(file, np.uint8, "r", shape=(size,))
    except OSError:  # a bucket that is mounted as a folder may not be mapped
        return np.fromfile(file, np.uint8, size)


def _short(folder: Path) -> bool:
    found = shutil.disk_usage(folder)
    return found.total > 0 and found.free < LEAST_FREE_BYTES  # such a mounted bucket may say 0 of both


def _last_used(folder: Path) -> float:
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
