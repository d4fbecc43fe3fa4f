"""A folder that a job writes to and that Blob Storage shows at once: what the mode rw_mount gives.

Files go up as a whole soon after they were closed, one after the other. A folder that is renamed is many files that go
and many that come: whoever looks meanwhile, or comes after a machine that was taken away, finds a part of them.
"""

from __future__ import annotations

import threading
from pathlib import Path

from .azurite import Azurite, Place

__all__ = ["Mount"]

_LOOK_SECONDS = 0.2


class Mount:
    """One mounted folder.

    Args:
        azurite: Blob Storage.
        place: What is mounted.
        folder: Where; it is made, with all that is there already.
    """

    def __init__(self, azurite: Azurite, place: Place, folder: Path) -> None:
        self._azurite = azurite
        self._place = place
        self._folder = folder
        self._ended = threading.Event()
        folder.mkdir(parents=True)
        azurite.download(place, folder)
        self._there = self._look()
        self._before = dict(self._there)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self, *, closed: bool) -> None:
        """Ends it.

        Args:
            closed: Whether the process could close its files; else what it wrote last is lost.
        """
        self._ended.set()
        self._thread.join()
        if closed:
            self._before = self._look()
            self._copy(self._before)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._copy(self._look())

    def _look(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in sorted(self._folder.rglob("*")):
            try:
                if path.is_file():
                    about = path.stat()
                    found[path.relative_to(self._folder).as_posix()] = (about.st_mtime_ns, about.st_size)
            except FileNotFoundError:  # renamed or deleted meanwhile
                continue
        return found

    def _copy(self, found: dict[str, tuple[int, int]]) -> None:
        for name, about in found.items():
            if self._there.get(name) != about and self._before.get(name) == about:  # it is being written no more
                try:
                    content = (self._folder / name).read_bytes()
                except FileNotFoundError:
                    continue
                self._azurite.write(self._place / name, content)
                self._there[name] = about
        for name in self._there.keys() - found.keys():
            self._azurite.delete(self._place / name)
            del self._there[name]
        self._before = found
