"""Requests to endpoints: over HTTPS with the endpoint's key or a login, as any other client's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medimg.backends.azureml.deadlines import ENDPOINT_API
from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.identity import NAME
from medimg.errors import AccessError, EndpointError, MissingExtraError, NotFoundError, UnreachableError
from medimg.inference.answers import read_answer

try:
    from azure.core import PipelineClient
    from azure.core.pipeline.policies import HeadersPolicy, RetryPolicy, UserAgentPolicy
    from azure.core.rest import HttpRequest
except ImportError as error:
    raise MissingExtraError("the AzureML backend", "azureml") from error

__all__ = ["AUDIENCE", "Scoring"]

AUDIENCE = "https://ml.azure.com"
_LIMIT_MB = 10  # of a request, by Azure
_ATTEMPTS = 6  # while an endpoint is switched over, or has more requests than it takes
_FIRST_PAUSE_SECONDS = 0.25
_STATUS, _REASON = "ms-azureml-model-error-statuscode", "ms-azureml-model-error-reason"


@dataclass(frozen=True)
class _Route:
    """Where an endpoint is asked, and with what.

    Attributes:
        url: Of its address for requests.
        key: Its own; "": a login is needed.
    """

    url: str
    key: str


class Scoring:
    """Asks the endpoints of a workspace.

    Args:
        workspace: Whose.
        require: Raises where an endpoint of that name is not there, or not ready.
    """

    def __init__(self, workspace: Workspace, require: Callable[[str], None]) -> None:
        self._workspace = workspace
        self._require = require
        self._lock = threading.Lock()
        self._routes: dict[str, _Route] = {}

    def ask(self, name: str, body: bytes) -> Mapping[str, Any]:
        """Sends an encoded image and returns the answer.

        Raises:
            ImageRejected: The endpoint refuses the image.
            EndpointError: It is too large for Azure, or the endpoint does not answer.
            NotFoundError: There is no such endpoint.
        """
        if len(body) > _LIMIT_MB * 2**20:
            raise EndpointError(
                f"the image has {len(body) / 2**20:.1f} MB as it is sent, and AzureML takes {_LIMIT_MB} MB: make it "
                "smaller before, or predict with backend.predict_batch(…)",
                status=413,
            )
        refused = False
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                response = self._send(name, body)
            except UnreachableError:
                self._require(name)  # the host of an endpoint that is gone has no address
                raise
            if response.status_code in (401, 403):
                self.forget(name)  # its key was made anew, or it is another endpoint of the same name
                if refused:
                    raise AccessError(_denied(name))
                refused = True
            elif response.status_code in (404, 424) and _STATUS not in response.headers:
                self._require(name)
            elif response.status_code not in (429, 502, 503, 504):
                break
        status, content = _of_server(response)
        return read_answer(status, content, endpoint=name, retry_after=response.headers.get("Retry-After"))

    def forget(self, name: str) -> None:
        """Forgets where an endpoint is: it is gone, or has changed."""
        with self._lock:
            self._routes.pop(name, None)

    def _send(self, name: str, body: bytes) -> Any:
        with translated(f"asking the endpoint {name!r}"):
            url, headers = self.http_request(name)
            request = HttpRequest("POST", url, headers=headers, content=body)
            # The same image may be computed twice.
            return self._client.send_request(request, retry_on_methods=["POST"])

    def http_request(self, name: str) -> tuple[str, dict[str, str]]:
        """Returns where an image is sent, and with what headers: the endpoint's key, or a login that ages.

        Raises:
            EndpointError: It has no address yet.
            NotFoundError: There is no such endpoint.
        """
        with translated(f"asking the endpoint {name!r}"):
            route = self._route(name)
            key = route.key or self._workspace.credential.get_token(f"{AUDIENCE}/.default").token
        return route.url, {"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream"}

    def _route(self, name: str) -> _Route:
        with self._lock:
            if not NAME.fullmatch(name):
                raise NotFoundError(f"no endpoint can be named {name!r}. See backend.endpoints()")
            if name not in self._routes:
                id = f"{self._workspace.id}/onlineEndpoints/{name}"
                properties = self._workspace.arm("GET", id, ENDPOINT_API)["properties"]
                key = ""
                if properties["authMode"].lower() == "key":
                    key = str(self._workspace.arm("POST", f"{id}/listKeys", ENDPOINT_API)["primaryKey"])
                if not properties.get("scoringUri"):
                    raise EndpointError(f"the endpoint {name!r} is starting. Wait: backend.endpoint({name!r}).wait()")
                self._routes[name] = _Route(str(properties["scoringUri"]), key)
            return self._routes[name]

    @cached_property
    def _client(self) -> Any:
        # What is worth another try depends on more than the status: see `ask`. Here it is the connection.
        retries = RetryPolicy(retry_total=4, retry_status=0, retry_backoff_factor=0.25)
        policies = [HeadersPolicy(), UserAgentPolicy("medimg"), retries]
        # Azure itself gives an answer up after 60 seconds, and says so.
        return PipelineClient(AUDIENCE, policies=policies, connection_timeout=10, read_timeout=90)


def _denied(name: str) -> str:
    return (
        f"the endpoint {name!r} does not accept this login. Ask your administrator for the role 'AzureML Data "
        "Scientist' on the workspace"
    )


def _of_server(response: Any) -> tuple[int, bytes]:
    """Returns status and body as our server gave them: Azure makes 424 of every refusal, and tells it in headers."""
    content = bytes(response.read())
    told = response.headers.get(_STATUS)
    if response.status_code != 424 or not told:
        return response.status_code, content
    return int(told), content or json.dumps({"error": response.headers.get(_REASON, "")}).encode()
