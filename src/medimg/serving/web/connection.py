"""One connection of the server: uvicorn's, with bounds on what a client may make it wait for and hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["KEEP_ALIVE_SECONDS", "Connection", "close_the_slow"]

KEEP_ALIVE_SECONDS = 75  # longer than a client is told to wait, which then needs no new connection
_SILENT_SECONDS = 20.0  # without a byte, in the midst of a request or before the first
_REQUEST_SECONDS = 120.0  # from the first byte of a request to its last
_MAX_HEAD = 32 * 1024  # bytes of a request's line and headers
_MAX_HEADERS = 100
_MAX_WAITING = 100  # requests on one connection that came before the answer to another
_MAX_REST = 64 * 1024 * 1024  # bytes of a body that are read, and dropped, after its request was refused
_CHECK_SECONDS = 1.0


def _last_words(status: str, error: str, code: str) -> bytes:
    body = f'{{"error": "{error}", "code": "{code}"}}'
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"{head}\r\n\r\n{body}".encode("ascii")


_TOO_SLOW = _last_words("408 Request Timeout", "the request took too long to arrive", "too-slow")
_TOO_LONG = _last_words(
    "431 Request Header Fields Too Large",
    f"the request has more than {_MAX_HEADERS} headers, or {_MAX_HEAD // 1024} KB of them",
    "too-large",
)


class Connection(HttpToolsProtocol):
    """A connection that ends where a client keeps it waiting or asks for too much.

    It sends a request too slowly, with too long a head, or on and on when it was refused; it asks again and again
    without waiting, or does not read the answers.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first request."""
        self._began = self._heard = self.loop.time()
        self._in_head = True
        self._in_request = True  # a connection on which nothing ever comes is as slow as one that stops
        self._head_bytes = self._rest_bytes = 0
        self._turned = False  # whether a head or a piece of a body began or ended in the bytes that came last
        self._unread: float | None = None  # since when the client does not read what is written
        self._answering: RequestResponseCycle | None = None
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended; who answers must not write any more, also where other requests came after that one."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Takes what comes."""
        self._heard = self.loop.time()
        if self.transport.is_closing():
            return
        self._turned = False
        super().data_received(data)
        if not self._turned:
            # All of it is of one head, or of what is no body: the sizes of chunks, and headers after the last one.
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD:
                self._end(_TOO_LONG)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._began = self._heard
        self._in_head = self._in_request = self._turned = True
        self._head_bytes = self._rest_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers is whole."""
        if self._in_head:  # those after a body in chunks are not asked for, and need not be kept
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._in_head = False
        self._turned = True
        if self.transport.is_closing():
            return
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > _MAX_HEAD or len(self.headers) > _MAX_HEADERS:
            self._end(_TOO_LONG)
            return
        super().on_headers_complete()
        if len(self.pipeline) > _MAX_WAITING:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """A part of its body is there."""
        self._turned = True
        self._head_bytes = 0
        if self.transport.is_closing():
            return
        if self.cycle.response_complete:
            # Who is refused must have read why before the connection ends, and most clients send all before.
            self._rest_bytes += len(body)
            if self._rest_bytes > _MAX_REST:
                self.transport.close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._in_request = False
        self._turned = True
        if not self.transport.is_closing():
            super().on_message_complete()

    def close_if_slow(self, now: float) -> None:
        """Ends the connection where it keeps the server waiting."""
        if self.transport.is_closing() or self.flow.write_paused:
            # What is written waits until the client reads it, also where the connection shall end then.
            if self._unread is None:
                self._unread = now
            elif now - self._unread > _REQUEST_SECONDS:
                self.transport.abort()
            return
        self._unread = None
        silent = now - self._heard
        if self._in_request:
            if silent > _SILENT_SECONDS or now - self._began > _REQUEST_SECONDS:
                self._end(_TOO_SLOW)
        elif silent > KEEP_ALIVE_SECONDS and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()

    def _end(self, last_words: bytes) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.transport.write(last_words)
            self.transport.close()


async def close_the_slow(connections: Iterable[Any]) -> None:
    """Ends the connections of a set that keep the server waiting, every second, until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        now = loop.time()
        for connection in list(connections):
            connection.close_if_slow(now)
