"""`Admission`: how much a server holds at once. What comes beyond it is told when to come again, at once.

A line without an end would answer nobody in time, and bodies that wait in it would fill the memory.
"""

from __future__ import annotations

import random
import time

from medimg.serving.refused import Refused

__all__ = ["Admission"]

_LONGEST_SECONDS = 30
_SMALL = 1 << 20  # bytes of a body: most pictures as JPEG
_FOR_SMALL = 1 / 8  # of all bytes: two large bodies that never end must not keep all others out


class Admission:
    """Counts images and bytes. To be used in one event loop.

    Args:
        images: That may wait or be answered at once.
        max_bytes: Of bodies, whole or on their way.

    Attributes:
        images: That wait or are answered now.
        held_bytes: Of bodies now.
    """

    def __init__(self, *, images: int, max_bytes: int = 128 << 20) -> None:
        self.images = 0
        self.held_bytes = 0
        self._most_images = images
        self._most_bytes = max_bytes
        self._answered = _Rate()
        self._refused = _Rate()

    def check(self) -> None:
        """Says whether another request would find room.

        Raises:
            Refused: It would not: 503.
        """
        if self.images >= self._most_images:
            raise self._full()

    def hold(self, count: int, *, before: int = 0) -> None:
        """Takes more bytes of a body. The last room is kept for small bodies.

        Args:
            count: How many.
            before: Of the same body, that were taken already.

        Raises:
            Refused: There is no room for them: 503.
        """
        room = self._most_bytes if before + count <= _SMALL else self._most_bytes * (1 - _FOR_SMALL)
        if self.held_bytes and self.held_bytes + count > room:
            raise self._full()
        self.held_bytes += count

    def release(self, count: int) -> None:
        """Lets go of the bytes of a body."""
        self.held_bytes -= count

    def enter(self, images: int) -> None:
        """Takes the images of one request.

        Raises:
            Refused: There is no room for them: 503.
        """
        if self.images and self.images + images > self._most_images:
            raise self._full()
        self.images += images

    def leave(self, images: int) -> None:
        """Lets the images of one request go: they have their answers."""
        self.images -= images
        self._answered.count(images)

    def _full(self) -> Refused:
        self._refused.count(1)
        # As long as it takes to answer all who came in the last second, and spread, so that they do not come at once.
        seconds = (self.images + self._refused.per_second) / max(self._answered.per_second, 1.0)
        spread = random.uniform(1.0, 1.0 + 2.0 * seconds)  # noqa: S311 - no secret
        after = min(_LONGEST_SECONDS, round(spread))
        return Refused(
            503,
            f"the endpoint has as many images as it can answer soon. Send this one again in {after} s",
            headers={"Retry-After": str(after)},
        )


class _Rate:
    """How many there were in the last second."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._now = 0
        self._before = 0.0

    def count(self, number: int) -> None:
        self._roll()
        self._now += number

    @property
    def per_second(self) -> float:
        self._roll()
        return max(self._before, float(self._now))

    def _roll(self) -> None:
        passed = time.monotonic() - self._began
        if passed >= 1.0:
            self._before = self._now / passed
            self._now = 0
            self._began += passed
