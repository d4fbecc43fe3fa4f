"""Lambda: the function that AWS calls as `medimg.serving.clouds.aws_lambda.handler`, with the model in its zip.

Importing this module loads the model and checks its golden inputs, so that a function that does not answer as the
trained model did never answers at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medimg.artifact import ModelFolder
from medimg.errors import MedimgError
from medimg.inference.predictor import Predictor
from medimg.inference.runtimes import LiteRTRuntime
from medimg.serving.clouds.environment import setting
from medimg.serving.clouds.handling import Handler
from medimg.serving.clouds.http_api import HttpApi
from medimg.serving.web.description import described

__all__ = ["handler"]

_MB_PER_CORE = 1769  # Lambda's documentation: "At 1,769 MB, a function has the equivalent of one vCPU"
_MOST_CORES = 6


def handler(event: Mapping[str, Any], _: object) -> dict[str, Any]:
    """Returns the response to one event: see `medimg.serving.clouds.http_api`."""
    return _api(event)


def _cores() -> int:
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", _MB_PER_CORE))
    return min(_MOST_CORES, max(1, -(-memory // _MB_PER_CORE)))


def _load() -> HttpApi:
    try:
        folder = Path(setting("LAMBDA_TASK_ROOT")) / "model"
        model = ModelFolder.load(folder, digest=setting("MEDIMG_DIGEST"), only="litert")
        # One event at a time comes here, so all cores are for its image.
        predictor = Predictor(model, runtime=LiteRTRuntime(model.export("litert"), workers=1, threads=_cores()))
        answering = Handler.in_cloud(predictor)
        return HttpApi.from_environment(answering.predict, model.digest, lambda: described(model, answering.version))
    except MedimgError as error:
        print(f"error: {error}", flush=True)  # noqa: T201 - the log is where a user looks
        raise


_api = _load()
