"""Why a picture is rejected, in our words: what its decoder said, or that it is too large."""

from __future__ import annotations

import re

from PIL import Image

from medimg.data.formats.effort import TooComplex
from medimg.data.pixels import MAX_PIXELS
from medimg.errors import ImageRejected

__all__ = ["check_size", "rejection"]


def rejection(error: Exception, name: str, *, cut: bool = False) -> ImageRejected:
    """Returns the rejection that says in our words what a decoder said in one of many ways."""
    words = str(error)
    if isinstance(error, TooComplex):
        return ImageRejected("too-complex", name, f"is built of too many pieces ({words}). Save it anew as PNG")
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return ImageRejected("too-large", name, f"is too large to decode ({words or 'out of memory'}). Make it smaller")
    if cut or re.search(r"truncated|not enough|EOF", words, re.IGNORECASE) or isinstance(error, EOFError):
        return ImageRejected("truncated", name, "ends before its pixels do. Copy or download it again")
    if isinstance(error, NotImplementedError) or re.search(
        r"unsupported|not (yet )?supported|unknown (pixel mode|compression|raw mode)|cannot handle|not available",
        words,
        re.IGNORECASE,
    ):
        return ImageRejected("unsupported", name, f"is of a kind that cannot be read ({words}). Save it as 8-bit PNG")
    return ImageRejected(
        "corrupt", name, f"cannot be decoded ({type(error).__name__}: {words}). Copy or download it again"
    )


def check_size(width: int, height: int, name: str) -> None:
    """Rejects a picture of more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise ImageRejected(
            "too-large", name, f"has {width} × {height} pixels, more than {MAX_PIXELS:,}. Make it smaller"
        )
