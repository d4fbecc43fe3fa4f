"""Pixels that reading the images has at hand, kept until a pack is made of them: so that no file is decoded twice."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import BinaryIO

import numpy as np

from medimg.data.pixels import Pixels
from medimg.errors import StorageError
from medimg.home import home, make_folder

__all__ = ["KeptPixels"]

MOST_IN_MEMORY = 256_000_000  # bytes: 5,000 grey images of 224 pixels
_PAGE = 4096
_ROOM = 3  # times what may be kept that must be free: the pack itself is still to be written


class KeptPixels(AbstractContextManager["KeptPixels"]):
    """Pixels at one size: some in memory, and what is more in a file without a name under the home folder.

    The system removes the file when the block or the process ends, however it ends. Where the disk has no room no more
    is kept, and a pack decodes those files again. Safe to use from several threads.

    Args:
        size: Side in pixels.
        images: How many there may be.
    """

    def __init__(self, size: int, images: int) -> None:
        self.size = size
        self._images = images
        self._step = -(-3 * size * size // _PAGE) * _PAGE  # whole pages, so that grey leaves holes and not zeros
        self._held: dict[str, Pixels] = {}
        self._left = MOST_IN_MEMORY
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._free = itertools.count()
        self._file: BinaryIO | None = None
        self._full = False
        self._lock = threading.Lock()

    def keep(self, id: str, pixels: Pixels) -> None:
        """Keeps one image's pixels, or does nothing where the disk is full."""
        with self._lock:
            self._left -= pixels.size
            if self._left >= 0:
                self._held[id] = pixels
                return
            if self._file is None and not self._full:
                self._file = self._open()
                self._full = self._file is None
        if self._full or self._file is None:
            return
        place = next(self._free) * self._step
        try:
            written = os.pwrite(self._file.fileno(), np.ascontiguousarray(pixels).data, place)
        except OSError:
            self._full = True
            return
        if written == pixels.size:
            self._places[id] = (place, pixels.shape)

    def _open(self) -> BinaryIO | None:
        folder = home() / "cache"
        try:
            make_folder(folder)
            if shutil.disk_usage(folder).free < _ROOM * self._images * self._step:
                return None
            return tempfile.TemporaryFile(dir=folder)
        except (OSError, StorageError):
            return None

    def has(self, id: str, size: int) -> bool:
        """Tells whether an image's pixels at a size are here."""
        return size == self.size and (id in self._held or id in self._places)

    def take(self, id: str) -> Pixels:
        """Returns the pixels of an image that is here.

        Raises:
            OSError: The disk does not give them back.
        """
        if id in self._held:
            return self._held[id]
        place, shape = self._places[id]
        pixels = np.empty(shape, np.uint8)
        if self._file is None or os.preadv(self._file.fileno(), [pixels.data], place) != pixels.size:
            raise OSError(f"{pixels.size} bytes at {place} are gone from a temporary file under {home()}")
        return pixels

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.clear()
        if self._file is not None:
            self._file.close()
