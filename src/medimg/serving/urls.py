"""Images by their URL, off unless hosts are named: whoever makes a server fetch reaches the network it stands in.

https to a host on the list, on port 443, and no redirect. The host is resolved once, every address must be public, and
the connection goes to the address that was checked: a name that resolves otherwise a moment later changes nothing.
Needs the standard library only.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from medimg.errors import ConfigError
from medimg.serving.requests import RequestRefused, too_large

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["UrlFetcher", "is_public", "resolve"]

_MAX_URL = 2048
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")

# Beyond what the standard library calls private: addresses that reach a cloud's own services, or hold another address.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; Alibaba's metadata is in it
        "168.63.129.16/32",  # Azure's own services
        "192.0.0.0/24",  # IETF protocol assignments; Oracle's metadata is in it
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "64:ff9b:1::/48",  # translation to IPv4 of local use, RFC 8215
        "2001::/32",  # Teredo
        "fec0::/10",  # site-local, RFC 3879
    )
]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Tells whether an address belongs to the internet at large.

    Not private, loopback, link-local (which clouds' metadata are), carrier-grade NAT, multicast, reserved or
    unspecified; nor an IPv6 address that holds such an IPv4 one.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    special = found.is_multicast or found.is_reserved or found.is_unspecified
    return found.is_global and not special and not any(found in network for network in _NOT_PUBLIC)


def resolve(host: str, port: int) -> list[str]:
    """Returns the addresses of a host, asked of the system once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class UrlFetcher:
    """Fetches images by https from a list of hosts. Safe to call from several threads.

    Args:
        hosts: The hosts, exactly; a subdomain is another host.
        max_seconds: For one image, from the name's resolution to the last byte.
        permitted: Which addresses may be connected to.
        resolve: From host and port to addresses; called once an image.
        port: The one port that is connected to.
        context: How certificates are checked; None: as the system does.

    Raises:
        ConfigError: A host that is no host's name.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        *,
        max_seconds: float = 10.0,
        permitted: Callable[[str], bool] = is_public,
        resolve: Callable[[str, int], list[str]] = resolve,
        port: int = 443,
        context: ssl.SSLContext | None = None,
    ) -> None:
        try:
            self.hosts = frozenset(_canonical(host) for host in hosts)
        except ValueError as error:
            raise ConfigError(f"not a host's name: {error}. Give names such as images.example.org") from None
        self.max_seconds = max_seconds
        self._permitted = permitted
        self._resolve = resolve
        self._port = port
        self._context = context or ssl.create_default_context()

    def __call__(self, url: str, max_bytes: int) -> bytes:
        """Returns what is at an address.

        Raises:
            RequestRefused: 403: the address is not allowed; 400: nothing can be had there; 413: it is too large.
        """
        deadline = time.monotonic() + self.max_seconds
        host, target = self._parse(url)
        address = self._checked_address(host, deadline)
        try:
            with socket.create_connection((address, self._port), _left(deadline)) as plain:
                plain.settimeout(_left(deadline))
                with self._context.wrap_socket(plain, server_hostname=host) as secure:
                    return self._get(secure, host, target, max_bytes, deadline)
        except ssl.SSLCertVerificationError as error:
            raise _failed(f"is at a host whose certificate does not verify ({error.verify_message})") from None
        except TimeoutError:
            raise _failed(f"did not come from its URL within {self.max_seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _failed(f"could not be fetched from its URL ({type(error).__name__})") from None

    def _parse(self, url: str) -> tuple[str, str]:
        if len(url) > _MAX_URL or _FORBIDDEN.search(url):
            raise _refused(f"has a URL of more than {_MAX_URL:,} characters, or with blanks or backslashes in it")
        try:
            parts = urlsplit(url)
            host, port = _canonical(parts.hostname or ""), parts.port
        except ValueError:
            raise _refused("has a URL that cannot be read") from None
        if parts.scheme != "https":
            raise _refused("has a URL that does not begin with https://")
        if parts.username is not None or parts.password is not None:
            raise _refused("has a URL with a user's name in it")
        if port not in (None, self._port):
            raise _refused(f"has a URL of another port than {self._port}")
        if host not in self.hosts:
            raise _refused("has a URL of a host that this endpoint does not fetch from")
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        return host, path + (f"?{quote(parts.query, safe='/%:@!$&()*+,;=?~-._')}" if parts.query else "")

    def _checked_address(self, host: str, deadline: float) -> str:
        addresses: list[str] = []

        def work() -> None:
            try:
                addresses.extend(self._resolve(host, self._port))
            except (OSError, UnicodeError):
                return  # no address

        # The system's resolver knows no time limit.
        thread = threading.Thread(target=work, name="resolve", daemon=True)
        thread.start()
        thread.join(_left(deadline))
        found = list(addresses)
        if not found:
            raise _failed("has a URL whose host cannot be resolved")
        if not all(self._permitted(address) for address in found):
            raise _refused("has a URL whose host is not on the public internet")
        return found[0]

    def _get(self, secure: ssl.SSLSocket, host: str, target: str, max_bytes: int, deadline: float) -> bytes:
        headers = (
            f"GET {target} HTTP/1.1", f"Host: {host}", "Accept: image/*", "Accept-Encoding: identity",
            "Connection: close", "User-Agent: medimg",
        )  # fmt: skip
        secure.settimeout(_left(deadline))
        secure.sendall("\r\n".join([*headers, "", ""]).encode("ascii"))
        # HTTPResponse asks a socket for nothing but this.
        response = http.client.HTTPResponse(cast("Any", _Timed(secure, deadline)))
        with response:
            response.begin()
            if 300 <= response.status < 400:
                raise _refused("has a URL that leads on to another. Give the last one")
            if response.status != 200:
                raise _failed(f"could not be fetched from its URL (status {response.status})")
            if (response.length or 0) > max_bytes:
                raise too_large(max_bytes)
            content = response.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise too_large(max_bytes)
        if response.length:
            raise _failed("ended early when it was fetched from its URL")
        return content


class _Timed(io.RawIOBase):
    """What a socket receives, up to a deadline over all reads together: a byte a second must not go on for ever."""

    def __init__(self, source: ssl.SSLSocket, deadline: float) -> None:
        self._source = source
        self._deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, 1 << 16)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._source.settimeout(_left(self._deadline))
        return self._source.recv_into(buffer)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _canonical(host: str) -> str:
    """Returns a host's name as DNS takes it: in lower case, without the last dot, in the letters of IDNA."""
    name = host.removesuffix(".").lower().encode("idna").decode("ascii")
    if not re.fullmatch(r"[0-9a-z]([0-9a-z.-]{0,251}[0-9a-z])?", name) or ".." in name:
        raise ValueError(repr(host))
    return name


def _refused(message: str) -> RequestRefused:
    return RequestRefused(403, "url-refused", message)


def _failed(message: str) -> RequestRefused:
    return RequestRefused(400, "url-unreachable", message)
