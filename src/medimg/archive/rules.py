"""What an archive may hold, whatever its kind: names that stay inside, each one once, and so many files and bytes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

__all__ = [
    "DATA",
    "RESULT",
    "Budget",
    "Counted",
    "Limits",
    "Member",
    "Place",
    "Readable",
    "Refused",
    "Tree",
    "leads_elsewhere",
]

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may hold.

    Attributes:
        files: Members, folders included.
        bytes: What it may become.
        ratio: Of unpacked to packed bytes; weights and pictures reach 2, text 20.
        always: Bytes that are allowed whatever the ratio: a short file of zeros is no attack.
    """

    files: int
    bytes: int
    ratio: int = 200
    always: int = 100_000_000


RESULT = Limits(files=10_000, bytes=20_000_000_000)
"""What the result of a job can have."""

DATA = Limits(files=2_000_000, bytes=1_000_000_000_000)
"""What a data set can have."""


class Readable(Protocol):
    """A file that is read from the beginning to the end."""

    def read(self, length: int = -1, /) -> bytes:
        """Returns the next bytes, b"" at the end."""
        ...


class Refused(Exception):  # noqa: N818 - it is a word of a sentence
    """Why an archive is not unpacked."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file or folder of an archive.

    Attributes:
        name: As the archive has it.
        folder: Whether it is a folder.
        open: Gives its content; called once, before the next member is asked for.
    """

    name: str
    folder: bool
    open: Callable[[], Readable]


class Budget:
    """Counts what an archive becomes; more than it may be refuses it.

    Args:
        limits: What is allowed.
        packed: Bytes of the archive.
    """

    def __init__(self, limits: Limits, packed: int) -> None:
        self._packed = packed
        self._most = min(limits.bytes, max(limits.always, limits.ratio * packed))
        self._spent = 0

    def spend(self, count: int) -> None:
        """Counts bytes."""
        self._spent += count
        if self._spent > self._most:
            self._refuse(f"{self._spent:,} bytes or more")

    def expect(self, total: int) -> None:
        """Compares what an archive says that it becomes, before it is begun."""
        if total > self._most:
            self._refuse(f"{total:,} bytes")

    def _refuse(self, size: str) -> None:
        raise Refused(
            f"it becomes too large: {size}, and an archive of {self._packed:,} bytes may become {self._most:,} bytes"
        )


class Counted:
    """A file of which no more is read than a budget allows.

    Args:
        file: What is read.
        budget: Told of every byte.
    """

    def __init__(self, file: Readable, budget: Budget) -> None:
        self._file, self._budget = file, budget

    def read(self, length: int = -1, /) -> bytes:
        """Returns the next bytes, b"" at the end."""
        content = self._file.read(length)
        self._budget.spend(len(content))
        return content


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member goes.

    Attributes:
        path: The file or folder.
        again: Whether a member before it went there: its content must be the same, and is kept once.
    """

    path: Path
    again: bool


class Tree:
    """The places of an archive's members below a folder.

    Names that some disk takes for one (they differ in case, or in how an accent is stored) are one name here too, so
    that an archive gives the same files on every machine or none.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._files: dict[str, Path | None] = {}
        self._folders: set[str] = set()
        self.made: set[Path] = set()

    def place(self, name: str, folder: bool, below: tuple[str, ...]) -> Place | None:
        """Returns where a member goes; None: it is not below the folder of the archive that is wanted."""
        parts = PurePosixPath(name).parts
        if leads_elsewhere(name) or (not folder and not parts):
            raise Refused(f"{name!r} leads elsewhere")
        wanted = parts[: len(below)] == below and len(parts) > len(below)
        path = self._target.joinpath(*parts[len(below) :]) if wanted else None
        if (before := self._claim(parts, name, folder, path)) is not None:
            return Place(before, again=True)
        if path is None:
            return None
        if not (top := self._target / parts[len(below)]).exists():
            self.made.add(top)
        return Place(path, again=False)

    def _claim(self, parts: tuple[str, ...], name: str, folder: bool, path: Path | None) -> Path | None:
        """Takes a name; returns where a file of the same name went before."""
        keys = [unicodedata.normalize("NFC", part).casefold() for part in parts]
        whole = ["/".join(keys[:end]) for end in range(1, len(keys) + 1)]
        above = whole if folder else whole[:-1]
        if not self._files.keys().isdisjoint(above) or (not folder and whole[-1] in self._folders):
            raise Refused(f"{name!r} is in it twice, as a file and as a folder")
        if not folder and whole[-1] in self._files:
            if (before := self._files[whole[-1]]) is None:
                raise Refused(f"{name!r} is in it twice")
            return before
        self._folders.update(above)
        if not folder:
            self._files[whole[-1]] = path
        return None


def leads_elsewhere(name: str) -> bool:
    """Tells whether what has this name would be written outside of the folder that it is put into, on any system."""
    parts = PurePosixPath(name).parts
    return name.startswith("/") or ".." in parts or bool(set(name) & {"\\", "\0"}) or bool(_DRIVE.match(name))
