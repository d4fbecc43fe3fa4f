"""A model that runs in a container and answers /ping and /invocations: what endpoints and transform jobs have."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .account import LogStream
from .cloud import Cloud
from .models import ModelContainer, Models

__all__ = ["Answer", "Deployment", "NotHealthyError"]

_SERVE = Path(__file__).parent / "serving_image" / "serve.py"
_GRACE_SECONDS = 5.0
_DRAIN_SECONDS = 60.0


class NotHealthyError(Exception):
    """The container did not come to answer /ping; the message is AWS's, without its beginning."""


@dataclass(frozen=True)
class Answer:
    """What a container answered.

    Attributes:
        status: Of HTTP; 0: it did not answer.
        headers: In small letters.
        body: As it came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Deployment:
    """One container that serves.

    Args:
        cloud: The emulator.
        region: Where.
        name: For its folder.
        container: What it is made of.
        models: Which unpacks it.
        stream: Gets what it writes.
    """

    def __init__(
        self, cloud: Cloud, region: str, name: str, container: ModelContainer, models: Models, stream: LogStream
    ) -> None:
        self._cloud = cloud
        self._region = region
        self._given = container
        self._models = models
        self._stream = stream
        image = cloud.images.pull(container.image, region)
        if image is None:
            raise NotHealthyError(f"the image {container.image} was not found")
        self._container = cloud.containers.make(image, name)
        self._port = _free_port()
        self._answering = 0
        self._changed = threading.Condition()

    def start(self, check: Callable[[], object] = lambda: None) -> None:
        """Starts the container and returns once it answers /ping.

        Args:
            check: Is called again and again meanwhile; what it raises ends the start.

        Raises:
            NotHealthyError: It does not.
        """
        try:
            self._models.unpack(self._given, self._container.ml / "model")
        except OSError as error:
            raise NotHealthyError(
                f"Failed to extract model data archive from URL {self._given.data}: {error}"
            ) from error
        environment = {
            **self._cloud.environment(self._region),
            "SAGEMAKER_BIND_TO_PORT": str(self._port),
            "EMULATOR_TENSORFLOW": str(self._cloud.images.packages("training")),
            **self._given.environment,
        }
        self._stream.write([])
        self._container.start([str(self._container.python), str(_SERVE)], environment, self._stream.write)
        deadline = time.monotonic() + self._cloud.settings.ping_seconds
        while time.monotonic() < deadline and self._container.alive:
            check()
            if self._ask("GET", "/ping", b"", {}, 2.0).status == 200:
                return
            time.sleep(0.05)
        if not self._container.alive:
            self._container.wait()  # its last words are in the log before anyone is told
        raise NotHealthyError("did not pass the ping health check. Please check CloudWatch logs for this endpoint.")

    def invoke(self, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> Answer:
        """Returns the container's answer to a request."""
        return self._ask("POST", "/invocations", body, headers, timeout_seconds)

    @contextmanager
    def held(self) -> Iterator[Deployment]:
        """Keeps the container from being closed, as AWS sends no more requests and waits for the last answer."""
        with self._changed:
            self._answering += 1
        try:
            yield self
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    def close(self, grace_seconds: float = _GRACE_SECONDS) -> None:
        """Ends the container once nobody holds it; what was sent past that has the grace."""
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, _DRAIN_SECONDS)
        if self._container.alive:
            self._container.stop(grace_seconds)
            self._container.wait()
        self._cloud.containers.remove(self._container)

    def kill(self) -> None:
        """Ends the container at once."""
        self._cloud.containers.remove(self._container)

    def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_seconds)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read())
        except (OSError, http.client.HTTPException):
            return Answer(0, {}, b"")
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
