"""Faults on demand: throttling, refusals, no answer at all, and distance."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .calls import AwsError, Call

__all__ = ["Faults", "NoAnswerError"]

_FORBIDDEN = {"AccessDenied", "AccessDeniedException"}


class NoAnswerError(Exception):
    """The connection is to be closed without an answer."""


@dataclass
class _Failure:
    """The nth call of an operation fails."""

    operation: str
    number: int
    code: str
    message: str
    status: int
    performed: bool
    seen: int = 0


@dataclass
class _Share:
    """A share of all calls is answered as too many."""

    rate: float
    statuses: list[int]
    operations: Collection[str] | None
    chance: random.Random


@dataclass
class _Outage:
    """Calls get no answer."""

    until: float
    calls: int
    operations: Collection[str] | None


@dataclass
class Faults:
    """What is wrong with AWS now."""

    _failures: list[_Failure] = field(default_factory=list)
    _share: _Share | None = None
    _outage: _Outage | None = None
    _latency_seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, given: Mapping[str, Any]) -> None:
        """Adds what is given; see `Emulator.faults`."""
        with self._lock:
            if given.get("rate"):
                self._share = _Share(
                    given["rate"], given["statuses"], given["operations"], random.Random(given["seed"])
                )
            for operation, number, code in given.get("fail") or ():
                status = given.get("status") or (403 if code in _FORBIDDEN else 400)
                message = f"{code} was injected into {operation}"
                self._failures.append(_Failure(operation, number, code, message, status, bool(given.get("performed"))))
            if given.get("outage_seconds") or given.get("outage_calls"):
                until = time.monotonic() + (given.get("outage_seconds") or 1e9)
                self._outage = _Outage(until, given.get("outage_calls") or 1 << 60, given["operations"])
            if given.get("latency_seconds") is not None:
                self._latency_seconds = given["latency_seconds"]

    def clear(self) -> None:
        """Makes everything right again."""
        with self._lock:
            self._failures, self._share, self._outage, self._latency_seconds = [], None, None, 0.0

    def meet(self, call: Call) -> tuple[str, AwsError | None]:
        """Decides what happens to a call.

        Returns:
            "before" or "after" and the error: it is answered instead of performing the call, or after that.
            "" and None: nothing is wrong.

        Raises:
            NoAnswerError: The connection is to be closed.
        """
        if self._latency_seconds:
            time.sleep(self._latency_seconds)
        with self._lock:
            self._meet_outage(call)
            due = None
            for failure in self._failures:
                if failure.operation == call.operation:
                    failure.seen += 1
                    if failure.seen == failure.number and due is None:
                        due = failure
            if due is not None:
                error = AwsError(due.code, due.message, due.status)
                return ("after" if due.performed else "before"), error
            share = self._share
            if share is None or not _concerns(share.operations, call) or share.chance.random() >= share.rate:
                return "", None
            when = "before" if share.chance.random() < 0.5 else "after"
            return when, _busy(share.chance.choice(share.statuses), call)

    def _meet_outage(self, call: Call) -> None:
        outage = self._outage
        if outage is None or not _concerns(outage.operations, call):
            return
        if time.monotonic() > outage.until or outage.calls <= 0:
            self._outage = None
            return
        outage.calls -= 1
        raise NoAnswerError


def _concerns(operations: Collection[str] | None, call: Call) -> bool:
    return operations is None or call.operation in operations


def _busy(status: int, call: Call) -> AwsError:
    if call.service == "s3":
        return AwsError("SlowDown", "Please reduce your request rate.", 503)
    if status == 429:
        return AwsError("ThrottlingException", "Rate exceeded", 429)
    return AwsError("ServiceUnavailable", "The request has failed due to a temporary failure of the server.", status)
