"""Grey levels brought to a common scale: what a model may ask for between the resize and its network.

Needs NumPy only. The same function runs in training and behind every endpoint, on 8-bit pixels and in whole numbers as
far as they go, so that every machine gives the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medimg.config import Normalisation
from medimg.data.pixels import Pixels

__all__ = ["Normalisation", "normalise"]

_LEVELS = 256
_TAIL = 0.01
_TILES = 8  # each way
_CLIP = 2.0  # times the count that every level of a flat histogram has
_CHUNK_PIXELS = 1 << 21


def normalise(images: Pixels, how: Normalisation | None) -> Pixels:
    """Returns images on a common scale of brightness.

    "percentile" stretches each image linearly, so that the 1st percentile of its brightness becomes black and the 99th
    white. "clahe" is contrast-limited adaptive histogram equalisation (Zuiderveld, Graphics Gems IV (1994), chapter
    VIII.5) with 8 × 8 tiles and a limit of twice the mean count, with OpenCV's choices of detail. Of colour images the
    brightness is changed, by the same amount in each channel for "clahe".

    Args:
        images: uint8 (n, height, width, channels) with 1 or 3 channels.
        how: What to do; None: nothing.
    """
    if how is None or not images.size:
        return images
    step = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    function = _percentile if how == "percentile" else _clahe
    return np.concatenate([function(images[start : start + step]) for start in range(0, len(images), step)])


def _brightness(images: Pixels) -> Pixels:
    """Returns the luma of ITU-R BT.601 in whole numbers: uint8 (n, height, width)."""
    if images.shape[-1] == 1:
        return images[..., 0]
    red, green, blue = (images[..., channel].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(np.uint8)


def _histograms(values: Pixels) -> npt.NDArray[np.int64]:
    """Returns how often each level occurs in each row: int64 (rows, 256) of uint8 (rows, pixels)."""
    rows = len(values)
    places = values.astype(np.int64) + np.arange(rows)[:, None] * _LEVELS
    return np.bincount(places.ravel(), minlength=rows * _LEVELS).reshape(rows, _LEVELS)


def _percentile(images: Pixels) -> Pixels:
    values = _brightness(images).reshape(len(images), -1)
    counted = np.cumsum(_histograms(values), axis=1)
    pixels = values.shape[1]
    low = (counted <= _TAIL * pixels).sum(axis=1)
    high = (counted < (1 - _TAIL) * pixels).sum(axis=1)
    low, width = low[:, None], (high - low)[:, None]
    # Rounded in whole numbers; a blank image stays as it is.
    stretched = ((np.arange(_LEVELS) - low) * 510 + width) // np.maximum(2 * width, 1)
    table = np.where(width > 0, np.clip(stretched, 0, 255), np.arange(_LEVELS)).astype(np.uint8)
    return np.take_along_axis(table, images.reshape(len(images), -1), axis=1).reshape(images.shape)


def _clahe(images: Pixels) -> Pixels:
    before = _brightness(images)
    after = _equalised(before)
    if images.shape[-1] == 1:
        return after[..., None]
    change = after.astype(np.int16) - before
    return np.clip(images + change[..., None], 0, 255).astype(np.uint8)


def _equalised(grey: Pixels) -> Pixels:
    """Returns grey images, uint8 (n, height, width), equalised tile by tile with the tables of four tiles blended."""
    count, height, width = grey.shape
    padded = np.pad(grey, ((0, 0), (0, -height % _TILES), (0, -width % _TILES)), mode="reflect")
    rows, columns = padded.shape[1] // _TILES, padded.shape[2] // _TILES
    tiles = padded.reshape(count, _TILES, rows, _TILES, columns).transpose(0, 1, 3, 2, 4)
    tables = _tables(tiles.reshape(-1, rows * columns)).reshape(count, _TILES, _TILES, _LEVELS)
    above, below, down = _neighbours(height, rows)
    left, right, across = _neighbours(width, columns)
    image = np.arange(count)[:, None, None]

    def looked_up(row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return tables[image, row[:, None], column[None, :], grey]

    across, down = across[None, None, :], down[None, :, None]
    upper = looked_up(above, left) * (1 - across) + looked_up(above, right) * across
    lower = looked_up(below, left) * (1 - across) + looked_up(below, right) * across
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)


def _tables(tiles: Pixels) -> npt.NDArray[np.float32]:
    """Returns the table of each tile, float32 (tiles, 256) of whole numbers: its clipped, cumulated histogram."""
    area = tiles.shape[1]
    counts = _histograms(tiles)
    limit = max(int(_CLIP * area / _LEVELS), 1)
    excess = np.maximum(counts - limit, 0).sum(axis=1)
    counts = np.minimum(counts, limit) + (excess // _LEVELS)[:, None]
    # What is left over goes one each to levels at even distances.
    rest = (excess % _LEVELS)[:, None]
    step = np.maximum(_LEVELS // np.maximum(rest, 1), 1)
    levels = np.arange(_LEVELS)[None, :]
    counts = counts + ((levels % step == 0) & (levels // step < rest))
    scale = np.float32(255) / np.float32(area)
    table: npt.NDArray[np.float32] = np.rint(np.cumsum(counts, axis=1).astype(np.float32) * scale)
    return table.clip(0, 255)


def _neighbours(side: int, tile: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Returns for each pixel the two tiles whose centres are around it, and its distance from the first in tiles."""
    place = np.arange(side, dtype=np.float32) * np.float32(1 / tile) - np.float32(0.5)
    first = np.floor(place)
    last = _TILES - 1
    return (
        np.clip(first, 0, last).astype(np.int64),
        np.clip(first + 1, 0, last).astype(np.int64),
        place - first,
    )
