"""The Python service in front of TensorFlow Serving: gunicorn, gevent and falcon around the model's `inference.py`.

AWS's images differ in what becomes of a `falcon.HTTPError` that the handler raises. EMULATOR_FALCON=swallow: status 500
with its text, as of any exception; pass (the default): its own status and title.
"""
# ruff: noqa: E402 - sockets are patched before anything imports them

from gevent import monkey

monkey.patch_all()

import importlib.util
import json
import os
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import falcon
import requests
from gunicorn.app.base import BaseApplication

SCRIPT = Path(os.environ.get("MEDIMG_ROOT", "/opt/ml")) / "model" / "code" / "inference.py"
SWALLOW = os.environ.get("EMULATOR_FALCON", "pass") == "swallow"
Context = namedtuple(
    "Context",
    "model_name, model_version, method, rest_uri, grpc_port, channel, custom_attributes, request_content_type, "
    "accept_header, content_length",
)
Handler = Callable[[Any, Context], tuple[Any, str]]


def forward(data: Any, context: Context) -> tuple[bytes, str]:
    """Passes a request on as it is: what happens where a model brings no code."""
    answer = requests.post(context.rest_uri, data=data.read(), timeout=60)
    return answer.content, context.accept_header


def load_handler() -> Handler:
    """Returns the model's own handler; what its import raises ends the service."""
    if not SCRIPT.exists():
        return forward
    spec = importlib.util.spec_from_file_location("inference", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "handler"):
        raise NotImplementedError("Handlers are not implemented correctly in user script.")
    handler: Handler = module.handler
    return handler


class Invocations:
    """POST /invocations.

    Args:
        handler: What answers.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        """Answers one request."""
        uri = (
            f"http://localhost:{os.environ['TFS_REST_PORTS']}/v1/models/{os.environ['TFS_DEFAULT_MODEL_NAME']}:predict"
        )
        context = Context(
            None, None, None, uri, os.environ["TFS_GRPC_PORTS"], None,
            request.get_header("X-Amzn-SageMaker-Custom-Attributes"),
            request.get_header("Content-Type") or "application/json",
            request.get_header("Accept") or "application/json",
            request.content_length,
        )  # fmt: skip
        try:
            body, response.content_type = self._handler(request.stream, context)
            response.data = body.encode() if isinstance(body, str) else body
        except Exception as error:
            if isinstance(error, falcon.HTTPError) and not SWALLOW:
                raise
            print(f"exception handling request: {error}", file=sys.stderr, flush=True)
            response.status = falcon.HTTP_500
            response.data = json.dumps({"error": str(error)}).encode()


class Ping:
    """GET /ping."""

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Says that the service is there."""
        response.status = falcon.HTTP_200


class Service(BaseApplication):  # type: ignore[misc]
    """The gunicorn server."""

    def load_config(self) -> None:
        """Sets what AWS's command line sets."""
        options = {
            "bind": f"127.0.0.1:{os.environ.get('SAGEMAKER_BIND_TO_PORT', '8080')}",
            "worker_class": "gevent",
            "workers": int(os.environ.get("SAGEMAKER_GUNICORN_WORKERS", "1")),
            "threads": int(os.environ.get("SAGEMAKER_GUNICORN_THREADS", "1")),
            "loglevel": os.environ.get("SAGEMAKER_GUNICORN_LOGLEVEL", "info"),
            "timeout": int(os.environ.get("SAGEMAKER_GUNICORN_TIMEOUT_SECONDS", "30")),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Returns the application, made before the workers are."""
        return APP


APP = falcon.App()
APP.add_route("/ping", Ping())
APP.add_route("/invocations", Invocations(load_handler()))

if __name__ == "__main__":
    Service().run()
