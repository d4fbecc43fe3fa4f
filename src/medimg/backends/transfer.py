"""Moving what is large between here and a cloud: several at a time, counted, and nothing that is there already."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from medimg.data.transport import Parcel, travelling
from medimg.home import cores
from medimg.progress import Event, Report, pulse

__all__ = ["ATTEMPTS", "Meter", "Told", "at_once", "pause", "send_files", "send_pack"]

AT_ONCE = 8  # objects
ATTEMPTS = 6  # to read on where a connection broke

Item = TypeVar("Item")
Told = Callable[[int], None]  # takes how many bytes have been moved since it was called last


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
    """Another thread has failed, or the user interrupted; no `Exception`, or a cloud's library would try again."""


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


def pause(attempt: int) -> float:
    """Returns the seconds to wait before an attempt to read on; the first attempt has the number 0."""
    return min(0.2 * 2.0**attempt, 5.0)


def send_pack(
    pack: Path, manifest: str, there: Container[str], send: Callable[[str, bytes, Told], None], report: Report
) -> None:
    """Sends what is missing of a pack with one of its manifests.

    Shards are compressed and sent several at a time; at most that many are in memory.

    Args:
        pack: Its folder.
        manifest: Name of the manifest.
        there: Names of what is there already.
        send: Sends one object of a name and content.
        report: Told of progress, in images.

    Raises:
        DatasetError: The pack is damaged.
    """
    parcels = travelling(pack, manifest)
    images = sum(parcel.images for parcel in parcels)
    missing = [parcel for parcel in parcels if parcel.name not in there]
    if not missing:
        report(Event("stage", "uploading", images, images, "already there"))
        return
    with Meter(report, "uploading", images, images - sum(parcel.images for parcel in missing)) as meter:

        def one(parcel: Parcel) -> None:
            content = parcel.content()
            each = parcel.images / len(content) if content else 0.0
            send(parcel.name, content, lambda sent: meter.add(sent, each))

        # The description is the last, so that where it is everything is.
        at_once(one, missing[:-1], meter)
        one(missing[-1])


def send_files(
    files: Mapping[str, Path],
    known: Callable[[str], str | None],
    send: Callable[[str, BinaryIO, str, Told], None],
    report: Report,
) -> None:
    """Sends files under their keys, several at a time, except for those that are there with their content.

    Args:
        files: The files by key.
        known: Returns the SHA-256 that was sent with what is there under a key; None: nothing is there.
        send: Sends one file with its SHA-256, under a key.
        report: Told of progress, in megabytes.
    """
    sizes = {key: path.stat().st_size for key, path in files.items()}
    with Meter(report, "uploading", math.ceil(sum(sizes.values()) / 1e6)) as meter:

        def one(key: str) -> None:
            with files[key].open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
                if known(key) == sha256:
                    meter.skip(sizes[key] / 1e6)
                    return
                stream.seek(0)
                send(key, stream, sha256, lambda sent: meter.add(sent, 1e-6))

        at_once(one, files, meter)
