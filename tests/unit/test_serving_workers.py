"""The server's processes: one that dies or hangs costs one request, and the others never notice."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medimg.artifact import ModelFolder
from medimg.serving.processes.choice import Choice
from medimg.serving.processes.process import WorkerProcess
from medimg.serving.processes.served import Served

if not Path("/proc/self/stat").exists():
    pytest.skip("the processes are found in /proc", allow_module_level=True)


@dataclass(frozen=True)
class Server:
    """A running server without a key."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Returns status, headers and body of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def predict(self, image: bytes) -> tuple[int, dict[str, Any]]:
        """Returns status and JSON for one image."""
        status, _, body = self.ask("POST", "/predict", image)
        return status, json.loads(body)

    def workers(self) -> list[int]:
        """Returns the numbers of the processes that it has started."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == self.process.pid and state != "Z":
                found.append(int(stat.parent.name))
        return found

    def figure(self, name: str) -> float:
        """Returns one figure of /metrics."""
        _, _, body = self.ask("GET", "/metrics")
        found = [line for line in body.decode().splitlines() if line.startswith(f"{name} ")]
        return float(found[0].rpartition(" ")[2])

    def until(self, name: str, value: float) -> None:
        """Waits until a figure has a value."""
        deadline = time.monotonic() + 30
        while (found := self.figure(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}: {self.log.read_text()}"
            time.sleep(0.02)


def start(model: Path, folder: Path, *options: str) -> Server:
    """Returns a server that answers."""
    folder.mkdir(exist_ok=True)
    address, log = folder / "address.json", folder / "log"
    command = [sys.executable, "-m", "medimg.serving", "--model", str(model), "--address-file", str(address)]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, *options], stdout=file, stderr=file)
    while not address.exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    return Server(process, json.loads(address.read_text())["port"], log)


@pytest.fixture(scope="module")
def server(trained: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers."""
    found = start(
        trained.path,
        tmp_path_factory.mktemp("server"),
        "--workers",
        "2",
        "--version",
        "chest/7",
        "--image-seconds",
        "3",
    )
    found.until("medimg_workers", 2)
    yield found
    found.process.terminate()
    assert found.process.wait(30) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def images(phantoms: Path) -> list[bytes]:
    """Encoded test images."""
    return [path.read_bytes() for path in sorted(phantoms.glob("test/*/*"))[:12]]


def test_a_worker_that_is_killed_costs_its_request_and_no_other(
    server: Server, trained: ModelFolder, images: list[bytes]
) -> None:
    """Under load: every answer is its own image's, the rest are 503 with Retry-After, and both workers come back."""
    expected = {image: pytest.approx(dict(trained.predict(image).probabilities), abs=1e-6) for image in images}
    answered: list[int] = []
    refused: list[str | None] = []
    wrong: list[object] = []
    done = threading.Event()

    def keep_asking(first: int) -> None:
        number = first
        while not done.is_set():
            number += 1
            image = images[number % len(images)]
            status, headers, body = server.ask("POST", "/predict", image)
            if status == 200:
                answered.append(number)
                if json.loads(body)["probabilities"] != expected[image]:
                    wrong.append(json.loads(body))
            elif status == 503:
                refused.append(headers["Retry-After"])
            else:
                wrong.append((status, body))

    askers = [threading.Thread(target=keep_asking, args=(first,)) for first in range(4)]
    for asker in askers:
        asker.start()
    for killed in range(1, 4):
        before = len(answered)
        os.kill(server.workers()[0], signal.SIGKILL)
        server.until("medimg_worker_restarts", killed)
        server.until("medimg_workers", 2)
        while len(answered) < before + 20:
            time.sleep(0.01)
    done.set()
    for asker in askers:
        asker.join(30)
    assert not wrong
    assert len(refused) <= 3 and all(after == "1" for after in refused)


