"""A Lambda function in front of a SageMaker endpoint: an HTTP address with an API key where SageMaker asks signatures.

AWS calls `medimg.serving.clouds.aws_relay.handler`. The function brings neither NumPy nor Pillow nor pydantic; boto3 is
part of Lambda's own Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from medimg.errors import EndpointError
from medimg.inference.answers import read_answer
from medimg.serving.clouds.environment import setting
from medimg.serving.clouds.http_api import HttpApi
from medimg.serving.refused import Refused
from medimg.serving.requests import RequestRefused
from medimg.serving.web.description import probe, told_by

__all__ = ["handler"]

_ENDPOINT = setting("MEDIMG_ENDPOINT")
_TOO_LARGE = (
    "is larger than the endpoint takes: SageMaker hands on at most 4 MB to a serverless endpoint and 6 MB to a "
    "machine. Make it smaller, or send it as JPEG"
)
_STATUS = {"ModelNotReadyException": 503, "ServiceUnavailable": 503, "ThrottlingException": 429}


def handler(event: Mapping[str, Any], _: object) -> dict[str, Any]:
    """Returns the response to one event: see `medimg.serving.clouds.http_api`."""
    return _api(event)


@cache
def _client() -> Any:
    import boto3
    from botocore.config import Config

    # An HTTP API waits 30 s for the whole.
    return boto3.client(
        "sagemaker-runtime", config=Config(connect_timeout=3, read_timeout=25, retries={"total_max_attempts": 1})
    )


def _predict(image: bytes) -> Mapping[str, Any]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = _client().invoke_endpoint(
            EndpointName=_ENDPOINT, Body=image, ContentType="application/octet-stream", Accept="application/json"
        )
        return read_answer(200, answer["Body"].read())
    except ClientError as error:
        told = error.response
        code = told.get("Error", {}).get("Code", "")
        try:
            if code == "ModelError":
                status, message = told.get("OriginalStatusCode", 500), told.get("OriginalMessage", "")
                return read_answer(int(status), str(message).encode())
        except EndpointError as failure:
            _log(code, failure)
            raise Refused(502, "the model failed on this image; the endpoint's log says why") from None
        _log(code, error)
        if _is_too_large(told):
            raise RequestRefused(413, "too-large", _TOO_LARGE) from None
        raise Refused(_STATUS.get(code, 502), f"the endpoint did not answer ({code}). Try again later") from None
    except (BotoCoreError, EndpointError) as error:
        _log(type(error).__name__, error)
        raise Refused(502, "the endpoint did not answer. Try again later") from None


def _is_too_large(told: Mapping[str, Any]) -> bool:
    # AWS's word for it has changed: it was the status, later ValidationError.
    error = told.get("Error", {})
    status = told.get("ResponseMetadata", {}).get("HTTPStatusCode")
    refused = str(error.get("Code", "")).startswith("Validation") and "exceeded" in str(error.get("Message", ""))
    return status == 413 or refused


def _log(code: str, error: Exception) -> None:
    # For the function's owner alone: AWS's messages name the account.
    print(json.dumps({"error": code, "message": str(error)}), flush=True)  # noqa: T201


@cache
def _model() -> Mapping[str, Any]:
    answer = _predict(probe())
    return {**told_by(answer, name=_ENDPOINT, version=str(answer.get("version", ""))), "where": "SageMaker"}


_api = HttpApi.from_environment(_predict, None, _model)
