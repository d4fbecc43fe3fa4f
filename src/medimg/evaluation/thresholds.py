"""Decision thresholds: chosen on validation, then frozen."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from medimg.errors import DatasetError
from medimg.inference.predictions import Predictions

__all__ = ["FEWEST_TO_ESTIMATE", "Thresholds", "choose"]

FEWEST_TO_ESTIMATE = 10
"""Positives, and negatives, below which a label of a multilabel task is called not estimable."""

# With 73 positives a sensitivity of 0.95 has a 95% interval of ± 0.05: 1.96 · √(0.95 · 0.05 / 73) = 0.05.
_FEW_POSITIVES = 73
_DEFAULT = 0.5


class Thresholds(BaseModel):
    """Frozen decision thresholds.

    Attributes:
        values: Class to threshold: the positive class (binary), every class (multilabel), none (multiclass: the most
            probable class is decided). A probability equal to its threshold is positive.
        policy: How they were to be chosen: "youden", or the fixed probability of the configuration.
        fallback: Classes for which the policy found no threshold; they have 0.5.
        notices: What a reader should know about the choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    values: dict[str, float]
    policy: Literal["youden"] | float
    fallback: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def chosen(self) -> tuple[str, ...]:
        """The classes whose threshold was chosen on validation, which makes its figures optimistic."""
        return tuple(name for name in self.values if self.policy == "youden" and name not in self.fallback)


def choose(predictions: Predictions, policy: Literal["youden"] | float) -> Thresholds:
    """Returns one threshold for every target of the task, chosen on validation.

    Args:
        predictions: Those of the split "val", with labels.
        policy: "youden", or one probability for all targets.

    Raises:
        DatasetError: The predictions are not those of validation, or have no labels.
    """
    if predictions.split != "val":
        raise DatasetError(
            f"thresholds are chosen on validation, never where the model is judged: got the split {predictions.split!r}"
        )
    if predictions.task == "multiclass":
        return Thresholds(values={}, policy=policy)
    if policy != "youden":
        return Thresholds(values=dict.fromkeys(predictions.targets, float(policy)), policy=policy)

    values: dict[str, float] = {}
    fallback, few, uninformative, uncertain = [], [], [], []
    for column, name in enumerate(predictions.targets):
        known = ~np.isnan(predictions.truth[:, column])
        truth, scores = predictions.truth[known, column] == 1, predictions.scores[known, column]
        positives, negatives = int(truth.sum()), int((~truth).sum())
        threshold = None
        if min(positives, negatives) < FEWEST_TO_ESTIMATE:
            few.append(f"{name} ({positives} with, {negatives} without)")
        elif (threshold := youden(truth, scores)) is None:
            uninformative.append(name)
        elif positives < _FEW_POSITIVES:
            uncertain.append(f"{name} ({positives})")
        if threshold is None:
            fallback.append(name)
        values[name] = _DEFAULT if threshold is None else threshold

    notices = []
    if few:
        notices.append(
            f"The threshold is {_DEFAULT}, not chosen: validation has fewer than {FEWEST_TO_ESTIMATE} images with or "
            f"without: {', '.join(few)}."
        )
    if uninformative:
        notices.append(
            f"The threshold is {_DEFAULT}, not chosen: on validation no threshold is better than chance for "
            f"{', '.join(uninformative)}."
        )
    if uncertain:
        notices.append(
            f"The threshold is uncertain: it was chosen on fewer than {_FEW_POSITIVES} positive validation images: "
            f"{', '.join(uncertain)}."
        )
    return Thresholds(values=values, policy=policy, fallback=tuple(fallback), notices=tuple(notices))


def youden(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float | None:
    """Returns the threshold with the largest sensitivity + specificity - 1; None if none is above 0.

    Youden, "Index for rating diagnostic tests", Cancer 3 (1950) 32-35. The empirical index is the same for every
    threshold between two neighbouring scores; the midpoint is the furthest from both, so that the last digits of
    another runtime flip no decision. Of equal maxima the one with the highest sensitivity is taken.

    Args:
        truth: bool (n,), with both values in it.
        scores: float64 (n,) from 0 to 1; higher is more positive.
    """
    from sklearn.metrics import roc_curve

    # Every distinct score is needed: a dropped one would be the wrong neighbour of the midpoint.
    false_positive_rate, sensitivity, cuts = roc_curve(truth, scores, drop_intermediate=False)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    # In whole counts, so that equal maxima are equal.
    index = np.rint(sensitivity * positives) * negatives - np.rint(false_positive_rate * negatives) * positives
    if index.max() <= 0:
        return None
    best = int(np.flatnonzero(index == index.max())[-1])
    upper, lower = float(cuts[best]), float(cuts[best + 1])  # the last cut calls all positive: its index is 0
    middle = (upper + lower) / 2
    return middle if middle > lower else upper  # neighbouring floats have no midpoint
