"""From what a user has in hand to the bytes that travel to an endpoint."""

from __future__ import annotations

import io

from medimg.data.decode import ImageLike, to_pixels

__all__ = ["encode"]


def encode(image: ImageLike) -> bytes:
    """Returns an image's pixels as PNG, which loses nothing of them and holds nothing else.

    EXIF, comments and tags, where names of patients and places are found, stay behind, also those of a file.

    Args:
        image: A path, bytes, a PIL image or a uint8 array (height, width[, 3]).

    Raises:
        ImageRejected: It cannot be read; the file is named.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_pixels(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
