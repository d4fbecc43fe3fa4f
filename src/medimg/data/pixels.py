"""Pixels as they are everywhere after decoding: uint8, (height, width) where grey, else (height, width, 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from medimg.errors import ConfigError

__all__ = [
    "GREY_TOLERANCE", "MAX_BYTES", "MAX_PIXELS", "Box", "Picture", "Pixels", "Size", "Stored", "as_mode", "bands",
    "grey_if_equal", "resize", "without_colour",
]  # fmt: skip

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]  # height and width
Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels

MAX_PIXELS = 64_000_000
MAX_BYTES = 512 * 1024 * 1024

# Radiographs stored as colour, ours and the public sets', have exactly equal channels. Two counts is what one count of
# JPEG's chroma can add to a grey picture; the mutest of the colour photographs we looked at spread by five.
GREY_TOLERANCE = 2
_PIECE = 65_536  # bytes of Pillow's pixels that are copied at once: they stay in the processor's cache
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

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width of what was decoded, and 3 where it is colour."""
        if isinstance(self.content, np.ndarray):
            return self.content.shape
        width, height = self.content.size
        return (height, width) if self.content.mode == "L" else (height, width, 3)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yields the bytes of `pixels` from top to bottom, which takes a third of the time of making the array."""
        if isinstance(self.content, np.ndarray):
            yield np.ascontiguousarray(self.content).data
            return
        width, height = self.content.size
        rows = max(1, _PIECE // math.prod(self.shape[1:]))
        if rows >= height:
            yield self.content.tobytes()
            return
        for top in range(0, height, rows):
            yield self.content.crop((0, top, width, min(top + rows, height))).tobytes()

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
    image = Image.fromarray(pixels)
    grey = without_colour(image)
    return pixels if grey is image else np.array(grey)


def without_colour(image: Image.Image) -> Image.Image:
    """Returns an "RGB" image as "L" where its channels differ by `GREY_TOLERANCE` at most, else the image itself."""
    sample = image.resize([-(-side // _SAMPLED) for side in image.size], Image.Resampling.NEAREST)
    if not _is_grey(*sample.split()):
        return image
    red, green, blue = image.split()
    # The usual case, told in a tenth of the time; and grey is then any of the three.
    if all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue)):
        return red
    return image.convert("L") if _is_grey(red, green, blue) else image


def _is_grey(red: Image.Image, green: Image.Image, blue: Image.Image) -> bool:
    pairs = ((red, green), (green, blue), (blue, red))
    return all(_most(ImageChops.difference(*pair)) <= GREY_TOLERANCE for pair in pairs)


def _most(grey: Image.Image) -> int:
    """Returns the largest value of a grey image."""
    _, most = cast("tuple[int, int]", grey.getextrema())
    return most


def _luma(pixels: Pixels) -> Pixels:
    return np.array(Image.fromarray(pixels).convert("L"))
