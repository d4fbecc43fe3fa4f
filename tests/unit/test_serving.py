"""The server as a process: ready only when its answers are right, a key by default, clear refusals."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from medimg.artifact import ModelFolder
from medimg.serving.app import MAX_BODY


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Returns the status and the JSON of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def start(model: Path, folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts a server and returns it with the file that will hold its address."""
    folder.mkdir(exist_ok=True)
    address = folder / "address.json"
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "medimg.serving", "--model", str(model), "--address-file", str(address)]
        return subprocess.Popen([*command, *options], stdout=log, stderr=log), address


@pytest.fixture(scope="module")
def server(trained: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for the key "right"."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "key-hash").write_text(sha256(b"right").hexdigest())
    process, address = start(trained.path, folder, "--key-hash-file", str(folder / "key-hash"))
    while not address.exists():
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.02)
    yield Server(process, json.loads(address.read_text())["port"])
    process.terminate()
    assert process.wait(20) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def image(phantoms: Path) -> bytes:
    """One encoded test image."""
    return min(phantoms.glob("test/NODULE/*")).read_bytes()


@pytest.mark.parametrize("path", ["/predict", "/invocations"])
@pytest.mark.parametrize("header", [{"Authorization": "Bearer right"}, {"x_api_key": "right"}])
def test_the_answer_is_the_models_own(
    server: Server, trained: ModelFolder, image: bytes, path: str, header: dict[str, str]
) -> None:
    """Over both routes and both ways to send the key; the digest says which model it was."""
    status, answer = server.ask("POST", path, image, **header)
    assert status == 200
    own = trained.predict(image)
    assert answer["label"] == own.label
    assert answer["probabilities"] == pytest.approx(dict(own.probabilities), abs=1e-6)
    assert answer["threshold"] == pytest.approx(trained.record.thresholds)
    assert answer["digest"] == trained.digest
    assert answer["latency_ms"] > 0


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}])
def test_without_the_right_key_there_is_no_answer(server: Server, image: bytes, headers: dict[str, str]) -> None:
    """Missing, wrong, or in the wrong scheme."""
    status, answer = server.ask("POST", "/predict", image, **headers)
    assert status == 401
    assert "Authorization: Bearer KEY" in answer["error"]


def test_ping_needs_no_key(server: Server) -> None:
    """Clouds ask it."""
    assert server.ask("GET", "/ping")[0] == 200


@pytest.mark.parametrize(("body", "code"), [(b"", "empty"), (b"hello", "not-an-image"), (b"\xff\xd8\xff", "truncated")])
def test_what_is_no_image_is_refused_with_its_code(server: Server, body: bytes, code: str) -> None:
    """And the server lives on."""
    status, answer = server.ask("POST", "/predict", body, x_api_key="right")
    assert status == 415
    assert answer["code"] == code
    # Whoever asked knows the name of the image, and the code has its own field.
    assert not answer["error"].startswith("image") and answer["code"] not in answer["error"].split()[-1]
    assert server.ask("GET", "/ping")[0] == 200


def test_a_body_that_is_too_large_is_cut_off(server: Server) -> None:
    """Whatever length it declares."""
    status, answer = server.ask("POST", "/predict", bytes(MAX_BODY + 1), x_api_key="right")
    assert status == 413
    assert "64 MB" in answer["error"]


def test_the_server_loads_no_framework(server: Server) -> None:
    """Neither TensorFlow nor Keras is among the files that the process has mapped."""
    maps = Path(f"/proc/{server.process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc here to look into")
    assert "tensorflow" not in maps.read_text()


def test_a_model_that_answers_otherwise_never_becomes_ready(trained: ModelFolder, tmp_path: Path) -> None:
    """The golden inputs are checked before the first request."""
    folder = Path(shutil.copytree(trained.path, tmp_path / "model", copy_function=shutil.copyfile))
    golden = json.loads((folder / "golden" / "golden.json").read_text())
    (folder / "golden" / "golden.json").write_text(json.dumps({name: [0.5, 0.5] for name in golden}))
    ModelFolder.seal(folder, trained.record)
    process, address = start(folder, tmp_path / "server")
    assert process.wait(60) == 1
    assert not address.exists()
    assert "golden input" in (tmp_path / "server" / "log").read_text()


def test_a_model_that_was_changed_and_sealed_again_is_not_served(trained: ModelFolder, tmp_path: Path) -> None:
    """Its own digest fits it; the one that was deployed does not."""
    folder = Path(shutil.copytree(trained.path, tmp_path / "model"))
    ModelFolder.seal(folder, trained.record.model_copy(update={"notices": ("changed",)}))
    process, address = start(folder, tmp_path / "server", "--digest", trained.digest)
    assert process.wait(60) == 1
    assert not address.exists()
    assert trained.digest[:8] in (tmp_path / "server" / "log").read_text()


def test_a_public_address_without_a_key_is_refused(trained: ModelFolder, tmp_path: Path) -> None:
    """Patients' images must not be open to the network by accident."""
    process, _ = start(trained.path, tmp_path / "server", "--host", "0.0.0.0")  # noqa: S104 - it is refused
    assert process.wait(60) == 1
    assert "a key is needed" in (tmp_path / "server" / "log").read_text()


def test_a_request_in_flight_is_answered_first(trained: ModelFolder, tmp_path: Path, image: bytes) -> None:
    """SIGTERM lets what has begun finish."""
    process, address = start(trained.path, tmp_path / "server")
    while not address.exists():
        assert process.poll() is None
        time.sleep(0.02)
    connection = http.client.HTTPConnection("127.0.0.1", json.loads(address.read_text())["port"], timeout=30)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(image)))
    connection.endheaders(image[:100])
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.3)
    connection.send(image[100:])
    assert connection.getresponse().status == 200
    connection.close()
    process.wait(20)
