"""`Workers`: the processes that decode and predict, each one image at a time on one core.

A worker that takes too long for an image, or dies, costs that one request; it is replaced at once, and ever more slowly
where one after the other dies. Requests that come while all are busy wait in one line: how many may is for
`medimg.serving.web.admission` to say.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from medimg.errors import ImageRejected, MedimgError
from medimg.serving.processes import process
from medimg.serving.processes.channel import LONG_SECONDS, START_SECONDS, Channel, Job, gone
from medimg.serving.processes.process import WorkerProcess
from medimg.serving.refused import Refused

__all__ = ["Workers", "refusal_in"]

_WAIT_SECONDS = 20.0  # in the line; whoever waited longer has gone, or should be told
_DRAIN_SECONDS = 20.0
_CALM_SECONDS = 60.0
_DEATHS_A_MINUTE = 6  # that are answered by a new worker at once
_LONGEST_PAUSE = 10.0  # seconds before another is started
_FAILED_STARTS = 5  # one after the other, with no worker left, end the server
# Of an image: where they take no longer, the next one is handed over ahead. Of longer ones the wait between two is no
# share, and one that was handed to the wrong worker would wait long.
_BRIEF_SECONDS = 0.05
_NEWEST = 0.1  # weight of the last image in the mean time of an image


def refusal_in(kind: int, body: bytes) -> ImageRejected | Refused:
    """Returns what a worker's reply raises that is not the one that was asked for."""
    content = json.loads(body)
    if kind == process.REJECTED:
        return ImageRejected(content["code"], "image", content["error"])
    return Refused(500, f"a worker failed on this image ({content['error']}); the server's log says so too")


