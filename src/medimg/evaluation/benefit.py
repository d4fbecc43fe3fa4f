"""What a model is worth in use: net benefit by threshold probability, predictive values by prevalence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medimg.errors import DatasetError
from medimg.evaluation.intervals import Interval

__all__ = ["DecisionCurve", "PredictiveValues", "decision_curve", "predictive_values"]

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit over threshold probabilities: true positives an image, less false ones at their price.

    Attributes:
        thresholds: Probabilities from which one would act; float64 (t,).
        model: Net benefit of acting on the model.
        treat_all: Of acting on every image.
        treat_none: Of acting on none, which is 0.
    """

    thresholds: Values
    model: Values
    treat_all: Values
    treat_none: Values


@dataclass(frozen=True, eq=False)
class PredictiveValues:
    """Predictive values of one sensitivity and specificity where the finding is rarer or more frequent.

    NaN where nothing would be called positive (PPV) or negative (NPV).

    Attributes:
        prevalences: Shares of images with the finding; float64 (k,).
        ppv: Of the images called positive, the share that are.
        npv: Of the images called negative, the share that are.
        ppv_low: Lower edge of the band; None without intervals.
        ppv_high: Upper edge.
        npv_low: Lower edge.
        npv_high: Upper edge.
    """

    prevalences: Values
    ppv: Values
    npv: Values
    ppv_low: Values | None = None
    ppv_high: Values | None = None
    npv_low: Values | None = None
    npv_high: Values | None = None


def decision_curve(truth: npt.NDArray[np.bool_], scores: Values, thresholds: Sequence[float] | Values) -> DecisionCurve:
    """Returns the net benefit of a model over threshold probabilities.

    TP / n - FP / n · pt / (1 - pt), where a score of pt or more is positive: Vickers and Elkin, Medical Decision
    Making 26 (2006) 565-574. It takes scores for probabilities: calibrate them first.

    Args:
        truth: bool (n,).
        scores: float64 (n,), probabilities.
        thresholds: Threshold probabilities pt, from 0 to less than 1.

    Raises:
        DatasetError: No images, or a threshold outside 0 to 1.
    """
    points = np.asarray(thresholds, dtype=np.float64)
    if not len(truth):
        raise DatasetError("a decision curve needs at least one image with a known label")
    if not ((points >= 0) & (points < 1)).all():
        raise DatasetError("threshold probabilities of a decision curve go from 0 to less than 1: at 1 no alarm pays")
    odds = points / (1 - points)

    def called(some: Values) -> Values:
        """Returns the share of all images that are among `some` and called positive, at each threshold."""
        count: Values = (len(some) - np.searchsorted(np.sort(some), points, side="left")) / len(truth)
        return count

    prevalence = float(truth.mean())
    return DecisionCurve(
        thresholds=points,
        model=called(scores[truth]) - called(scores[~truth]) * odds,
        treat_all=prevalence - (1 - prevalence) * odds,
        treat_none=np.zeros_like(points),
    )


def predictive_values(
    sensitivity: float,
    specificity: float,
    prevalences: Sequence[float] | Values,
    *,
    sensitivity_interval: Interval | None = None,
    specificity_interval: Interval | None = None,
) -> PredictiveValues:
    """Returns PPV and NPV by Bayes' theorem where the finding has another prevalence than in these images.

    They hold as far as sensitivity and specificity do, which change too where patients are milder or sicker.

    Both values rise with sensitivity and with specificity. The band goes from both lower bounds to both upper ones: it
    is wider than a 95% interval of the values, for both rates seldom err to the same side at once.

    Args:
        sensitivity: At the threshold.
        specificity: At the threshold.
        prevalences: Shares of images with the finding, from 0 to 1.
        sensitivity_interval: Its lower and upper bound.
        specificity_interval: Its lower and upper bound; the band needs both.

    Raises:
        DatasetError: A prevalence outside 0 to 1.
    """
    points = np.asarray(prevalences, dtype=np.float64)
    if not ((points >= 0) & (points <= 1)).all():
        raise DatasetError("a prevalence is a share from 0 to 1, such as 0.05 for one in twenty")
    ppv, npv = _bayes(sensitivity, specificity, points)
    if sensitivity_interval is None or specificity_interval is None:
        return PredictiveValues(points, ppv, npv)
    (ppv_low, npv_low), (ppv_high, npv_high) = (
        _bayes(*bounds, points) for bounds in zip(sensitivity_interval, specificity_interval, strict=True)
    )
    return PredictiveValues(points, ppv, npv, ppv_low, ppv_high, npv_low, npv_high)


def _bayes(sensitivity: float, specificity: float, prevalence: Values) -> tuple[Values, Values]:
    found, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    cleared, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore"):
        return found / (found + alarms), cleared / (cleared + missed)
