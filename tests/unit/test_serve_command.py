"""`medimg serve`: a model here, or an endpoint somewhere else, with the page in front of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medimg.artifact import ModelFolder
from medimg.backends import backend

COMMAND = [sys.executable, "-c", "from medimg.cli import main; main()", "serve"]


class Served:
    """What a running command has printed, and the way to ask it."""

    def __init__(self, process: subprocess.Popen[str], lines: dict[str, str]) -> None:
        self.process, self.key = process, lines.get("key", "")
        self.host, _, port = lines["page"].removeprefix("http://").strip("/").rpartition(":")
        self.port = int(port)

    def ask(self, method: str, path: str, body: bytes | None = None, *, key: bool = True) -> tuple[int, Any]:
        """Returns the status and the answer: JSON, or bytes."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self.key}"} if key else {})
            response = connection.getresponse()
            content = response.read()
            is_json = response.headers.get_content_type() == "application/json"
            return response.status, json.loads(content) if is_json else content
        finally:
            connection.close()


@contextmanager
def serving(*arguments: str, home: Path) -> Iterator[Served]:
    """Runs the command in a terminal's way: Ctrl-C reaches all of its processes, and it ends with 0, as on hanging up.

    Where the block has ended it already, nothing more is asked.
    """
    command = [*COMMAND, "--port", "0", *arguments]
    environment = {**os.environ, "MEDIMG_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        assert process.stdout is not None
        lines: dict[str, str] = {}
        for line in process.stdout:
            name, _, rest = line.strip().partition("  ")
            lines[name] = rest.strip()
            if name == "end":
                break
        assert "end" in lines, lines
        yield Served(process, lines)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def image(phantoms: Path) -> bytes:
    """One encoded test image."""
    return min(phantoms.glob("test/NODULE/*")).read_bytes()


def test_a_model_is_served_with_its_page_until_ctrl_c(trained: ModelFolder, image: bytes, own_home: Path) -> None:
    """A key is made and printed; without it only the page comes; nothing is left when it ends."""
    with serving(str(trained.path), home=own_home) as server:
        status, page = server.ask("GET", "/", key=False)
        assert (status, b"Not a medical device" in page) == (200, True)
        assert server.ask("POST", "/predict", image, key=False)[0] == 401
        status, answer = server.ask("POST", "/predict", image)
        assert (status, answer["digest"]) == (200, trained.digest)
        assert server.ask("GET", "/model")[1]["card"] == trained.card
    wait_for_end(server)


def wait_for_end(server: Served) -> None:
    """Waits until nobody listens any more."""
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((server.host, server.port)):
                break
        assert time.monotonic() < deadline, "the server still listens"
        time.sleep(0.05)


@pytest.mark.usefixtures("terminal")
def test_no_server_outlives_its_terminal(trained: ModelFolder, own_home: Path) -> None:
    """Closed, or the command killed. Two servers of one model at the same time have a log each."""
    model = str(trained.path)
    with serving(model, home=own_home) as first, serving(model, home=own_home) as second:
        logs = sorted(path.parent.name for path in own_home.glob("served/*/requests.jsonl"))
        assert logs == [trained.digest[:16], f"{trained.digest[:16]}-2"]
        os.killpg(first.process.pid, signal.SIGHUP)
        assert first.process.wait(30) == 0
        wait_for_end(first)
        os.kill(second.process.pid, signal.SIGKILL)
        second.process.wait(30)
        wait_for_end(second)


def test_an_endpoint_elsewhere_answers_behind_the_same_page(trained: ModelFolder, image: bytes, own_home: Path) -> None:
    """Its key stays here, its registered model gives the card, its refusals come through, and its end is said."""
    local = backend("local")
    version = local.register(trained, name="lungs")
    endpoint = local.deploy(trained, name="there")
    with serving("--endpoint", "local:there", "--no-auth", home=own_home) as server:
        told = server.ask("GET", "/model", key=False)[1]
        assert (told["where"], told["version"], told["card"]) == ("local endpoint there", "lungs/1", trained.card)
        assert (told["explains"], told["auth"]) == (False, "none")
        status, answer = server.ask("POST", "/predict", image, key=False)
        own = trained.predict(image)
        assert (status, answer["label"], answer["version"]) == (200, own.label, "lungs/1")
        assert answer["probabilities"] == pytest.approx(dict(own.probabilities), abs=1e-6)
        status, refused = server.ask("POST", "/predict", b"hello", key=False)
        assert (status, refused["code"]) == (415, "not-an-image")
        status, picture = server.ask("POST", "/picture", image, key=False)
        assert (status, picture[:4]) == (200, b"\x89PNG")
        assert endpoint._answer(image)["version"] == ""
        endpoint.update(version)  # the same model, by its registered name
        assert endpoint._answer(image)["version"] == endpoint._resource.details["version"] == "lungs/1"
        endpoint.delete()
        status, gone = server.ask("POST", "/predict", image, key=False)
        assert status == 502 and "is gone" in gone["error"] and str(own_home) not in gone["error"]


def test_what_cannot_be_served_is_said_before_anything_starts(own_home: Path, trained: ModelFolder) -> None:
    """A public address without a key, a port that is taken, and an endpoint that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            ([str(trained.path), "--host", "0.0.0.0", "--no-auth"], "can be reached from other machines"),  # noqa: S104
            ([str(trained.path), "--port", port], "--port 0"),
            (["--endpoint", "local:nowhere", "--port", "0"], "no endpoint 'nowhere'"),
        ):
            done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 1 and words in done.stderr, done.stderr