def test_images_wait_while_no_worker_lives(server: Server, images: list[bytes]) -> None:
    """All of them are killed at once; whoever asks then is answered by their successors."""
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (found := server.predict(images[0]))[0] == 503:  # it was handed to one that was dying
        assert time.monotonic() < deadline
    assert found[0] == 200
    server.until("medimg_workers", 2)


def test_a_worker_that_hangs_is_replaced(server: Server, images: list[bytes]) -> None:
    """Its image is refused as too slow after its time, the other worker answers meanwhile, and then both do."""
    os.kill(server.workers()[0], signal.SIGSTOP)
    found: list[tuple[int, dict[str, Any]]] = []
    refused = threading.Event()

    def keep_asking() -> None:  # until one image went to the stopped one: the first ones may all be the other's
        while not refused.is_set():
            found.append(server.predict(images[0]))
            if found[-1][0] != 200:
                refused.set()

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    began = time.monotonic()
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
    others = [answer for status, answer in found if status != 200]
    assert [answer["code"] for answer in others] == ["too-slow"]
    assert len(found) > len(askers)
    assert time.monotonic() - began > 2.9
    server.until("medimg_workers", 2)
    assert server.predict(images[0])[0] == 200


def test_several_images_get_a_list_of_answers(server: Server, trained: ModelFolder, images: list[bytes]) -> None:
    """In their order; one that cannot be read has its refusal among them, and the version is told."""
    parts = [images[0], b"hello", images[1]]
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + part + b"\r\n" for part in parts
    )
    status, _, told = server.ask("POST", "/score", body + b"--x--\r\n", Content_Type="multipart/form-data; boundary=x")
    first, second, third = json.loads(told)["predictions"]
    assert status == 200
    assert second.keys() == {"error", "code"}
    for answer, image in ((first, images[0]), (third, images[1])):
        assert answer["probabilities"] == pytest.approx(dict(trained.predict(image).probabilities), abs=1e-6)
        assert (answer["digest"], answer["version"]) == (trained.digest, "chest/7")


def test_a_picture_is_drawn_for_a_browser(server: Server, images: list[bytes]) -> None:
    """As PNG; what is no picture is refused as elsewhere."""
    status, headers, body = server.ask("POST", "/picture", images[0])
    assert (status, headers["Content-Type"], body[:4]) == (200, "image/png", b"\x89PNG")
    status, _, body = server.ask("POST", "/picture", b"hello")
    assert (status, json.loads(body)["code"]) == (415, "not-an-image")


def test_a_body_that_stops_holds_nobody_up(server: Server, images: list[bytes]) -> None:
    """A hundred connections that send a part of a request: others are answered, and the parts are no requests."""
    stopped = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    for number, connection in enumerate(stopped):
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall((b"", b"POST /pre", head, head + bytes(10))[number % 4])
    assert server.predict(images[0])[0] == 200
    for connection in stopped:
        connection.close()
    server.until("medimg_body_bytes", 0)


