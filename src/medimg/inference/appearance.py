"""What an image looks like, in ten numbers: what monitoring compares with the images of validation.

They are of the prepared pixels, so of what the network is given, and say nothing of whom they show.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from medimg.data.pixels import Pixels, as_mode

__all__ = ["statistics"]

_NEAR_BLACK = 16  # of 256
_NEAR_WHITE = 240
_COARSE = 4  # pixels between what is compared at a distance
_DIGITS = 4  # the same in the server, in its log and in the reference
_MOST_IN_32_BITS = 2**32 // 255
_LEVELS = np.arange(256, dtype=np.float64)


def statistics(pixels: Pixels) -> dict[str, float]:
    """Returns the statistics of one prepared image, by name, rounded to four decimals.

    Args:
        pixels: uint8 (height, width, 1 or 3).

    Returns:
        brightness and contrast: Mean and standard deviation of grey, as a share of white.
        dark and light: Shares of the pixels under 16 and from 240 of 255.
        fineness: Mean difference of neighbours as a share of that of pixels four apart: small where a picture was
            enlarged, smoothed or compressed.
        stretch: Logarithm of the mean difference of neighbours down over that across: turned on its side, or squashed,
            a picture has another.
        left_right, top_bottom and centre: The left half less the right, the upper less the lower, and the middle
            (half of each side) less the rest, in mean brightness.
        colour: Mean distance between the strongest and the weakest channel; 0 for grey.
    """
    grey = as_mode(pixels, 1)[..., 0]
    height, width = grey.shape
    counts = np.array(Image.fromarray(grey).histogram())
    size = height * width
    mean = float(counts @ _LEVELS) / size
    variance = float(counts @ _LEVELS**2) / size - mean**2
    rows, columns = (grey.sum(axis=axis, dtype=np.uint32).astype(np.int64) for axis in (1, 0))
    middle = grey[height // 4 : height - height // 4, width // 4 : width - width // 4]
    inside = _mean(middle) if middle.size else mean
    outside = (mean * size - inside * middle.size) / (size - middle.size) if size > middle.size else mean
    down, across = _difference(grey[1:], grey[:-1]), _difference(grey[:, 1:], grey[:, :-1])
    coarse = _difference(grey[_COARSE:], grey[:-_COARSE]) + _difference(grey[:, _COARSE:], grey[:, :-_COARSE])
    found = {
        "brightness": mean / 255,
        "contrast": math.sqrt(max(0.0, variance)) / 255,
        "dark": float(counts[:_NEAR_BLACK].sum()) / size,
        "light": float(counts[_NEAR_WHITE:].sum()) / size,
        "fineness": (down + across) / coarse if coarse else 0.0,
        "stretch": math.log(down / across) if down and across else 0.0,
        "left_right": _halves(columns, height) / 255,
        "top_bottom": _halves(rows, width) / 255,
        "centre": (inside - outside) / 255,
        "colour": _colour(pixels) / 255,
    }
    return {name: round(value, _DIGITS) + 0.0 for name, value in found.items()}  # no -0.0


def _difference(one: Pixels, other: Pixels) -> float:
    """Returns the mean absolute difference, without leaving 8 bits on the way."""
    if not one.size:
        return 0.0
    return _mean(np.maximum(one, other) - np.minimum(one, other))


def _halves(sums: np.ndarray, length: int) -> float:
    """Returns the mean of the first half of lines less that of the second, from the sum of each line's pixels."""
    half = len(sums) // 2
    return float(sums[:half].sum() - sums[len(sums) - half :].sum()) / (half * length) if half else 0.0


def _colour(pixels: Pixels) -> float:
    if pixels.shape[2] == 1:
        return 0.0
    few = np.ascontiguousarray(pixels[::2, ::2].transpose(2, 0, 1))  # a quarter of the pixels says as much
    red, green, blue = few
    strongest, weakest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return _mean(strongest - weakest)


def _mean(pixels: Pixels) -> float:
    """Returns the mean as `pixels.mean()` does, to the last bit, in half the time: whole numbers first."""
    return int(pixels.sum(dtype=np.uint32 if pixels.size < _MOST_IN_32_BITS else np.uint64)) / pixels.size
