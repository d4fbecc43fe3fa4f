"""Pixels as they are everywhere after decoding: uint8, (height, width) where grey, else (height, width, 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from medimg.errors import ConfigError

__all__ = [
    "GREY_TOLERANCE", "MAX_BYTES", "MAX_PIXELS", "Box", "Picture", "Pixels", "Size", "Stored", "as_mode", "bands",
    "grey_if_equal", "is_grey", "resize",
]  # fmt: skip

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]  # height and width
Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels

MAX_PIXELS = 64_000_000
MAX_BYTES = 512 * 1024 * 1024

# Radiographs stored as colour, ours and the public sets', have exactly equal channels. Two counts is what one count of
# JPEG's chroma can add to a grey picture; the mutest of the colour photographs we looked at spread by five.
GREY_TOLERANCE = 2
_SAMPLED = 16  # every so many rows and columns: enough to know nearly every colour picture at once


@dataclass(frozen=True, slots=True)
class Stored:
    """How a file holds its pixels, before `decode` makes them one kind.

    Attributes:
        mode: Pillow's name: "L" is grey, "RGB" colour, "P" a palette, "I;16" wide grey; of DICOM its own, such as
            "MONOCHROME1".
        bits: Of one channel: 1, 8, 12 or 16; of DICOM up to 32.
        orientation: EXIF's 1 to 8, which `decode` applies; 1 where nothing is said, 0 where what is said means nothing.
    """

    mode: str
    bits: int
    orientation: int


@dataclass(frozen=True, slots=True)
class Picture:
    """What was decoded of a file: upright, and at less than its size where that was asked.

    Attributes:
        content: The pixels, or Pillow's image of mode "L" or "RGB", whichever is at hand.
        size: Height and width that the file's picture has upright.
        stored: How the file holds it.
        box: The part of what was decoded that the picture covers; None: all.
    """

    content: Pixels | Image.Image
    size: Size
    stored: Stored
    box: Box | None = None

    @property
    def image(self) -> Image.Image:
        """What was decoded, as Pillow's image."""
        return Image.fromarray(self.content) if isinstance(self.content, np.ndarray) else self.content

    @property
    def pixels(self) -> Pixels:
        """What was decoded, as an array that may be read-only."""
        return np.asarray(self.content)

    def resized(self, size: Size) -> Pixels:
        """Returns the picture at another size, as `resize` does."""
        if isinstance(self.content, np.ndarray):
            return resize(self.content, size)
        return np.array(self.content.resize((size[1], size[0]), Image.Resampling.BILINEAR, self.box))


def resize(pixels: Pixels, size: Size) -> Pixels:
    """Returns the image at another size, antialiased where it shrinks; at its own size, the same array.

    Args:
        pixels: uint8, (height, width) or (height, width, 3).
        size: Height and width to reach; the aspect ratio is not kept.
    """
    if pixels.shape[:2] == tuple(size):
        return pixels
    height, width = size
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def as_mode(pixels: Pixels, channels: Literal[1, 3]) -> Pixels:
    """Returns the image with 1 or 3 channels: uint8, (height, width, channels).

    Grey is repeated; colour becomes grey by the luma of ITU-R BT.601, 0.299 red + 0.587 green + 0.114 blue, as
    Pillow's `convert("L")` has it.
    """
    if channels not in (1, 3):
        raise ConfigError(f"channels={channels!r}: an image has 1 (grey) or 3 (red, green, blue)")
    if pixels.ndim == 3 and pixels.shape[2] == channels:
        return pixels
    grey = pixels.reshape(pixels.shape[:2]) if pixels.size == pixels.shape[0] * pixels.shape[1] else _luma(pixels)
    return grey[..., np.newaxis] if channels == 1 else np.repeat(grey[..., np.newaxis], 3, axis=2)


def bands(pixels: npt.NDArray[Any]) -> Iterator[slice]:
    """Yields bands of rows of about a million pixels, so that temporaries stay small beside the picture."""
    rows = max(1, 2**20 // pixels.shape[1])
    yield from (slice(top, top + rows) for top in range(0, pixels.shape[0], rows))


def grey_if_equal(pixels: Pixels) -> Pixels:
    """Returns a colour picture as grey, (height, width), where its channels differ by `GREY_TOLERANCE` at most."""
    return _luma(pixels) if is_grey(pixels) else pixels


def is_grey(pixels: Pixels) -> bool:
    """Tells whether the channels of a colour picture, (height, width, 3), differ by `GREY_TOLERANCE` at most."""
    if _spread(pixels[::_SAMPLED, ::_SAMPLED]) > GREY_TOLERANCE:
        return False
    parts = (pixels[band] for band in bands(pixels))
    return all(_is_equal(part) or _spread(part) <= GREY_TOLERANCE for part in parts)


def _is_equal(pixels: Pixels) -> bool:
    """Tells whether the channels are the same, which takes a fifth of the time of `_spread` and is the usual case."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    return np.array_equal(red, green) and np.array_equal(green, blue)


def _spread(pixels: Pixels) -> int:
    red, green, blue = (pixels[..., channel] for channel in range(3))
    lowest = np.minimum(np.minimum(red, green), blue)
    return int((np.maximum(np.maximum(red, green), blue) - lowest).max())


def _luma(pixels: Pixels) -> Pixels:
    return np.array(Image.fromarray(pixels).convert("L"))
