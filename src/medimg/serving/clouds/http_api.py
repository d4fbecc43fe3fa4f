"""A Lambda function behind an HTTP API: from its event to a request for a prediction, and back.

Routes: `POST /` and `POST /predict` take images as `medimg.serving.requests` says, `GET /ping` tells that the function
is ready, and which model answers where it has one, `GET /model` tells of the model; `GET /` and `GET /page/NAME` are
the page for people; `POST /session` and `DELETE /session` sign in and out. All but the page and these two carry the API
key, or the cookie of a session. An event that is no HTTP request, such as {"image": "<base64>"}, was let in by IAM and
needs no key; it is answered in the same form. Needs the standard library only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medimg.errors import ConfigError, ImageRejected
from medimg.inference.answers import refusal
from medimg.serving.access.gate import Gate
from medimg.serving.access.keys import Keys
from medimg.serving.access.sessions import Sessions
from medimg.serving.answering import answer_each
from medimg.serving.refused import Refused
from medimg.serving.requests import MAX_IMAGES, Fetch, Images, RequestRefused, images_of
from medimg.serving.web.pages import PageFile, page_file
from medimg.serving.web.secure_headers import SECURE_HEADERS

__all__ = ["MAX_IMAGE", "HttpApi"]

# An event has at most 6 MB, in which the image stands in base64, so four thirds as long, among headers.
MAX_IMAGE = 4_500_000
_EVENT_LIMIT = (
    "is larger than the 4.5 MB that this address takes: AWS hands on at most 6 MB, with the image in base64. Make it "
    "smaller, send it as JPEG, or deploy with kind='realtime' and without http_api=True"
)


@dataclass(frozen=True)
class HttpApi:
    """Answers events.

    Attributes:
        predict: From an image's bytes to the answer's JSON; raises `ImageRejected` or `Refused`.
        digest: Of the model; None: the function has none and passes images on.
        describe: Returns what is told of the model, see `medimg.serving.web.description`.
        gate: Lets requests in.
        fetch: Gets images by their URLs; None: none.
    """

    predict: Callable[[bytes], Mapping[str, Any]]
    digest: str | None
    describe: Callable[[], Mapping[str, Any]]
    gate: Gate
    fetch: Fetch | None

    @classmethod
    def from_environment(
        cls,
        predict: Callable[[bytes], Mapping[str, Any]],
        digest: str | None,
        describe: Callable[[], Mapping[str, Any]],
    ) -> HttpApi:
        """Returns it with what the function's environment says of keys and URLs.

        `MEDIMG_KEY_HASH` is the key's hash, or several with commas. Without it `MEDIMG_AUTH` must be "none": forgetting
        one variable must not open the function to everybody. `MEDIMG_URL_HOSTS` lists the hosts of `UrlFetcher`, with
        commas.

        Raises:
            ConfigError: Neither a key nor the word that none is wanted.
        """
        hashes = os.environ.get("MEDIMG_KEY_HASH", "")
        if not hashes and os.environ.get("MEDIMG_AUTH") != "none":
            raise ConfigError("the function has no MEDIMG_KEY_HASH. Deploy it again, or set MEDIMG_AUTH=none")
        fetch: Fetch | None = None
        hosts = [host.strip() for host in os.environ.get("MEDIMG_URL_HOSTS", "").split(",") if host.strip()]
        if hosts:
            # Only here: it brings ssl, which takes time at the start of a function.
            from medimg.serving.urls import UrlFetcher

            fetch = UrlFetcher(hosts)
        return cls(predict, digest, describe, _gate(hashes), fetch)

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the response, in the form that an HTTP API takes: statusCode, headers and body."""
        try:
            return self._answer(event)
        except RequestRefused as refused:
            return _response(refused.status, refusal(refused))
        except ImageRejected as rejection:
            return _response(415, refusal(rejection))
        except Refused as refused:
            return _response(refused.status, refused.to_json(), refused.headers)

    def _answer(self, event: Mapping[str, Any]) -> dict[str, Any]:
        http = (event.get("requestContext") or {}).get("http")
        if http is None:
            body = json.dumps(event).encode()
            return _response(200, answer_each(self._images("application/json", body), self.predict))
        headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
        # AWS takes the cookies out of the headers.
        headers["cookie"] = "; ".join(str(cookie) for cookie in event.get("cookies") or ())
        path, method = self._path(event, http), str(http["method"])
        if path == "/session" and method in ("POST", "DELETE"):
            signing_in = method == "POST"
            cookie = self.gate.sign_in(headers, _body(event)) if signing_in else self.gate.sign_out(headers)
            return {**_response(200, {"signed_in": signing_in}), "cookies": [cookie]}
        self.gate.admit(headers, method=method, path=path)
        if method in ("GET", "HEAD"):
            return self._read(path, headers)
        if path not in ("/", "/predict"):
            raise _no_such_path()
        if method != "POST":
            raise Refused(405, "send the image by POST")
        return _response(200, answer_each(self._images(headers.get("content-type", ""), _body(event)), self.predict))

    def _read(self, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
        if path == "/ping":
            return _response(
                200, {"status": "ready"} if self.digest is None else {"status": "ready", "digest": self.digest}
            )
        if path == "/model":
            limits = {"body_bytes": MAX_IMAGE, "images": MAX_IMAGES}
            return _response(200, {**self.describe(), "explains": False, "auth": self.gate.auth, "limits": limits})
        if path == "/predict":
            raise Refused(405, "send the image by POST")
        file = page_file(path)
        if file is None:
            raise _no_such_path()
        return _file_response(file, headers.get("if-none-match", ""))

    def _images(self, content_type: str, body: bytes) -> Images:
        try:
            return images_of(content_type, body, max_bytes=MAX_IMAGE, fetch=self.fetch)
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


def _no_such_path() -> Refused:
    return Refused(404, "no such path. Send an image by POST to /predict")


def _gate(hashes: str) -> Gate:
    if not hashes:
        return Gate(None)
    # A function keeps no files: who may read its settings in the account can make a session.
    secret = hashlib.sha256(f"medimg sessions {hashes}".encode()).digest()
    # The limit of requests is the HTTP API's own, and a ping costs as much as anything else.
    return Gate(Keys.of_hashes(hashes), Sessions(secret), rate_limit=None, open_paths=frozenset({"/"}))


def _file_response(file: PageFile, if_none_match: str) -> dict[str, Any]:
    status, headers, content = file.answer(if_none_match)
    own = {name.lower(): value for name, value in headers.items()}
    return {
        "statusCode": status, "headers": SECURE_HEADERS | own, "body": content.decode(), "isBase64Encoded": False,
    }  # fmt: skip


def _response(status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    own = {name.lower(): value for name, value in (headers or {}).items()}
    every = {"content-type": "application/json", **SECURE_HEADERS, **own}
    return {"statusCode": status, "headers": every, "body": json.dumps(content), "isBase64Encoded": False}
