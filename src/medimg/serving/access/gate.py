"""`Gate`: who may ask, how often, and from which pages. Needs the standard library only.

It stands before everything that costs something. Four kinds of requests are turned away: by a name that is not ours
(DNS rebinding), without a key or session, from another site's page (cross-site request forgery), and too many.
"""

from __future__ import annotations

import ipaddress
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from medimg.key_file import Key
from medimg.serving.access.keys import NO_KEY, Keys, key_in
from medimg.serving.access.sessions import Sessions
from medimg.serving.refused import Refused

__all__ = ["MAX_SIGN_IN", "OPEN_PATHS", "RATE_LIMIT", "Bucket", "Gate", "hosts_of"]

OPEN_PATHS = frozenset({"/", "/ping", "/ready"})
"""What everyone may read, beside the files of the page."""

RATE_LIMIT = 100.0
"""Requests a second of a key that was handed out, unless something else is asked for: as in `ServeConfig`."""

MAX_SIGN_IN = 4096  # bytes of the body of a sign-in

_PAGE_FILES = "/page/"
_READS = ("GET", "HEAD")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_BURST_SECONDS = 10.0  # of a key's rate that may come at once: a folder of images, a page of many pictures
# Wrong keys cannot be guessed: this keeps one who tries from filling logs and alarms, and turns away no right key.
_WRONG_A_SECOND = 1.0
_WRONG_AT_ONCE = 30.0


class Bucket:
    """A token bucket: `rate` requests a second, and `burst` at once after a rest."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def take(self, now: float) -> float:
        """Takes a token and returns 0, or returns the seconds until there is one."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate


def hosts_of(address: str, names: Iterable[str] = ()) -> frozenset[str] | None:
    """Returns the names by which a server may be asked; None: any.

    A page of any site may have its own name resolve to 127.0.0.1 (DNS rebinding) and would then be of the same origin
    as a server there. That server knows its names; one for a network knows them where they are given, and asks for a
    key in any case.

    Args:
        address: The IP address that it listens on.
        names: Further names, such as that of a proxy in front of it.
    """
    given = frozenset(name.lower() for name in names)
    if not ipaddress.ip_address(address).is_loopback and not given:
        return None
    return given | _LOOPBACK | {address}


