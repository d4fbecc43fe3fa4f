"""`Tally`: what the clients of one step met, and the percentiles of how long they waited."""

from __future__ import annotations

import errno
import math
import ssl
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["Tally", "kind_of", "percentile"]

_KINDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.ETIMEDOUT: "no connection in time",
    errno.EADDRNOTAVAIL: "no free port",
    errno.EADDRINUSE: "no free port",
    errno.EMFILE: "no free file",
    errno.ENFILE: "no free file",
    errno.ENETUNREACH: "no route",
    errno.EHOSTUNREACH: "no route",
}


def kind_of(error: BaseException) -> str:
    """Returns the kind of failure that an error of a connection is, as the results name it."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return "no connection in time"
    if isinstance(error, ssl.SSLError):
        return "TLS refused"
    if isinstance(error, OSError) and error.errno in _KINDS:
        return _KINDS[error.errno]
    return "connection failed"


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least `share` of the values do not exceed (nearest rank); NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


class Tally:
    """Counts while it is open.

    Attributes:
        open: Whether anything is counted: not while connections are made, nor in the warm-up.
        seconds: Waited for each answer (HTTP 200), from the request's first byte to the answer's last.
        errors: How often each kind of failure was met.
        wrong: Answers whose probabilities are not those that the same image got before the load.
        other_digest: Answers of another model than before the load.
    """

    def __init__(self) -> None:
        self.open = False
        self.seconds = array("d")
        self.errors: Counter[str] = Counter()
        self.wrong = 0
        self.other_digest = 0

    def error(self, kind: str) -> None:
        """Counts a failure."""
        if self.open:
            self.errors[kind] += 1

    def answered(self, seconds: float) -> None:
        """Counts an answer."""
        if self.open:
            self.seconds.append(seconds)

    def summary(self) -> dict[str, Any]:
        """Returns the counts, and the percentiles in milliseconds (None where nothing was answered)."""
        ordered = sorted(self.seconds)
        found = {f"p{round(100 * share)}_ms": percentile(ordered, share) for share in (0.5, 0.95, 0.99)}
        found["max_ms"] = percentile(ordered, 1.0)
        return {
            "answered": len(ordered),
            **{name: None if math.isnan(value) else round(1e3 * value, 3) for name, value in found.items()},
            "errors": dict(self.errors.most_common()),
            "wrong": self.wrong,
            "other_digest": self.other_digest,
        }
