"""Headers that have a browser be careful with an answer. Needs the standard library only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["SECURE_HEADERS", "SECURE_LINES", "SecureHeaders"]

SECURE_HEADERS = {
    "cache-control": "no-store",  # an answer is about a patient: no cache and no history keeps it
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for browsers older than frame-ancestors
}
"""Of every answer that does not bring its own of that name, as the page does."""

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_ENCODED = [(name.encode(), value.encode()) for name, value in SECURE_HEADERS.items()]

SECURE_LINES = b"".join(b"%b: %b\r\n" % pair for pair in _ENCODED)
"""The same as lines of an answer."""


class SecureHeaders:
    """An ASGI app that gives each answer of another the headers that it lacks."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answers as the other app does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                own = message.get("headers", [])
                names = {name.lower() for name, _ in own}
                message["headers"] = [*own, *(pair for pair in _ENCODED if pair[0] not in names)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
