"""The time that an emulator's timers see."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """The real time, and what tests advance it by."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """Returns seconds since the epoch."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Moves the time on."""
        self._ahead += seconds

    def reset(self) -> None:
        """Makes it the real time again."""
        self._ahead = 0.0
