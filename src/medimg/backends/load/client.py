"""`Client`: one of many that ask an endpoint, each sending its next image when it has the answer to the last."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import httptools

from medimg.backends.load.tally import kind_of

if TYPE_CHECKING:
    from medimg.backends.load.clients import Crowd

__all__ = ["BUSY", "Client", "Reference"]

_TOLERANCE = 1e-4  # between probabilities of one image: what every runtime of a model must keep
_PAUSE_SECONDS = 0.5  # after a connection that failed
_CLOSING_SECONDS = 0.01  # until a connection that is being closed is looked at again
_DEFAULT_RETRY_SECONDS, _MOST_RETRY_SECONDS = 1.0, 30.0
BUSY = (429, 503)
"""Statuses of an endpoint that has too much to do."""


class Reference:
    """What an image was answered before the load: what it must be answered under it.

    Args:
        answer: The JSON of that answer; comparisons are only of what it has.
    """

    def __init__(self, answer: Any) -> None:
        fields = answer if isinstance(answer, dict) else {}
        self.digest = fields.get("digest")
        self.probabilities = fields.get("probabilities")

    def is_of_another_model(self, answer: Mapping[str, Any]) -> bool:
        """Tells whether another model answered."""
        return self.digest is not None and answer.get("digest") != self.digest

    def differs(self, answer: Mapping[str, Any]) -> bool:
        """Tells whether the probabilities are others."""
        expected, found = self.probabilities, answer.get("probabilities")
        if expected is None or found == expected:
            return False
        if not isinstance(expected, dict) or not isinstance(found, dict) or expected.keys() != found.keys():
            return True
        return not all(abs(found[name] - value) <= _TOLERANCE for name, value in expected.items())


class Client(asyncio.Protocol):
    """Connects, sends, waits, and sends again, until the crowd is told to stop.

    Args:
        crowd: Whose it is: what it sends, and where it is counted.
        number: Of the client; its first image follows from it.
    """

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self._number = number
        self._image = number
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._body = bytearray()
        self._retry: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.since: float | None = None  # when the request on its way was sent; None: there is none

    # -- connecting ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connects, now."""
        if self._crowd.running:
            self._task = self._crowd.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._crowd.timeout):
                await self._crowd.connect(self, self._number)
        except OSError as error:  # TimeoutError and ssl.SSLError are such too
            self._crowd.tally.error(kind_of(error))
            self._again(_PAUSE_SECONDS * (0.5 + random.random()), self.start)  # noqa: S311 - no secret hangs on it

    def _again(self, seconds: float, what: Any) -> None:
        if self._crowd.running:
            self._crowd.loop.call_later(seconds, what)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Counts a request that was on its way, and connects again."""
        self._transport = None
        if self.since is not None:
            self.since = None
            self._crowd.tally.error("closed without an answer" if error is None else kind_of(error))
            self._again(_PAUSE_SECONDS * random.random(), self.start)  # noqa: S311

    # -- asking -------------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        if not self._crowd.running:
            self.close()
        elif self._transport is None:
            self.start()
        elif self._transport.is_closing():
            self._again(_CLOSING_SECONDS, self._send)
        else:
            self._image = (self._image + 1) % len(self._crowd.requests)
            self._retry = None
            self._body.clear()
            self.since = time.monotonic()
            self._transport.write(self._crowd.requests[self._image])

    def data_received(self, data: bytes) -> None:
        """Reads on."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("not HTTP")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Notes how long the endpoint asks to wait."""
        if name.lower() == b"retry-after":
            self._retry = float(value) if value.isdigit() else _DEFAULT_RETRY_SECONDS

    def on_body(self, part: bytes) -> None:
        """Gathers the answer."""
        self._body += part

    def on_message_complete(self) -> None:
        """Counts the answer and goes on, after as long as the endpoint asked for."""
        status = self._parser.get_status_code()
        if self.since is None or status < 200:
            return
        waited, self.since = time.monotonic() - self.since, None
        if status == 200:
            self._judge(waited)
        else:
            told = " without Retry-After" if status in BUSY and self._retry is None else ""
            self._crowd.tally.error(f"HTTP {status}{told}")
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.abort()
        if self._crowd.patient and status in BUSY:
            pause = min(_DEFAULT_RETRY_SECONDS if self._retry is None else self._retry, _MOST_RETRY_SECONDS)
            # A little more, so that those refused together do not come back together.
            self._again(pause * (1 + 0.25 * random.random()), self._send)  # noqa: S311
        else:
            # Not from inside the parser, whose message has not ended yet.
            self._crowd.loop.call_soon(self._send)

    def _judge(self, waited: float) -> None:
        tally, reference = self._crowd.tally, self._crowd.references[self._image]
        try:
            answer = json.loads(self._body)
        except ValueError:
            tally.error("not JSON")
            return
        tally.answered(waited)
        if tally.open and isinstance(answer, dict):
            if reference.is_of_another_model(answer):
                tally.other_digest += 1
            elif reference.differs(answer):
                tally.wrong += 1

    # -- ending -------------------------------------------------------------------------------------------------------

    def give_up(self, kind: str) -> None:
        """Counts the request on its way as failed and asks anew over another connection."""
        self.since = None
        self._crowd.tally.error(kind)
        if self._transport is not None:
            self._transport.abort()
        self._again(_CLOSING_SECONDS, self._send)

    def close(self) -> None:
        """Ends the connection, whatever is on its way."""
        self.since = None
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
