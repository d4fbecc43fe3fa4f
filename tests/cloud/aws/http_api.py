"""HTTP APIs: a request to /_apigw/ID/… becomes an event of version 2.0 for the function that its route leads to."""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from moto.apigatewayv2.models import Api, Integration, Route, apigatewayv2_backends
from moto.awslambda.models import LambdaFunction
from werkzeug.wrappers import Request, Response

from .calls import ACCOUNT, AwsError, Call
from .cloud import Cloud
from .functions import Functions

__all__ = ["HttpApis"]

_LARGEST_BYTES = 10 * 1024 * 1024
_EVENT_BYTES = 6_291_556
_TEXT = re.compile(r"text/|application/(json|xml|javascript)|.*\+json")


class HttpApis:
    """The HTTP APIs of all regions.

    Args:
        cloud: The emulator.
        functions: Where their routes lead.
    """

    def __init__(self, cloud: Cloud, functions: Functions) -> None:
        self._functions = functions
        self._buckets: dict[str, tuple[float, float]] = {}  # API to tokens left and when they were counted
        self._lock = threading.Lock()
        url, to_json = cloud.url, Api.to_json

        def with_address(api: Api) -> dict[str, Any]:
            return {**to_json(api), "apiEndpoint": f"{url}/_apigw/{api.api_id}"}

        Api.to_json = with_address  # type: ignore[method-assign, assignment]
        cloud.before["apigatewayv2", "CreateRoute"] = self._check_route
        cloud.before["apigatewayv2", "CreateStage"] = self._check_stage

    def answer(self, environ: dict[str, Any]) -> Response:
        """Answers a request to an API's address."""
        request = Request(environ)
        _, _, id, path = f"{request.path}/".split("/", 3)
        path = "/" + path.removesuffix("/")
        region, api = self._find(id)
        stage = None if api is None else api.stages.get("$default")
        if api is None or stage is None:
            return _message(404, "Not Found")
        if not self._admitted(id, stage.default_route_settings or {}):
            return _message(429, "Too Many Requests")
        body = request.get_data()
        if len(body) > _LARGEST_BYTES:
            return _message(413, "Request Entity Too Large")
        found = _route(api, request.method, path)
        if found is None:
            return _message(404, "Not Found")
        route, values = found
        integration = api.integrations[str(route.target).rpartition("/")[2]]
        function = self._function(region, api, integration)
        if function is None:
            return _message(500, "Internal Server Error")
        event = json.dumps(_event(request, api, route, region, path, values, body)).encode()
        if len(event) > _EVENT_BYTES:
            return _message(413, "Request Entity Too Large")
        return self._call(region, function, event, int(integration.timeout_in_millis or 30_000) / 1000)

    def _check_route(self, call: Call) -> None:
        _, api = self._find(str(call.path_parameters["apiId"]))
        key = call.parameters["routeKey"]
        if api is not None and key in [route.route_key for route in api.routes.values()]:
            raise AwsError("ConflictException", f"Route with key {key} already exists for this API", 409)

    def _check_stage(self, call: Call) -> None:
        _, api = self._find(str(call.path_parameters["apiId"]))
        if api is not None and call.parameters["stageName"] in api.stages:
            raise AwsError("ConflictException", "Stage already exists", 409)

    def _call(self, region: str, function: LambdaFunction, event: bytes, timeout_seconds: float) -> Response:
        answers: list[Response] = []

        def work() -> None:
            try:
                outcome = self._functions.run(region, function, event)
                answers.append(_message(500, "Internal Server Error") if outcome.failed else _response(outcome.payload))
            except Exception:
                answers.append(_message(500, "Internal Server Error"))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(timeout_seconds)
        return answers[0] if answers else _message(503, "Service Unavailable")

    def _find(self, id: str) -> tuple[str, Api | None]:
        for region in list(dict.keys(apigatewayv2_backends[ACCOUNT])):
            if id in apigatewayv2_backends[ACCOUNT][region].apis:
                return region, apigatewayv2_backends[ACCOUNT][region].apis[id]
        return "", None

    def _function(self, region: str, api: Api, integration: Integration) -> LambdaFunction | None:
        """Returns the function that an integration names, if it lets this API invoke it."""
        arn = re.search(r"arn:aws:lambda:([^:]+):\d+:function:[\w-]+", str(integration.integration_uri))
        function = self._functions.find(arn[1], arn[0]) if arn is not None else None
        if function is None:
            return None
        source = f"arn:aws:execute-api:{region}:{ACCOUNT}:{api.api_id}/$default/any"
        for statement in function.policy.statements:
            pattern = statement.get("Condition", {}).get("ArnLike", {}).get("AWS:SourceArn", "*")
            if statement.get("Principal", {}).get("Service") == "apigateway.amazonaws.com" and fnmatch.fnmatchcase(
                source, pattern
            ):
                return function
        return None

    def _admitted(self, id: str, limits: Mapping[str, Any]) -> bool:
        """Takes a token from the API's bucket; False: it is empty."""
        limits = {key[:1].lower() + key[1:]: value for key, value in limits.items()}
        rate = float(limits.get("throttlingRateLimit") or 10_000)
        burst = float(limits.get("throttlingBurstLimit") or 5_000)
        with self._lock:
            left, when = self._buckets.get(id, (burst, time.monotonic()))
            now = time.monotonic()
            left = min(burst, left + (now - when) * rate)
            self._buckets[id] = (left - (left >= 1), now)
        return left >= 1


