"""`Channel`: the server's side of one worker, over which images go to it and its answers come back.

Where images take milliseconds, a worker has the next one in hand before it has finished the last, so that its core
never waits for the server; what it has not begun with is another's where it stops.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol, cast

from medimg.errors import ImageRejected
from medimg.serving.processes import process
from medimg.serving.processes.process import HEAD, WorkerProcess
from medimg.serving.refused import Refused

__all__ = ["LONG_SECONDS", "START_SECONDS", "Channel", "Job", "Pool", "gone"]

START_SECONDS = 120.0
"""How long a worker may take to load a model and prove it."""

LONG_SECONDS = 0.2
"""How long a worker may have one image before the next one is taken back for another worker."""


@dataclass(slots=True, eq=False)
class Job:
    """One image on its way."""

    kind: int
    image: bytes
    reply: asyncio.Future[tuple[int, bytes]]
    since: float


def gone() -> Refused:
    """Returns what whoever sent an image gets where its worker ended."""
    return Refused(503, "the worker ended while it had this image. Send it again", headers={"Retry-After": "1"})


class Pool(Protocol):
    """What is told of a worker."""

    def joined(self, worker: Channel) -> None:
        """There is a channel to it."""

    def became_ready(self, worker: Channel, told: dict[str, Any]) -> None:
        """It has proved its model; `told` is what it said."""

    def took(self, seconds: float) -> None:
        """It took so long for an image."""

    def free(self, worker: Channel) -> None:
        """It can be given an image."""

    def lost(self, worker: Channel, ahead: list[Job]) -> None:
        """It has ended, and had not begun with these images."""


class Channel(asyncio.Protocol):
    """The server's side of one worker.

    Args:
        pool: Is told what becomes of the worker.
        started: Its process; it is killed where the channel ends.

    Attributes:
        ready: Whether it has proved its model.
        failure: Why it never became ready; empty where it did not say.
        jobs: The image that it computes and the next one, by their numbers; None: nobody waits for the answer any more.
        began: When it began with the first of them, in seconds of the monotonic clock.
    """

    def __init__(self, pool: Pool, started: WorkerProcess) -> None:
        self.pool = pool
        self.process = started.process
        self.seconds = started.seconds
        self.ready = False
        self.failure = ""
        self.jobs: deque[tuple[int, Job | None]] = deque()
        self.began = 0.0
        self._number = 0
        self._received = bytearray()
        self._deadline = asyncio.get_running_loop().call_later(START_SECONDS, self.process.kill)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tells that the worker can be waited for."""
        self.transport = cast("asyncio.WriteTransport", transport)
        self.pool.joined(self)

    def do(self, job: Job) -> None:
        """Hands an image over."""
        self._number += 1
        self.jobs.append((self._number, job))
        self.transport.writelines((HEAD.pack(self._number, job.kind, len(job.image)), job.image))
        if len(self.jobs) == 1:
            self._begin()

    def take_back(self) -> Job | None:
        """Returns the image that it was handed ahead, where it has not come to it for long.

        Whoever hangs, or has a large image, may still compute it; nobody takes that answer then.
        """
        if len(self.jobs) < 2 or time.monotonic() - self.began < LONG_SECONDS:
            return None
        number, job = self.jobs[1]
        self.jobs[1] = number, None
        return job

    def _begin(self) -> None:
        self.began = time.monotonic()
        self._deadline = asyncio.get_running_loop().call_later(self.seconds, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """Takes what the worker says, in whatever pieces it comes."""
        self._received += data
        while len(self._received) >= HEAD.size and not self.transport.is_closing():
            number, kind, length = HEAD.unpack_from(self._received)
            end = HEAD.size + length
            if len(self._received) < end:
                return
            body = bytes(memoryview(self._received)[HEAD.size : end])
            del self._received[:end]
            self._deadline.cancel()
            if not self.ready:
                self._hello(kind, json.loads(body))
            else:
                self._answered(number, kind, body)

    def _hello(self, kind: int, told: Any) -> None:
        if kind != process.HELLO:
            self.failure = told["error"]  # the process ends by itself
            return
        self.ready = True
        self.pool.became_ready(self, told)

    def _answered(self, number: int, kind: int, body: bytes) -> None:
        if not self.jobs or self.jobs[0][0] != number:
            self.transport.abort()  # nobody could tell whose answer it is
            return
        _, job = self.jobs.popleft()
        self.pool.took(time.monotonic() - self.began)
        if self.jobs:
            self._begin()
        if job is not None and not job.reply.done():
            job.reply.set_result((kind, body))
        self.pool.free(self)

    def _too_slow(self) -> None:
        number, job = self.jobs[0]
        self.jobs[0] = number, None
        if job is not None and not job.reply.done():
            message = f"takes longer than {self.seconds:g} s to read. Save it anew, as PNG or JPEG"
            job.reply.set_exception(ImageRejected("too-slow", "image", message))
        self.transport.abort()  # at once: an answer that came now would get it another image before its end

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the worker, and tells whoever has an image there."""
        self._deadline.cancel()
        self.process.kill()
        begun, *ahead = [job for _, job in self.jobs] or [None]
        self.jobs.clear()
        if begun is not None and not begun.reply.done():
            begun.reply.set_exception(gone())
        self.pool.lost(self, [job for job in ahead if job is not None])
