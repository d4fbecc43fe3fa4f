"""The code behind an AzureML endpoint, in Microsoft's own server, with the packages of its environment alone."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medimg.artifact import ModelFolder
from medimg.backends.azureml.deployments import SCRIPT
from medimg.backends.wheel import wheel
from medimg.data.encode import encode
from medimg.errors import ImageRejected
from medimg.inference.answers import read_answer
from medimg.inference.decision import Prediction

SERVER = Path(sys.prefix) / "images" / "inference-server"
PACKAGES = ("ai-edge-litert", "numpy", "pillow", "pydantic>=2.9", "azureml-inference-server-http>=1.5,<2")


@dataclass(frozen=True)
class Server:
    """A running inference server."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, body: bytes, content_type: str = "image/png", method: str = "POST") -> tuple[int, bytes]:
        """Returns status and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, "/score", body, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ready(self) -> bool:
        """Returns whether it answers; waits until it does or has ended."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("GET", "/")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()
        return False

    def close(self) -> None:
        """Ends it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the environment that endpoints run in."""
    if not SERVER.is_dir():
        pytest.skip("Microsoft's inference server is not installed for tests. Run: make test")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "cloud"))
        from azure_cloud.images import Images
    images = Images(tmp_path_factory.mktemp("images"), SERVER.parent)
    return images.folder(images.build(PACKAGES))


@pytest.fixture(scope="module")
def start(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers of a model's folder."""
    running = []

    def start(models: Path, digest: str, **environment: str) -> Server:
        folder = tmp_path_factory.mktemp("code")
        (folder / "score.py").write_text(SCRIPT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MEDIMG_HOME", str(folder / "home"))
            shutil.copy(wheel(), folder / "medimg.whl")
        with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
            port, health = free.getsockname()[1], other.getsockname()[1]
        command = [sys.executable, "-S", "-m", "azureml_inference_server_http", "--entry_script", "score.py"]
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, "--port", str(port), "--health_port", str(health)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(packages),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "AZUREML_MODEL_DIR": str(models),
                    "MEDIMG_DIGEST": digest,
                    "WORKER_COUNT": "2",
                    **environment,
                },
            )
        running.append(Server(port, process, log))
        return running[-1]

    yield start
    for server in running:
        server.close()


def mounted(model: ModelFolder, folder: Path) -> Path:
    """Returns a folder with a model as Azure mounts it: in a folder of its own, with what serving needs alone."""
    for name in model.serving_files("litert"):
        target = folder / model.digest[:16] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path / name, target)
    return folder


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Server], trained: ModelFolder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of the trained model."""
    server = start(mounted(trained, tmp_path_factory.mktemp("mounted")), trained.digest)
    assert server.ready(), server.log.read_text()
    yield server


@pytest.fixture(scope="module")
def image(phantoms: Path) -> bytes:
    """One encoded test image."""
    return min(phantoms.glob("test/NODULE/*")).read_bytes()


def test_the_answer_is_what_the_local_model_answers(server: Server, trained: ModelFolder, image: bytes) -> None:
    """As the bare image, and as JSON."""
    own = trained.predict(image)
    as_json = json.dumps({"image": base64.b64encode(image).decode()}).encode()
    for body, content_type in (
        (image, "image/png"),
        (image, "application/octet-stream"),
        (as_json, "application/json"),
    ):
        answer = read_answer(*server.ask(body, content_type))
        found = Prediction.from_json(answer)
        assert found.label == own.label
        assert found.probabilities == pytest.approx(dict(own.probabilities), abs=1e-6)
        assert answer.keys() == own.to_json().keys() | {"digest", "version"}
        assert answer["digest"] == trained.digest


def test_requests_at_once_are_each_answered_with_their_own(
    server: Server, trained: ModelFolder, phantoms: Path
) -> None:
    """Forty over two processes."""
    images = [path.read_bytes() for path in sorted(phantoms.glob("test/*/*"))[:20]] * 2

    def answer(image: bytes) -> Mapping[str, Any]:
        return dict(read_answer(*server.ask(image))["probabilities"])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, images))
    for given, image in zip(found, images, strict=True):
        assert given == pytest.approx(dict(trained.predict(image).probabilities), abs=1e-6)


def test_what_is_no_image_is_refused_with_its_code(server: Server, image: bytes) -> None:
    """The reason reaches the client whole."""
    refused = {
        (b"", "image/png"): (415, "empty"),
        (b"hello", "image/png"): (415, "not-an-image"),
        (image[:200], "image/png"): (415, "truncated"),
        (b'{"picture": 1}', "application/json"): (400, "bad-request"),
        (b'{"url": "https://images.example/a.png"}', "application/json"): (403, "url-refused"),
    }
    for (body, content_type), (status, code) in refused.items():
        found, content = server.ask(body, content_type)
        assert found == status, content
        with pytest.raises(ImageRejected) as caught:
            read_answer(found, content)
        assert caught.value.code == code


def test_get_is_refused(server: Server) -> None:
    """Only its health is asked so, at another address."""
    status, content = server.ask(b"", method="GET")
    assert status == 405
    assert json.loads(content) == {"error": "an image is sent by POST"}


def test_the_log_says_why_it_is_ready_and_nothing_of_an_image(server: Server, trained: ModelFolder) -> None:
    """Each of its processes has proved itself."""
    pixels = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    server.ask(encode(pixels))
    log = server.log.read_text()
    assert "golden inputs agree" in log
    assert trained.digest[:12] in log
    assert "PNG" not in log


def test_another_model_than_the_deployed_one_ends_the_server(
    start: Callable[..., Server], trained: ModelFolder, tmp_path: Path
) -> None:
    """Its log says so."""
    server = start(mounted(trained, tmp_path), "0" * 64)
    assert not server.ready()
    assert "error: " in server.log.read_text()
    assert "its digest is" in server.log.read_text()


def test_a_model_that_does_not_answer_as_trained_ends_the_server(
    start: Callable[..., Server], trained: ModelFolder, tmp_path: Path
) -> None:
    """Its golden inputs were recorded with other probabilities."""
    other = tmp_path / "other"
    shutil.copytree(trained.path, other)
    golden = json.loads((other / "golden" / "golden.json").read_text())
    golden = {name: [1.0 - value for value in values] for name, values in golden.items()}
    (other / "golden" / "golden.json").chmod(0o644)
    (other / "golden" / "golden.json").write_text(json.dumps(golden))
    drifting = ModelFolder.seal(other, trained.record)
    server = start(mounted(drifting, tmp_path / "mounted"), drifting.digest)
    assert not server.ready()
    assert "error: litert gives" in server.log.read_text()


def test_a_folder_without_a_model_ends_the_server(start: Callable[..., Server], tmp_path: Path) -> None:
    """And says where it looked."""
    server = start(tmp_path, "0" * 64)
    assert not server.ready()
    assert f"{tmp_path} holds no model" in server.log.read_text()
