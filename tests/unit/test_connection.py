"""What a client may make the server wait for: with the limits of time brought down from seconds to tenths."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from medimg.serving.web import connection
from medimg.serving.web.server import bound, serve

REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers when the body is whole; at /full before it is read."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/full":
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return
    while (message := await receive())["type"] != "http.disconnect":
        if not message.get("more_body"):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})
            return


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that waits for three tenths of a second, and for a whole request no longer than 1.5 s."""
    listening, ended = bound("127.0.0.1", 0), asyncio.Event()
    loop = uvloop.new_event_loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_SILENT_SECONDS", 0.3)
        patch.setattr(connection, "_REQUEST_SECONDS", 1.5)
        patch.setattr(connection, "_CHECK_SECONDS", 0.05)
        thread = threading.Thread(target=lambda: loop.run_until_complete(serve(app, listening, ended=ended)))
        thread.start()
        listening.listen()
        yield listening.getsockname()[1]
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()


def said(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Returns all that a server says to pieces of a request until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as asking:
        for piece in pieces:
            asking.sendall(piece)
            time.sleep(pause)
        found = b""
        while part := asking.recv(1000):
            found += part
        return found


@pytest.mark.parametrize("sent", [b"", REQUEST[:20], REQUEST, REQUEST + b"12345"])
def test_who_says_nothing_more_is_closed(port: int, sent: bytes) -> None:
    """Before the first byte, in the head, before the body and in it: 408, and the connection ends."""
    began = time.monotonic()
    assert said(port, sent).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began >= 0.3


def test_who_sends_a_byte_now_and_then_is_closed_too(port: int) -> None:
    """Each byte comes in time, the whole does not."""
    long = REQUEST.replace(b"Length: 10", b"Length: 100")
    with pytest.raises(ConnectionError):  # it is closed while the bytes still come
        said(port, long, *[b"x"] * 50, pause=0.2)


def test_who_sends_slowly_but_in_time_is_answered(port: int) -> None:
    """In pieces with pauses that are allowed."""
    answer = said(port, REQUEST.replace(b"Host", b"Connection: close\r\nHost"), b"12345", b"67890", pause=0.1)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok")


def test_the_body_of_a_refused_request_is_let_go(port: int) -> None:
    """While the connection waits for the next request: ten thousand of them would hold a gigabyte."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as asking:
        asking.sendall(b"POST /full HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n" + bytes(50_000))
        assert asking.recv(1000).startswith(b"HTTP/1.1 503 ")
        held = [one._latest for one in gc.get_objects() if isinstance(one, connection.Connection)]
        assert any(one is not None and one.scope["path"] == "/full" for one in held)
        assert not any(one._pieces for one in held if one is not None)
