"""The network as the other servers run it: LiteRT on one thread, after Pillow's scaled decoding and resize."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from PIL import Image


class Network:
    """The LiteRT file that PEER_LITERT names."""

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=os.environ["PEER_LITERT"], num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def output(self, image: Image.Image) -> list[float]:
        """Returns the network's outputs for one image."""
        self._interpreter.set_tensor(self._input["index"], prepared(image, self._input["shape"]))
        self._interpreter.invoke()
        found: list[float] = self._interpreter.get_tensor(self._output)[0].tolist()
        return found


def prepared(image: Image.Image, shape: Any) -> np.ndarray:
    """Returns an image as the network takes it: float32 (1, height, width, channels), 0 to 255.

    A JPEG is decoded at a half, a quarter or an eighth where that leaves twice the network's sides, as medimg does.
    """
    height, width, channels = (int(side) for side in shape[1:])
    image.draft("RGB", (2 * width, 2 * height))
    small = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32).reshape(1, height, width, channels)


def opened(body: bytes) -> Image.Image:
    """Returns the image of a body."""
    return Image.open(io.BytesIO(body))
