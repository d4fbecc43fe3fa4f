"""`Predictor`: bytes → decode → runtime → decision; the one way, in the notebook and behind every endpoint."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from medimg.artifact import ModelFolder
from medimg.data.decode import ImageLike
from medimg.errors import DatasetError, RuntimeMismatchError
from medimg.inference.decision import Prediction, decide, distribution
from medimg.inference.runtimes import Runtime, RuntimeName, open_runtime
from medimg.progress import Event, Report, silent

if TYPE_CHECKING:
    from medimg.data.pack import Pack
    from medimg.inference.predictions import Predictions

__all__ = ["TOLERANCE", "Predictor"]

TOLERANCE = 1e-4  # between runtimes and machines
_CHUNK = 256  # images of a pack in memory at a time


class Predictor:
    """Runs a model on images. Safe to call from several threads at once on LiteRT.

    Args:
        model: The model.
        runtime: "litert" or "keras"; one that is open already, such as `TFServingRuntime`; or None, which takes the
            fastest that the model has.
    """

    def __init__(self, model: ModelFolder, *, runtime: RuntimeName | Runtime | None = None) -> None:
        self.model = model
        self.runtime = open_runtime(model, runtime)

    def prepare(self, image: ImageLike, *, name: str | None = None) -> np.ndarray:
        """Returns an image as the network takes it: uint8 (height, width, channels).

        Raises:
            ImageRejected: It cannot be read.
        """
        return self.model.record.preprocessing.prepare(image, name=name)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns one probability for each class, float64 (n, classes), for prepared images (n, h, w, channels)."""
        return distribution(self.model.record, self.runtime.outputs(images))

    def predict(self, image: ImageLike, *, name: str | None = None) -> Prediction:
        """Returns the decision for one image.

        Raises:
            ImageRejected: It cannot be read.
        """
        started = time.perf_counter()
        probabilities = self.probabilities(self.prepare(image, name=name)[None])[0]
        return decide(self.model.record, probabilities, latency_ms=(time.perf_counter() - started) * 1e3)

    def predict_pack(self, pack: Pack, *, split: str | None = None, report: Report = silent) -> Predictions:
        """Returns the table of a split's predictions (None: of the whole pack) by sample id, with all that is known.

        Raises:
            DatasetError: The split has no images.
        """
        from medimg.inference.predictions import Predictions  # a server starts without it

        rows = pack.rows(split)
        if not len(rows):
            raise DatasetError(f"the dataset has no {split or ''} images to predict".replace("  ", " "))
        found = []
        report(Event("stage", "predicting", 0, len(rows), message=split or ""))
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            found.append(self.probabilities(self.model.record.preprocessing.prepare_batch(pack.images(part))))
            report(Event("stage", "predicting", start + len(part), len(rows), message=split or ""))
        samples = [pack.samples[row] for row in rows]
        return Predictions(
            classes=self.model.record.classes,
            task=self.model.record.task,
            positive=self.model.record.positive,
            ids=tuple(sample.id for sample in samples),
            probabilities=np.concatenate(found),
            labels=tuple(sample.labels for sample in samples) if pack.classes == self.model.record.classes else None,
            groups=tuple(sample.group for sample in samples),
            split=split,
            columns={name: tuple(sample.columns[name] for sample in samples) for name in samples[0].columns},
        )

    def check_golden(self, *, tolerance: float = TOLERANCE) -> float:
        """Compares the golden inputs with their recorded probabilities and returns the largest difference.

        Raises:
            RuntimeMismatchError: A probability is off by more than `tolerance`, or a decision flips that is further
                than that from its threshold.
        """
        worst = 0.0
        for golden in self.model.golden:
            found = self.probabilities(self.prepare(golden.content, name=golden.name)[None])[0]
            difference = float(np.abs(found - golden.probabilities).max())
            worst = max(worst, difference)
            if not difference <= tolerance:  # also where it is NaN, which max() above would drop
                raise RuntimeMismatchError(
                    f"{self.runtime.name} gives {found.round(6).tolist()} for the golden input {golden.name}, but the "
                    f"trained model gave {np.round(golden.probabilities, 6).tolist()} (difference {difference:.2g}, "
                    f"at most {tolerance:.0e} is tolerated). This environment does not run the model as it was trained"
                )
        return worst
