"""A request that is not answered. Only the standard library is needed."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Refused"]


class Refused(Exception):  # noqa: N818 - no error, an answer
    """A request that gets no prediction; its text is for the client.

    Args:
        status: The HTTP status.
        message: What is wrong and how to put it right.
        code: A word for programs, such as "too-large"; "": the status says it all (401, 429, 503).
        headers: HTTP headers of the response, such as Retry-After.
    """

    def __init__(self, status: int, message: str, *, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, str]:
        """Returns the body of the response: {"error"}, with the {"code"} where there is one."""
        return {"error": self.message, "code": self.code} if self.code else {"error": self.message}
