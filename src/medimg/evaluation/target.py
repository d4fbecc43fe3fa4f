"""The figures of one target: a class against all others, or one label present against absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medimg.evaluation.calibration import BINS, Line, brier, ece, slope_intercept
from medimg.evaluation.intervals import Interval, areas, extreme
from medimg.evaluation.resampling import rates
from medimg.evaluation.thresholds import FEWEST_TO_ESTIMATE

__all__ = ["Target"]

# Ten images a bin; with fewer, ECE is mostly chance.
_FEWEST_FOR_ECE = 10 * BINS
_NO_RATIO = {
    "sensitivity": "there is no image of it",
    "specificity": "there is no other image",
    "ppv": "no image was called positive",
    "npv": "no image was cleared",
    "lr_positive": "no false alarm was raised: the ratio has no bound",
    "lr_negative": "no image was rightly cleared: the ratio has no bound",
    "balanced_accuracy": "it needs images of it and others",
    "mcc": "all images were decided alike, or are of one kind",
}


@dataclass(frozen=True)
class Target:
    """What is known of one target, in the samples with a known label.

    Attributes:
        truth: bool (n,).
        decided: bool (n,).
        patients: int64 (n,), from `numbered`.
        values: Figure to value; None where it cannot be estimated.
        reason: Why there are too few images for some figures, or None.
        reasons: Figure to why it is None.
        line: Calibration slope and intercept with their intervals.
    """

    truth: npt.NDArray[np.bool_]
    decided: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    values: Mapping[str, float | None]
    reason: str | None
    reasons: Mapping[str, str]
    line: Line

    @classmethod
    def of(
        cls,
        truth: npt.NDArray[np.bool_],
        scores: npt.NDArray[np.float64],
        decided: npt.NDArray[np.bool_],
        patients: npt.NDArray[np.int64],
        *,
        fewest: int,
    ) -> Target:
        """Returns the figures of one target.

        Args:
            truth: bool (n,).
            scores: float64 (n,), probabilities.
            decided: bool (n,).
            patients: int64 (n,), from `numbered`.
            fewest: Images with, and without, below which it is left out. At 1, a class that does not occur still has
                the figures of the others.
        """
        positives, negatives = int(truth.sum()), int((~truth).sum())
        both = min(positives, negatives) >= fewest
        reason = None
        if not both:
            least = "one of each is" if fewest == 1 else f"{fewest} of each are"
            reason = f"{positives:,} images with it and {negatives:,} without; at least {least} needed"
        cells = (truth & decided, truth & ~decided, ~truth & decided, ~truth & ~decided)
        found = rates(np.array([cell.sum() for cell in cells], dtype=np.float64))
        auroc, auprc = areas(truth, scores) if both else (None, None)
        values: dict[str, float | None] = {
            "auroc": auroc,
            "auprc": auprc,
            **{name: float(value) if np.isfinite(value) else None for name, value in found.items()},
        }
        reasons = {name: why for name, why in _NO_RATIO.items() if values[name] is None}
        values["brier"] = brier(truth.astype(np.float64), scores) if len(truth) else None
        values["ece"] = ece(truth, scores) if len(truth) >= _FEWEST_FOR_ECE else None
        if values["ece"] is None:
            reasons["ece"] = f"{len(truth):,} images; at least {_FEWEST_FOR_ECE} are needed"
        line = Line(None, None, None, None)
        if min(positives, negatives) >= FEWEST_TO_ESTIMATE:
            line = slope_intercept(truth, scores, patients)
            why = "the probabilities separate the classes, or are all the same"
        else:
            why = f"{positives:,} images with it and {negatives:,} without; {FEWEST_TO_ESTIMATE} of each are needed"
        values |= {"calibration_slope": line.slope, "calibration_intercept": line.intercept}
        reasons |= {name: why for name in ("calibration_slope", "calibration_intercept") if values[name] is None}
        if reason is not None:
            too_few = ["auroc", "auprc"]
            if fewest > 1:
                too_few, values, line = list(values), dict.fromkeys(values), Line(None, None, None, None)
            reasons |= dict.fromkeys(too_few, reason)
        return cls(truth, decided, patients, values, reason, reasons, line)

    def count(self, truth: bool, decided: bool) -> int:
        """Returns how many images are so and were decided so."""
        return int(((self.truth == truth) & (self.decided == decided)).sum())

    @property
    def positive_patients(self) -> int:
        """Patients with an image of the target."""
        return len(np.unique(self.patients[self.truth]))

    @property
    def negative_patients(self) -> int:
        """Patients with another image."""
        return len(np.unique(self.patients[~self.truth]))

    def bounds(self, figure: str) -> Interval | None:
        """Returns the interval of "auroc", "sensitivity" or "specificity" where it is exactly 0 or 1, else None."""
        value = self.values[figure]
        if value is None or 0 < value < 1:
            return None
        with_it, without = self.positive_patients, self.negative_patients
        rests = {"auroc": min(with_it, without), "sensitivity": with_it, "specificity": without}
        return extreme(value, rests[figure])
