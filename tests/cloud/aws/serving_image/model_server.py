"""What stands in for TensorFlow Serving: its REST interface over SavedModels, by TensorFlow itself.

Started as `python model_server.py PORT {"name": "folder/of/a/version"}`; TensorFlow's packages are at
EMULATOR_TENSORFLOW.
"""
# ruff: noqa: E402 - what is left out of the imports is said before them

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ["EMULATOR_TENSORFLOW"])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The binary starts in a moment: what TensorFlow can do without is not imported, and what is, is no garbage.
gc.disable()
sys.modules.update(dict.fromkeys(("IPython", "jax", "matplotlib", "pandas", "pyarrow", "sklearn")))

import numpy as np
import tensorflow as tf

gc.freeze()
gc.enable()


class Served:
    """One model.

    Args:
        folder: Of its version.
    """

    def __init__(self, folder: str) -> None:
        self.version = Path(folder).name
        self._model = tf.saved_model.load(folder)  # keeps the variables alive
        self._signature = self._model.signatures["serving_default"]
        ((self._name, self._spec),) = self._signature.structured_input_signature[1].items()
        self._lock = threading.Lock()

    def predict(self, given: Any) -> list[Any]:
        """Returns a prediction for each instance: a value, or one for each output by its name."""
        if not isinstance(given, dict) or not isinstance(given.get("instances"), list) or not given["instances"]:
            raise ValueError("JSON Value: must be an object with a non-empty list 'instances'")
        rows = [row[self._name] if isinstance(row, dict) else row for row in given["instances"]]
        batch = tf.constant(np.asarray(rows), dtype=self._spec.dtype)
        if not self._spec.shape.is_compatible_with(batch.shape):
            raise ValueError(f"input must have shape {self._spec.shape}, not {batch.shape}")
        with self._lock:
            outputs = {name: value.numpy() for name, value in self._signature(**{self._name: batch}).items()}
        listed = {name: _listed(value) for name, value in outputs.items()}
        if len(listed) == 1:
            return next(iter(listed.values()))
        return [dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]


def _listed(value: Any) -> Any:
    """Returns an array as nested lists, its floats as TensorFlow Serving writes them: with nine digits."""
    if isinstance(value, np.ndarray):
        return [_listed(each) for each in value]
    return float(f"{value:.9g}") if isinstance(value, np.floating) else value.item()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    models: dict[str, Served]

    def do_GET(self) -> None:
        """Tells a model's status."""
        model = self._model(r"/v1/models/([^/:]+)")
        if model is not None:
            status = {"version": model.version, "state": "AVAILABLE",
                      "status": {"error_code": "OK", "error_message": ""}}  # fmt: skip
            self._answer(200, {"model_version_status": [status]})

    def do_POST(self) -> None:
        """Predicts."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        model = self._model(r"/v1/models/([^/:]+)(?:/versions/\d+)?:predict")
        if model is None:
            return
        try:
            self._answer(200, {"predictions": model.predict(json.loads(body))})
        except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
            self._answer(400, {"error": str(error)[:1000]})

    def _model(self, pattern: str) -> Served | None:
        found = re.fullmatch(pattern, self.path)
        if found is None:
            self._answer(404, {"error": "Not Found"})
        elif found[1] not in self.models:
            self._answer(404, {"error": f"Servable not found for request: Latest({found[1]})"})
        else:
            return self.models[found[1]]
        return None

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Says nothing."""


if __name__ == "__main__":
    Handler.models = {name: Served(folder) for name, folder in json.loads(sys.argv[2]).items()}
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
