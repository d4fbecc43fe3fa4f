"""Processes of this machine (Linux), as benchmarks watch them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def processes_of(leader: int) -> list[int]:
    """Returns a process with those that it started, and those that they did, in the order of their numbers."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {leader}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def pss_mb(pid: int) -> float:
    """Returns the proportional set size of a process in MB: what it shares with others counts in part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0  # it has ended
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
