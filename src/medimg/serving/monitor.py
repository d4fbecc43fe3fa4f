"""`Monitor`: what a server knows of the images it was asked lately; the answer of GET /health.

It compares nothing while it answers: images are counted as they come, and the comparison is made when somebody asks, at
most once a second. To be used in one thread. Needs the standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from medimg.inference.monitoring import Reference, Window, unknown
from medimg.inference.request_lines import read, seen_in
from medimg.serving.request_log import RequestLog

__all__ = ["Monitor"]

_FRESH_SECONDS = 1.0


class Monitor:
    """Watches one model at a time.

    Args:
        log: Is told of each image.
    """

    def __init__(self, log: RequestLog) -> None:
        self._log = log
        self._digest = ""
        self._window: Window | None = None
        self._images = 0  # of a model without a reference
        self._health: dict[str, Any] | None = None
        self._made = 0.0

    def watch(self, reference: Reference | None, *, digest: str, version: str = "", before: Iterable[str] = ()) -> None:
        """Watches a model from now on.

        Args:
            reference: What its images are compared with; None: nothing can be.
            digest: Of the model; answers of another are logged and not compared.
            version: Of the registered model; "" where it has none.
            before: Lines of the request log, so that a server that is started again knows what it knew.
        """
        self._digest = digest
        self._window = Window(reference) if reference is not None else None
        self._images = 0
        self._health = None
        if self._window is not None:
            for line in read(before):
                seen = seen_in(line, digest)
                if seen is not None:
                    self._window.add(seen)
        self._log.model(reference, digest=digest, version=version)

    def answered(self, image: bytes, answer: Mapping[str, Any], statistics: Mapping[str, float]) -> None:
        """Takes in that an image was answered.

        Args:
            image: As it was sent.
            answer: The JSON of its answer.
            statistics: Of its pixels; {} where they are not known.
        """
        seen = self._log.answered(image, answer, statistics)
        if answer.get("digest", "") != self._digest:
            return  # of the model before, which still had it in hand
        self._images += 1
        if self._window is not None:
            self._window.add(seen)

    def refused(self, image: bytes, status: int, code: str, *, latency_ms: float) -> None:
        """Takes in that an image, or a request (b""), was refused."""
        self._log.refused(image, status, code, latency_ms=latency_ms)

    def health(self) -> dict[str, Any]:
        """Returns what GET /health answers: see `Window.health`; "unknown" for a model without a reference."""
        now = time.monotonic()
        if self._health is None or now - self._made > _FRESH_SECONDS:
            self._health = unknown(self._images) if self._window is None else self._window.health()
            self._made = now
        return self._health

    def close(self) -> None:
        """Writes what is left of the log."""
        self._log.close()
