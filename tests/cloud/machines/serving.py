"""A server in a container: waited for, asked, and ended when its last answer is given."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from .containers import Container, Containers

__all__ = ["Reply", "Serving"]

_GRACE_SECONDS = 5.0
_DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """What a container answered.

    Attributes:
        status: Of HTTP; 0: it did not answer.
        headers: In small letters.
        body: As it came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Serving:
    """One container that serves.

    Attributes:
        container: Where it runs.
        port: Where it is to listen.
        answering: Requests that it is being asked now.

    Args:
        containers: All of them.
        container: Not started yet.
    """

    def __init__(self, containers: Containers, container: Container) -> None:
        self.container = container
        self.port = _free_port()
        self.answering = 0
        self._containers = containers
        self._changed = threading.Condition()

    def answers(
        self, path: str, seconds: float, check: Callable[[], object] = lambda: None, *, timeout_seconds: float = 2.0
    ) -> bool:
        """Returns whether it comes to answer a path with 200; when it has ended, all it wrote is in its log.

        Args:
            path: Asked again and again.
            seconds: That it may take.
            check: Is called meanwhile; what it raises ends the wait.
            timeout_seconds: Of each question.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.container.alive:
            check()
            if self.ask("GET", path, b"", {}, timeout_seconds).status == 200:
                return True
            time.sleep(0.05)
        if not self.container.alive:
            self.container.wait()
        return False

    def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> Reply:
        """Returns its answer to a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_seconds)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, told, answer.read())
        except (OSError, http.client.HTTPException):
            return Reply(0, {}, b"")
        finally:
            connection.close()

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Keeps it from being closed, as clouds send no more requests and wait for the last answer."""
        with self._changed:
            self.answering += 1
        try:
            yield self
        finally:
            with self._changed:
                self.answering -= 1
                self._changed.notify_all()

    def close(self, grace_seconds: float = _GRACE_SECONDS) -> None:
        """Ends it once nobody holds it; what was sent past that has the grace."""
        with self._changed:
            self._changed.wait_for(lambda: not self.answering, _DRAIN_SECONDS)
        if self.container.alive:
            self.container.stop(grace_seconds)
            self.container.wait()
        self.kill()

    def kill(self) -> None:
        """Ends it at once."""
        self._containers.remove(self.container)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
