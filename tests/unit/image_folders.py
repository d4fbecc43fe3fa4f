"""Small image files for the tests of datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

GREY, COLOUR = (6, 8), (6, 8, 3)


def pixels(seed: object, shape: tuple[int, ...] = GREY) -> np.ndarray:
    """Returns random pixels, the same for the same seed on every machine."""
    number = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big")
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def picture(path: Path, seed: object = None, shape: tuple[int, ...] = GREY, **options: object) -> Path:
    """Writes one image; without a seed, one that depends on the last two parts of its path only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = "/".join(path.parts[-2:]) if seed is None else seed
    Image.fromarray(pixels(seed, shape)).save(path, **options)
    return path


def tree(root: Path, counts: Mapping[str, int], suffix: str = ".png") -> Path:
    """Writes `counts[folder]` images into each folder below `root`."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(root / folder / f"p{number}{suffix}", f"{folder}/{number}")
    return root


def cut(path: Path) -> Path:
    """Takes the second half of a file away."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path
