"""BentoML: a service of a worker a core, with the raw body."""

from __future__ import annotations

import os
from typing import Annotated

import bentoml
from network import Network
from PIL.Image import Image


@bentoml.service(workers=os.cpu_count(), traffic={"timeout": 120})
class Classifier:
    """The service."""

    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api
    def predict(
        self, image: Annotated[Image, bentoml.validators.ContentType("image/jpeg")], /
    ) -> dict[str, list[float]]:
        """Answers one image."""
        return {"output": self.network.output(image)}
