"""What a process and its children cost while they run, seen from outside: processor time, and memory that they hold."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medimg.progress import parse

EVERY_S = 0.02


@dataclass(frozen=True)
class Cost:
    """What one step cost: seconds of processor and by the clock, and the most bytes held."""

    processor_s: float
    clock_s: float
    peak: int


def held(pid: int) -> tuple[float, int]:
    """Returns the seconds of processor and the bytes of a process and its children; 0 once they have ended."""
    seconds, size = 0.0, 0
    for one in _tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{one}/status").read_text()
        except OSError:
            continue
        seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # of ended children too
        size += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024
    return seconds, size


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in file.read_text().split():
                yield from _tree(int(child))
    except OSError:
        return


class Watch(threading.Thread):
    """Looks every 20 ms at what a process holds, from its start on.

    Args:
        pid: Returns the process, or None while there is none yet.
    """

    def __init__(self, pid: Callable[[], int | None]) -> None:
        super().__init__(daemon=True)
        self._pid, self._ended = pid, threading.Event()
        self.seen: list[tuple[float, float, int]] = []

    def run(self) -> None:
        """Looks until `end`."""
        while not self._ended.wait(EVERY_S):
            if (pid := self._pid()) is not None:
                seconds, size = held(pid)
                if size:
                    self.seen.append((time.time(), seconds, size))

    def end(self) -> None:
        """Ends looking."""
        self._ended.set()
        self.join()

    def costs(self, lines: Sequence[str]) -> dict[str, Cost]:
        """Returns what each stage cost that the lines of a log name."""
        events = [event for line in lines if (event := parse(line)) and event.stage and event.kind == "stage"]
        times, seconds = [one[0] for one in self.seen], [one[1] for one in self.seen]
        found: dict[str, Cost] = {}
        for event, following in zip(events, [*events[1:], None], strict=True):
            end = times[-1] if following is None else following.time
            first, last = np.interp([event.time, end], times, seconds)
            peak = max((size for at, _, size in self.seen if event.time <= at <= end), default=0)
            before = found.get(event.stage, Cost(0, 0, 0))
            found[event.stage] = Cost(
                before.processor_s + last - first, before.clock_s + end - event.time, max(before.peak, peak)
            )
        return found
