"""What one benchmark found, as one Markdown table: medimg beside its peer, medians of interleaved rounds, the goal.

measured = interleaved({"medimg": ours, "Keras": theirs}, rounds=5)
row = Row("10 frozen epochs", measured["medimg"], "model.fit", measured["Keras"], unit="s", goal=5)
raise SystemExit(Table("Transfer", "What is compared.", (row,)).print())
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

HEADER = ("work", "medimg", "against", "theirs", "ratio", "goal", "reached")
PACKAGES = ("medimg", "numpy", "pillow", "tensorflow", "keras", "ai-edge-litert", "scikit-learn")
Way = Callable[[], object] | Sequence[str]


def folder_named(text: str) -> Path:
    """Returns the folder that a command line names, or says that there is none."""
    if not (path := Path(text)).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def some(text: str) -> int:
    """Returns a number of images or rounds from a command line, or says that there must be some."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


@dataclass(frozen=True)
class Measured:
    """One figure of several rounds: `values` in the row's unit, `processor_s` the seconds of processor beside them."""

    values: tuple[float, ...]
    processor_s: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    def times(self, factor: float) -> Measured:
        """Returns the same in another unit: seconds `.times(1e3)` are milliseconds."""
        return Measured(tuple(value * factor for value in self.values), self.processor_s)

    def rate(self, count: float) -> Measured:
        """Returns seconds for `count` pieces of work as pieces a second."""
        return Measured(tuple(count / value for value in self.values), self.processor_s)


@dataclass(frozen=True)
class Row:
    """One claim. Without `theirs`, `goal` is a limit in `unit`; with it, the least ratio in medimg's favour.

    Args:
        work: What is done.
        ours: medimg's figure.
        against: The peer, empty where there is none.
        theirs: The peer's figure; None where it was not measured.
        unit: Of both figures, such as "s", "ms", "images/s", "MB".
        goal: None where the row is there to be read only.
        more: Whether more of the unit is better, as for images a second.
    """

    work: str
    ours: Measured | float
    against: str = ""
    theirs: Measured | float | None = None
    unit: str = "s"
    goal: float | None = None
    more: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer; None without one."""
        if self.theirs is None:
            return None
        ours, theirs = middle(self.ours), middle(self.theirs)
        over, under = (ours, theirs) if self.more else (theirs, ours)
        return over / under if under else float("inf")

    @property
    def reached(self) -> bool | None:
        """Whether the goal was reached; None without a goal, or where its peer was not measured."""
        if self.goal is None or (self.against and self.theirs is None):
            return None
        if self.ratio is not None:
            return self.ratio >= self.goal
        return middle(self.ours) >= self.goal if self.more else middle(self.ours) <= self.goal

    def cells(self) -> tuple[str, ...]:
        """Returns the row's cells, one for each name of `HEADER`."""
        if self.goal is None:
            goal = ""
        elif self.against:
            goal = f"≥ {self.goal:g} ×"
        else:
            goal = f"{'≥' if self.more else '≤'} {self.goal:g} {self.unit}".strip()
        theirs = "not measured" if self.against and self.theirs is None else _cell(self.theirs, self.unit)
        ratio = "" if self.ratio is None else f"{number(self.ratio)} ×"
        reached = {True: "yes", False: "**no**", None: ""}[self.reached]
        return self.work, _cell(self.ours, self.unit), self.against, theirs, ratio, goal, reached


@dataclass(frozen=True)
class Table:
    """What one script prints.

    Args:
        title: The heading.
        compared: What is compared with what, on which data, in a few sentences.
        rows: The claims.
        notes: Lines below the table: what was found besides; what was left out begins with "left out: ".
        packages: The peers' distributions, whose versions are named too.
    """

    title: str
    compared: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Returns the table with everything that belongs to it."""
        lines = [HEADER, ("---",) * len(HEADER), *(row.cells() for row in self.rows)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n".join(f"- {note}" for note in (*self.notes, versions(self.packages), machine()))
        return f"## {self.title}\n\n{self.compared}\n\n    {command()}\n\n{table}\n\n{notes}\n"

    def print(self) -> int:
        """Prints it; returns 1 where a goal was not reached, else 0."""
        print(f"\n{self.markdown()}", flush=True)
        return int(any(row.reached is False for row in self.rows))


def interleaved(ways: Mapping[str, Way], rounds: int, *, warm: int = 1) -> dict[str, Measured]:
    """Returns the seconds of each way: a callable, or a command that must end with 0.

    Every round runs all of them once, in an order of its own. The processor's seconds hold those of children that
    have ended.

    Args:
        ways: What to time, by name.
        rounds: How often each is timed.
        warm: How often each runs before that, untimed.
    """
    draw = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for count in range(warm + rounds):
        for name in draw.permutation(list(ways)).tolist():
            took = timed(ways[name])
            if count >= warm:
                found[name].append(took)
    return {
        name: Measured(tuple(wall for wall, _ in took), tuple(used for _, used in took)) for name, took in found.items()
    }


def timed(way: Way) -> tuple[float, float]:
    """Returns the seconds by the clock and of the processor that a callable or a command takes."""
    started, used = time.perf_counter(), processor_s()
    if callable(way):
        way()
    else:
        done = subprocess.run(way, capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
        if done.returncode:
            raise RuntimeError(f"{' '.join(way)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started, processor_s() - used


def processor_s() -> float:
    """Returns the seconds of processor of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def middle(figure: Measured | float) -> float:
    """Returns the median of a figure."""
    return figure.median if isinstance(figure, Measured) else figure


def number(value: float) -> str:
    """Returns a number with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 or not value else f"{value:#.3g}".rstrip(".")


def _cell(figure: Measured | float | None, unit: str) -> str:
    """Returns a figure with its unit, the least and the most of its rounds, and the seconds of processor."""
    if figure is None:
        return ""
    text = f"{number(middle(figure))} {unit}".strip()
    if not isinstance(figure, Measured):
        return text
    more = []
    if len(figure.values) > 1:
        more.append(f"{number(min(figure.values))} to {number(max(figure.values))}")
    if figure.processor_s:
        more.append(f"{number(statistics.median(figure.processor_s))} s of processor")
    return f"{text} ({'; '.join(more)})" if more else text


def command() -> str:
    """Returns the command as typed, with names in the place of this machine's folders."""
    script, root = Path(sys.argv[0]).resolve(), Path(__file__).resolve().parents[1]
    words = ["python", str(script.relative_to(root)) if script.is_relative_to(root) else script.name]
    typed = [part for word in sys.argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for before, word in pairwise(typed):
        given = Path(word).is_absolute() or word.startswith("..")
        words.append((before[2:].upper() if before.startswith("--") else "DATA") if given else word)
    return " ".join(words)


def versions(packages: Sequence[str] = ()) -> str:
    """Returns Python's version and those of the packages that are installed."""
    installed = {found.metadata["Name"].lower(): found.version for found in importlib.metadata.distributions()}
    named = [f"{name} {installed[name.lower()]}" for name in (*PACKAGES, *packages) if name.lower() in installed]
    return ", ".join([f"Python {platform.python_version()}", *named])


def machine() -> str:
    """Returns the processor, its cores that may be used, the memory, and how busy the machine was."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {cores} cores, {memory:.0f} GiB; load {os.getloadavg()[0]:.1f} at the end"