class Workers:
    """The workers of one model. To be used in one event loop.

    Args:
        launch: Starts a process.
        first: A process that was started already; the others are when it is ready: until then they would take the
            cores from it, and fail as it does.
        count: Processes that are kept running.
        on_broken: Is told why no worker can be started any more.

    Attributes:
        restarts: Workers that ended and were replaced.
    """

    def __init__(
        self, launch: Callable[[], WorkerProcess], first: WorkerProcess, count: int, on_broken: Callable[[str], None]
    ) -> None:
        self.restarts = 0
        self._launch = launch
        self._first = first
        self._count = count
        self._on_broken = on_broken
        self._workers: set[Channel] = set()
        self._idle: list[Channel] = []
        self._waiting: deque[Job] = deque()
        self._mean_seconds = float("inf")  # that an image takes
        self._looking: asyncio.TimerHandle | None = None
        self._deaths: deque[float] = deque()
        self._failed_starts = 0
        self._pauses: set[asyncio.TimerHandle] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._closing = False
        self._empty = asyncio.Event()

    @property
    def alive(self) -> int:
        """Workers that would take an image."""
        return sum(worker.ready for worker in self._workers)

    @property
    def waiting(self) -> int:
        """Images that no worker has begun with."""
        return len(self._waiting)

    async def start(self) -> float:
        """Waits until the first worker is ready and returns its largest difference on the golden inputs.

        Raises:
            MedimgError: It failed.
        """
        try:
            await self._connect(self._first)
            worst = float((await self._hello)["worst"])
        except BaseException:
            await self.close(drain=False)
            raise
        for _ in range(self._count - 1):
            self._replace_in(0.0)
        return worst

    async def all_ready(self) -> None:
        """Waits until there are as many workers as there should be, or have had the time to start.

        Raises:
            MedimgError: There is none any more.
        """
        deadline = time.monotonic() + START_SECONDS
        while self.alive < self._count and not self._broken and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if not self.alive:
            raise MedimgError("its workers ended while they started; their last words are in the log")

    @property
    def _broken(self) -> bool:
        return self._failed_starts >= _FAILED_STARTS and not self.alive

    async def ask(self, kind: int, image: bytes) -> tuple[int, bytes]:
        """Returns kind and body of the reply to one image, see `medimg.serving.processes.process`.

        Raises:
            ImageRejected: It took too long.
            Refused: The worker died of it, or it waited too long.
        """
        loop = asyncio.get_running_loop()
        job = Job(kind, image, loop.create_future(), time.monotonic())
        if self._idle:
            self._idle.pop().do(job)
        elif (worker := self._next_to_finish()) is not None:
            worker.do(job)
        else:
            self._waiting.append(job)
        return await job.reply

    def _next_to_finish(self) -> Channel | None:
        """Returns who may have an image ahead; None: nobody."""
        if self._waiting or self._mean_seconds > _BRIEF_SECONDS:
            return None
        late = time.monotonic() - _BRIEF_SECONDS  # whoever began before that has an image that is not brief
        able = (worker for worker in self._workers if worker.ready and len(worker.jobs) == 1 and worker.began > late)
        return min(able, key=lambda worker: worker.began, default=None)

    async def close(self, *, drain: bool = True) -> None:
        """Ends the workers, when all that was asked is answered where `drain` is given."""
        if drain:
            deadline = time.monotonic() + _DRAIN_SECONDS
            while (self._waiting or any(worker.jobs for worker in self._workers)) and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
        self._closing = True
        for pause in self._pauses:
            pause.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if not self._workers:
            self._empty.set()
        for worker in self._workers:
            worker.transport.abort()
        await self._empty.wait()
        for job in self._waiting:
            if not job.reply.done():
                job.reply.set_exception(gone())

    # -- what the workers tell ----------------------------------------------------------------------------------------

    def joined(self, worker: Channel) -> None:
        """Takes in a worker that starts."""
        self._workers.add(worker)
        if self._closing:
            worker.transport.abort()

    def became_ready(self, worker: Channel, told: dict[str, Any]) -> None:
        """Gives a worker that has proved its model its first image."""
        self._failed_starts = 0
        if not self._hello.done():
            self._hello.set_result(told)
        self.free(worker)

    def took(self, seconds: float) -> None:
        """Takes in how long an image took."""
        mean = self._mean_seconds
        self._mean_seconds = seconds if mean == float("inf") else mean + _NEWEST * (seconds - mean)

    def free(self, worker: Channel) -> None:
        """Gives a worker the next image, and where they are brief the one after it, or rest."""
        self._take_back()
        most = 2 if self._mean_seconds <= _BRIEF_SECONDS else 1
        oldest = time.monotonic() - _WAIT_SECONDS
        while self._waiting and len(worker.jobs) < most:
            job = self._waiting.popleft()
            if job.reply.done():
                continue  # whoever asked has gone
            if job.since >= oldest:
                worker.do(job)
                continue
            job.reply.set_exception(
                Refused(503, "too many images came before this one. Send it again", headers={"Retry-After": "5"})
            )
        if not worker.jobs:
            self._idle.append(worker)
            self._look_later()

    def _take_back(self) -> None:
        for worker in self._workers:
            if (job := worker.take_back()) is not None and not job.reply.done():
                self._waiting.appendleft(job)

    def _look_later(self) -> None:
        if self._looking is None and self._idle and any(len(worker.jobs) > 1 for worker in self._workers):
            self._looking = asyncio.get_running_loop().call_later(LONG_SECONDS, self._look)

    def _look(self) -> None:
        """Gives those who rest what others were handed ahead."""
        self._looking = None
        self._take_back()
        self._wake()
        self._look_later()

    def _wake(self) -> None:
        while self._waiting and self._idle:
            self.free(self._idle.pop())

    def lost(self, worker: Channel, ahead: list[Job]) -> None:
        """Replaces a worker that has ended, and gives others the images that it had not begun with."""
        self._workers.discard(worker)
        with suppress(ValueError):
            self._idle.remove(worker)
        self._waiting.extendleft(ahead)
        # It was killed, so this does not take long; without it, it would stay as a zombie.
        asyncio.get_running_loop().run_in_executor(None, worker.process.wait)
        if self._closing:
            if not self._workers:
                self._empty.set()
            return
        self._wake()
        why = worker.failure or "a worker ended while it started; its last words are in the log"
        if not worker.ready:
            self._failed_starts += 1
            if not self._hello.done():
                self._hello.set_exception(MedimgError(why))
                return
        if self._broken:
            self._on_broken(why)
            return
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - _CALM_SECONDS:
            self._deaths.popleft()
        self.restarts += 1
        beyond = len(self._deaths) - _DEATHS_A_MINUTE
        self._replace_in(0.0 if beyond <= 0 else min(_LONGEST_PAUSE, 0.25 * 2**beyond))

    def _replace_in(self, seconds: float) -> None:
        """Starts a worker after so many seconds."""

        def replace() -> None:
            self._pauses.discard(pause)
            try:
                started = self._launch()
            except OSError:  # no memory, or no process, is left just now
                self._replace_in(1.0)
                return
            task = loop.create_task(self._connect(started))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

        loop = asyncio.get_running_loop()
        pause = loop.call_later(seconds, replace)
        self._pauses.add(pause)

    async def _connect(self, started: WorkerProcess) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: Channel(self, started), sock=started.channel)
