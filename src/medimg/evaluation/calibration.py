"""Whether a probability means what it says: of images given 30%, three in ten should have the finding.

Van Calster et al., "Calibration: the Achilles heel of predictive analytics", BMC Medicine 17 (2019) 230.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medimg.config import Task
from medimg.evaluation.intervals import FEWEST_PATIENTS, Interval, student

__all__ = [
    "BINS",
    "Bin",
    "Line",
    "brier",
    "ece",
    "equal_mass",
    "fit_temperature",
    "log_odds",
    "negative_log_likelihood",
    "reliability",
    "sigmoid",
    "slope_intercept",
]

BINS = 10
"""Bins of a reliability curve."""

# A float32 network gives exactly 1 from odds of about 1 to 17 million; their logarithm has to stay finite.
_CLOSEST = 1e-7
# Standard error in log-odds, or in multiples of them, that tells nothing: where all probabilities are 0 or 1 only
# rounding is left of the curvature.
_WIDEST = 10.0
_STEPS = 100
_SMALL = 1e-10
_ROUNDING = 1e-12  # of a sum of logarithms: at the best fit no step makes it smaller


@dataclass(frozen=True)
class Bin:
    """Some images of similar probability.

    Attributes:
        n: Images.
        score: Their mean probability.
        share: Share of them with the finding.
    """

    n: int
    score: float
    share: float


@dataclass(frozen=True)
class Line:
    """How the log-odds that were said have to be stretched and moved to fit what was found.

    Attributes:
        slope: Of the logistic regression of the truth on the log-odds: 1 is right, under 1 the probabilities are too
            extreme, over 1 too cautious. None where the scores separate the classes, or are all equal.
        intercept: Of the same regression with the slope held at 1 ("calibration in the large"): 0 is right, under 0
            the probabilities are too high on average. None where there is only one class.
        slope_interval: 95%, or None.
        intercept_interval: 95%, or None.
    """

    slope: float | None
    intercept: float | None
    slope_interval: Interval | None
    intercept_interval: Interval | None


def brier(truth: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> float:
    """Returns the mean squared distance of probabilities from the truth: 0 is perfect.

    Brier, Monthly Weather Review 78 (1950) 1-3. Of a table with one column a class the squares are summed over the
    classes (0 to 2), as in the paper; of one column the result is from 0 to 1.

    Args:
        truth: 1 or 0, float64 (n,) or (n, classes).
        scores: float64 of the same shape.
    """
    squares = (scores - truth) ** 2
    return float(squares.mean() if squares.ndim == 1 else squares.sum(axis=1).mean())


def equal_mass(scores: npt.NDArray[np.float64], bins: int = BINS) -> npt.NDArray[np.int64]:
    """Returns the bin of each score, int64 (n,): edges are quantiles, and equal scores share a bin.

    Args:
        scores: float64 (n,).
        bins: How many at most.
    """
    edges = np.quantile(scores, np.linspace(0, 1, bins + 1))
    return np.searchsorted(edges[1:-1], scores).astype(np.int64)


def reliability(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], bins: int = BINS) -> tuple[Bin, ...]:
    """Returns bins of about equally many images, by rising probability; those that ties leave empty are left out.

    Args:
        truth: bool (n,).
        scores: float64 (n,) from 0 to 1.
        bins: How many at most.
    """
    place = equal_mass(scores, bins)
    counts = np.bincount(place, minlength=bins)
    said = np.bincount(place, weights=scores, minlength=bins)
    found = np.bincount(place, weights=truth.astype(np.float64), minlength=bins)
    return tuple(
        Bin(int(n), float(score / n), float(share / n))
        for n, score, share in zip(counts, said, found, strict=True)
        if n
    )


def ece(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], bins: int = BINS) -> float:
    """Returns the expected calibration error: the mean distance of a bin's probability from its share.

    Naeini, Cooper and Hauskrecht, AAAI 2015, with bins of equal mass. Chance alone keeps it above 0 for a perfectly
    calibrated model, the more the fewer images.

    Args:
        truth: bool (n,).
        scores: float64 (n,) from 0 to 1.
        bins: How many at most.
    """
    return sum(one.n * abs(one.score - one.share) for one in reliability(truth, scores, bins)) / len(truth)


def log_odds(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the log-odds of probabilities; those within 1e-7 of 0 and 1 count as 1e-7 away."""
    inside = np.clip(scores, _CLOSEST, 1 - _CLOSEST)
    odds: npt.NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return odds


