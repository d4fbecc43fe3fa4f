"""login.microsoftonline.com: who there is, and the tokens they get."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from .calls import Answer, AzureError, Request

__all__ = ["CLIENT", "PRINCIPAL", "SECRET", "TENANT", "Login"]

TENANT = "7e0a1b52-0000-4000-8000-00000000aaaa"
CLIENT = "7e0a1b52-0000-4000-8000-00000000cccc"  # the test's own login, a service principal
SECRET = "secret-of-the-emulator"
PRINCIPAL = "7e0a1b52-0000-4000-8000-00000000dddd"

_ADDRESS = "https://login.microsoftonline.com"
_AUDIENCES = {
    "management.azure.com": {"https://management.azure.com", "https://management.core.windows.net"},
    ".blob.core.windows.net": {"https://storage.azure.com"},
    "": {"https://management.azure.com", "https://management.core.windows.net", "https://ml.azure.com"},
}


class Login:
    """The directory: a token is signed, and says who asks and for what service."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def token(
        self, principal: str = PRINCIPAL, audience: str = "https://management.azure.com", seconds: int = 3600
    ) -> str:
        """Returns a bearer token.

        Args:
            principal: The id of who has it, such as a managed identity's `principalId`.
            audience: The service that it is for: also "https://ml.azure.com" or "https://storage.azure.com".
            seconds: How long it holds.
        """
        moment = int(time.time())
        claims = {
            "aud": audience, "iss": f"https://sts.windows.net/{TENANT}/", "iat": moment, "nbf": moment,
            "exp": moment + seconds, "oid": principal, "sub": principal, "tid": TENANT, "ver": "1.0",
            "appid": CLIENT, "idtyp": "app",
        }  # fmt: skip
        unsigned = f"{_encoded({'typ': 'JWT', 'alg': 'HS256'})}.{_encoded(claims)}"
        return f"{unsigned}.{self._signature(unsigned)}"

    def caller(self, request: Request) -> str:
        """Returns the id of the principal whose bearer token a request has.

        Raises:
            AzureError: It has none, or one that does not hold here.
        """
        given = request.headers.get("authorization", "")
        if not given:
            raise AzureError(
                "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", 401,
                headers={"WWW-Authenticate": f'Bearer authorization_uri="{_ADDRESS}/{TENANT}"'},
            )  # fmt: skip
        return self.holder(given.removeprefix("Bearer "), _audiences(request.host))

    def holder(self, token: str, audiences: set[str]) -> str:
        """Returns the id of the principal that a token stands for; see `caller`."""
        unsigned, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(unsigned).encode()):
            raise AzureError("InvalidAuthenticationToken", "The access token is invalid.", 401)
        claims = json.loads(base64.urlsafe_b64decode(unsigned.partition(".")[2] + "=="))
        if claims["exp"] < time.time():
            raise AzureError("ExpiredAuthenticationToken", "The access token expiry UTC time is in the past.", 401)
        if claims["aud"].rstrip("/") not in audiences:
            raise AzureError(
                "InvalidAuthenticationTokenAudience",
                f"The access token has been obtained for wrong audience or resource '{claims['aud']}'. It should "
                f"exactly match with one of the allowed audiences '{','.join(sorted(audiences))}'.",
                401,
            )
        return str(claims["oid"])

    def _signature(self, unsigned: str) -> str:
        return _trimmed(hmac.new(self._key, unsigned.encode(), hashlib.sha256).digest())

    def answer(self, request: Request) -> Answer:
        """Answers a request to login.microsoftonline.com."""
        path = request.path.lower()
        if path == "/common/discovery/instance":
            return Answer(_INSTANCES)
        tenant = f"{_ADDRESS}/{request.path.split('/')[1]}"
        if path.endswith("/.well-known/openid-configuration"):
            return Answer(_configuration(tenant))
        if path.endswith(("/oauth2/v2.0/token", "/oauth2/token")) and request.method == "POST":
            return self._grant(dict(parse_qsl(request.body.decode())))
        return Answer({"error": "invalid_request", "error_description": f"AADSTS900144: {request.path}"}, 404)

    def _grant(self, form: Mapping[str, str]) -> Answer:
        client = form.get("client_id", "")
        if client != CLIENT:
            return _refused(
                700016, "unauthorized_client",
                f"Application with identifier '{client}' was not found in the directory 'Emulator'. This can happen if "
                "the application has not been installed by the administrator of the tenant or consented to by any user "
                "in the tenant.", 400,
            )  # fmt: skip
        if form.get("client_secret") != SECRET:
            return _refused(
                7000215, "invalid_client",
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
                f"value, not the client secret ID, for a secret added to app '{client}'.", 401,
            )  # fmt: skip
        scope = next((one for one in form.get("scope", "").split() if one.startswith("https://")), "")
        audience = re.sub(r"/+\.default$", "", scope) or "https://management.azure.com"
        return Answer(
            {
                "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599,
                "access_token": self.token(PRINCIPAL, audience),
            }
        )  # fmt: skip


def _audiences(host: str) -> set[str]:
    return next(allowed for ending, allowed in _AUDIENCES.items() if host.endswith(ending))


def _refused(number: int, error: str, text: str, status: int) -> Answer:
    trace = uuid.uuid4()
    moment = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
    description = f"AADSTS{number}: {text} Trace ID: {trace} Correlation ID: {trace} Timestamp: {moment}"
    return Answer(
        {
            "error": error, "error_description": description, "error_codes": [number], "timestamp": moment,
            "trace_id": str(trace), "correlation_id": str(trace),
            "error_uri": f"{_ADDRESS}/error?code={number}",
        },
        status,
    )  # fmt: skip


def _configuration(tenant: str) -> dict[str, Any]:
    return {
        "token_endpoint": f"{tenant}/oauth2/v2.0/token", "authorization_endpoint": f"{tenant}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"{tenant}/oauth2/v2.0/devicecode", "issuer": f"{tenant}/v2.0",
        "tenant_region_scope": "EU", "cloud_instance_name": "microsoftonline.com",
    }  # fmt: skip


_INSTANCES = {
    "tenant_discovery_endpoint": f"{_ADDRESS}/{TENANT}/v2.0/.well-known/openid-configuration",
    "api-version": "1.1",
    "metadata": [
        {
            "preferred_network": "login.microsoftonline.com",
            "preferred_cache": "login.windows.net",
            "aliases": ["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"],
        }
    ],
}


def _encoded(content: Any) -> str:
    return _trimmed(json.dumps(content).encode())


def _trimmed(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
