"""A line between a client and a server that tests can break."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading

__all__ = ["Proxy"]


class Proxy:
    """A line to the server that breaks when it has carried so many bytes.

    Attributes:
        up: Bytes that were carried to the server.
        breaks: After how many bytes of a connection to break it, one number for each break; what is left is not broken.
        down: Likewise for bytes from the server.
        most: Bytes that are carried to the server in all; what would be more breaks its connection.
    """

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self.up = 0
        self.breaks: list[int] = []
        self.down: list[int] = []
        self.most = sys.maxsize
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends it with all of its connections."""
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # which, unlike closing, wakes the thread that reads it
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._server)
                self._ends += [near, far]
                for source, target, up in ((near, far, True), (far, near, False)):
                    self._threads.append(threading.Thread(target=self._carry, args=(source, target, up)))
                    self._threads[-1].start()

    def _carry(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        carried = 0
        limits = self.breaks if up else self.down
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if (full := limits and carried + len(data) > limits[0]) or (up and self.up + len(data) > self.most):
                    del limits[: bool(full)]
                    # Reset: a sender whose peer is shut down but not closed waits until its time is up.
                    source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    source.close()
                    break
                target.sendall(data)
                carried += len(data)
                if up:
                    self.up += len(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
