"""What is in front of an endpoint's deployments: who may ask, which of them answers, and what becomes of its answer."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .calls import Answer, AzureError, NoAnswerError, Request
from .cloud import Cloud
from .deployment import Server, seconds
from .kinds import Record

if TYPE_CHECKING:
    from .endpoints import Deployments, Endpoints

__all__ = ["Scoring"]

_LARGEST_BYTES = 10 * 1024 * 1024
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_PASSED_ON = ("content-type", "accept", "x-request-id", "x-ms-client-request-id")
_PASSED_BACK = ("content-type", "x-request-id", "x-ms-client-request-id", "x-ms-server-version")
_SCORE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/score/action"


class Scoring:
    """Answers for *.inference.ml.azure.com, with the statuses that Microsoft's troubleshooting guide lists.

    Args:
        cloud: The emulator.
        endpoints: Those there are.
        deployments: Which answer for them.
    """

    def __init__(self, cloud: Cloud, endpoints: Endpoints, deployments: Deployments) -> None:
        self._cloud = cloud
        self._endpoints = endpoints
        self._deployments = deployments
        cloud.serve_host("*.inference.ml.azure.com", self._answer, token=False)

    def _answer(self, request: Request) -> Answer:
        name, region = request.host.split(".")[:2]
        endpoint = self._endpoints.named(name, region)
        if endpoint is None or not endpoint["properties"]["scoringUri"]:
            raise NoAnswerError  # a name that does not resolve
        refusal = self._refusal(request, endpoint)
        if refusal is not None:
            return refusal
        if request.path not in ("/score", "/swagger.json"):
            return Answer(b"Not Found", 404, dict(_TEXT))
        if len(request.body) > _LARGEST_BYTES:
            return Answer(b"Payload Too Large", 413, dict(_TEXT))
        with ExitStack() as held:
            with self._cloud.lock:  # so that nothing is closed between being found and being held
                record = self._choose(request, endpoint)
                server = self._deployments.server(endpoint["id"], record["name"]) if record else None
                if record is None or server is None:
                    return Answer(b"No valid deployments to route to. Please check that the endpoint has at least one "
                                  b"deployment with positive weight values or use a deployment specific header to "
                                  b"route.", 404, dict(_TEXT))  # fmt: skip
                settings = record["properties"].get("requestSettings") or {}
                most = 2 * (settings.get("maxConcurrentRequestsPerInstance") or 1) * record["sku"]["capacity"]
                if server.answering >= most:
                    return Answer(b"Too many pending requests", 429, {**_TEXT, "Retry-After": "1"})
                held.enter_context(server.held())
            return _ask(request, record["name"], server, seconds(settings.get("requestTimeout"), 5.0))

    def _refusal(self, request: Request, endpoint: Record) -> Answer | None:
        given = request.headers.get("authorization", "")
        if not given.startswith("Bearer "):
            return Answer(b"key_auth_bad_header_format", 401, dict(_TEXT))
        token = given.removeprefix("Bearer ")
        if endpoint["properties"]["authMode"] == "Key":
            known = token in self._endpoints.keys(endpoint).values()
            return None if known else Answer(b"key_auth_access_denied", 401, dict(_TEXT))
        try:
            principal = self._cloud.login.holder(token, {"https://ml.azure.com"})
        except AzureError as error:
            return Answer(error.message.encode(), 401, dict(_TEXT))
        allowed = self._cloud.allows(principal, _SCORE, endpoint["id"])
        return None if allowed else Answer(b"access_denied", 403, dict(_TEXT))

    def _choose(self, request: Request, endpoint: Record) -> Record | None:
        """Returns the deployment that is to answer."""
        named = request.headers.get("azureml-model-deployment")
        if named is None:
            traffic = {name: share for name, share in endpoint["properties"]["traffic"].items() if share}
            if not traffic:
                return None
            named = random.choices(list(traffic), list(traffic.values()))[0]
        return self._deployments.find(f"{endpoint['id']}/deployments/{named}")


def _ask(request: Request, name: str, server: Server, timeout_seconds: float) -> Answer:
    passed = {header: request.headers[header] for header in _PASSED_ON if header in request.headers}
    reply = server.ask(request.method, request.path, request.body, passed, timeout_seconds)
    headers = {header: reply.headers[header] for header in _PASSED_BACK if header in reply.headers}
    headers["azureml-model-deployment"] = name
    if reply.status == 0:
        if server.container.alive:
            return Answer(b"upstream request timeout", 408, {**headers, **_TEXT})
        return Answer(b"Service Unavailable", 503, {**headers, **_TEXT})
    if 200 <= reply.status < 300:
        return Answer(reply.body, reply.status, headers)
    headers["ms-azureml-model-error-statuscode"] = str(reply.status)
    headers["ms-azureml-model-error-reason"] = "model_error"
    return Answer(reply.body, 424, headers)
