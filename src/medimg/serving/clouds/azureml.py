"""AzureML: what Microsoft's inference server imports and calls.

That server imports `score.py`, which is `from medimg.serving.clouds.azureml import init, run` and where to find it. In
each of its processes it calls `init` once, which loads the model and checks its golden inputs: where LiteRT does not
answer there as the trained model did, the server ends, and the deployment fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from azureml_inference_server_http.api.aml_request import AMLRequest, rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse

from medimg.artifact import ModelFolder
from medimg.errors import ImageRejected, MedimgError, ModelFolderError
from medimg.inference.answers import refusal
from medimg.inference.predictor import Predictor
from medimg.inference.runtimes import LiteRTRuntime
from medimg.serving.clouds.environment import setting
from medimg.serving.clouds.handling import Handler
from medimg.serving.requests import MAX_BODY, RequestRefused, too_large

__all__ = ["init", "run"]

_served: list[Handler] = []


def init() -> None:
    """Loads the model and proves it; called once in each process.

    Raises:
        MedimgError: This model cannot be served here.
    """
    try:
        model = ModelFolder.load(
            _folder(Path(setting("AZUREML_MODEL_DIR"))), digest=setting("MEDIMG_DIGEST"), only="litert"
        )
        # A process of the server answers one request at a time; there are as many as cores.
        predictor = Predictor(model, runtime=LiteRTRuntime(model.export("litert"), workers=1))
        _served[:] = [Handler.in_cloud(predictor)]
    except MedimgError as error:
        print(f"error: {error}", flush=True)  # noqa: T201 - the log is where a user looks
        raise


def _folder(root: Path) -> Path:
    """Returns where the model is: Azure puts the folder that was registered into the one it names."""
    for path in (root, *sorted(root.glob("*"))):
        if (path / "digest.json").is_file():
            return path
    raise ModelFolderError(f"{root} holds no model. Deploy it again")


def run(request: AMLRequest) -> AMLResponse:
    """Returns the answer to one request; see `medimg.inference.answers`."""
    if request.method != "POST":
        return _answer(405, {"error": "an image is sent by POST"})
    try:
        if (request.content_length or 0) > MAX_BODY:
            raise too_large(MAX_BODY)
        (handler,) = _served
        answer = handler.respond(request.headers.get("Content-Type", ""), request.get_data(cache=False))
    except ImageRejected as rejection:
        return _answer(rejection.status if isinstance(rejection, RequestRefused) else 415, refusal(rejection))
    return _answer(200, answer)


def _answer(status: int, content: Mapping[str, Any]) -> AMLResponse:
    return AMLResponse(content, status, json_str=True)


rawhttp(run)  # the server then hands it the request as it came
