"""LitServe: two worker processes, the image as a form's file. Run with the port."""

import sys
from typing import Any

import litserve
from fastapi import UploadFile
from network import Network, opened
from PIL import Image


class Api(litserve.LitAPI):
    """The steps of a request."""

    def setup(self, device: str) -> None:
        """Loads the network, once a process."""
        self.network = Network()

    def decode_request(self, request: UploadFile) -> Image.Image:
        """Opens the image."""  # its annotation is read by LitServe, and must not be a string
        return opened(request.file.read())

    def predict(self, image: Image.Image) -> list[float]:
        """Runs the network."""
        return self.network.output(image)

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        """Gives the answer its shape."""
        return {"output": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=2, timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
