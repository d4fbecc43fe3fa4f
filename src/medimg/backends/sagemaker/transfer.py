"""Moving objects between here and S3: several at a time, counted, and read on where a connection broke."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, IncompleteReadError

from medimg.home import cores
from medimg.progress import Event, Report, pulse

__all__ = ["Meter", "Reader", "at_once"]

AT_ONCE = 8  # objects
ATTEMPTS = 6  # to read on where a connection broke

Item = TypeVar("Item")


class Meter(contextlib.AbstractContextManager["Meter"]):
    """Turns bytes that threads have moved into progress; ends their work when the block ends by an error."""

    EVERY = 0.1  # seconds between two reports

    def __init__(self, report: Report, stage: str, total: int, done: float = 0.0) -> None:
        self._stage, self._total, self._done = stage, total, done
        self._pulse = pulse(report)
        self._lock = threading.Lock()
        self._bytes = 0
        self._began = self._told = time.monotonic()
        self._over = False

    def __enter__(self) -> Meter:
        self._report = self._pulse.__enter__()
        self._tell()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.stop()
        try:
            if error is None:
                self._done = self._total
                self._tell()
        finally:
            self._pulse.__exit__(kind, error, trace)

    def stop(self) -> None:
        """Makes the next `add` of every thread fail."""
        self._over = True

    def add(self, count: int, units: float) -> None:
        """Counts bytes, each of which is so many units of the bar; of a request that is repeated they are negative."""
        if self._over:
            raise _Stopped
        with self._lock:
            self._bytes += count
            self._done += count * units
            if time.monotonic() - self._told >= self.EVERY:
                self._tell()

    def skip(self, units: float) -> None:
        """Counts what need not be moved."""
        with self._lock:
            self._done += units

    def _tell(self) -> None:
        self._told = time.monotonic()
        rate = self._bytes / 1e6 / max(self._told - self._began, 1e-3)
        message = f"{rate:.1f} MB/s" if self._bytes else ""
        self._report(Event("stage", self._stage, min(self._total, int(self._done)), self._total, message))


class _Stopped(BaseException):
    """Another thread has failed, or the user interrupted; no `Exception`, or botocore would try again."""


def at_once(work: Callable[[Item], None], items: Iterable[Item], meter: Meter) -> None:
    """Does the work for each item, several at a time; the first error drops what has not begun and stops the rest."""
    with ThreadPoolExecutor(min(AT_ONCE, cores() + 2), thread_name_prefix="storage") as pool:
        try:
            for finished in as_completed([pool.submit(work, item) for item in items]):
                finished.result()
        except BaseException:
            meter.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Reader:
    """An object that is read from the beginning to the end, and read on where a connection broke.

    Attributes:
        size: Its bytes.
        told: Told how many bytes have come.
    """

    def __init__(self, client: Any, bucket: str, key: str, owned: Mapping[str, str]) -> None:
        self._get = partial(client.get_object, Bucket=bucket, Key=key, **owned)
        answer = self._get()
        self._body, self._etag = answer["Body"], answer["ETag"]
        self.size = int(answer["ContentLength"])
        self.told: Callable[[int], None] = lambda _: None
        self._position = 0

    def read(self, length: int = -1, /) -> bytes:
        """Returns the next bytes, b"" at the end; a negative length: all that are left."""
        if length < 0:
            return b"".join(iter(partial(self.read, 1 << 20), b""))
        for attempt in range(ATTEMPTS):
            if self._position == self.size:
                return b""
            try:
                if attempt:
                    time.sleep(min(0.2 * 2**attempt, 5.0))
                    # Of the same object: it may have been written anew meanwhile.
                    self._body = self._get(Range=f"bytes={self._position}-", IfMatch=self._etag)["Body"]
                part: bytes = self._body.read(length)
                if not part:
                    raise IncompleteReadError(actual_bytes=self._position, expected_bytes=self.size)
            except BotoCoreError:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            self._position += len(part)
            self.told(len(part))
            return part
        raise AssertionError("the last attempt has raised")
