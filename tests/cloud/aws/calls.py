"""What a client asked of AWS: which service, operation and region, with what; and how AWS says no."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote

from moto.core.request import Request
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

__all__ = ["ACCOUNT", "ROOT_KEY", "AwsError", "Call", "Operation", "identify", "refusal"]

ACCOUNT = "123456789012"
ROOT_KEY = "AKIAEMULATORROOT0001"  # the test's own credentials, which may do everything

_SERVICES = {"servicequotas": "service-quotas"}  # by what requests are signed for, where that is not the service's name
_JSON = {"json", "rest-json"}


class AwsError(Exception):
    """AWS's refusal of a call.

    Attributes:
        code: AWS's word for it.
        message: AWS's words.
        status: The HTTP status.
        fields: What else the error carries.
    """

    def __init__(self, code: str, message: str, status: int = 400, **fields: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields


@dataclass
class Call:
    """One request to AWS.

    Attributes:
        service: boto3's name of the service.
        operation: AWS's name of the operation; "" where it is unknown.
        region: From the scope of the credentials.
        access_key: Who signed it; "" for an unsigned request.
        parameters: What the operation is given, where the body is JSON.
        path_parameters: What the path says.
        body: The body as it came.
        environ: The WSGI environment; its body can be read again.
    """

    service: str
    operation: str
    region: str
    access_key: str
    parameters: dict[str, Any]
    path_parameters: dict[str, Any]
    body: bytes
    environ: dict[str, Any] = field(repr=False)

    def header(self, name: str) -> str | None:
        """Returns a header's value, or None."""
        key = name.upper().replace("-", "_")
        value: str | None = self.environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}")
        return value

    @property
    def bytes_sent(self) -> int:
        """Bytes of the body, without what chunked signing adds."""
        return int(self.header("x-amz-decoded-content-length") or len(self.body))

    @property
    def target(self) -> str:
        """The path, for S3 the bucket and key."""
        return str(self.environ.get("PATH_INFO", ""))


Operation = Callable[[Call], Any]  # returns what the operation answers: a mapping, None, or a Response


def identify(environ: dict[str, Any]) -> Call:
    """Reads a request, leaving its body to be read again."""
    body = _read(environ)
    key, region, signed_for = _scope(environ)
    path = str(environ.get("PATH_INFO", ""))
    service = _SERVICES.get(signed_for, signed_for)
    if signed_for == "apigateway" and path.startswith("/v2/"):
        service = "apigatewayv2"
    if signed_for == "sagemaker" and path.startswith("/endpoints/"):
        service = "sagemaker-runtime"
    operation, named = _operation(service, environ, body)
    parameters = {}
    if body[:1] == b"{" and _protocol(service) in _JSON:
        try:
            parameters = json.loads(body)
        except ValueError:
            parameters = {}
    elif operation and _protocol(service) == "query":
        parameters = {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}
    return Call(service, operation, region, key, parameters, named, body, environ)


def _read(environ: dict[str, Any]) -> bytes:
    if environ.get("wsgi.input_terminated"):
        body = environ["wsgi.input"].read()
        environ.pop("HTTP_TRANSFER_ENCODING", None)
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["CONTENT_LENGTH"] = str(len(body))
    environ["wsgi.input"] = io.BytesIO(body)
    return bytes(body)


def _scope(environ: Mapping[str, Any]) -> tuple[str, str, str]:
    signed = environ.get("HTTP_AUTHORIZATION", "")
    found = re.search(r"Credential=([^/]*)/\d+/([^/]+)/([^/]+)/aws4_request", signed)
    if found is None:
        query = parse_qs(environ.get("QUERY_STRING", "")).get("X-Amz-Credential", [""])[0]
        found = re.fullmatch(r"([^/]*)/\d+/([^/]+)/([^/]+)/aws4_request", query)
    return (found[1], found[2], found[3].lower()) if found else ("", "us-east-1", "s3")


def _protocol(service: str) -> str:
    try:
        return str(get_service_model(service).protocol)
    except Exception:  # a service that botocore does not know is moto's to refuse
        return ""


def _operation(service: str, environ: dict[str, Any], body: bytes) -> tuple[str, dict[str, Any]]:
    protocol = _protocol(service)
    if protocol == "json":
        return environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2], {}
    if protocol == "query":
        return parse_qs(body.decode(errors="replace")).get("Action", [""])[0], {}
    if not protocol:
        return "", {}
    try:
        operation, named = get_service_router(service).match(Request({**environ, "wsgi.input": io.BytesIO()}))
    except (HTTPException, NotImplementedError):
        return "", {}
    return str(operation.name), named


def refusal(error: AwsError, service: str) -> Response:
    """Returns an error in the form of the service's protocol."""
    protocol = _protocol(service)
    if protocol in _JSON:
        content = {"__type": error.code, "message": error.message, "Message": error.message, **error.fields}
        headers = {"x-amzn-ErrorType": error.code}
        return Response(json.dumps(content), error.status, headers=headers, content_type="application/x-amz-json-1.1")
    message = error.message.replace("&", "&amp;").replace("<", "&lt;")
    inner = f"<Code>{quote(error.code)}</Code><Message>{message}</Message>"
    if service == "s3":
        text = f"<?xml version='1.0' encoding='UTF-8'?><Error>{inner}<RequestId>0</RequestId></Error>"
    else:
        text = f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error><RequestId>0</RequestId></ErrorResponse>"
    return Response(text, error.status, content_type="text/xml")
