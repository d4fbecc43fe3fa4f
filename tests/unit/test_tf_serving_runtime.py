"""The runtime that asks TensorFlow Serving, against a server that answers as that one does."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rest_model_server import Answer, Serving, as_tf_serving_writes, serve_saved_model

from medimg.artifact import ModelFolder
from medimg.errors import ConfigError, EndpointError, RuntimeMismatchError, UnreachableError
from medimg.inference.predictor import Predictor
from medimg.inference.runtimes import KerasRuntime
from medimg.inference.tf_serving import TFServingRuntime, to_instances


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Serving]]:
    """Starts servers that end with the test."""
    started: list[Serving] = []

    def start(answer: Answer) -> Serving:
        started.append(Serving(answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def saved_model(trained: ModelFolder) -> Iterator[Serving]:
    """The trained model's SavedModel, behind REST."""
    server = serve_saved_model(trained.export("saved_model"))
    yield server
    server.close()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_request_holds_every_pixel(channels: int) -> None:
    """It is JSON of rows of pixels of channels, and reads back as it was."""
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, channels), np.uint8)
    images[0, 0, 0] = 0
    images[0, 0, 1] = 255
    request = json.loads(to_instances(images))
    assert request.keys() == {"instances"}
    np.testing.assert_array_equal(np.array(request["instances"]), images)


def test_the_request_is_written_faster_than_by_the_json_module() -> None:
    """The reason why there is code for it; the margin is wide, since machines are busy."""
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)

    def seconds(write: Callable[[], object]) -> float:
        started = time.perf_counter()
        write()
        return time.perf_counter() - started

    ours = min(seconds(lambda: to_instances(images)) for _ in range(5))
    plain = min(seconds(lambda: json.dumps({"instances": images.tolist()})) for _ in range(5))
    assert ours < plain / 2


def test_it_gives_what_keras_gives(trained: ModelFolder, saved_model: Serving, phantoms: Path) -> None:
    """To a millionth: JSON loses nothing of a float."""
    predictor = Predictor(trained, runtime=TFServingRuntime(saved_model.url))
    images = np.stack([predictor.prepare(path) for path in sorted(phantoms.glob("test/*/*"))])
    keras = KerasRuntime(trained.path / "model.keras").outputs(images)
    found = predictor.runtime.outputs(images)
    assert found.dtype == np.float32
    assert len(images) > 16, "more than one request"
    np.testing.assert_allclose(found, keras, rtol=0, atol=1e-6)
    assert predictor.check_golden() <= 1e-6
    assert set(saved_model.paths) == {"/v1/models/saved_model:predict"}


def test_a_server_that_drifts_is_refused(trained: ModelFolder, serve: Callable[[Answer], Serving]) -> None:
    """As every runtime: it would not become ready."""
    server = serve(lambda images: (200, as_tf_serving_writes(np.full((len(images), 1), 0.5))))
    with pytest.raises(RuntimeMismatchError, match="tf_serving gives"):
        Predictor(trained, runtime=TFServingRuntime(server.url)).check_golden()


def test_connections_are_kept_and_shared_by_threads(serve: Callable[[Answer], Serving]) -> None:
    """Sixty answers over no more connections than were needed at once, and each is its own image's."""
    server = serve(lambda images: (200, as_tf_serving_writes(images[:, 0, 0, :1])))
    runtime = TFServingRuntime(server.url)
    images = [np.full((1, 4, 4, 1), value, np.uint8) for value in range(60)]
    with ThreadPoolExecutor(4) as pool:
        assert [float(found[0, 0]) for found in pool.map(runtime.outputs, images)] == list(range(60))
    assert 1 <= len(server.connections) <= 4
    runtime.close()
    runtime.outputs(images[0])


def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    """Idle connections end; nobody notices."""
    listening = socket.create_server(("127.0.0.1", 0))
    body = b'{"predictions": [[0.25]]}'

    def answer_once_a_connection() -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                content = b""
                while not content.endswith(b"]}"):
                    content += connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    thread = threading.Thread(target=answer_once_a_connection)
    thread.start()
    runtime = TFServingRuntime(f"http://127.0.0.1:{listening.getsockname()[1]}/v1/models/m")
    for _ in range(2):
        np.testing.assert_array_equal(runtime.outputs(np.zeros((1, 2, 2, 1), np.uint8)), [[0.25]])
    thread.join(10)
    listening.close()


def test_a_process_that_forked_opens_its_own_connection(serve: Callable[[Answer], Serving]) -> None:
    """Gunicorn loads the model and then forks; on a shared connection two processes would swap their answers."""
    server = serve(lambda images: (200, as_tf_serving_writes(images[:, 0, 0, :1])))
    runtime = TFServingRuntime(server.url)
    image = np.full((1, 4, 4, 1), 7, np.uint8)
    runtime.outputs(image)
    (before,) = server.connections
    runtime._owner = os.getpid() + 1  # what a child of a fork finds
    runtime.outputs(image)
    assert len(server.connections - {before}) == 1


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (404, b'{"error": "Servable not found for request: Latest(saved_model)"}', "404: Servable not found"),
        (400, b'{"error": "Failed to process element: 0"}', "400: Failed to process"),
        (200, b'{"predictions": [0.5]}', "200: "),
        (200, b'{"predictions": [[0.5], [0.5]]}', "200: "),
        (200, b'{"outputs": [[0.5]]}', "200: "),
        (200, b"not json", "200: not json"),
        (200, b"[]", "200: "),
        (503, b"upstream", "503: upstream"),
    ],
)
def test_anything_but_outputs_is_an_error_with_what_was_said(
    serve: Callable[[Answer], Serving], status: int, content: bytes, told: str
) -> None:
    """The server's own words, shortened, and its address."""
    server = serve(lambda _: (status, content))
    with pytest.raises(EndpointError, match=told) as caught:
        TFServingRuntime(server.url).outputs(np.zeros((1, 2, 2, 1), np.uint8))
    assert server.url in str(caught.value)


def test_nothing_there_is_told_as_such() -> None:
    """Neither a hang nor a bare OSError."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match="did not answer"):
        TFServingRuntime(f"http://127.0.0.1:{port}/v1/models/m").outputs(np.zeros((1, 2, 2, 1), np.uint8))


def test_a_server_that_hangs_is_left_after_a_time() -> None:
    """Before the front server's own limit."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        runtime = TFServingRuntime(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/models/m", max_seconds=0.2)
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="timed out"):
            runtime.outputs(np.zeros((1, 2, 2, 1), np.uint8))
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("url", ["https://host/v1/models/m", "localhost:8501", "http:///v1", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    """With an example of one."""
    with pytest.raises(ConfigError, match="http://localhost:8501/v1/models/NAME"):
        TFServingRuntime(url)
