"""Decision thresholds: chosen on validation, then frozen, with the band in which a decision is uncertain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from medimg.config import ThresholdPolicy
from medimg.errors import DatasetError
from medimg.evaluation.intervals import (
    FEWEST_PATIENTS,
    bootstrap_weights,
    numbered,
    percentiles,
    proportion,
    totals,
)
from medimg.inference.predictions import Predictions

__all__ = ["FEWEST_TO_ESTIMATE", "Policy", "Thresholds", "best", "choose"]

Policy = Literal["youden"] | float | ThresholdPolicy
"""How thresholds are chosen: `TrainConfig.threshold`."""

FEWEST_TO_ESTIMATE = 10
"""Positives, and negatives, below which a label of a multilabel task is called not estimable."""

# With 73 positives a sensitivity of 0.95 has a 95% interval of ± 0.05: 1.96 · √(0.95 · 0.05 / 73) = 0.05.
_FEW = 73
_DEFAULT = 0.5
_RESAMPLES = 1000
_COVERAGE = 0.9  # of the conformal sets
_MOST_CELLS = 2000  # distinct scores of a draw: finer than its band ever is
_ROUNDING = 1e-9  # of images, so that 0.95 of 60 is 57

Floats = npt.NDArray[np.float64]


class Thresholds(BaseModel):
    """Frozen decision thresholds.

    Attributes:
        values: Class to threshold: the positive class (binary), every class (multilabel), none (multiclass: the most
            probable class is decided). A probability equal to its threshold is positive.
        policy: How they were to be chosen: "youden", a `ThresholdPolicy`, or the fixed probability of the
            configuration.
        fallback: Classes for which the policy found no threshold; they have 0.5.
        uncertain: Class to the band of probabilities, ends included, that holds the thresholds which the policy chooses
            on 95% of draws of validation patients; only classes whose threshold was chosen, on 10 patients or more of
            either kind. `notices` names the others.
        conformal: Multiclass: the probability from which a class is in the set that holds the true one in 90% of
            images; None where validation is too small, and for other tasks.
        notices: What a reader should know about the choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    values: dict[str, float]
    policy: Policy
    fallback: tuple[str, ...] = ()
    uncertain: dict[str, tuple[float, float]] = Field(default_factory=dict)
    conformal: float | None = None
    notices: tuple[str, ...] = ()

    @property
    def chosen(self) -> tuple[str, ...]:
        """The classes whose threshold was chosen on validation, which makes its figures optimistic."""
        if isinstance(self.policy, float):
            return ()
        return tuple(name for name in self.values if name not in self.fallback)


def choose(predictions: Predictions, policy: Policy) -> Thresholds:
    """Returns one threshold for every target of the task, chosen on validation, with the bands around them.

    The same predictions and policy always give the same thresholds and bands.

    Args:
        predictions: Those of the split "val", with labels.
        policy: "youden", a `ThresholdPolicy`, or one probability for all targets.

    Raises:
        DatasetError: The predictions are not those of validation, or have no labels.
    """
    if predictions.split != "val":
        raise DatasetError(
            f"thresholds are chosen on validation, never where the model is judged: got the split {predictions.split!r}"
        )
    if predictions.task == "multiclass":
        unused = () if policy == "youden" else ("The most probable class is decided: a threshold has no effect here.",)
        return Thresholds(values={}, policy=policy, conformal=_conformal(predictions), notices=unused)
    if isinstance(policy, float):
        return Thresholds(values=dict.fromkeys(predictions.targets, policy), policy=policy)

    values: dict[str, float] = {}
    bands: dict[str, tuple[float, float]] = {}
    told = _Told(policy)
    patients = numbered(predictions.groups, predictions.ids)
    for column, name in enumerate(predictions.targets):
        known = ~np.isnan(predictions.truth[:, column])
        truth, scores = predictions.truth[known, column] == 1, predictions.scores[known, column]
        threshold = told.look(name, truth, scores, patients[known])
        values[name] = _DEFAULT if threshold is None else threshold
        if threshold is None:
            continue
        band = _band(policy, truth, scores, patients[known], threshold)
        if band is None:
            told.bandless.append(name)
        else:
            bands[name] = band
    return Thresholds(
        values=values, policy=policy, fallback=tuple(told.fallback), uncertain=bands, notices=tuple(told.notices())
    )


