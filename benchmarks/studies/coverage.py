"""How often a nominal 95% interval holds the true figure, where images of one patient are alike.

A score is drawn from a normal distribution, higher by a known distance in positive images, with a part that all images
of a patient share (intraclass correlation, ICC). So the true AUROC, sensitivity and specificity are known exactly; the
other figures are those of two million images. The probabilities are too extreme on purpose: slope 1 / 1.5.

Beside medimg's intervals: percentiles of the same bootstrap of patients, the bootstrap of images, and DeLong's.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, ndtr, ndtri

from medimg.evaluation.intervals import Interval, delong, percentiles
from medimg.evaluation.metric_intervals import target_intervals
from medimg.evaluation.resampling import resample
from medimg.evaluation.target import Target

LOWEST, HIGHEST = 0.93, 0.97
MUST_COVER = ("auroc", "sensitivity", "specificity")
FIGURES = (
    "auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "lr_positive", "lr_negative", "balanced_accuracy",
    "mcc", "brier", "calibration_slope", "calibration_intercept",
)  # fmt: skip
_STRETCH = 1.5


@dataclass(frozen=True)
class Setting:
    """A population and a sample of it.

    Attributes:
        prevalence: Share of patients with the finding; all of their images show it.
        icc: Intraclass correlation of the scores within positive and within negative patients.
        auroc: The true one.
        sensitivity: The true one at the threshold.
        patients: How many are sampled.
        images: A patient.
    """

    prevalence: float
    icc: float
    auroc: float = 0.85
    sensitivity: float = 0.8
    patients: int = 150
    images: int = 4

    @property
    def distance(self) -> float:
        """Between the means of positive and negative scores, in standard deviations."""
        return float(math.sqrt(2) * ndtri(self.auroc))

    @property
    def threshold(self) -> float:
        """On the scale of the scores."""
        return self.distance - float(ndtri(self.sensitivity))

    @property
    def specificity(self) -> float:
        """The true one."""
        return float(ndtr(self.threshold))

    def draw(
        self, rng: np.random.Generator, patients: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Returns truth, scores and patients."""
        whose = np.repeat(np.arange(patients), self.images)
        truth = (rng.random(patients) < self.prevalence)[whose]
        shared, own = rng.normal(size=patients)[whose], rng.normal(size=len(whose))
        return truth, self.distance * truth + math.sqrt(self.icc) * shared + math.sqrt(1 - self.icc) * own, whose

    def probabilities(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns probabilities whose log-odds are 1.5 times the true ones."""
        odds = self.distance * scores - self.distance**2 / 2 + logit(self.prevalence)
        return expit(_STRETCH * odds)

    def target(
        self, truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], whose: npt.NDArray[np.int64]
    ) -> Target:
        """Returns the figures."""
        return Target.of(truth, self.probabilities(scores), scores >= self.threshold, whose, fewest=1)

    def true_values(self) -> dict[str, float]:
        """Returns figure to its value in the population."""
        target = self.target(*self.draw(np.random.default_rng(0), 2_000_000 // self.images))
        exact = {"auroc": self.auroc, "sensitivity": self.sensitivity, "specificity": self.specificity}
        return {name: value for name in FIGURES if (value := target.values[name]) is not None} | exact


SETTINGS = (
    Setting(prevalence=0.5, icc=0.5),
    Setting(prevalence=0.2, icc=0.5),
    Setting(prevalence=0.3, icc=0.2),
    Setting(prevalence=0.3, icc=0.8),
    Setting(prevalence=0.2, icc=0.5, auroc=0.97, sensitivity=0.95),
    Setting(prevalence=0.3, icc=0.0, images=1, patients=600),
)


class Tally:
    """How often an interval held the truth, of those that could be given, and how wide they were."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.width: Counter[str] = Counter()

    def add(self, figure: str, interval: Interval | None, truth: float) -> None:
        """Counts one interval."""
        if interval is not None:
            self.given[figure] += 1
            self.held[figure] += interval[0] <= truth <= interval[1]
            self.width[figure] += interval[1] - interval[0]  # type: ignore[assignment]

    def coverage(self, figure: str) -> float:
        """Returns the share that held the truth; NaN where none was given."""
        return self.held[figure] / self.given[figure] if self.given[figure] else math.nan


def simulate(setting: Setting, simulations: int, resamples: int) -> dict[str, Tally]:
    """Returns method to tally: "medimg", "percentile", "images" (as "medimg", each image a patient) and "DeLong"."""
    values = setting.true_values()
    tallies = {name: Tally() for name in ("medimg", "percentile", "images", "DeLong")}
    for seed in range(1, simulations + 1):
        truth, scores, whose = setting.draw(np.random.default_rng(seed), setting.patients)
        if not 2 <= truth.sum() <= len(truth) - 2:
            continue
        area, variance = delong(truth, scores)
        half = 1.96 * math.sqrt(variance)
        tallies["DeLong"].add("auroc", (area - half, area + half), setting.auroc)
        for method, patients in (("medimg", whose), ("images", np.arange(len(whose)))):
            target = setting.target(truth, scores, patients)
            drawn = resample(
                truth[:, None].astype(np.float64), setting.probabilities(scores)[:, None],
                target.decided[:, None], patients, multiclass=False, resamples=resamples, seed=seed,
            ).targets  # fmt: skip
            of_target = {name: column[0] for name, column in drawn.items()}
            found = target_intervals(target, of_target)
            for name, value in values.items():
                tallies[method].add(name, found.get(name), value)
                if method == "medimg" and name in of_target:
                    tallies["percentile"].add(name, percentiles(of_target[name]), value)
    return tallies


def main() -> int:
    """Prints the table; returns 1 where AUROC, sensitivity or specificity is covered too seldom or too often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    options = parser.parse_args()
    outside = 0
    for setting in SETTINGS:
        started = time.perf_counter()
        tallies = simulate(setting, options.simulations, options.resamples)
        print(f"\n{setting}, specificity {setting.specificity:.3f}, {time.perf_counter() - started:.0f} s")
        print(f"{'':22}" + "".join(f"{name:>16}" for name in tallies))
        for figure in FIGURES:
            cells = []
            for tally in tallies.values():
                given = tally.given[figure]
                width = tally.width[figure] / given if given else math.nan
                cells.append(f"{tally.coverage(figure):8.1%} ({width:.3f})" if given else "")
            print(f"{figure:22}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
        outside += sum(not LOWEST <= tallies["medimg"].coverage(figure) <= HIGHEST for figure in MUST_COVER)
    print(f"\n{outside} outside {LOWEST:.0%} to {HIGHEST:.0%} (of {', '.join(MUST_COVER)})")
    return int(outside > 0)


if __name__ == "__main__":
    raise SystemExit(main())
