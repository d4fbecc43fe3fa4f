"""`Route`: how the clients' connections reach an endpoint: its address, TLS, a proxy, and the ports they leave from."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
import ssl
import urllib.request
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["Route", "head"]

_PORTS_EACH = 20_000  # clients that leave from one of this machine's own addresses
_ROOMY = 512  # clients that have the system's own buffers
_SEND_BUFFER = 64 * 1024  # bytes of the others': thousands of images on their way must not fill the kernel's memory
_MOST_REPLY = 64 * 1024  # bytes of a proxy's reply


def head(url: str, headers: dict[str, str], length: int) -> bytes:
    """Returns the beginning of a POST request, up to its body of `length` bytes."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {"Host": parts.netloc.rpartition("@")[2], "User-Agent": "medimg-load-test", "Accept": "application/json"}
    lines = [f"POST {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in (given | headers | {"Content-Length": str(length)}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _proxy(parts: SplitResult) -> SplitResult | None:
    """Returns the proxy that the environment names for a URL."""
    named = urllib.request.getproxies().get(parts.scheme, "")
    if not named or urllib.request.proxy_bypass(str(parts.hostname)):
        return None
    return urlsplit(named if "://" in named else f"http://{named}")


class Route:
    """Opens connections to one address.

    Args:
        url: The endpoint's; https is spoken with the machine's certificates, or those of SSL_CERT_FILE.

    Attributes:
        is_local: Whether the endpoint is on this machine; what is behind a proxy is not.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, secure = str(parts.hostname), parts.scheme == "https"
        self._port = parts.port or (443 if secure else 80)
        self._tls = ssl.create_default_context() if secure else None
        self._proxy = _proxy(parts) if secure else None
        near, default = (self._proxy, 80) if self._proxy else (parts, self._port)
        found = socket.getaddrinfo(near.hostname, near.port or default, type=socket.SOCK_STREAM)
        # Asked once: thousands of clients would all ask again.
        self._addresses = [(entry[0], entry[4]) for entry in found]
        loopback = ipaddress.ip_address(self._addresses[0][1][0]).is_loopback
        self.is_local = loopback and self._proxy is None
        # Only Linux answers to the whole of 127.0.0.0/8 without being told to.
        self._many_sources = loopback and self._addresses[0][0] == socket.AF_INET and Path("/proc/net").exists()

    def most_clients(self) -> int | None:
        """Returns how many connections the ports of this machine are enough for; None: any number."""
        if self._many_sources:
            return None
        try:
            low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        except OSError:
            return 16_384  # the dynamic ports of RFC 6335, section 6
        return (int(high) - int(low) + 1) * len(self._addresses)

    async def connect(self, protocol: asyncio.Protocol, number: int) -> None:
        """Connects a client.

        Raises:
            OSError: It could not.
        """
        loop = asyncio.get_running_loop()
        family, address = self._addresses[number % len(self._addresses)]
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if number >= _ROOMY:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            if self._many_sources and number >= _PORTS_EACH:
                connection.bind((f"127.0.0.{1 + number // _PORTS_EACH}", 0))
            await loop.sock_connect(connection, address)
            if self._proxy is not None:
                await self._through_proxy(connection, self._proxy)
            await loop.create_connection(
                lambda: protocol, sock=connection, ssl=self._tls, server_hostname=self._host if self._tls else None
            )
        except BaseException:
            connection.close()
            raise

    async def _through_proxy(self, connection: socket.socket, proxy: SplitResult) -> None:
        """Has the proxy connect on (RFC 9110, section 9.3.6), with its user and password where it has such."""
        loop = asyncio.get_running_loop()
        target = f"{self._host}:{self._port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.username is not None:
            user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        await loop.sock_sendall(connection, ("\r\n".join(lines) + "\r\n\r\n").encode())
        reply = b""
        while b"\r\n\r\n" not in reply and len(reply) < _MOST_REPLY:
            part = await loop.sock_recv(connection, 4096)
            if not part:
                break
            reply += part
        if reply.split(b" ", 2)[1:2] != [b"200"]:
            raise ConnectionError(f"the proxy refuses to connect to {target}: {reply[:80]!r}")
