"""Features of a frozen backbone, computed once: training the head then takes seconds, not hours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medimg.data.normalise import Normalisation, normalise
from medimg.data.pack import Pack
from medimg.home import atomic_write
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.training.loop import Source

__all__ = ["FeatureSource", "PackSource", "compute"]

PART = 1024  # images a file: what an interruption can lose


class PackSource:
    """Batches of images from a pack.

    Args:
        pack: The pack.
        rows: Positions in the pack.
        y: Encoded targets of those rows.
        normalisation: What is done to brightness: see `medimg.data.normalise`.
    """

    def __init__(self, pack: Pack, rows: np.ndarray, y: np.ndarray, normalisation: Normalisation | None = None) -> None:
        self._pack, self._rows, self._y, self._normalisation = pack, rows, y, normalisation

    def __len__(self) -> int:
        return len(self._rows)

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Returns images: float32 (n, height, width, channels) in 0..255."""
        return normalise(self._pack.images(self._rows[rows]), self._normalisation).astype(np.float32)

    def y(self, rows: np.ndarray) -> np.ndarray:
        """Returns encoded targets."""
        part: np.ndarray = self._y[rows]
        return part


class FeatureSource:
    """Batches of features in memory.

    Args:
        features: float32 (n, d).
        y: Encoded targets.
    """

    def __init__(self, features: np.ndarray, y: np.ndarray) -> None:
        self._features, self._y = features, y

    def __len__(self) -> int:
        return len(self._features)

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Returns features: float32 (n, d)."""
        part: np.ndarray = self._features[rows]
        return part

    def y(self, rows: np.ndarray) -> np.ndarray:
        """Returns encoded targets."""
        part: np.ndarray = self._y[rows]
        return part


def compute(
    backbone: Callable[[np.ndarray], np.ndarray],
    source: Source,
    folder: Path,
    *,
    identity: str,
    batch_size: int,
    before: int,
    total: int,
    report: Report,
    check: Callable[[], None],
) -> Iterator[np.ndarray]:
    """Yields the features of a source's images in order, 1,024 at a time: float32 (n, d).

    Finished parts are kept in `folder`, so that a resumed run computes only the rest.

    Args:
        backbone: Images float32 (n, h, w, c) to features (n, d).
        source: The images.
        folder: Where parts are kept.
        identity: What the features are of; parts of anything else are not used.
        batch_size: Images at a time; the same for every run of a job, since it may change the last bits.
        before: Images done already in other sources, for the bar.
        total: Images of all sources.
        report: Told of progress.
        check: Called between batches; raises to stop.
    """
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    for start in range(0, len(source), PART):
        stop = min(start + PART, len(source))
        file = folder / f"features-{key}-{start:08d}.npy"
        if file.exists():
            yield np.load(file, allow_pickle=False)
            continue
        found = []
        for begin in range(start, stop, batch_size):
            check()
            found.append(backbone(source.x(np.arange(begin, min(begin + batch_size, stop)))))
            report(Event("stage", "features", before + min(begin + batch_size, stop), total))
        part = np.concatenate(found).astype(np.float32)
        atomic_write(file, _npy(part))
        yield part


def _npy(array: np.ndarray) -> bytes:
    import io

    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()
