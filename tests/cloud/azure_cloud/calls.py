"""A request to Azure, what is answered, and how Azure says no."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

__all__ = ["Answer", "AzureError", "NoAnswerError", "Request", "user_error"]


class NoAnswerError(Exception):
    """The connection is to be closed without an answer."""


class AzureError(Exception):
    """Azure's refusal of a request, or the failure of a long-running operation.

    Attributes:
        code: Azure's word for it.
        message: Azure's words.
        status: The HTTP status.
        fields: What else the error carries, such as `target`, `details` and `additionalInfo`.
        headers: Of the answer, such as Retry-After.
    """

    def __init__(
        self, code: str, message: str, status: int = 400, *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields
        self.headers = dict(headers or {})

    @property
    def content(self) -> dict[str, Any]:
        """What stands under `error` in the answer."""
        return {"code": self.code, "message": self.message, **self.fields}


def user_error(
    message: str, inner: str = "BadArgument", status: int = 400, *, details: Sequence[str] = ()
) -> AzureError:
    """Returns a refusal in the form that Azure Machine Learning's own service has.

    Args:
        message: Its words.
        inner: What the service calls it under "InnerError", such as "NotFoundError".
        status: The HTTP status.
        details: More messages.
    """
    return AzureError(
        "UserError", message, status,
        details=[{"code": inner, "message": detail, "details": [], "additionalInfo": []} for detail in details],
        additionalInfo=[
            {"type": "ComponentName", "info": {"value": "managementfrontend"}},
            {"type": "InnerError", "info": {"value": {"code": inner, "innerError": None}}},
        ],
    )  # fmt: skip


@dataclass
class Request:
    """One request.

    Attributes:
        method: Of HTTP, in capitals.
        host: In small letters, without the port.
        path: Still quoted, without the query.
        query: By the names as they came; see `parameter`.
        headers: By names in small letters.
        body: As it came.
        caller: The principal's id that the bearer token stands for; "" where there is none.
    """

    method: str
    host: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    caller: str = ""

    @classmethod
    def to(cls, method: str, address: str, content: Any = None, *, headers: Mapping[str, str] | None = None) -> Request:
        """Returns a request to an https:// address, with JSON where `content` is given."""
        parts = urlsplit(address)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        body = b"" if content is None else json.dumps(content).encode()
        if body:
            named["content-type"] = "application/json"
        return cls(
            method, str(parts.hostname), parts.path or "/", dict(parse_qsl(parts.query, keep_blank_values=True)),
            named, body,
        )  # fmt: skip

    @property
    def json(self) -> Any:
        """The body as JSON; {} where there is none.

        Raises:
            AzureError: It is not JSON.
        """
        if not self.body.strip():
            return {}
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise AzureError("InvalidRequestContent", f"The request content was invalid JSON: {error}") from None

    @property
    def api(self) -> str:
        """The api-version."""
        return self.parameter("api-version")

    def parameter(self, name: str) -> str:
        """Returns a parameter of the query, whatever the case of its name; "" where there is none."""
        return next((value for key, value in self.query.items() if key.lower() == name.lower()), "")


@dataclass
class Answer:
    """What is answered.

    Attributes:
        content: JSON, or bytes as they are; None: no body.
        status: The HTTP status.
        headers: With what else is to be sent; Content-Type is JSON's unless it is here.
    """

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The body as it is sent."""
        if self.content is None:
            return b""
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()

    @classmethod
    def of(cls, error: AzureError, request: Request) -> Answer:
        """Returns the answer that carries an error, in the form that the service has which was asked."""
        if request.host.endswith(".blob.core.windows.net"):
            inner = f"<Code>{error.code}</Code><Message>{escape(error.message)}</Message>"
            text = f"<?xml version='1.0' encoding='utf-8'?><Error>{inner}</Error>"
            headers = {"Content-Type": "application/xml", "x-ms-error-code": error.code, **error.headers}
            return cls(text.encode(), error.status, headers)
        if request.host == "login.microsoftonline.com":  # as OAuth 2.0 has it: a word, not an object
            return cls({"error": error.code, "error_description": error.message}, error.status, dict(error.headers))
        if error.status == 400 and "/onlineendpoints/" in request.path.lower():
            error = _of_endpoints(error)
        return cls({"error": error.content}, error.status, {"x-ms-failure-cause": "gateway", **error.headers})


def _of_endpoints(error: AzureError) -> AzureError:
    """Returns a refusal as it is passed on from the service behind: as JSON in JSON in a message."""
    problem = {
        "errors": {"": [error.message]}, "type": "https://tools.ietf.org/html/rfc9110#section-15.5.1",
        "title": "One or more validation errors occurred.", "status": error.status,
    }  # fmt: skip
    inside = json.dumps({"error": {"code": "Validation", "message": json.dumps(problem)}})
    detail = {"code": "InferencingClientCallFailed", "message": inside, "details": [], "additionalInfo": []}
    fields = {**error.fields, "details": [detail, *error.fields.get("details", ())]}
    return AzureError("BadRequest", "The request is invalid.", error.status, headers=error.headers, **fields)
