"""One connection of the server: uvicorn's, with bounds on what a client may make it wait for and hold.

What a request costs here is paid on the cores that also decode and predict: a body is copied once at most, and an
answer is one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from medimg.serving.processes import allocator

__all__ = ["KEEP_ALIVE_SECONDS", "WHOLE", "Connection", "Whole", "close_the_slow"]

WHOLE = "medimg.whole"
"""Among a request's `extensions`: what answers it in one piece, a `Whole`."""

Whole = Callable[[int, bytes, bytes], Awaitable[None]]
"""From the status, the lines of the headers (each with its end) and the body."""

KEEP_ALIVE_SECONDS = 75  # longer than a client is told to wait, which then needs no new connection
_SILENT_SECONDS = 20.0  # without a byte, in the midst of a request or before the first
_REQUEST_SECONDS = 120.0  # from the first byte of a request to its last
_MAX_HEAD = 32 * 1024  # bytes of a request's line and headers
_MAX_HEADERS = 100
_MAX_WAITING = 100  # requests on one connection that came before the answer to another
_MAX_REST = 64 * 1024 * 1024  # bytes of a body that are read, and dropped, after its request was refused
_CHECK_SECONDS = 1.0
_MANY = 500  # connections


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


class _Exchange(RequestResponseCycle):
    """A request and its answer. The body is kept in the pieces in which it came."""

    def __init__(self, connection: Connection, *, keep_alive: bool) -> None:
        super().__init__(
            scope=connection.scope, transport=connection.transport, flow=connection.flow, logger=connection.logger,
            access_logger=connection.access_logger, access_log=False,
            default_headers=connection.server_state.default_headers, message_event=asyncio.Event(),
            expect_100_continue=connection.expect_100_continue, keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )  # fmt: skip
        self._pieces: list[bytes] = []
        self._held = 0

    def add(self, piece: bytes) -> None:
        """Takes a piece of the body."""
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    def drop(self) -> None:
        """Lets go of what nobody will read, and of the way from its scope back to itself: it is freed at once."""
        self._pieces.clear()
        self.scope.pop("extensions", None)

    async def receive(self) -> Any:
        """Returns what has come since the last call, as ASGI has it."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self._pieces, self._held = self._pieces, [], 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def whole(self, status: int, headers: bytes, body: bytes) -> None:
        """Answers in one piece, as `Whole` says; nothing is to be sent before or after."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        own = [b"%b: %b\r\n" % header for header in self.default_headers]
        if not self.keep_alive:
            own.append(b"connection: close\r\n")
        if self.scope["method"] == "HEAD":
            body = b""
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(b"".join((STATUS_LINE[status], *own, headers, b"\r\n", body)))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


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
        self._answering: _Exchange | None = None
        self._latest: _Exchange | None = None  # of the request that came last
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended; who answers must not write any more, also where other requests came after that one."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def _answer(self, exchange: _Exchange, app: Any) -> None:
        self._answering = exchange
        task = self.loop.create_task(exchange.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

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
        self._begin_exchange()
        if len(self.pipeline) > _MAX_WAITING:
            self.transport.close()

    def _begin_exchange(self) -> None:
        """Does what uvicorn's does, with an exchange of ours, and without what this server has no use for."""
        version = self.parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope: MutableMapping[str, Any] = self.scope  # type: ignore[assignment]
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = self._latest
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self.cycle = self._latest = exchange = _Exchange(self, keep_alive=keep_alive)
        scope["extensions"] = {WHOLE: exchange.whole}
        if before is None or before.response_complete:
            self._answer(exchange, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))

    def on_body(self, body: bytes) -> None:
        """A part of its body is there."""
        self._turned = True
        self._head_bytes = 0
        if self.transport.is_closing():
            return
        exchange = self._latest
        if exchange is None or exchange.response_complete:
            # Who is refused must have read why before the connection ends, and most clients send all before.
            self._rest_bytes += len(body)
            if self._rest_bytes > _MAX_REST:
                self.transport.close()
            return
        exchange.add(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._in_request = False
        self._turned = True
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request was answered. `close_if_slow` ends a connection that rests; a timer of its own costs too much."""
        self.server_state.total_requests += 1
        if self._answering is not None:
            self._answering.drop()  # where it was refused, the rest of its body
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            exchange, app = self.pipeline.pop()
            self._answer(cast("_Exchange", exchange), app)

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


async def close_the_slow(connections: Collection[Any]) -> None:
    """Ends the connections of a set that keep the server waiting, every second, until it is cancelled.

    When most of very many have gone, so does the memory that they took.
    """
    loop = asyncio.get_running_loop()
    most = 0
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        now = loop.time()
        for connection in list(connections):
            connection.close_if_slow(now)
        most = max(most, len(connections))
        if most >= _MANY and len(connections) < most // 2:
            allocator.give_back()
            most = len(connections)