def _route(api: Api, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Returns the route that a request takes with the path's values: the most exact one, $default last."""
    best: tuple[int, Route, dict[str, str]] | None = None
    for route in api.routes.values():
        wanted, _, pattern = route.route_key.partition(" ")
        if route.route_key == "$default":
            rank, found = 0, re.fullmatch(".*", path)
        elif wanted in (method, "ANY"):
            expression = re.sub(r"\{(\w+)\+\}", r"(?P<\1>.+)", pattern)
            expression = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", expression)
            rank, found = 1 + (wanted == method) + 2 * ("{" not in pattern), re.fullmatch(expression, path)
        else:
            continue
        if found is not None and (best is None or rank > best[0]):
            best = rank, route, found.groupdict()
    return None if best is None else best[1:]


def _event(
    request: Request, api: Api, route: Route, region: str, path: str, values: Mapping[str, str], body: bytes
) -> dict[str, Any]:
    """Returns the request as an event of payload format 2.0."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        key = name.lower()
        if key != "cookie":
            headers[key] = f"{headers[key]},{value}" if key in headers else value
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route.route_key,
        "rawPath": path,
        "rawQueryString": request.query_string.decode(),
        "headers": headers,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": api.api_id,
            "domainName": f"{api.api_id}.execute-api.{region}.amazonaws.com",
            "domainPrefix": api.api_id,
            "http": {
                "method": request.method, "path": path, "protocol": "HTTP/1.1",
                "sourceIp": request.remote_addr, "userAgent": headers.get("user-agent", ""),
            },
            "requestId": uuid.uuid4().hex[:15] + "=",
            "routeKey": route.route_key,
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime()),
            "timeEpoch": int(time.time() * 1000),
        },
        "isBase64Encoded": False,
    }  # fmt: skip
    if request.cookies:
        event["cookies"] = [f"{name}={value}" for name, value in request.cookies.items()]
    if request.args:
        event["queryStringParameters"] = {name: ",".join(request.args.getlist(name)) for name in request.args}
    if values:
        event["pathParameters"] = dict(values)
    if body:
        binary = not _TEXT.match(headers.get("content-type", ""))
        event["isBase64Encoded"] = binary
        event["body"] = base64.b64encode(body).decode() if binary else body.decode(errors="replace")
    return event


def _response(payload: bytes) -> Response:
    """Returns what a function's answer means to the client."""
    answer = json.loads(payload)
    if not isinstance(answer, dict) or "statusCode" not in answer:
        return Response(json.dumps(answer), 200, content_type="application/json")
    body = answer.get("body") or ""
    response = Response(
        base64.b64decode(body) if answer.get("isBase64Encoded") else str(body), int(answer["statusCode"])
    )
    response.headers["Content-Type"] = "text/plain;charset=UTF-8"
    for name, value in (answer.get("headers") or {}).items():
        response.headers[name] = str(value)
    for cookie in answer.get("cookies") or ():
        response.headers.add("Set-Cookie", cookie)
    return response


def _message(status: int, text: str) -> Response:
    return Response(json.dumps({"message": text}), status, content_type="application/json")
