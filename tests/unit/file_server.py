"""A server of files that can cut, corrupt, stall, redirect, lie about lengths, ignore ranges and change its files."""

from __future__ import annotations

import datetime as dt
import hashlib
import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class FileServer:
    """What the server has and how it misbehaves.

    Attributes:
        url: Its address.
        files: Path to content.
        cuts: How many answers end half-way.
        statuses: Codes to answer with first, in turn.
        stalls: How many answers stop half-way and say nothing for `silence_s`.
        ranges: Whether it sends parts.
        tags: Whether it names its files by an ETag.
        wrong_part: Whether a part begins elsewhere than was asked for.
        length_added: Added to the length that it states.
        redirects: Path to the address that it leads to.
        headers: Sent with each file.
        asked: Path, range and If-Range of each request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: int = 0
    statuses: list[int] = field(default_factory=list)
    stalls: int = 0
    silence_s: float = 0.5
    ranges: bool = True
    tags: bool = True
    wrong_part: bool = False
    length_added: int = 0
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)

    def add(self, path: str, content: bytes) -> str:
        """Serves content; returns its address."""
        self.files[path] = content
        return f"{self.url}/{path}"


def certificate(folder: Path) -> Path:
    """Returns a file with a key and a certificate of this machine, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day, now = dt.timedelta(days=1), dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*plain) + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def serving(certified_by: Path | None = None) -> Iterator[FileServer]:
    """Yields a running server, an encrypted one where it has a certificate."""
    state = FileServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, wanted = self.path.lstrip("/").split("?")[0], self.headers.get("Range")
            state.asked.append((path, wanted, self.headers.get("If-Range")))
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            if path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[path])
                self.end_headers()
                return
            if path not in state.files:
                self.send_error(404)
                return
            content = state.files[path]
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            if_range = self.headers.get("If-Range")
            whole = not wanted or not state.ranges or (if_range is not None and if_range != tag)
            start = 0 if whole else int(str(wanted).removeprefix("bytes=").rstrip("-"))
            if start and start >= len(content):
                self.send_error(416)
                return
            start -= 1 if start and state.wrong_part else 0
            body = content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if state.tags:
                self.send_header("ETag", tag)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) + state.length_added))
            self.end_headers()
            if state.cuts:
                state.cuts -= 1
                body = body[: len(body) // 2]
            if state.stalls:
                state.stalls -= 1
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(state.silence_s)
                return
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    if certified_by is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certified_by)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        state.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