def best(policy: Literal["youden"] | ThresholdPolicy, truth: npt.NDArray[np.bool_], scores: Floats) -> float | None:
    """Returns the threshold that a policy chooses; None if none does what it asks and is of use.

    - "youden": the largest sensitivity + specificity - 1 (Youden, "Index for rating diagnostic tests", Cancer 3 (1950)
      32-35), if it is above 0. Of equal maxima the one with the highest sensitivity is taken.
    - A least sensitivity: the highest threshold that has it, if it clears anyone; a least specificity: the lowest
      threshold that has it, if it finds anyone.
    - Costs: the least total cost, if it is below that of calling all images positive, and all negative.

    All thresholds between two neighbouring scores decide alike; the midpoint is the furthest from both, so that the
    last digits of another runtime flip no decision.

    Args:
        policy: See above.
        truth: bool (n,), with both values in it.
        scores: float64 (n,) from 0 to 1; higher is more positive.
    """
    cell, cuts = _cells(scores)
    found = float(_thresholds(policy, cuts, _count(cell[truth], len(cuts)), _count(cell[~truth], len(cuts)))[0])
    return None if math.isnan(found) else found


def _aim(
    policy: Literal["youden"] | ThresholdPolicy,
) -> tuple[Literal["youden", "sensitivity", "specificity", "cost"], float]:
    """Returns what a policy asks for, and the least figure; of costs, what a miss costs in false alarms."""
    if policy == "youden":
        return "youden", 0.0
    if policy.sensitivity is not None:
        return "sensitivity", policy.sensitivity
    if policy.specificity is not None:
        return "specificity", policy.specificity
    return "cost", (policy.miss or 0.0) / (policy.false_alarm or 1.0)