def slope_intercept(
    truth: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float64],
    patients: npt.NDArray[np.int64] | None = None,
) -> Line:
    """Returns the calibration slope and intercept, by logistic regression on the log-odds.

    Cox, Biometrika 45 (1958) 562-565; Van Calster et al. (2019). The intervals are Wald's with the cluster-robust
    ("sandwich") variance of Liang and Zeger, Biometrika 73 (1986) 13-22, and Student's t on patients less one.

    Args:
        truth: bool (n,).
        scores: float64 (n,), probabilities.
        patients: int64 (n,), from `numbered`; None gives no intervals.
    """
    x, y = log_odds(scores), truth.astype(np.float64)
    if not 0 < y.sum() < len(y):
        return Line(None, None, None, None)
    intercept = _logistic(np.ones((len(y), 1)), y, x)
    separated = x[truth].min() >= x[~truth].max() or x[truth].max() <= x[~truth].min()
    slope = None
    if not separated and np.ptp(x) > _SMALL:
        slope = _logistic(np.stack([np.ones(len(y)), x], axis=1), y, np.zeros(len(y)))
    return Line(
        slope=None if slope is None else float(slope[1]),
        intercept=None if intercept is None else float(intercept[0]),
        slope_interval=_wald(np.stack([np.ones(len(y)), x], axis=1), y, np.zeros(len(y)), slope, patients),
        intercept_interval=_wald(np.ones((len(y), 1)), y, x, intercept, patients),
    )


def _logistic(
    design: npt.NDArray[np.float64], y: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Returns the coefficients of greatest likelihood, by Newton's method with halved steps; None without one."""
    coefficients = np.zeros(design.shape[1])
    loss = negative_log_likelihood(offset, y)
    for _ in range(_STEPS):
        p = sigmoid(design @ coefficients + offset)
        gradient = design.T @ (y - p)
        if np.abs(gradient).max() <= _SMALL * len(y):
            return coefficients
        curvature = design.T @ (design * (p * (1 - p))[:, None])
        step, *_ = np.linalg.lstsq(curvature, gradient, rcond=None)
        for halving in range(_STEPS):
            moved = coefficients + step / 2**halving
            now = negative_log_likelihood(design @ moved + offset, y)
            if now <= loss * (1 + _ROUNDING):
                break
        else:
            return None
        coefficients, loss = moved, now
    return None


def _wald(
    design: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    coefficients: npt.NDArray[np.float64] | None,
    patients: npt.NDArray[np.int64] | None,
) -> Interval | None:
    """Returns the interval of the last coefficient; None where there are too few patients or it would tell nothing."""
    if coefficients is None or patients is None:
        return None
    count = len(np.unique(patients))
    if count < FEWEST_PATIENTS:
        return None
    p = sigmoid(design @ coefficients + offset)
    bread = np.linalg.pinv(design.T @ (design * (p * (1 - p))[:, None]))
    scores = design * (y - p)[:, None]
    summed = np.stack([np.bincount(patients, weights=column) for column in scores.T], axis=1)
    variance = (bread @ (summed.T @ summed) @ bread)[-1, -1] * count / (count - 1)
    error = math.sqrt(variance)
    if error > _WIDEST:
        return None
    half = student(count - 1) * error
    return float(coefficients[-1] - half), float(coefficients[-1] + half)


def negative_log_likelihood(logits: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    """Returns the summed negative log-likelihood, in nats.

    Args:
        logits: float64 (n,): log-odds of the finding; or (n, classes): logits, or logarithms of probabilities.
        truth: 1 or 0, float64 of the same shape.
    """
    if logits.ndim == 1:
        return float((np.logaddexp(0, logits) - truth * logits).sum())
    return float((np.logaddexp.reduce(logits, axis=1) - (truth * logits).sum(axis=1)).sum())


def fit_temperature(
    logits: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], task: Task
) -> float | npt.NDArray[np.float64]:
    """Returns the temperature that logits are to be divided by, so that their likelihood is greatest.

    Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2. The order of the images does not
    change. It is 1 where no temperature is best: the classes are separated (the best is 0, a certainty that the next
    image would break), or the logits rank no better than chance (the best is infinite).

    Args:
        logits: float64 (n, targets), columns as in `Predictions.scores`. Binary: one column, the log-odds of the
            positive class (of two logits their difference). Multiclass: logits, or logarithms of probabilities.
            Multilabel: the log-odds of each label.
        truth: 1, 0 or NaN (unknown), float64 of the same shape: `Predictions.truth`.
        task: "binary", "multiclass" or "multilabel".

    Returns:
        One number; for a multilabel task float64 (labels,).
    """
    if task == "multiclass":
        return _temperature(logits, truth)
    columns = [
        _temperature(logits[known, column], truth[known, column]) for column, known in enumerate((~np.isnan(truth)).T)
    ]
    return columns[0] if task == "binary" else np.array(columns)


def _temperature(logits: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    # In the inverse of the temperature the likelihood is concave: its slope falls through 0 at most once.
    def slope(inverse: float) -> float:
        z = logits * inverse
        p = sigmoid(z) if z.ndim == 1 else np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
        return float(((truth - p) * logits).sum())

    low, high = 1e-3, 1e3
    if not len(logits) or _settled(logits, truth) or not slope(low) > 0 > slope(high):
        return 1.0
    while high / low - 1 > _SMALL:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def _settled(logits: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> bool:
    """Returns whether every image is already on the right side, so that no temperature is low enough."""
    if logits.ndim == 1:
        return bool((logits * (2 * truth - 1) >= 0).all())
    right = (logits * truth).sum(axis=1)
    return bool((right >= logits.max(axis=1)).all())


def sigmoid(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the probabilities of log-odds: the inverse of `log_odds`.

    Args:
        z: float64, any shape.
    """
    from scipy.special import expit

    p: npt.NDArray[np.float64] = expit(z)
    return p
