"""The line before the workers: who has an image ahead, and what becomes of it where its worker stops."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from medimg.serving.processes.process import ANSWER, PREDICT, WorkerProcess
from medimg.serving.processes.workers import Workers
from medimg.serving.refused import Refused

# Answers each image with itself and its own number; some it takes long for, or dies of.
WORKER = """
import os, socket, struct, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
head = struct.Struct("!QBI")
def say(number, kind, body):
    channel.sendall(head.pack(number, kind, len(body)) + body)
say(0, 10, b'{"worst": 0.0}')
while taken := channel.recv(head.size, socket.MSG_WAITALL):
    number, _, length = head.unpack(taken)
    image = channel.recv(length, socket.MSG_WAITALL)
    if image == b"hang":
        time.sleep(60)
    if image == b"slow":
        time.sleep(0.5)
    if image == b"die":
        time.sleep(0.1)
        os._exit(1)
    say(number, 11, image + b" by " + sys.argv[2].encode())
"""


@asynccontextmanager
async def running(count: int, seconds: float = 10.0) -> AsyncIterator[Workers]:
    """Workers that have answered, so that images are known to be brief."""
    launched: list[str] = []

    def launch() -> WorkerProcess:
        launched.append(str(len(launched)))
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-S", "-c", WORKER, str(theirs.fileno()), launched[-1]]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        ours.setblocking(False)
        return WorkerProcess(process, ours, seconds)

    workers = Workers(launch, launch(), count, print)
    await workers.start()
    await workers.all_ready()
    for _ in range(40):
        await workers.ask(PREDICT, b"first")
    try:
        yield workers
    finally:
        await workers.close(drain=False)


def handed_over(workers: Workers) -> list[int]:
    """How many images each worker has."""
    return sorted(len(worker.jobs) for worker in workers._workers)


def test_a_worker_has_the_next_image_before_it_has_finished_the_last() -> None:
    """One ahead, no more; the others wait for whoever is free first, and all get their own answers."""

    async def ask() -> None:
        async with running(2) as workers:
            asked = [asyncio.create_task(workers.ask(PREDICT, b"%d" % number)) for number in range(10)]
            await asyncio.sleep(0)
            assert (handed_over(workers), workers.waiting) == ([2, 2], 6)
            for number, answer in enumerate(await asyncio.gather(*asked)):
                assert answer[0] == ANSWER and answer[1].startswith(b"%d by " % number)
            assert handed_over(workers) == [0, 0]

    asyncio.run(ask())


def test_an_image_behind_one_that_hangs_is_another_workers() -> None:
    """It was handed over ahead, and is answered long before the other is given up."""

    async def ask() -> None:
        async with running(2) as workers:
            hanging = asyncio.create_task(workers.ask(PREDICT, b"hang"))
            began = time.monotonic()
            answers = await asyncio.gather(*(workers.ask(PREDICT, b"image") for _ in range(6)))
            assert time.monotonic() - began < 5
            assert len({answer for _, answer in answers}) == 1
            assert not hanging.done()
            hanging.cancel()

    asyncio.run(ask())


def test_an_image_behind_one_that_kills_its_worker_is_answered() -> None:
    """One request is lost, the one that was being computed; its successor in line is asked anew."""

    async def ask() -> None:
        async with running(1) as workers:
            dying = asyncio.create_task(workers.ask(PREDICT, b"die"))
            behind = asyncio.create_task(workers.ask(PREDICT, b"image"))
            await asyncio.sleep(0)
            assert handed_over(workers) == [2]
            with pytest.raises(Refused) as refused:
                await dying
            assert refused.value.status == 503
            assert await behind == (ANSWER, b"image by 1")

    asyncio.run(ask())


def test_images_that_take_long_are_handed_over_one_by_one() -> None:
    """Else one would wait behind another while a worker rests."""

    async def ask() -> None:
        async with running(1) as workers:
            for _ in range(2):
                await workers.ask(PREDICT, b"slow")
            asked = [asyncio.create_task(workers.ask(PREDICT, b"image")) for _ in range(3)]
            await asyncio.sleep(0)
            assert (handed_over(workers), workers.waiting) == ([1], 2)
            await asyncio.gather(*asked)

    asyncio.run(ask())


def test_no_image_is_handed_ahead_to_who_has_one_that_takes_long() -> None:
    """Of many brief ones: whoever comes later waits for the first worker that is free, not for that one."""

    async def ask() -> None:
        async with running(1) as workers:
            slow = asyncio.create_task(workers.ask(PREDICT, b"slow"))
            await asyncio.sleep(0.1)
            behind = asyncio.create_task(workers.ask(PREDICT, b"image"))
            await asyncio.sleep(0)
            assert (handed_over(workers), workers.waiting) == ([1], 1)
            assert await slow == (ANSWER, b"slow by 0")
            assert await behind == (ANSWER, b"image by 0")

    asyncio.run(ask())
