"""The server as a process: ready only when its answers are right, a key by default, clear refusals."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from medimg.artifact import ModelFolder
from medimg.home import atomic_write
from medimg.serving.requests import MAX_BODY


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
    chosen = "--model" if model.is_dir() else "--model-file"
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "medimg.serving", chosen, str(model), "--address-file", str(address)]
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
    assert answer["uncertain"] is own.uncertain


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
    assert (status, answer["code"]) == (413, "too-large")
    assert "64 MB" in answer["error"]


def test_a_form_and_base64_bring_an_image_too(server: Server, trained: ModelFolder, image: bytes) -> None:
    """As behind every other endpoint; a URL is not fetched unless its host was named."""
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + image + b"\r\n--x--\r\n"
    sent = json.dumps({"image": base64.b64encode(image).decode()}).encode()
    own = pytest.approx(dict(trained.predict(image).probabilities), abs=1e-6)
    for body, kind in ((part, "multipart/form-data; boundary=x"), (sent, "application/json")):
        status, answer = server.ask("POST", "/predict", body, x_api_key="right", Content_Type=kind)
        assert status == 200
        assert answer["probabilities"] == own
    body = b'{"url": "https://images.example.org/1.png"}'
    status, answer = server.ask("POST", "/predict", body, x_api_key="right", Content_Type="application/json")
    assert (status, answer["code"]) == (403, "url-refused")


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


@pytest.fixture
def other(trained: ModelFolder, tmp_path: Path) -> ModelFolder:
    """Another model: the same network with another threshold."""
    folder = Path(shutil.copytree(trained.path, tmp_path / "other", copy_function=shutil.copyfile))
    return ModelFolder.seal(folder, trained.record.model_copy(update={"thresholds": {"NODULE": 0.123}}))


@dataclass(frozen=True)
class Changeable(Server):
    """A server whose model can be changed."""

    folder: Path

    def choose(self, model: Path, digest: str) -> None:
        """Asks for another model."""
        atomic_write(self.folder / "model.json", json.dumps({"model": str(model), "digest": digest}))
        os.kill(self.process.pid, signal.SIGHUP)

    def told(self, asked: str) -> dict[str, Any]:
        """Returns what the server says when it has dealt with the wish for a model."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found: dict[str, Any] = json.loads((self.folder / "served.json").read_text())
            if found["asked"] == asked:
                return found
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())


@pytest.fixture
def changeable(trained: ModelFolder, tmp_path: Path) -> Iterator[Changeable]:
    """A server of the trained model, without a key."""
    folder = tmp_path / "server"
    folder.mkdir()
    choice = {"model": str(trained.path), "digest": trained.digest}
    (folder / "model.json").write_text(json.dumps(choice))
    process, address = start(folder / "model.json", folder, "--served-file", str(folder / "served.json"))
    while not address.exists():
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.02)
    yield Changeable(process, json.loads(address.read_text())["port"], folder)
    process.terminate()
    process.wait(20)


def test_the_model_is_changed_without_a_gap(
    changeable: Changeable, trained: ModelFolder, other: ModelFolder, image: bytes
) -> None:
    """Every request is answered meanwhile, and each answer is of the model whose digest it carries."""
    first = {"digest": trained.digest, "version": "", "asked": trained.digest, "error": None}
    assert changeable.told(trained.digest) == first
    thresholds = {trained.digest: trained.record.thresholds, other.digest: other.record.thresholds}
    seen: list[str] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            status, answer = changeable.ask("POST", "/predict", image)
            assert status == 200
            assert answer["threshold"] == pytest.approx(thresholds[answer["digest"]])
            seen.append(answer["digest"])

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for asker in askers:
        asker.start()
    for model in (other, trained, other):
        before = len(seen)
        changeable.choose(model.path, model.digest)
        assert changeable.told(model.digest) == first | {"digest": model.digest, "asked": model.digest}
        assert changeable.ask("GET", "/ping") == (200, {"status": "ready", "digest": model.digest})
        while len(seen) < before + 20 and all(asker.is_alive() for asker in askers):
            time.sleep(0.01)
    done.set()
    for asker in askers:
        asker.join(30)
    assert set(seen) == {trained.digest, other.digest}
    assert seen[-1] == other.digest


def test_a_model_that_fails_its_check_leaves_the_old_one_serving(
    changeable: Changeable, trained: ModelFolder, other: ModelFolder, image: bytes, tmp_path: Path
) -> None:
    """Drifting, of another digest, not there: the served file says why, and a good one is taken afterwards."""
    drifting = Path(shutil.copytree(trained.path, tmp_path / "drifting", copy_function=shutil.copyfile))
    golden = json.loads((drifting / "golden" / "golden.json").read_text())
    (drifting / "golden" / "golden.json").write_text(json.dumps({name: [0.5, 0.5] for name in golden}))
    digest = ModelFolder.seal(drifting, trained.record).digest
    for path, asked, why in (
        (drifting, digest, "golden input"),
        (other.path, "0" * 64, "its digest is"),
        (tmp_path / "nowhere", "1" * 64, "not a complete model folder"),
    ):
        changeable.choose(path, asked)
        told = changeable.told(asked)
        assert told["digest"] == trained.digest
        assert why in told["error"]
        assert changeable.ask("POST", "/predict", image)[1]["digest"] == trained.digest
    changeable.choose(other.path, other.digest)
    assert changeable.told(other.digest)["error"] is None


def test_many_wishes_at_once_end_with_the_last(
    changeable: Changeable, trained: ModelFolder, other: ModelFolder
) -> None:
    """Signals may run into each other; none is lost and none ends the server."""
    for model in (other, trained) * 10:
        changeable.choose(model.path, model.digest)
    changeable.choose(other.path, other.digest)
    deadline = time.monotonic() + 30
    while changeable.ask("GET", "/ping")[1]["digest"] != other.digest or changeable.told(other.digest)["error"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert changeable.process.poll() is None


@pytest.mark.usefixtures("terminal")
def test_a_server_of_one_model_ends_with_its_terminal(trained: ModelFolder, tmp_path: Path) -> None:
    """Without a model file the signal says that the terminal was closed, not that there is another model."""
    process, address = start(trained.path, tmp_path / "server")
    while not address.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3, "digest": "x"}', "[]"])
def test_a_model_file_without_a_choice_is_refused(tmp_path: Path, content: str) -> None:
    """With what it should hold."""
    (tmp_path / "model.json").write_text(content)
    process, address = start(tmp_path / "model.json", tmp_path / "server")
    assert process.wait(60) == 1
    assert not address.exists()
    assert '{"model": path, "digest": …}' in (tmp_path / "server" / "log").read_text()
