"""`Metrics`: what GET /metrics tells Prometheus. Counts and times only: nothing of an image or of who asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from medimg.serving.answering import Answering
from medimg.serving.processes.served import Served
from medimg.serving.web.admission import Admission

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

# When a counter was made is no measurement, and would double their number.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The figures of one server.

    Args:
        answering: What answers.
        admission: What lets images in.
        health: Returns what GET /health tells.
    """

    def __init__(self, answering: Answering, admission: Admission, health: Callable[[], Mapping[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._health = health
        self._requests = Counter(
            "medimg_requests", "Requests by route and status.", ("path", "status"), registry=self._registry
        )
        self._counters: dict[tuple[str, int], Counter] = {}  # of the above: finding one takes longer than counting
        self._seconds = Histogram(
            "medimg_request_seconds",
            "From a request's head to its answer, of requests for a prediction.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rejected = Counter(
            "medimg_rejected_images", "Images that got no prediction, by code.", ("code",), registry=self._registry
        )
        self._gauge("medimg_images", "Images that wait or are being answered.", lambda: admission.images)
        self._gauge("medimg_body_bytes", "Bytes of bodies in memory.", lambda: admission.held_bytes)
        self._gauge("medimg_ready", "Whether images are answered.", answering.ready)
        if isinstance(answering, Served):
            self._gauge("medimg_waiting_images", "Images that no worker has begun with.", lambda: answering.waiting)
            self._gauge("medimg_workers", "Workers that take images.", lambda: answering.alive)
            restarts = "Workers that were started in place of one that ended."
            self._gauge("medimg_worker_restarts", restarts, lambda: answering.restarts)
        self._drift = Gauge(
            "medimg_drift", "How far the images are from those of validation.", ("measure",), registry=self._registry
        )
        self._drift_limit = Gauge(
            "medimg_drift_limit", "From which on it is an alarm.", ("measure",), registry=self._registry
        )
        self._alarm = Gauge(
            "medimg_drift_alarm",
            "1 while any measure is over its limit; NaN where nothing is compared.",
            registry=self._registry,
        )

    def count(self, path: str, status: int) -> None:
        """Counts one answer."""
        counter = self._counters.get((path, status))
        if counter is None:
            counter = self._counters[path, status] = self._requests.labels(path, str(status))
        counter.inc()

    def time(self, seconds: float) -> None:
        """Records how long one request for a prediction took."""
        self._seconds.observe(seconds)

    def reject(self, code: str) -> None:
        """Counts one image without a prediction."""
        self._rejected.labels(code).inc()

    def text(self) -> bytes:
        """Returns the figures, as `CONTENT_TYPE` says."""
        health = self._health()
        self._drift.clear()  # of a model before
        self._drift_limit.clear()
        for measure in health["measures"]:
            if measure["value"] is not None:
                self._drift.labels(measure["name"]).set(measure["value"])
            self._drift_limit.labels(measure["name"]).set(measure["limit"])
        # Where nobody watches, 0 would read as all clear.
        self._alarm.set(math.nan if health["status"] == "unknown" else health["status"] == "alarm")
        return generate_latest(self._registry)

    def _gauge(self, name: str, says: str, value: Callable[[], float]) -> None:
        Gauge(name, says, registry=self._registry).set_function(value)