def test_too_long_a_head_is_refused(server: Server) -> None:
    """In one piece or without an end, and the server lives on."""
    for pieces in (
        [b"GET /ping HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"],
        [b"GET /ping HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 150 + b"\r\n"],
        [b"GET /", b"x" * 20_000, b"x" * 20_000],
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.05)
            assert connection.recv(100).startswith(b"HTTP/1.1 431 ")
    assert server.ask("GET", "/ping")[0] == 200


def test_a_refusal_is_read_though_the_body_is_still_coming(server: Server) -> None:
    """The connection is not reset: most clients send all before they read."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/nowhere", bytes(5_000_000))
    assert connection.getresponse().read().startswith(b'{"error"')
    connection.request("GET", "/ping")
    assert connection.getresponse().status == 200
    connection.close()


def test_the_routes_describe_themselves_and_the_model(
    server: Server, trained: ModelFolder, images: list[bytes]
) -> None:
    """Model, health, figures and reference: nothing on a page comes from another address."""
    told = json.loads(server.ask("GET", "/model")[2])
    assert (told["digest"], told["version"], told["name"]) == (trained.digest, "chest/7", "chest")
    assert told["classes"] == list(trained.record.classes) and told["auth"] == "none"
    assert {"status", "images", "measures", "message"} <= json.loads(server.ask("GET", "/health")[2]).keys()
    routes = json.loads(server.ask("GET", "/openapi.json")[2])["paths"]
    assert {"/predict", "/invocations", "/score", "/explain", "/model", "/health", "/metrics"} <= routes.keys()
    for path in ("/docs", "/"):
        status, headers, body = server.ask("GET", path)
        assert status == 200 and headers["Content-Type"].startswith("text/html")
        assert b"http" not in body.lower().replace(b"http-equiv", b"")
    page = server.ask("GET", "/docs")[2].decode()
    assert "curl -H" in page and "&quot;label&quot;" in page and "<code>431</code>" in page and "{error" not in page
    assert server.ask("POST", "/predict", images[0])[0] == 200
    figures = server.ask("GET", "/metrics")[2]
    assert b'medimg_requests_total{path="/predict",status="200"}' in figures and b"_created" not in figures


def test_a_server_whose_workers_cannot_start_any_more_ends(trained: ModelFolder, tmp_path: Path) -> None:
    """Its model was removed, and its worker dies: it says why, rather than refuse for ever."""
    folder = tmp_path / "model"
    folder.symlink_to(trained.path)
    (tmp_path / "file.json").write_text(json.dumps({"model": str(folder), "digest": trained.digest}))
    address, log = tmp_path / "address.json", tmp_path / "log"
    command = [sys.executable, "-m", "medimg.serving", "--model-file", str(tmp_path / "file.json"), "--workers", "1"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--address-file", str(address)], stdout=file, stderr=file)
    while not address.exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    folder.unlink()
    for worker in Server(process, 0, log).workers():
        os.kill(worker, signal.SIGKILL)
    assert process.wait(60) == 1
    assert "no worker can be started any more" in log.read_text() and "not a complete model" in log.read_text()


STANDING = "s.recv(1)"
BRIEF = "import time; time.sleep(0.3)"
HELLO = """
import socket, struct, sys
s = socket.socket(fileno=int(sys.argv[1]))
s.sendall(struct.pack("!QBI", 0, 10, 14) + b'{"worst": 0.0}')
"""


def test_another_model_whose_workers_die_while_they_start_ends_nothing(trained: ModelFolder, tmp_path: Path) -> None:
    """The first one of it proved it and died, and no other starts: the old model answers on, and why is told."""
    left = [HELLO + STANDING, HELLO + STANDING, HELLO + BRIEF]
    broken: list[str] = []

    def launched(_: Choice) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-S", "-c", left.pop(0) if left else "", str(theirs.fileno())]
            started = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        ours.setblocking(False)
        return WorkerProcess(started, ours, 10.0)

    async def change() -> None:
        choice, model_file = Choice(trained.path, trained.digest), tmp_path / "model.json"
        model_file.write_text(json.dumps({"model": str(trained.path), "digest": trained.digest, "version": "chest/8"}))
        served = Served(
            choice, launched(choice), 2, launch=launched, model_file=model_file, served_file=tmp_path / "served.json",
            on_broken=broken.append,
        )  # fmt: skip
        await served.start()
        while served.alive < 2:
            await asyncio.sleep(0.02)
        await served.change()
        assert (served.alive, served.version) == (2, "")
        await served.close()

    asyncio.run(change())
    assert broken == []
    assert "its workers ended while they started" in json.loads((tmp_path / "served.json").read_text())["error"]


def test_the_workers_end_with_the_server_however_it_ends(trained: ModelFolder, tmp_path: Path) -> None:
    """Also where it is killed and can tell them nothing."""
    found = start(trained.path, tmp_path / "server", "--workers", "1")
    (worker,) = found.workers()
    found.process.kill()
    found.process.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
