"""The journal: every call that clients made, with how it ended."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from .calls import Call

__all__ = ["Entry", "Journal"]


@dataclass
class Entry:
    """One call.

    Attributes:
        service: boto3's name of the service.
        operation: AWS's name of the operation.
        region: Where.
        target: The path, for S3 the bucket and key.
        status: The HTTP status; 0 where there was no answer.
        bytes_sent: Of the request's body.
        time: Seconds since the epoch, when it came.
        fault: What was done to it: "", "before", "after" or "outage".
    """

    service: str
    operation: str
    region: str
    target: str
    status: int
    bytes_sent: int
    time: float
    fault: str = ""


class Journal:
    """All calls, oldest first."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def begin(self, call: Call) -> Entry:
        """Notes a call that has come."""
        entry = Entry(call.service, call.operation, call.region, call.target, 0, call.bytes_sent, time.time())
        with self._lock:
            self._entries.append(entry)
        return entry

    def count(self) -> int:
        """Returns how many calls there were."""
        return len(self._entries)

    def since(self, mark: int) -> list[dict[str, Any]]:
        """Returns the calls after a count."""
        with self._lock:
            return [asdict(entry) for entry in self._entries[mark:]]
