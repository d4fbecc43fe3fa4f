"""A stand-in for TensorFlow Serving, whose own program is on no package registry: its REST requests, its numbers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

Answer = Callable[[np.ndarray], tuple[int, bytes]]


def as_tf_serving_writes(outputs: np.ndarray) -> bytes:
    """Returns the body of an answer, with each float as short as it can be read back."""
    rows = ", ".join("[" + ", ".join(f"{value:.9g}" for value in row) + "]" for row in outputs)
    return f'{{\n    "predictions": [{rows}\n    ]\n}}'.encode()


class Serving:
    """A server of one model, counting its connections and requests."""

    def __init__(self, answer: Answer) -> None:
        self.connections: set[Any] = set()
        self.paths: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer on a kept connection waits 40 ms for an acknowledgement

            def do_POST(self) -> None:
                served.connections.add(self.client_address)
                served.paths.append(self.path)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, content = answer(np.array(body["instances"], np.float32))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(
                self,
                format: str,  # noqa: A002 - its name in the base class
                *values: object,
            ) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/models/saved_model"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Ends the server."""
        self.server.shutdown()
        self.server.server_close()


def serve_saved_model(folder: Path) -> Serving:
    """Returns a server of a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    return Serving(lambda images: (200, as_tf_serving_writes(np.asarray(loaded.serve(tf.constant(images))))))
