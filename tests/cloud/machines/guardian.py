"""Ends every process of an emulator when the emulator is gone, however it went: it holds the other end of a pipe.

Started as `python guardian.py MARK`; `sweep` is also what ends a single container.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

__all__ = ["MARK", "sweep"]

MARK = "EMULATOR_CONTAINER"  # the environment variable that every process of a container has


def sweep(mark: str) -> int:
    """Kills the processes whose mark begins so, and returns how many there were."""
    wanted, found = f"\0{MARK}={mark}".encode(), 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in b"\0" + (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
                    found += 1
    return found


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # until the emulator is gone
    for _ in range(50):  # a process may have been about to start another
        if not sweep(sys.argv[1]):
            break
        time.sleep(0.05)
