"""What is set up and what is missing, each with the command that mends it; and that for this machine."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, overload

from medimg import framework
from medimg.errors import ConfigError
from medimg.home import home, make_folder

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Check", "Checks", "local_checks"]

_SIGNS = {True: ("ok", "green"), False: ("fails", "red"), None: ("not known", "yellow")}
_ON_WHITE = {"yellow": "#8a6100"}  # what can be read in a notebook, where a terminal's colour cannot
_NEEDED_GB = 5.0  # of free disk: packs, models and checkpoints
_NEEDED = {"ai-edge-litert": "predicting", "mlflow": "tracking and the registry"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so.

    Attributes:
        name: What was looked at.
        ok: Whether it is so; None: it could not be found out.
        found: What was seen.
        fix: The command that mends it; "" where it is so.
    """

    name: str
    ok: bool | None
    found: str
    fix: str = ""


class Checks(Sequence[Check]):
    """Several checks, which show themselves as a table.

    Args:
        checks: In the order in which they are shown.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = tuple(checks)

    @property
    def ok(self) -> bool:
        """Whether none fails; one that could not be found out does not count."""
        return all(check.ok is not False for check in self._checks)

    @overload
    def __getitem__(self, index: int) -> Check: ...
    @overload
    def __getitem__(self, index: slice) -> Checks: ...
    def __getitem__(self, index: int | slice) -> Check | Checks:
        return Checks(self._checks[index]) if isinstance(index, slice) else self._checks[index]

    def __len__(self) -> int:
        return len(self._checks)

    def __iter__(self) -> Iterator[Check]:
        return iter(self._checks)

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table("check", "", "found", "to mend it")
        for check in self._checks:
            word, colour = _SIGNS[check.ok]
            # Not markup: what was found holds the user's own names. A command must not be cut, to be copied whole.
            found, fix = Text(check.found, overflow="fold"), Text(check.fix, overflow="fold")
            table.add_row(Text(check.name), Text(word, style=colour), found, fix)
        return table

    def __repr__(self) -> str:
        lines = []
        for check in self._checks:
            lines.append(f"{_SIGNS[check.ok][0]:>9}  {check.name}: {check.found}")
            if check.fix:
                lines.append(f"{'':>9}  → {check.fix}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(check.name)}</td>"
            f"<td style='color:{_ON_WHITE.get(colour, colour)}'>{word}</td>"
            f"<td style='text-align:left'>{escape(check.found)}</td>"
            f"<td style='text-align:left'><code>{escape(check.fix)}</code></td></tr>"
            for check in self._checks
            for word, colour in (_SIGNS[check.ok],)
        )
        return f"<table><tr><th>check</th><th></th><th>found</th><th>to mend it</th></tr>{rows}</table>"


def local_checks() -> list[Check]:
    """Returns the checks of the local backend: system, home, disk and packages."""
    return [_system(), _home(), _disk(), _framework(), *(_package(name, what) for name, what in _NEEDED.items())]


def _system() -> Check:
    found = f"{sys.platform}, Python {sys.version.split()[0]}"
    if sys.platform.startswith(("linux", "darwin")):
        return Check("system", True, found)
    return Check("system", False, f"{found}: jobs and endpoints need Linux or macOS", "wsl --install")


def _home() -> Check:
    folder = home()
    try:
        make_folder(folder)
        probe = folder / f".doctor-{uuid.uuid4().hex[:8]}"
        probe.write_bytes(b"medimg")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        return Check("home", False, f"{folder} cannot be written: {reason}", "export MEDIMG_HOME=~/medimg-home")
    return Check("home", True, str(folder))


def _disk() -> Check:
    folder = home()
    # Before the first use the home is not there yet.
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb >= _NEEDED_GB:
        return Check("disk", True, f"{free_gb:.0f} GB free")
    where = os.fspath(folder)
    return Check("disk", False, f"{free_gb:.1f} GB free at {where}, {_NEEDED_GB:.0f} are wanted", "medimg rm --all")


def _framework() -> Check:
    try:
        return _package(framework.chosen(), "training")
    except ConfigError as error:
        return Check("training", False, str(error).split(" Run:")[0], "export KERAS_BACKEND=tensorflow")


def _package(name: str, what: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, f"not installed: no {what}", f"pip install {name}")
