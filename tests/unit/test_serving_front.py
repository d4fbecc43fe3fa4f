"""The server's front: what one client sends, or does not read, costs the others neither memory nor time."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from medimg.serving.access.gate import Gate
from medimg.serving.answering import Answered
from medimg.serving.requests import images_of
from medimg.serving.web import connection, predicting
from medimg.serving.web.admission import Admission
from medimg.serving.web.app import build_app
from medimg.serving.web.server import bound, serve

HOST = b"Host: localhost\r\n"
PAGE = b"GET /page/page.js HTTP/1.1\r\n" + HOST + b"\r\n"


class Sizes:
    """Answers an image with its size, in no time."""

    async def answer(self, image: bytes) -> Answered:
        """Returns the size."""
        return Answered({"size": len(image)}, {})

    async def picture(self, image: bytes) -> bytes:
        """Returns the image as it is."""
        return image

    def model(self) -> Mapping[str, Any]:
        """Returns what is asked of it."""
        return {"digest": "d"}

    def ready(self) -> bool:
        """It is."""
        return True

    async def close(self) -> None:
        """Nothing is left."""


def in_server(test: Callable[[int], None]) -> None:
    """Runs a test, in a thread, with the port of the real app and the real connections."""

    async def run() -> None:
        answering = Sizes()
        listening = bound("127.0.0.1", 0)
        listening.listen(100)
        ended = asyncio.Event()
        app = build_app(answering, gate=Gate(None), admission=Admission(images=8), picture=answering.picture)
        serving = asyncio.create_task(serve(app, listening, ended=ended))
        try:
            await asyncio.to_thread(test, listening.getsockname()[1])
        finally:
            ended.set()
            await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def connected(port: int) -> socket.socket:
    """Returns a connection; the system keeps little of what the client does not read."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.settimeout(5)
    line.connect(("127.0.0.1", port))
    return line


def said(line: socket.socket) -> bytes:
    """Returns all that comes until the server ends the connection."""
    with line, contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: line.recv(65_536), b""))
    return b""


def post(port: int, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
    """Returns status and body of an answer."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        line.request("POST", path, body, {"Content-Type": kind})
        response = line.getresponse()
        return response.status, response.read()
    finally:
        line.close()


def test_who_does_not_read_the_answers_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that a request may take."""
    monkeypatch.setattr(connection, "_REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(connection, "_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(connection, "_MAX_WAITING", 10_000)

    def test(port: int) -> None:
        with connected(port) as line:
            for _ in range(10):
                line.sendall(PAGE * 90)
                time.sleep(0.01)
            with pytest.raises(ConnectionError):
                for _ in range(60):
                    time.sleep(0.05)
                    line.sendall(PAGE)

    in_server(test)


def test_who_asks_on_and_on_without_waiting_is_cut_off() -> None:
    """A hundred requests may wait for the answer before theirs; each takes memory."""

    def test(port: int) -> None:
        line = connected(port)
        line.sendall(PAGE * 80 + PAGE.replace(HOST, HOST + b"Connection: close\r\n"))
        assert said(line).count(b"HTTP/1.1 200 ") == 81
        line = connected(port)
        line.sendall(PAGE * 1000)
        assert said(line).count(b"HTTP/1.1 200 ") < 200

    in_server(test)


def test_a_client_that_goes_away_is_no_failure(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is written to the log: in the midst of its key, and before it has read what it asked for."""

    def test(port: int) -> None:
        for sent in (b"POST /session HTTP/1.1\r\nContent-Length: 100\r\n" + HOST + b"\r\n{", PAGE * 90):
            for _ in range(3):
                line = connected(port)
                line.sendall(sent)
                time.sleep(0.05)
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                line.close()
        time.sleep(0.1)
        assert post(port, "/predict", b"pixels", "image/png")[0] == 200

    in_server(test)
    assert capfd.readouterr().err == ""


def test_large_bodies_are_taken_apart_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever path, and beside the loop that serves: their copies would fill the memory."""
    now = most = 0

    def watched(*given: Any, **named: Any) -> Any:
        nonlocal now, most
        assert threading.current_thread() is not threading.main_thread()
        now += 1
        most = max(most, now)
        time.sleep(0.05)
        now -= 1
        return images_of(*given, **named)

    monkeypatch.setattr(predicting, "images_of", watched)
    body = json.dumps({"image": "A" * (predicting._LARGE + 4)}).encode()

    def test(port: int) -> None:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda path: post(port, path, body), ["/predict", "/picture"] * 2))
        assert [status for status, _ in found] == [200] * 4
        assert json.loads(found[0][1]) == {"size": len(found[1][1])}

    in_server(test)
    assert most == 1


def test_a_path_for_one_image_refuses_several() -> None:
    """Rather than answer the first, as if that were all."""

    def test(port: int) -> None:
        status, told = post(port, "/picture", b'{"images": ["AAAA", "BBBB"]}')
        assert (status, json.loads(told)["code"]) == (400, "bad-request")
        assert "one of 2" in json.loads(told)["error"]
        assert post(port, "/picture", b'{"images": ["AAAA"]}') == (200, bytes(3))

    in_server(test)
