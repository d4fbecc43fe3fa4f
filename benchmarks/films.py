"""Generated radiographs of 224 pixels, where a benchmark is not given real ones: grey JPEGs in two classes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 224
CLASSES = ("NORMAL", "PNEUMONIA")


def write_films(root: Path, count: int) -> Path:
    """Writes as many, each of a patient of its own, and returns their folder: `NORMAL/patient00004.jpeg`."""
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(_write, root), range(count), chunksize=50))
    return root


def _write(root: Path, patient: int) -> None:
    """Writes the radiograph of a patient."""
    from medimg.data.synthetic import phantom

    film, _ = phantom(np.random.default_rng(patient), finding=bool(patient % 2), size=SIDE)
    Image.fromarray(film).save(root / CLASSES[patient % 2] / f"patient{patient:05d}.jpeg", quality=90)
