"""A Lambda function behind an HTTP API: from its event to a request for a prediction, and back.

Routes: `POST /` and `POST /predict` take an image as `medimg.serving.requests` says, `GET /ping` tells that the
function is ready, and which model answers where it has one. Each carries the API key. An event that is no HTTP request,
such as {"image": "<base64>"}, was let in by IAM and needs no key; it is answered in the same form. Needs the standard
library only.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medimg.errors import ConfigError, ImageRejected
from medimg.inference.answers import refusal
from medimg.serving.keys import NO_KEY, is_authorised
from medimg.serving.requests import Fetch, RequestRefused, image_of

__all__ = ["MAX_IMAGE", "HttpApi", "Refused"]

# An event has at most 6 MB, in which the image stands in base64, so four thirds as long, among headers.
MAX_IMAGE = 4_500_000
_EVENT_LIMIT = (
    "is larger than the 4.5 MB that this address takes: AWS hands on at most 6 MB, with the image in base64. Make it "
    "smaller, send it as JPEG, or deploy with kind='realtime' and without http_api=True"
)


class Refused(Exception):  # noqa: N818 - no error, an answer
    """A request that cannot be answered now.

    Attributes:
        status: The HTTP status.
        message: What to tell the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class HttpApi:
    """Answers events.

    Attributes:
        predict: From an image's bytes to the answer's JSON; raises `ImageRejected` or `Refused`.
        digest: Of the model; None: the function has none and passes images on.
        key_hash: SHA-256 of the API key; None: no key is asked for.
        fetch: Gets images by their URLs; None: none.
    """

    predict: Callable[[bytes], Mapping[str, Any]]
    digest: str | None
    key_hash: str | None
    fetch: Fetch | None

    @classmethod
    def from_environment(cls, predict: Callable[[bytes], Mapping[str, Any]], digest: str | None) -> HttpApi:
        """Returns it with what the function's environment says of keys and URLs.

        `MEDIMG_KEY_HASH` is the key's hash. Without it `MEDIMG_AUTH` must be "none": forgetting one variable must not
        open the function to everybody. `MEDIMG_URL_HOSTS` lists the hosts of `UrlFetcher`, with commas.

        Raises:
            ConfigError: Neither a key nor the word that none is wanted.
        """
        key_hash = os.environ.get("MEDIMG_KEY_HASH") or None
        if key_hash is None and os.environ.get("MEDIMG_AUTH") != "none":
            raise ConfigError("the function has no MEDIMG_KEY_HASH. Deploy it again, or set MEDIMG_AUTH=none")
        fetch: Fetch | None = None
        hosts = [host.strip() for host in os.environ.get("MEDIMG_URL_HOSTS", "").split(",") if host.strip()]
        if hosts:
            # Only here: it brings ssl, which takes time at the start of a function.
            from medimg.serving.urls import UrlFetcher

            fetch = UrlFetcher(hosts)
        return cls(predict, digest, key_hash, fetch)

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the response, in the form that an HTTP API takes: statusCode, headers and body."""
        try:
            return _response(200, self._answer(event))
        except RequestRefused as refused:
            return _response(refused.status, refusal(refused))
        except ImageRejected as rejection:
            return _response(415, refusal(rejection))
        except Refused as refused:
            return _response(refused.status, {"error": refused.message})

    def _answer(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        http = (event.get("requestContext") or {}).get("http")
        if http is None:
            body = json.dumps(event).encode()
            return self.predict(self._image("application/json", body))
        headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
        if self.key_hash is not None and not is_authorised(headers, self.key_hash):
            raise Refused(401, NO_KEY)
        path = self._path(event, http)
        if path == "/ping" and http["method"] in ("GET", "HEAD"):
            return {"status": "ready"} if self.digest is None else {"status": "ready", "digest": self.digest}
        if path not in ("/", "/predict"):
            raise Refused(404, "no such path. Send an image by POST to /predict")
        if http["method"] != "POST":
            raise Refused(405, "send the image by POST")
        return self.predict(self._image(headers.get("content-type", ""), _body(event)))

    def _image(self, content_type: str, body: bytes) -> bytes:
        try:
            return image_of(content_type, body, max_bytes=MAX_IMAGE, fetch=self.fetch)
        except RequestRefused as refused:
            if refused.status == 413:
                raise RequestRefused(413, refused.code, _EVENT_LIMIT) from None
            raise

    @staticmethod
    def _path(event: Mapping[str, Any], http: Mapping[str, Any]) -> str:
        path = str(event.get("rawPath") or http.get("path", "/"))
        stage = event["requestContext"].get("stage", "$default")
        # A stage that has a name comes first in the path.
        return "/" + path.removeprefix(f"/{stage}").strip("/")


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(body).encode(errors="surrogateescape")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise RequestRefused(400, "bad-request", "is in a body that is not valid base64") from None


def _response(status: int, content: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return {"statusCode": status, "headers": headers, "body": json.dumps(content), "isBase64Encoded": False}