def _cells(scores: Floats, most: int | None = None) -> tuple[npt.NDArray[np.int64], Floats]:
    """Returns the cell of each image and the lowest score of each cell, the highest cell first.

    Without `most` there is one cell a distinct score, else neighbours are put together until there are so many.
    """
    falling, number = np.unique(-scores, return_inverse=True)
    width = 1 if most is None else -(-len(falling) // most)
    return number // width, -np.append(falling[width - 1 : -1 : width], falling[-1])


def _count(cell: npt.NDArray[np.int64], cells: int) -> Floats:
    return np.bincount(cell, minlength=cells).astype(np.float64)[:, None]


def _thresholds(
    policy: Literal["youden"] | ThresholdPolicy, cuts: Floats, positive: Floats, negative: Floats
) -> Floats:
    """Returns `best` for each resample, float64 (resamples,); NaN for None.

    Args:
        policy: As there.
        cuts: Lowest score of each cell, falling.
        positive: Positive images in each cell, float64 (cells, resamples).
        negative: Negative ones.
    """
    found, alarms = np.cumsum(positive, axis=0), np.cumsum(negative, axis=0)
    positives, negatives = found[-1], alarms[-1]
    aim, least = _aim(policy)
    if aim == "sensitivity":
        index = (found >= least * positives - _ROUNDING).argmax(axis=0)
        useful = _at(alarms, index) < negatives
    elif aim == "specificity":
        allowed = alarms <= (1 - least) * negatives + _ROUNDING
        index = _last_max(allowed)
        useful = allowed[0] & (_at(found, index) > 0)
    else:
        # Youden's index is a gain with costs of 1 / positives and 1 / negatives; in whole numbers, so that equal
        # maxima are equal.
        gain = negatives * found - positives * alarms if aim == "youden" else least * found - alarms
        index = _last_max(gain)
        useful = _at(gain, index) > np.maximum(gain[-1], 0)
    useful &= (positives > 0) & (negatives > 0)
    # Neighbours among the images that are there: those of weight 0 are not.
    there = found + alarms
    reached = _at(there, index)
    upper, lower = cuts[(there >= reached).argmax(axis=0)], cuts[(there > reached).argmax(axis=0)]
    middle = (upper + lower) / 2
    threshold = np.where(middle > lower, middle, upper)  # neighbouring floats have no midpoint
    return np.where(useful, threshold, np.nan)


def _last_max(table: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    index: npt.NDArray[np.int64] = len(table) - 1 - table[::-1].argmax(axis=0)
    return index


def _at(table: Floats, index: npt.NDArray[np.int64]) -> Floats:
    taken: Floats = np.take_along_axis(table, index[None], axis=0)[0]
    return taken


def _band(
    policy: Literal["youden"] | ThresholdPolicy,
    truth: npt.NDArray[np.bool_],
    scores: Floats,
    patients: npt.NDArray[np.int64],
    threshold: float,
) -> tuple[float, float] | None:
    """Returns the 95% percentile interval of the policy's threshold over draws of patients.

    None under `FEWEST_PATIENTS` patients of either kind, and where the draws show no spread or often give no threshold.
    """
    if min(len(np.unique(patients[side])) for side in (truth, ~truth)) < FEWEST_PATIENTS:
        return None
    cell, cuts = _cells(scores, _MOST_CELLS)
    patients = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    shape = (len(cuts), int(patients.max()) + 1)
    positive, negative = (totals(cell[side], patients[side], shape) for side in (truth, ~truth))
    draws = bootstrap_weights(patients, _RESAMPLES, seed=0)
    interval = percentiles(
        np.concatenate([_thresholds(policy, cuts, positive @ times, negative @ times) for times in draws])
    )
    return None if interval is None else (min(interval[0], threshold), max(interval[1], threshold))


def _conformal(predictions: Predictions) -> float | None:
    """Returns the probability from which a class is in the conformal set of an image, or None on too few images.

    Split-conformal sets of least size: Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded
    error levels", JASA 114 (2019) 223-234, with the rank ⌈(n + 1) · 0.9⌉ of a finite sample.
    """
    of_truth = np.sort(predictions.probabilities[predictions.truth == 1])
    rank = math.ceil((len(of_truth) + 1) * _COVERAGE)
    return float(of_truth[len(of_truth) - rank]) if rank <= len(of_truth) else None


# -- what is said about it --------------------------------------------------------------------------------------------


@dataclass
class _Told:
    """Applies the policy to one target after another and keeps what a reader should know."""

    policy: Literal["youden"] | ThresholdPolicy
    fallback: list[str] = field(default_factory=list)
    few: list[str] = field(default_factory=list)
    useless: list[str] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)
    bandless: list[str] = field(default_factory=list)

    def look(
        self, name: str, truth: npt.NDArray[np.bool_], scores: Floats, patients: npt.NDArray[np.int64]
    ) -> float | None:
        """Returns the target's threshold, or None where validation gives none."""
        positives, negatives = int(truth.sum()), int((~truth).sum())
        threshold = None
        if min(positives, negatives) < FEWEST_TO_ESTIMATE:
            self.few.append(f"{name} ({positives} with, {negatives} without)")
        elif (threshold := best(self.policy, truth, scores)) is None:
            self.useless.append(name + self._most(truth, scores))
        else:
            chosen = ~truth if self.aim == "specificity" else truth
            if chosen.sum() < _FEW:
                self.uncertain.append(f"{name} ({int(chosen.sum())})")
            if self.aim in ("sensitivity", "specificity"):
                right = (scores >= threshold) == truth
                bounds = proportion(right.astype(np.float64), chosen.astype(np.float64), patients)
                low = "" if bounds is None else f" (the true one may be as low as {bounds[0]:.3f})"
                self.reached.append(f"{name} {right[chosen].mean():.3f} on {int(chosen.sum()):,} images{low}")
        if threshold is None:
            self.fallback.append(name)
        return threshold

    @property
    def aim(self) -> str:
        """What the policy asks for."""
        return _aim(self.policy)[0]

    def _most(self, truth: npt.NDArray[np.bool_], scores: Floats) -> str:
        """Returns what can be reached of the figure that was asked for, in brackets."""
        if self.aim not in ("sensitivity", "specificity"):
            return ""
        cell, cuts = _cells(scores)
        found, alarms = (np.cumsum(_count(cell[side], len(cuts))) for side in (truth, ~truth))
        if self.aim == "sensitivity":
            reachable = found[alarms < alarms[-1]] / found[-1]
        else:
            reachable = 1 - alarms[found > 0] / alarms[-1]
        return f" (at most {reachable.max(initial=0.0):.3f} can be reached)"

    def notices(self) -> Iterator[str]:
        """Yields the sentences."""
        if self.few:
            yield (
                f"The threshold is {_DEFAULT}, not chosen: validation has fewer than {FEWEST_TO_ESTIMATE} images with "
                f"or without: {', '.join(self.few)}."
            )
        if self.useless:
            why = {
                "sensitivity": f"{self.policy} is only reached by calling every image positive for",
                "specificity": f"{self.policy} is only reached by calling no image positive for",
                "cost": f"with {self.policy}, calling all images positive, or none, is as cheap as any threshold for",
                "youden": "on validation no threshold is better than chance for",
            }
            yield f"The threshold is {_DEFAULT}, not chosen: {why[self.aim]} {', '.join(self.useless)}."
        if self.reached:
            yield f"Asked for was {self.policy}. Validation gives {', '.join(self.reached)}."
        if self.uncertain:
            kind = "negative" if self.aim == "specificity" else "positive"
            yield (
                f"The threshold is uncertain: it was chosen on fewer than {_FEW} {kind} validation images: "
                f"{', '.join(self.uncertain)}."
            )
        if self.bandless:
            yield (
                f"No decision will be called uncertain for {', '.join(self.bandless)}: how far the threshold may be "
                f"off is not known. It takes {FEWEST_PATIENTS} validation patients with and {FEWEST_PATIENTS} without, "
                "whose draws nearly all give a threshold, and not all the same."
            )
