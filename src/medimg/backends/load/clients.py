"""`python -m medimg.backends.load.clients`: the process of the clients.

It is told on standard input, a JSON object a line, and tells on standard output, as every job does:

- {"images": [base64, …]}: what is sent; then, and again whenever they run out,
- {"requests": [{"url", "headers"}, …]}: where each image is sent, with what credentials;
- {"alone": {"timeout"}}: each image is sent once, which all later answers to it are compared with;
- {"step": {"clients", "seconds", "warm_up", "patient", "timeout"}}: a step, whose result comes as an event "done".

A process of its own, so that the clients wait neither for the notebook nor for its interpreter's lock.
"""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import httptools
import uvloop

from medimg.backends.load.client import BUSY, Client, Reference
from medimg.backends.load.route import Route, head
from medimg.backends.load.tally import Tally, kind_of
from medimg.progress import Event, emit

__all__ = ["Crowd"]

_CONNECTIONS_A_SECOND = 2000.0
_TICK_SECONDS = 0.5
_SPARE_FILES = 32
_FIRST_ATTEMPTS = 6  # at one image before the load, while the endpoint is busy with others'
_RECOVERY_SECONDS, _RECOVERY_PAUSE = 30.0, 0.02


class Crowd:
    """The clients of one step, and what they share.

    Args:
        route: To the endpoint.
        requests: The bytes of a request an image.
        references: What each image was answered before.
        patient: Whether the clients wait as long as a refusal asks for.
        timeout: Seconds that a client waits for a connection, and for an answer.

    Attributes:
        running: Whether the clients go on.
        tally: What they met.
    """

    def __init__(
        self, route: Route, requests: list[bytes], references: Sequence[Reference], *, patient: bool, timeout: float
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.requests = requests
        self.references = references
        self.patient = patient
        self.timeout = timeout
        self.tally = Tally()
        self.running = True
        self.connect = route.connect
        self._clients: list[Client] = []

    async def run(self, clients: int, seconds: float, warm_up: float) -> dict[str, Any]:
        """Lets so many clients ask for so long, after the warm-up; returns what they met."""
        self._clients = [Client(self, number) for number in range(clients)]
        for number, client in enumerate(self._clients):
            self.loop.call_later(number / _CONNECTIONS_A_SECOND, client.start)
        await self._wait(clients, max(warm_up, clients / _CONNECTIONS_A_SECOND), "warming up")
        self.tally.open = True
        began, computed = time.monotonic(), time.process_time()
        await self._wait(clients, seconds, "measuring")
        self.tally.open = False
        took = time.monotonic() - began
        self.running = False
        for client in self._clients:
            client.close()
        await asyncio.sleep(0)
        return {
            "clients": clients, "seconds": round(took, 3), **self.tally.summary(),
            "busy": round((time.process_time() - computed) / took, 3),
        }  # fmt: skip

    async def _wait(self, clients: int, seconds: float, stage: str) -> None:
        """Waits, gives up what takes too long, and tells how it goes."""
        began = time.monotonic()
        while (gone := time.monotonic() - began) < seconds:
            answered = len(self.tally.seconds)
            told = "1 client" if clients == 1 else f"{clients:,} clients"
            if self.tally.open and gone > 0:
                told += f", {answered / gone:,.0f} answers/s, {self.tally.errors.total():,} errors"
            emit(Event("stage", stage, round(gone), max(round(seconds), 1), told))
            await asyncio.sleep(min(_TICK_SECONDS, seconds - gone))
            now = time.monotonic()
            for client in self._clients:
                if client.since is not None and now - client.since > self.timeout:
                    client.give_up("no answer in time")


# -- one request alone ------------------------------------------------------------------------------------------------


class _Answer(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self.found: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end(OSError("what answers does not speak HTTP"))

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200 and not self.found.done():
            self.found.set_result((self._parser.get_status_code(), bytes(self._body)))
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionError("the connection was closed without an answer"))

    def _end(self, error: Exception) -> None:
        if not self.found.done():
            self.found.set_exception(error)


async def _ask(route: Route, request: bytes, timeout: float) -> tuple[int, bytes]:
    """Returns status and body of one request."""
    async with asyncio.timeout(timeout):
        answer = _Answer(request)
        await route.connect(answer, 0)
        return await answer.found


async def _recovery(route: Route, request: bytes) -> float | None:
    """Returns the seconds until an image is answered again; None: it was not."""
    began = time.monotonic()
    while (gone := time.monotonic() - began) < _RECOVERY_SECONDS:
        try:
            status, _ = await _ask(route, request, _RECOVERY_SECONDS - gone)
        except OSError:
            status = 0
        if status == 200:
            return round(time.monotonic() - began, 3)
        await asyncio.sleep(_RECOVERY_PAUSE)
    return None


# -- the process ------------------------------------------------------------------------------------------------------


def _allowed(clients: int, route: Route) -> tuple[int, str]:
    """Returns how many of the clients this machine can have, and what limits them; "" where nothing does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            return soft - _SPARE_FILES, f"a process may open {soft:,} files here: raise `ulimit -Hn`"
    ports = route.most_clients()
    if ports is not None and ports < clients:
        return ports, f"this machine has {ports:,} ports for connections to that address"
    return clients, ""


class _Told:
    """What the process was told, read as it comes."""

    def __init__(self) -> None:
        self._images: list[bytes] = []
        self.requests: list[bytes] = []  # one object: a crowd that runs sends the newest
        self.url = ""

    def take(self, message: dict[str, Any]) -> None:
        """Takes images or requests."""
        if "images" in message:
            self._images = [base64.b64decode(image) for image in message["images"]]
        if "requests" in message:
            asked = message["requests"]
            self.url = asked[0]["url"]
            self.requests[:] = [
                head(each["url"], each["headers"], len(image)) + image
                for each, image in zip(asked, self._images, strict=True)
            ]


async def _lines() -> AsyncIterator[dict[str, Any]]:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield json.loads(line)


async def _main() -> None:
    told, orders = _Told(), asyncio.Queue[dict[str, Any] | None]()

    async def listen() -> None:
        async for message in _lines():
            told.take(message)
            if "alone" in message or "step" in message:
                orders.put_nowait(message)
        orders.put_nowait(None)

    listening = asyncio.create_task(listen())
    try:
        await _obey(told, orders)
    except OSError as error:
        emit(Event("error", message=f"{kind_of(error)}: {error}"))
    except _Refused as refused:
        emit(Event("error", message=str(refused), values={"status": refused.status, "body": refused.body}))
    await listening


async def _obey(told: _Told, orders: asyncio.Queue[dict[str, Any] | None]) -> None:
    references: list[Reference] = []
    while (order := await orders.get()) is not None:
        route = Route(told.url)
        if "alone" in order:
            references = await _references(route, told.requests, order["alone"]["timeout"])
            continue
        step = order["step"]
        clients, limit = _allowed(step["clients"], route)
        crowd = Crowd(route, told.requests, references, patient=step["patient"], timeout=step["timeout"])
        found = await crowd.run(clients, step["seconds"], step["warm_up"])
        found["recovery_seconds"] = await _recovery(route, told.requests[0])
        if limit:
            limit = f"{step['clients']:,} were wanted, but {limit}"
        emit(Event("done", "step", values={**found, "limit": limit}))


class _Refused(Exception):  # noqa: N818 - what was refused is the first request
    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.body = status, body


async def _references(route: Route, requests: Sequence[bytes], timeout: float) -> list[Reference]:
    """Asks for every image once, alone, and tells how long the last one took."""
    found = []
    for request in requests:
        for attempt in range(_FIRST_ATTEMPTS):
            began = time.monotonic()
            status, body = await _ask(route, request, timeout)
            if status not in BUSY:
                break
            await asyncio.sleep(0.1 * 2**attempt)
        if status != 200:
            raise _Refused(status, body[:2000].decode(errors="replace"))
        try:
            found.append(Reference(json.loads(body)))
        except ValueError:
            raise _Refused(status, "what answers does not answer in JSON") from None
    alone = time.monotonic() - began
    emit(Event("log", "alone", values={"seconds": round(alone, 6), "local": route.is_local}))
    return found


if __name__ == "__main__":
    uvloop.run(_main())
