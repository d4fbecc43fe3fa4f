"""From what a user has in hand to the bytes that travel to an endpoint."""

from __future__ import annotations

import io
import os
from pathlib import Path

from medimg.data.decode import ImageLike, read, to_pixels

__all__ = ["encode"]


def encode(image: ImageLike) -> bytes:
    """Returns an image as encoded bytes: files and bytes as they are, pixels as PNG, which loses nothing.

    Args:
        image: A path, bytes, a PIL image or a uint8 array (height, width[, 3]).

    Raises:
        ImageRejected: The file is missing or empty, or the array is no image.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return read(image, name=Path(image).name)
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_pixels(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
