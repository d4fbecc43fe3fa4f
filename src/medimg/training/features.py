"""Features of a frozen backbone, computed once: training the head then takes seconds, not hours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np

from medimg.data.normalise import Normalisation, normalise
from medimg.data.pack import Pack
from medimg.progress import Event, Report
from medimg.training.ahead import read_ahead
from medimg.training.engines import CHECKED, Engine, Run, Unfit, by_keras, by_litert, pays
from medimg.training.environment import versions
from medimg.training.kept_features import KeptFeatures, key_of
from medimg.training.loop import Source

if TYPE_CHECKING:
    import keras

    from medimg.training.steps import Devices

__all__ = ["FeatureSource", "Images", "PackSource", "features_of"]

PART = 1024  # images a file: what an interruption can lose
BATCH = 32  # images at a time; fixed, since it may change the last bits, and the changes of a view


class Images(Source, Protocol):
    """Where images come from."""

    @property
    def identity(self) -> str:
        """What the images are, in words that another run uses too."""
        ...


class PackSource:
    """Batches of images from a pack.

    Args:
        pack: The pack.
        rows: Positions in the pack.
        y: Encoded targets of those rows.
        normalisation: What is done to brightness: see `medimg.data.normalise`.

    Attributes:
        identity: Which rows of the pack, and what is done to them.
    """

    def __init__(self, pack: Pack, rows: np.ndarray, y: np.ndarray, normalisation: Normalisation | None = None) -> None:
        self._pack, self._rows, self._y, self._normalisation = pack, rows, y, normalisation
        self.identity = f"{hashlib.sha256(np.asarray(rows, '<i8').tobytes()).hexdigest()}|{normalisation}"

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
    """Batches of features.

    Args:
        parts: float32 (n, d) each, one after the other; memory-mapped ones take no memory that others need.
        y: Encoded targets of all rows.
    """

    def __init__(self, parts: Sequence[np.ndarray], y: np.ndarray) -> None:
        self._parts, self._y = parts, y
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Returns features: float32 (n, d)."""
        places = np.searchsorted(self._starts, rows, side="right") - 1
        inside = rows - self._starts[places]
        found = np.empty((len(rows), *self._parts[0].shape[1:]), np.float32)
        for number, (place, row) in enumerate(zip(places.tolist(), inside.tolist(), strict=True)):
            found[number] = self._parts[place][row]
        return found

    def y(self, rows: np.ndarray) -> np.ndarray:
        """Returns encoded targets."""
        part: np.ndarray = self._y[rows]
        return part


def features_of(
    splits: Mapping[str, Sequence[Images]],
    backbone: keras.Model,
    devices: Devices,
    kept: KeptFeatures,
    *,
    identity: Mapping[str, object],
    report: Report,
    check: Callable[[], None],
) -> dict[str, FeatureSource]:
    """Returns the features of each split's images, in order, by the fastest engine that agrees with Keras.

    Parts of 1,024 images are kept on disk, where a resumed run and any later one of the same images and backbone find
    them.

    Args:
        splits: Split to its images and further views of the same images, in order.
        backbone: Images to features; what it computes does not change meanwhile.
        devices: Where Keras computes.
        kept: Where parts are kept.
        identity: What else decides the features: the pack, and the code.
        report: Told of progress, and of what was found.
        check: Called between batches; raises to stop.
    """
    images = sum(len(one) for views in splits.values() for one in views)
    report(Event("stage", "features", 0, images))
    known = {**identity, "backbone": _digest(backbone), "batch": BATCH, "part": PART, **versions()}

    def work(engine: Engine) -> dict[str, FeatureSource]:
        run = _Computation(engine, backbone.output_shape[-1], kept, known, images, report, check)
        found = {split: run.split(views) for split, views in splits.items()}
        kept.tidy()
        if run.found:
            text = f"features of {run.found:,} images found from an earlier run"
            report(Event("log", "features", message=text))
        return found

    if pays(devices, images):
        first = next(iter(splits.values()))[0]
        try:
            return work(by_litert(backbone, lambda: first.x(np.arange(min(CHECKED, len(first))))))
        except Unfit as error:
            report(Event("log", "features", message=f"Keras computes the features: {error}"))
    return work(by_keras(backbone, devices))


class _Computation:
    """All features by one engine."""

    def __init__(
        self, engine: Engine, width: int, kept: KeptFeatures, known: Mapping[str, object], images: int, report: Report,
        check: Callable[[], None],
    ) -> None:  # fmt: skip
        self._engine, self._width, self._kept, self._known = engine, width, kept, known
        self._images, self._report, self._check = images, report, check
        self._started: Run | None = None
        self._done = 0
        self.found = 0

    def split(self, views: Sequence[Images]) -> FeatureSource:
        """Returns the features of all views of a split."""
        parts = [part for source in views for part in self._source(source)]
        y = views[0].y(np.arange(len(views[0])))
        return FeatureSource(parts, np.concatenate([y] * len(views)))

    def _source(self, source: Images) -> Iterator[np.ndarray]:
        key = key_of({**self._known, "images": source.identity, "engine": self._engine.name})
        for start in range(0, len(source), PART):
            rows = np.arange(start, min(start + PART, len(source)))
            part = self._kept.find(key, start, len(rows), self._width)
            if part is None:
                part = self._kept.keep(key, start, self._compute(source, rows))
            else:
                self.found += len(rows)
                self._progress(len(rows))
            yield part

    def _compute(self, source: Images, rows: np.ndarray) -> np.ndarray:
        run = self._started = self._started or self._engine.start()
        batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        found = []
        with closing(read_ahead(source.x, batches)) as several:
            for images in several:
                self._check()
                found.append(run(images))
                self._progress(len(images))
        return np.concatenate(found).astype(np.float32)

    def _progress(self, images: int) -> None:
        self._done += images
        self._report(Event("stage", "features", self._done, self._images))


def _digest(backbone: keras.Model) -> str:
    """Returns a hash of a network and its weights."""
    digest = hashlib.sha256(backbone.to_json().encode())
    for weight in backbone.weights:
        digest.update(np.asarray(weight).tobytes())
    return digest.hexdigest()
