"""`Predictor`: bytes → decode → runtime → decision; the one way, in the notebook and behind every endpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medimg.artifact import ModelFolder
from medimg.data.decode import ImageLike
from medimg.errors import DatasetError, RuntimeMismatchError
from medimg.inference.decision import Prediction, decide, distribution
from medimg.inference.runtimes import Runtime, RuntimeName, open_runtime
from medimg.progress import Event, Pace, Report, silent

if TYPE_CHECKING:
    from medimg.data.pack import Pack
    from medimg.inference.predictions import Predictions

__all__ = ["TOLERANCE", "Predictor"]

TOLERANCE = 1e-4  # between runtimes and machines
_CHUNK = 64  # images of a pack between two reports: whole batches of every runtime, so that none depends on the start


class Predictor:
    """Runs a model on images. Safe to call from several threads at once on LiteRT.

    Args:
        model: The model, or its folder.
        runtime: "litert", "int8", "onnx" or "keras"; one that is open already, such as `TFServingRuntime`; or None,
            which takes LiteRT where the model has it, else Keras.
    """

    def __init__(
        self, model: ModelFolder | str | os.PathLike[str], *, runtime: RuntimeName | Runtime | None = None
    ) -> None:
        self.model = model if isinstance(model, ModelFolder) else ModelFolder.load(Path(model))
        self.runtime = open_runtime(self.model, runtime)

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
        return self.predict_prepared(self.prepare(image, name=name), started=started)

    def predict_prepared(self, image: np.ndarray, *, started: float) -> Prediction:
        """Returns the decision for one image as `prepare` gave it.

        Args:
            image: uint8 (height, width, channels).
            started: When its preparation began, by `time.perf_counter`.
        """
        probabilities = self.probabilities(image[None])[0]
        return decide(self.model.record, probabilities, latency_ms=(time.perf_counter() - started) * 1e3)

    def predict_pack(
        self,
        pack: Pack,
        *,
        split: str | None = None,
        report: Report = silent,
        known: np.ndarray | None = None,
        keep: Callable[[np.ndarray], None] | None = None,
    ) -> Predictions:
        """Returns the table of a split's predictions (None: of the whole pack) by sample id, with all that is known.

        Args:
            pack: The images.
            split: Which of them.
            report: Told of progress.
            known: Probabilities of the first images, float64 (n, classes), that `keep` was given by an earlier call.
            keep: Given the probabilities so far, again and again.

        Raises:
            DatasetError: The split has no images.
        """
        from medimg.inference.predictions import Predictions  # a server starts without it

        rows = pack.rows(split)
        if not len(rows):
            raise DatasetError(f"the dataset has no {split or ''} images to predict".replace("  ", " "))
        found = np.empty((len(rows), len(self.model.record.classes)))
        done = 0 if known is None else len(known)
        if known is not None:
            found[:done] = known
        pace = Pace(len(rows), done)
        report(Event("stage", "predicting", done, len(rows), message=split or ""))
        for start in range(done, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            done = start + len(part)
            found[start:done] = self.probabilities(self.model.record.preprocessing.prepare_batch(pack.images(part)))
            if keep is not None:
                keep(found[:done])
            report(Event("stage", "predicting", done, len(rows), message=f"{split or ''} {pace.text(done)}".strip()))
        samples = [pack.samples[row] for row in rows]
        return Predictions(
            classes=self.model.record.classes,
            task=self.model.record.task,
            positive=self.model.record.positive,
            ids=tuple(sample.id for sample in samples),
            probabilities=found,
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
        for golden in self.model.golden_of(self.runtime.name):
            found = self.probabilities(self.prepare(golden.content, name=golden.name)[None])[0]
            difference = float(np.abs(found - golden.probabilities).max())
            worst = max(worst, difference)
            if not difference <= tolerance:  # also where it is NaN, which max() above would drop
                raise RuntimeMismatchError(
                    f"{self.runtime.name} gives {found.round(6).tolist()} for the golden input {golden.name}, but the "
                    f"model folder says {np.round(golden.probabilities, 6).tolist()} (difference {difference:.2g}, at "
                    f"most {tolerance:.0e} is tolerated). This environment does not run the model as it was trained"
                )
        return worst
