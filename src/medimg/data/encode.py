"""From what a user has in hand to the bytes that travel to an endpoint."""

from __future__ import annotations

import io
import os

import numpy as np

from medimg.data.decode import ImageLike, decode, inspect, read, to_pixels
from medimg.data.formats.bare import bare_jpeg
from medimg.data.formats.pillow import is_jpeg
from medimg.errors import ImageRejected

__all__ = ["encode", "encode_png"]


def encode(image: ImageLike) -> bytes:
    """Returns an image in a file without metadata, from which an endpoint makes the pixels that a model here does.

    EXIF, comments, tags and thumbnails, where names of patients and places are found, stay behind, also those of a
    file, and so do bytes between and behind the data of a picture. What is written in the picture itself is sent.

    A JPEG of the usual, sequential kind is sent as the JPEG it is, stripped, for servers decode a large one at less
    than its size. All else is sent as PNG: progressive JPEGs and what else may hold more than shows, too. Of a large
    one of these, an endpoint's pixels differ by what decoding at less than the size changes.

    Args:
        image: A path, bytes, a PIL image or a uint8 array (height, width[, 3]).

    Raises:
        ImageRejected: It cannot be read; the file is named.
    """
    if isinstance(image, str | os.PathLike):
        data, name = read(image), os.fspath(image)
    elif isinstance(image, bytes | bytearray | memoryview):
        data, name = bytes(image), "image"
    else:
        return encode_png(image)
    pixels, stored = inspect(data, name=name)
    bare = bare_jpeg(data, stored.orientation) if is_jpeg(data) else None
    if bare is not None and _holds(bare, pixels):
        return bare
    return encode_png(pixels)


def encode_png(image: ImageLike) -> bytes:
    """Returns an image's pixels as PNG, upright and with nothing else in it; arguments and errors are `encode`'s."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_pixels(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _holds(bare: bytes, pixels: np.ndarray) -> bool:
    """Tells whether a stripped file gives the pixels of the whole one."""
    try:
        return np.array_equal(decode(bare, name="image"), pixels)
    except ImageRejected:
        return False
