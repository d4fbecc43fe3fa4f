"""BentoML: a service of two workers, the image as a form's file."""

from __future__ import annotations

import bentoml
from network import Network
from PIL.Image import Image


@bentoml.service(workers=2, traffic={"timeout": 120})
class Classifier:
    """The service."""

    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api
    def predict(self, image: Image) -> dict[str, list[float]]:
        """Answers one image."""
        return {"output": self.network.output(image)}
