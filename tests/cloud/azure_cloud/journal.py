"""The journal: every request that clients made, with how it ended."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from .calls import Request

__all__ = ["Entry", "Journal"]


@dataclass
class Entry:
    """One request.

    Attributes:
        method: Of HTTP.
        host: Asked.
        path: Without the query.
        query: The parameters, without signatures.
        status: The HTTP status; 0 where there was no answer.
        bytes_sent: Of the request's body.
        time: Seconds since the epoch, when it came.
        fault: What was done to it: "", "before" or "after".
    """

    method: str
    host: str
    path: str
    query: dict[str, str]
    status: int
    bytes_sent: int
    time: float
    fault: str = ""


class Journal:
    """All requests, oldest first."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def begin(self, request: Request) -> Entry:
        """Notes a request that has come."""
        query = {name: value for name, value in request.query.items() if name != "sig"}
        entry = Entry(request.method, request.host, request.path, query, 0, len(request.body), time.time())
        with self._lock:
            self._entries.append(entry)
        return entry

    def count(self) -> int:
        """Returns how many requests there were."""
        return len(self._entries)

    def since(self, mark: int) -> list[dict[str, Any]]:
        """Returns the requests after a count."""
        with self._lock:
            return [asdict(entry) for entry in self._entries[mark:]]
