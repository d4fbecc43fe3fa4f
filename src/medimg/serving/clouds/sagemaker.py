"""SageMaker: what AWS's TensorFlow Serving image imports and calls.

That image runs TensorFlow Serving with the model's SavedModel, and before it a Python server that imports
`code/inference.py`; ours is one line, `from medimg.serving.clouds.sagemaker import handler`. Importing this module
loads the model and checks its golden inputs: where TensorFlow Serving does not answer as the trained model did, the
import fails, and with it the server.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol

from medimg.artifact import ModelFolder
from medimg.errors import ImageRejected, MedimgError
from medimg.inference.answers import refusal
from medimg.inference.predictor import Predictor
from medimg.inference.tf_serving import TFServingRuntime
from medimg.serving.clouds.environment import setting
from medimg.serving.clouds.handling import Handler
from medimg.serving.requests import MAX_BODY, RequestRefused, too_large

__all__ = ["handler"]


class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Context(Protocol):
    @property
    def request_content_type(self) -> str: ...

    @property
    def content_length(self) -> int | None: ...


def _load() -> Handler:
    root = Path(os.environ.get("MEDIMG_ROOT", "/opt/ml")) / "model"
    port = os.environ.get("TFS_REST_PORTS", "8501").split(",")[0]
    name = os.environ.get("TFS_DEFAULT_MODEL_NAME", "saved_model")
    try:
        model = ModelFolder.load(root / "model", digest=setting("MEDIMG_DIGEST"))
        predictor = Predictor(model, runtime=TFServingRuntime(f"http://localhost:{port}/v1/models/{name}"))
        return Handler.in_cloud(predictor)
    except MedimgError as error:
        print(f"error: {error}", flush=True)  # noqa: T201 - the log is where a user looks
        raise


def handler(data: _Stream, context: _Context) -> tuple[bytes, str]:
    """Returns the answer to one request, and its content type.

    Args:
        data: The request's body.
        context: What AWS's server says about the request.

    Raises:
        falcon.HTTPError: The image is refused; see `medimg.inference.answers`.
    """
    try:
        if (context.content_length or 0) > MAX_BODY:
            raise too_large(MAX_BODY)
        answer = _handler.respond(context.request_content_type or "", data.read())
    except ImageRejected as rejection:
        raise _http_error(rejection) from None
    return json.dumps(answer).encode(), "application/json"


def _http_error(rejection: ImageRejected) -> Exception:
    """Returns the refusal as the server's own kind of error.

    One version of the server passes that on with its status and title; another makes status 500 and str(error) of any
    exception. The refusal is in both.
    """
    import falcon

    told = json.dumps(refusal(rejection))

    class Refused(falcon.HTTPError):
        def __str__(self) -> str:
            return told

    status = rejection.status if isinstance(rejection, RequestRefused) else 415
    return Refused(getattr(falcon, f"HTTP_{status}"), title=told)


_handler = _load()
