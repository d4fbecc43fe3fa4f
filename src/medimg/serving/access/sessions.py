"""Sessions of people who signed in on the page with a key: signed cookies. Needs the standard library only.

A cookie holds the id of the key, when the session ends, and an HMAC-SHA256 of both under the server's secret. The
server keeps no list: a session ends at its time, or with its key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

from medimg.errors import ConfigError

__all__ = ["Sessions"]

_SECRET_BYTES = 32
_HOURS = 12.0  # a long shift


class Sessions:
    """Makes and reads the cookies of one endpoint.

    Args:
        secret: What they are signed with; whoever has it can make cookies.
        hours: How long a session lasts.
        clock: Returns the seconds since 1970.

    Attributes:
        name: Of the cookie. A browser sends the cookies of one port to the others of its machine: each endpoint has a
            name of its own, so that signing in to one does not sign out of another.
    """

    def __init__(self, secret: bytes, *, hours: float = _HOURS, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._seconds = int(hours * 3600)
        self._clock = clock
        self.name = f"medimg-{_mac(secret, 'name')[:8]}"

    @classmethod
    def of_file(cls, path: Path) -> Sessions:
        """Returns sessions whose secret is in a file, so that they outlive the server; it is made where it is missing.

        Raises:
            ConfigError: The file cannot be made, or holds no secret.
        """
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigError(f"cannot make {path} for the sessions' secret ({error.strerror})") from None
        secret = path.read_bytes()
        if len(secret) != _SECRET_BYTES:
            # Half a secret, as of a full disk, could be guessed.
            raise ConfigError(f"{path} holds {len(secret)} bytes, not {_SECRET_BYTES}. Remove it and start again")
        return cls(secret)

    def begin(self, key_id: str, *, secure: bool) -> str:
        """Returns the header `Set-Cookie` that begins a session.

        Args:
            key_id: Of the key that was given.
            secure: Whether the request came by https: the cookie then never travels without.
        """
        told = f"{key_id}.{int(self._clock()) + self._seconds}"
        return self._header(f"{told}.{_mac(self._secret, f'session {told}')}", self._seconds, secure)

    def end(self, *, secure: bool) -> str:
        """Returns the header `Set-Cookie` that has the browser forget the session."""
        return self._header("", 0, secure)

    def key_id(self, cookies: str) -> str:
        """Returns the id of the key of the session in a header `Cookie`; "": there is none, or it is not valid."""
        for pair in cookies.split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.name and (found := self._signed(value)):
                return found
        return ""

    def has_cookie(self, cookies: str) -> bool:
        """Tells whether a header `Cookie` brings a session of this endpoint, valid or not."""
        return any(pair.strip().startswith(f"{self.name}=") for pair in cookies.split(";"))

    def _signed(self, value: str) -> str:
        told, _, mac = value.rpartition(".")
        key_id, _, ends = told.rpartition(".")
        # compare_digest takes letters of ASCII alone.
        if not value.isascii() or not hmac.compare_digest(mac, _mac(self._secret, f"session {told}")):
            return ""
        return key_id if self._clock() < int(ends) else ""

    def _header(self, value: str, seconds: int, secure: bool) -> str:
        # No script reads it, and no other site's page sends it.
        attributes = f"Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"
        return f"{self.name}={value}; {attributes}{'; Secure' if secure else ''}"


def _mac(secret: bytes, text: str) -> str:
    digest = hmac.new(secret, text.encode("ascii"), hashlib.sha256).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
