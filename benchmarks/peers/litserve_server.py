"""LitServe: a worker process a core, with the raw body. Run with the port."""

import os
import sys
from typing import Annotated, Any

import litserve
from fastapi import Body
from network import Network, opened
from PIL import Image


class Api(litserve.LitAPI):
    """The steps of a request."""

    def setup(self, device: str) -> None:
        """Loads the network, once a process."""
        self.network = Network()

    def decode_request(self, request: Annotated[bytes, Body()]) -> Image.Image:
        """Opens the image."""  # its annotation is read by LitServe, and must not be a string
        return opened(request)

    def predict(self, image: Image.Image) -> list[float]:
        """Runs the network."""
        return self.network.output(image)

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        """Gives the answer its shape."""
        return {"output": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=os.cpu_count(), timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