class Gate:
    """Lets requests in.

    Args:
        keys: Which are good; None: no key is asked for.
        sessions: Of those who signed in on the page; None: there is no sign-in.
        rate_limit: Requests a second of each key that is limited; None: any number.
        hosts: Names by which the server may be asked, see `hosts_of`; None: any.
        open_paths: What may be read without a key.
        clock: Returns seconds.
    """

    def __init__(
        self,
        keys: Keys | None,
        sessions: Sessions | None = None,
        *,
        rate_limit: float | None = RATE_LIMIT,
        hosts: frozenset[str] | None = None,
        open_paths: frozenset[str] = OPEN_PATHS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = keys
        self._sessions = sessions
        self._rate_limit = rate_limit
        self._hosts = hosts
        self._open_paths = open_paths
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}  # as many as there are limited keys
        self._wrong = Bucket(_WRONG_A_SECOND, _WRONG_AT_ONCE, clock())

    @property
    def auth(self) -> str:
        """What is asked for: "key" or "none"."""
        return "none" if self.keys is None else "key"

    def admit(self, headers: Mapping[str, str], *, method: str, path: str) -> str:
        """Returns the id of the key that a request comes with; "": none is needed.

        Args:
            headers: With names in lower case, or of a kind that finds them so.
            method: In capitals.
            path: As the routes see it.

        Raises:
            Refused: 401: no key, or a wrong one; 403: from another site's page, or by a wrong name; 429: too many.
        """
        self._check_host(headers)
        if method == "OPTIONS":
            # A browser asks for another site's page (CORS): no header allows it, and no key helps.
            raise _foreign()
        if method in _READS and (path in self._open_paths or path.startswith(_PAGE_FILES)):
            return ""
        if self.keys is None:
            if _is_foreign(headers):
                raise _foreign()
            return ""
        if given := key_in(headers):
            key = self.keys.find(given)
            if key is None:
                raise self._no_key(tried=True)
        else:
            key = self._signed_in(headers, method)
        self._count(key)
        return key.id

    def sign_in(self, headers: Mapping[str, str], body: bytes) -> str:
        """Returns the header `Set-Cookie` for a sign-in with {"key": …}: the answer to POST /session.

        Raises:
            Refused: 401: the key is wrong; 400, 403, 413 and 429 as elsewhere.
        """
        self._check_host(headers)
        if _is_foreign(headers):
            raise _foreign()
        if self.keys is None or self._sessions is None:
            raise Refused(400, "this endpoint asks for no key: there is nothing to sign in to", code="bad-request")
        if len(body) > MAX_SIGN_IN:
            raise Refused(413, f"a sign-in has at most {MAX_SIGN_IN:,} bytes", code="too-large")
        try:
            given = json.loads(body)["key"]
        except (ValueError, RecursionError, LookupError, TypeError):
            given = None
        if not isinstance(given, str):
            raise Refused(400, 'send {"key": "…"} as JSON', code="bad-request")
        key = self.keys.find(given)
        if key is None:
            raise self._no_key(tried=True)
        return self._sessions.begin(key.id, secure=_is_secure(headers))

    def sign_out(self, headers: Mapping[str, str]) -> str:
        """Returns the header `Set-Cookie` that ends a session: the answer to DELETE /session.

        Raises:
            Refused: 403: another site's page asks for it; 400: there are no sessions.
        """
        self._check_host(headers)
        if _is_foreign(headers):
            raise _foreign()
        if self._sessions is None:
            raise Refused(400, "this endpoint has no sign-in", code="bad-request")
        return self._sessions.end(secure=_is_secure(headers))

    def _signed_in(self, headers: Mapping[str, str], method: str) -> Key:
        cookies = headers.get("cookie", "")
        if self.keys is None or self._sessions is None or not self._sessions.has_cookie(cookies):
            raise self._no_key(tried=False)
        id = self._sessions.key_id(cookies)
        key = self.keys.get(id) if id else None
        if key is None:
            # A session that has ended is no attack: the page asks for the key again.
            raise self._no_key(tried=False)
        foreign = _is_foreign(headers)
        # Every browser says where a request that changes something comes from; one that does not say is let in nowhere.
        if foreign or (foreign is None and method not in _READS):
            raise _foreign()
        return key

    def _count(self, key: Key) -> None:
        if self._rate_limit is None or not key.limited:
            return
        now = self._clock()
        if key.id not in self._buckets:
            burst = max(1.0, self._rate_limit * _BURST_SECONDS)
            self._buckets[key.id] = Bucket(self._rate_limit, burst, now)
        wait = self._buckets[key.id].take(now)
        if wait:
            raise _too_many(f"this key may send {self._rate_limit:g} requests a second. Send them more slowly", wait)

    def _no_key(self, *, tried: bool) -> Refused:
        if tried and (wait := self._wrong.take(self._clock())):
            return _too_many("too many wrong keys were sent to this endpoint. Try the right one", wait)
        return Refused(401, NO_KEY, headers={"WWW-Authenticate": "Bearer"})

    def _check_host(self, headers: Mapping[str, str]) -> None:
        if self._hosts is not None and _name_in(headers.get("host", "")) not in self._hosts:
            raise Refused(
                403,
                "this server does not go by that name. Ask it by the address that it printed; for one behind a proxy, "
                "start it with --host-name NAME",
                code="host-refused",
            )


def _name_in(host: str) -> str:
    """Returns the name in a header `Host`, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].removesuffix(".").lower()


def _is_foreign(headers: Mapping[str, str]) -> bool | None:
    """Tells whether another site's page sent a request; None: no browser said."""
    site = headers.get("sec-fetch-site")
    if site is not None:  # no script can set it
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return None
    try:
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    except ValueError:
        return True


def _is_secure(headers: Mapping[str, str]) -> bool:
    """Tells whether the browser speaks https, as a proxy in front says; who lies there harms their own cookie only."""
    return headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower() == "https"


def _foreign() -> Refused:
    return Refused(403, "pages of other sites may not ask this endpoint", code="origin-refused")


def _too_many(message: str, wait: float) -> Refused:
    return Refused(429, message, headers={"Retry-After": str(max(1, math.ceil(wait)))})
