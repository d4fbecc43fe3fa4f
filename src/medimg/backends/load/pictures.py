"""What the clients of a load test send: JPEGs without anything but pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import cast

import numpy as np
from PIL import Image

from medimg.data.decode import ImageLike, to_pixels
from medimg.data.pixels import Pixels
from medimg.data.synthetic import phantom

__all__ = ["bodies", "radiograph"]

_WIDTH, _HEIGHT = 1300, 970  # of a paediatric chest film, as hospitals export it
_QUALITY = 88


def bodies(image: ImageLike | Sequence[ImageLike] | None) -> list[bytes]:
    """Returns the bodies of the requests, one an image; None: that of a generated radiograph.

    Raises:
        ImageRejected: One cannot be read.
    """
    if image is None:
        return [radiograph()]
    alone = isinstance(image, str | bytes | bytearray | memoryview) or not isinstance(image, Sequence)
    return [_jpeg(to_pixels(one)) for one in cast("Sequence[ImageLike]", [image] if alone else image)]


def radiograph() -> bytes:
    """Returns a phantom of 1300×970 pixels as JPEG, of about 200 kB, the same on every call."""
    film, _ = phantom(np.random.default_rng(0), finding=True, size=_WIDTH)
    first = (_WIDTH - _HEIGHT) // 2
    return _jpeg(film[first : first + _HEIGHT])


def _jpeg(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
