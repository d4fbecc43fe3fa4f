"""The gate of the int8 export: it is kept only where it decides as the trained model does."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from medimg.artifact import ModelFolder
from medimg.data.pack import Pack
from medimg.evaluation.comparison import compare
from medimg.inference.predictor import Predictor
from medimg.inference.runtimes import LiteRTRuntime
from medimg.progress import Report, silent

__all__ = ["Agreement", "agreement"]

_TIMED = 30  # predictions; their median is the time of one


class Agreement(BaseModel):
    """How far int8 decides as the trained model does, float32, at the frozen thresholds.

    Attributes:
        images: Split to images compared. Training images were added where validation has few; none of them is among
            those that gave the ranges.
        representative: Training images that gave the ranges of the activations.
        auroc: Of float32 and of int8, over all classes; None where it cannot be estimated.
        auroc_change: int8 less float32.
        auroc_interval: 95% of that, patients drawn anew; None where there are too few.
        flips: Images that are decided otherwise.
        largest: Difference of a probability.
        mean: Difference of a probability.
        bytes: Of the files, float32 and int8.
        ms: Of one image on one core where it was made, float32 and int8; without decoding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: dict[str, int]
    representative: int
    auroc: tuple[float, float] | None
    auroc_change: float | None
    auroc_interval: tuple[float, float] | None
    flips: int
    largest: float
    mean: float
    bytes: tuple[int, int]
    ms: tuple[float, float]

    @classmethod
    def of(cls, model: ModelFolder) -> Self:
        """Returns what the gate found of a model's int8 export.

        Raises:
            ModelFolderError: It has none.
        """
        return cls.model_validate(json.loads(model.exported("int8").with_suffix(".json").read_text())["agreement"])

    @property
    def share_flipped(self) -> float:
        """Share of the images that are decided otherwise."""
        return self.flips / sum(self.images.values())

    def refusal(self, *, most_lost: float, most_flipped: float) -> str:
        """Returns why int8 is not good enough; "" where it is.

        Args:
            most_lost: Of the AUROC.
            most_flipped: Share of images.
        """
        if self.auroc_change is None:
            return "its AUROC cannot be estimated: too few images of some class"
        found = []
        if self.auroc_change < -most_lost:
            found.append(f"the AUROC falls by {-self.auroc_change:.4f}, at most {most_lost:g} is allowed")
        if self.share_flipped > most_flipped:
            found.append(f"{self.share_flipped:.1%} of the decisions flip, at most {most_flipped:.1%} may")
        return "; ".join(found)

    def rows(self) -> list[tuple[str, str]]:
        """Returns the figures, each with its name."""
        compared = ", ".join(f"{number:,} {split}" for split, number in self.images.items())
        found = [("images compared", f"{compared} ({self.representative:,} other train gave the ranges)")]
        if self.auroc is not None and self.auroc_change is not None:
            between = (
                f" (95% {self.auroc_interval[0]:+.4f} to {self.auroc_interval[1]:+.4f})" if self.auroc_interval else ""
            )
            found.append(("AUROC", f"{self.auroc[0]:.4f} → {self.auroc[1]:.4f}: {self.auroc_change:+.4f}{between}"))
        found += [
            ("decisions that flip", f"{self.flips:,} ({self.share_flipped:.1%})"),
            ("probabilities", f"differ by {self.mean:.4f} on average, {self.largest:.4f} at most"),
            ("file", f"{self.bytes[0] / 1e6:.2f} → {self.bytes[1] / 1e6:.2f} MB"),
            ("time of one image", f"{self.ms[0]:.2f} → {self.ms[1]:.2f} ms"),
        ]
        return found

    def __str__(self) -> str:
        return "\n".join(f"  {name:20} {value}" for name, value in self.rows())


def agreement(
    model: ModelFolder, file: Path, pack: Pack, *, split: str, images: Counter[str], representative: int,
    report: Report = silent,
) -> Agreement:  # fmt: skip
    """Returns how far a LiteRT file decides as a model does.

    Args:
        model: The model, with its LiteRT export.
        file: Its int8 export.
        pack: Images with labels.
        split: Of the pack, the images to compare on.
        images: Where they come from: split to their number.
        representative: Images that gave the ranges.
        report: Told of progress.
    """
    original = model.exported("litert")
    ways = [Predictor(model, runtime=LiteRTRuntime(path)) for path in (original, file)]
    plain, small = (way.predict_pack(pack, split=split, report=report) for way in ways)
    thresholds = model.record.thresholds
    compared = {
        one.quantity: one
        for one in compare(plain, small, thresholds=(thresholds, thresholds), names=("float32", "int8")).differences
    }
    auroc = compared.get("auroc")
    difference = np.abs(plain.probabilities - small.probabilities)
    flipped = (plain.decide(thresholds) != small.decide(thresholds)).any(axis=1)
    return Agreement(
        images=dict(images),
        representative=representative,
        auroc=None if auroc is None else (auroc.first, auroc.second),
        auroc_change=None if auroc is None else auroc.difference,
        auroc_interval=None if auroc is None else auroc.interval,
        flips=int(flipped.sum()),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        bytes=(original.stat().st_size, file.stat().st_size),
        ms=(_ms(original, model), _ms(file, model)),
    )


def _ms(file: Path, model: ModelFolder) -> float:
    runtime = LiteRTRuntime(file, workers=1)
    side, channels = model.record.preprocessing.image_size, model.record.preprocessing.channels
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, channels), np.uint8)
    seconds = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        runtime.outputs(image)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) * 1e3
