"""A model that runs in a container and answers /ping and /invocations: what endpoints and transform jobs have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from machines.serving import Reply, Serving

from .account import LogStream
from .cloud import Cloud
from .images import ML
from .models import ModelContainer, Models

__all__ = ["Deployment", "NotHealthyError"]

_SERVE = Path(__file__).parent / "serving_image" / "serve.py"


class NotHealthyError(Exception):
    """The container did not come to answer /ping; the message is AWS's, without its beginning."""


class Deployment(Serving):
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
        super().__init__(cloud.containers, cloud.containers.make(image, name, ML))

    def start(self, check: Callable[[], object] = lambda: None) -> None:
        """Starts the container and returns once it answers /ping.

        Args:
            check: Is called again and again meanwhile; what it raises ends the start.

        Raises:
            NotHealthyError: It does not.
        """
        try:
            self._models.unpack(self._given, self.container.files / "model")
        except OSError as error:
            raise NotHealthyError(
                f"Failed to extract model data archive from URL {self._given.data}: {error}"
            ) from error
        environment = {
            **self._cloud.environment(self._region),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "EMULATOR_TENSORFLOW": str(self._cloud.images.packages("training")),
            **self._given.environment,
        }
        self._stream.write([])
        self.container.start([str(self.container.python), str(_SERVE)], environment, self._stream.write)
        if not self.answers("/ping", self._cloud.settings.ping_seconds, check):
            raise NotHealthyError("did not pass the ping health check. Please check CloudWatch logs for this endpoint.")

    def invoke(self, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> Reply:
        """Returns the container's answer to a request."""
        return self.ask("POST", "/invocations", body, headers, timeout_seconds)
