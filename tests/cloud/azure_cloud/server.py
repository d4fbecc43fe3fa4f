"""The server: a proxy that speaks TLS in the name of the host that it is asked to connect to."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import socketserver
import uuid
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from .calls import Answer, NoAnswerError, Request
from .cloud import Cloud
from .parts import add_parts

__all__ = ["Server"]

_HEAD_BYTES = 65536


class Server(socketserver.ThreadingTCPServer):
    """The emulator's server: one port, for the proxy and for the side door.

    Args:
        root: A folder for what it writes.
        azurite: The `node_modules` that have Azurite.
        images: The folder with the packages that images of jobs and endpoints have.
        schemas: The archive of Microsoft's schemas; None: bodies are not checked.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, root: Path, azurite: Path, images: Path, schemas: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.cloud = Cloud(root, azurite, schemas)
        self.cloud.proxy = self.url
        add_parts(self.cloud, images)

    def serve(self) -> None:
        """Answers until the process ends."""
        self.serve_forever()

    def close(self) -> None:
        """Ends everything that runs."""
        self.cloud.close()


class _Connection(socketserver.BaseRequestHandler):
    """One connection: CONNECT and then TLS, or the side door."""

    server: Server

    def handle(self) -> None:
        """Answers it until it is closed."""
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # a client that is gone
            asked = re.match(rb"CONNECT ([^ ]+):(\d+) HTTP/1\.[01]\r\n", self._head(connection))
            if asked is None:
                _Http(connection, self.client_address, self.server)
                return
            host = asked[1].decode().lower()
            if asked[2] != b"443" or not self.server.cloud.knows(host):
                logging.warning("refused to connect to %s:%s", host, asked[2].decode())
                connection.sendall(b"HTTP/1.1 502 The emulator has no such host\r\nContent-Length: 0\r\n\r\n")
                return
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self.server.cloud.certificates.context(host).wrap_socket(connection, server_side=True) as secured:
                _Http(secured, self.client_address, self.server, host)

    @staticmethod
    def _head(connection: socket.socket) -> bytes:
        """Returns the head of a CONNECT; any other is left to be read again."""
        if not connection.recv(len("CONNECT"), socket.MSG_PEEK).startswith(b"CONNECT"):
            return b""
        head = b""
        while not head.endswith(b"\r\n\r\n") and len(head) < _HEAD_BYTES:
            more = connection.recv(_HEAD_BYTES)  # the client says nothing more until it is answered
            if not more:
                return b""
            head += more
        return head


class _Http(BaseHTTPRequestHandler):
    """What is said on a connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    request: socket.socket

    def __init__(self, connection: socket.socket, client: tuple[str, int], server: Server, host: str = "") -> None:
        self._host = host
        super().__init__(connection, client, server)

    def log_message(self, *args: object) -> None:
        """Says nothing of each request."""

    def _do(self) -> None:
        body = self._read()
        if not self._host:
            self._send(self._side_door(body))
            return
        parts = urlsplit(self.path)
        request = Request(
            self.command, self._host, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()}, body,
        )  # fmt: skip
        try:
            answer = self.server.cloud.call(request)
        except NoAnswerError:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
            return
        except Exception as error:
            logging.exception("%s %s%s broke down", self.command, self._host, self.path)
            message = f"{type(error).__name__}: {error}"
            answer = Answer({"error": {"code": "InternalServerError", "message": message}}, 500)
        self._send(answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _do  # noqa: N815

    def _read(self) -> bytes:
        # Clients of a proxy send a body only when its head was acknowledged, which would else take 40 ms each time.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(chunks)

    def _send(self, answer: Answer) -> None:
        body = answer.body
        headers = {"content-type": "application/json; charset=utf-8", "content-length": str(len(body))}
        headers |= {"x-ms-request-id": str(uuid.uuid4()), "date": formatdate(usegmt=True)}
        headers |= {name.lower(): value for name, value in answer.headers.items()}
        if not body and self.command != "HEAD":
            del headers["content-type"]
        self.send_response_only(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _side_door(self, body: bytes) -> Answer:
        """Answers what tests tell the emulator and ask of it: POST /_emulator/{verb} with JSON."""
        verb = self.path.removeprefix("/_emulator/")
        act = self.server.cloud.verbs.get(verb)
        if act is None:  # plain HTTP to another host comes here, too
            return Answer(f"the emulator has no {self.path}".encode(), 502, {"Content-Type": "text/plain"})
        try:
            return Answer(json.dumps(act(json.loads(body or b"{}"))).encode())
        except Exception as error:
            return Answer(f"{type(error).__name__}: {error}".encode(), 400, {"Content-Type": "text/plain"})
