"""The handler in AWS's TensorFlow Serving image, called as its server does, also under gunicorn and gevent."""

from __future__ import annotations

import http.client
import importlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import falcon
import numpy as np
import pytest
from rest_model_server import Serving, as_tf_serving_writes, serve_saved_model

from medimg.artifact import ModelFolder
from medimg.errors import ConfigError, EndpointError, ImageRejected, ModelFolderError, RuntimeMismatchError
from medimg.inference.answers import read_answer
from medimg.inference.decision import Prediction

Context = namedtuple(
    "Context",
    "model_name, model_version, method, rest_uri, grpc_port, channel, custom_attributes, request_content_type, "
    "accept_header, content_length",
)


def asked(content_type: str, length: int | None) -> Context:
    """Returns what AWS's server says about a request."""
    return Context(None, None, None, "", "9000", None, None, content_type, "application/json", length)


@pytest.fixture(scope="module")
def server(trained: ModelFolder) -> Iterator[Serving]:
    """The model's SavedModel behind REST."""
    server = serve_saved_model(trained.export("saved_model"))
    yield server
    server.close()


@pytest.fixture
def settings(
    trained: ModelFolder, server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Sets the environment of the container, as it is or with changes."""
    (tmp_path / "ml" / "model").mkdir(parents=True)
    (tmp_path / "ml" / "model" / "model").symlink_to(trained.path)

    def set_all(**changes: str) -> None:
        values = {
            "MEDIMG_ROOT": str(tmp_path / "ml"),
            "MEDIMG_DIGEST": trained.digest,
            "TFS_REST_PORTS": f"{server.server.server_port},1",
            "TFS_DEFAULT_MODEL_NAME": "saved_model",
        }
        for name, value in {**values, **changes}.items():
            monkeypatch.setenv(name, value)

    set_all()
    return set_all


def load() -> ModuleType:
    """Returns the module, imported anew as a starting server does."""
    sys.modules.pop("medimg.serving.clouds.sagemaker", None)
    return importlib.import_module("medimg.serving.clouds.sagemaker")


@pytest.fixture
def handler(settings: Callable[..., None]) -> Callable[[bytes, str], tuple[bytes, str]]:
    """The handler, given body and content type."""
    module = load()

    def call(body: bytes, content_type: str) -> tuple[bytes, str]:
        answer: tuple[bytes, str] = module.handler(io.BytesIO(body), asked(content_type, len(body)))
        return answer

    return call


@pytest.fixture(scope="module")
def image(phantoms: Path) -> bytes:
    """One encoded test image."""
    return min(phantoms.glob("test/NODULE/*")).read_bytes()


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "application/json", ""])
def test_the_answer_is_what_the_local_endpoint_answers(
    handler: Callable[[bytes, str], tuple[bytes, str]], trained: ModelFolder, image: bytes, content_type: str
) -> None:
    """For every content type of a picture, and for none: AWS's server then says JSON."""
    body, answered = handler(image, content_type)
    assert answered == "application/json"
    answer = read_answer(200, body)
    own = trained.predict(image)
    found = Prediction.from_json(answer)
    assert found.label == own.label
    assert found.probabilities == pytest.approx(dict(own.probabilities), abs=1e-6)
    assert answer.keys() == own.to_json().keys() | {"digest", "version"}
    assert answer["digest"] == trained.digest


def test_the_first_line_says_that_the_golden_inputs_agree(
    settings: Callable[..., None], trained: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log of a server that became ready says why."""
    load()
    assert "golden inputs agree" in capsys.readouterr().out


def test_a_refusal_reaches_the_client_through_both_versions_of_the_server(
    handler: Callable[[bytes, str], tuple[bytes, str]],
) -> None:
    """One keeps status and title of an HTTP error; another answers 500 with its text."""
    with pytest.raises(falcon.HTTPError) as caught:
        handler(b"hello", "image/png")
    assert falcon.code_to_http_status(caught.value.status) == falcon.HTTP_415
    kept = json.dumps(caught.value.to_dict()).encode()
    told = json.dumps({"error": str(caught.value)}).encode()
    for status, body in ((415, kept), (500, told)):
        with pytest.raises(ImageRejected, match="JPEG, PNG") as refused:
            read_answer(status, body)
        assert refused.value.code == "not-an-image"


def test_a_body_that_is_too_large_is_not_read(settings: Callable[..., None]) -> None:
    """Its declared length is enough."""

    class Unread(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("it was read")

    with pytest.raises(falcon.HTTPError) as caught:
        load().handler(Unread(), asked("image/png", 65 * 1024 * 1024))
    assert falcon.code_to_http_status(caught.value.status) == falcon.HTTP_413


def test_a_failure_of_tensorflow_serving_is_no_refusal(
    settings: Callable[..., None], trained: ModelFolder, image: bytes
) -> None:
    """Whoever asked is not told that the image is bad."""
    module = load()
    module._handler.predictor.runtime.url = "gone"
    module._handler.predictor.runtime._path = "/nowhere"
    module._handler.predictor.runtime._host = "127.0.0.1"
    module._handler.predictor.runtime._port = 9
    module._handler.predictor.runtime.close()
    with pytest.raises(Exception, match="did not answer") as caught:
        module.handler(io.BytesIO(image), asked("image/png", len(image)))
    with pytest.raises(EndpointError, match="500: TensorFlow Serving"):
        read_answer(500, json.dumps({"error": str(caught.value)}).encode())


def test_a_server_that_drifts_never_becomes_ready(
    settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The import fails and says why."""
    drifting = Serving(lambda images: (200, as_tf_serving_writes(np.full((len(images), 1), 0.5))))
    settings(TFS_REST_PORTS=str(drifting.server.server_port))
    try:
        with pytest.raises(RuntimeMismatchError):
            load()
    finally:
        drifting.close()
    assert capsys.readouterr().out.startswith("error: tf_serving gives")


def test_another_model_than_the_deployed_one_never_becomes_ready(settings: Callable[..., None]) -> None:
    """And one that nobody named neither."""
    settings(MEDIMG_DIGEST="0" * 64)
    with pytest.raises(ModelFolderError, match="its digest is"):
        load()
    settings(MEDIMG_DIGEST="")
    with pytest.raises(ConfigError, match="no MEDIMG_DIGEST"):
        load()


APP = """
import gevent.monkey
gevent.monkey.patch_all()

import json
from collections import namedtuple

import falcon
from medimg.serving.clouds.sagemaker import handler

Context = namedtuple("Context", "request_content_type, content_length")


class Kept:
    def on_post(self, req, res):
        res.data, res.content_type = handler(req.stream, Context(req.content_type, req.content_length))


class Told(Kept):
    def on_post(self, req, res):
        try:
            super().on_post(req, res)
        except Exception as error:
            res.status, res.data = falcon.HTTP_500, json.dumps({"error": str(error)}).encode()


app = falcon.App()
app.add_route("/kept", Kept())
app.add_route("/told", Told())
"""


@pytest.fixture
def gunicorn(settings: Callable[..., None], tmp_path: Path) -> Iterator[int]:
    """The port of a server as AWS's: gevent, loaded before it forks two workers."""
    (tmp_path / "front.py").write_text(APP)
    listening = socket.create_server(("127.0.0.1", 0))
    command = [sys.executable, "-m", "gunicorn", "-b", f"fd://{listening.fileno()}", "-k", "gevent", "--preload"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--workers", "2", "--chdir", str(tmp_path), "front:app"],
            stdout=log,
            stderr=log,
            pass_fds=[listening.fileno()],
            env=os.environ | {"PYTHONWARNINGS": "default"},
        )
    while b"Booting worker" not in (tmp_path / "log").read_bytes():
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    yield listening.getsockname()[1]
    process.terminate()
    process.wait(20)
    listening.close()


def ask(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    """Returns status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "image/png", "Accept": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_it_works_under_gunicorn_and_gevent(
    gunicorn: int, server: Serving, trained: ModelFolder, phantoms: Path
) -> None:
    """Sixty requests at once over two forked workers: every answer is its own image's, none hangs."""
    images = [path.read_bytes() for path in sorted(phantoms.glob("test/*/*"))[:20]] * 3

    def answer(image: bytes) -> dict[str, Any]:
        return dict(read_answer(*ask(gunicorn, "/told", image))["probabilities"])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, images))
    for given, image in zip(found, images, strict=True):
        assert given == pytest.approx(dict(trained.predict(image).probabilities), abs=1e-6)
    for path in ("/kept", "/told"):
        with pytest.raises(ImageRejected, match="no bytes"):
            read_answer(*ask(gunicorn, path, b""))
