"""The request log: a line for each image, without anything that shows whose it is.

On this machine it is a file that rotates, written by a thread once a second, so that no request waits for the disk; in
a cloud it is standard output, from where the cloud's log takes it. The lines: `medimg.inference.request_lines`. Needs
the standard library only.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from medimg.inference import request_lines
from medimg.inference.monitoring import Reference, Seen
from medimg.inference.request_lines import FILE

__all__ = ["LogFile", "RequestLog", "StandardOutput", "tail"]

MAX_BYTES = 10_000_000  # of one file
FILES = 5  # the one that is written, and four before it
_EVERY_SECONDS = 1.0
_MOST_WAITING = 100_000  # lines; beyond them the disk is too slow, and the oldest are given up
_TAIL_BYTES = 2_000_000  # of each file: more than a window's lines


class Sink(Protocol):
    """Where lines go."""

    def start(self, line: str) -> None:
        """Takes the line of the model that answers from now on."""

    def write(self, line: Callable[[], str]) -> None:
        """Takes what makes a line."""

    def close(self) -> None:
        """Writes what is left."""


class StandardOutput:
    """Standard output, a whole line at a time: a function in a cloud may be frozen after its answer."""

    def start(self, line: str) -> None:
        """Writes the line of the model that answers from now on."""
        self.write(lambda: line)

    def write(self, line: Callable[[], str]) -> None:
        """Writes a line; where nobody takes it, answers go on."""
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(f"{line()}\n")  # in one piece: threads write too
            sys.stdout.flush()

    def close(self) -> None:
        """Nothing is left."""


class LogFile:
    """A file that rotates: `requests.jsonl`, and `requests.jsonl.1` to `.4` before it, of 10 MB each.

    Each file begins with the line of the model, so that each can be read without the others. Where the disk is full,
    lines are lost, and answers go on.

    Args:
        folder: Where the files are.
        max_bytes: Of one file.

    Attributes:
        lost: Lines that could not be written.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = folder / FILE
        self.lost = 0
        self._max_bytes = max_bytes
        self._first = ""
        self._waiting: deque[Callable[[], str]] = deque()
        self._lock = threading.Lock()  # of the file: the thread writes, and who closes
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def start(self, line: str) -> None:
        """Writes the line of the model that answers from now on, so that there is a log from the start."""
        self.write(lambda: line)
        self._first = line
        self.flush()

    def write(self, line: Callable[[], str]) -> None:
        """Takes what makes a line; it is made and written within a second, by the thread."""
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(line)

    def close(self) -> None:
        """Writes what is left."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_EVERY_SECONDS):
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Writes what has been taken so far."""
        with self._lock:
            taken: list[Callable[[], str]] = []
            with contextlib.suppress(IndexError):  # `write` gave some up meanwhile
                taken.extend(self._waiting.popleft() for _ in range(len(self._waiting)))
            lines = [line for line in map(self._made, taken) if line]
            try:
                if lines:
                    self._append(b"".join(lines))
            except OSError as error:
                self._lose(len(lines), str(error))

    def _made(self, line: Callable[[], str]) -> bytes:
        """Returns a line; b"" where it cannot be made: the thread must not end with it."""
        try:
            return f"{line()}\n".encode()
        except Exception as error:  # what it says may be of a patient
            self._lose(1, type(error).__name__)
            return b""

    def _lose(self, count: int, why: str) -> None:
        if not self.lost:
            # Told once; the number of lost lines goes on rising.
            with contextlib.suppress(OSError, ValueError):  # nobody takes it
                print(f"error: the request log cannot be written, answers go on: {why}", flush=True)  # noqa: T201
        self.lost += count

    def _append(self, content: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size + len(content) > self._max_bytes:
                self._rotate()
        # For the owner alone: it is no secret, but nobody else's business.
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
            if file.tell() == 0 and self._first and not content.startswith(self._first.encode()):
                file.write(f"{self._first}\n".encode())
            file.write(content)

    def _rotate(self) -> None:
        for number in range(FILES - 1, 0, -1):
            before = self.path if number == 1 else self.path.with_name(f"{FILE}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                before.replace(self.path.with_name(f"{FILE}.{number}"))


def tail(folder: Path) -> Iterator[str]:
    """Yields the last lines of a log's newest two files, the oldest first; nothing where there is no log."""
    for name in (f"{FILE}.1", FILE):
        with contextlib.suppress(OSError), (folder / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            yield from file.read().decode(errors="replace").split("\n")


class RequestLog:
    """Writes what was asked and answered.

    Args:
        sink: Where lines go.
        salt: Turns an image into an id that nobody without it can look up.
    """

    def __init__(self, sink: Sink, salt: bytes) -> None:
        self.sink = sink
        self._salt = salt

    def model(self, reference: Reference | None, *, digest: str, version: str) -> None:
        """Writes which model answers from now on, and what its images are compared with."""
        self.sink.start(request_lines.reference_line(reference, digest=digest, version=version))

    def answered(self, image: bytes, answer: Mapping[str, Any], statistics: Mapping[str, float]) -> Seen:
        """Writes that an image was answered, and returns what monitoring keeps of it."""
        seen = Seen.of(answer, statistics, id=self._id(image), time=time.time())
        label, latency_ms, digest = str(answer["label"]), float(answer["latency_ms"]), str(answer.get("digest", ""))
        self.sink.write(lambda: request_lines.answered_line(seen, label=label, latency_ms=latency_ms, digest=digest))
        return seen

    def refused(self, image: bytes, status: int, code: str, *, latency_ms: float) -> None:
        """Writes that an image was refused; b"" where there is none."""
        now, id = time.time(), self._id(image) if image else ""
        self.sink.write(
            lambda: request_lines.refused_line(time=now, id=id, status=status, code=code, latency_ms=latency_ms)
        )

    def close(self) -> None:
        """Writes what is left."""
        self.sink.close()

    def _id(self, image: bytes) -> str:
        return hmac.digest(self._salt, image, "sha256")[:8].hex()
