"""How far a figure may be off: intervals that know that images of one patient are alike.

Images of one patient share anatomy, machine and day, so ten of them say less than ten of ten patients. Here patients
are drawn anew, each with all of its images (cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and their
Application", 1997, section 3.8). DeLong's variance takes every image for a patient of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medimg.errors import DatasetError

__all__ = [
    "FEWEST_PATIENTS",
    "Interval",
    "Ranking",
    "areas",
    "bootstrap_weights",
    "delong",
    "delong_paired",
    "extreme",
    "numbered",
    "on_logit_scale",
    "percentiles",
    "proportion",
    "student",
    "totals",
    "unvaried",
]

Interval = tuple[float, float]
"""The lower and the upper bound of a 95% interval."""

FEWEST_PATIENTS = 10
"""Patients below which no interval is given: so few do not tell how far patients differ."""

_USABLE = 0.9  # of the resamples: the least that must give a figure
_TAIL = 0.025
_ROUNDING = 1e-12  # a spread below it is that of sums in another order
_BLOCK = 1 << 19  # numbers at a time: 4 MiB of float64


def numbered(groups: Sequence[str | None] | None, ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Returns the patient of each sample as a number from 0, int64 (n,).

    A sample without a patient is its own. Numbers follow the names, so the order of the samples does not matter.

    Args:
        groups: The patient of each sample, or None where none is known.
        ids: The samples' ids, each once.
    """
    known = groups if groups is not None else (None,) * len(ids)
    keys = [f"sample {name}" if group is None else f"group {group}" for group, name in zip(known, ids, strict=True)]
    return np.unique(np.array(keys), return_inverse=True)[1].astype(np.int64)


def bootstrap_weights(patients: npt.NDArray[np.int64], resamples: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """Yields how often each patient was drawn, a few resamples at a time: float64 (patients, resamples at a time).

    Every resample draws as many patients as there are, with replacement. `weights[patients]` has one row a sample.
    The same seed and number of patients give the same weights, so that two models can be compared on the same draws.
    A figure may keep a number for each sample and resample, so there are fewer at a time the more samples there are.

    Args:
        patients: One number a sample, from `numbered`.
        resamples: How many in all.
        seed: Of the generator.
    """
    count = int(patients.max()) + 1
    rng = np.random.default_rng(seed)
    width = max(8, min(resamples, _BLOCK // len(patients)))
    for start in range(0, resamples, width):
        now = min(width, resamples - start)
        drawn = rng.integers(0, count, size=(now, count))
        cells = drawn * now + np.arange(now)[:, None]
        yield np.bincount(cells.ravel(), minlength=count * now).reshape(count, now).astype(np.float64)


def totals(
    cells: npt.NDArray[np.int64],
    patients: npt.NDArray[np.int64],
    shape: tuple[int, int],
    values: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Returns a sparse matrix (cells, patients): `matrix @ weights` sums the values of each cell in each resample.

    Args:
        cells: The cell that a sample counts in, int64 (n,).
        patients: Its patient, int64 (n,).
        shape: Numbers of cells and of patients.
        values: What it counts, float64 (n,); None for 1 each.
    """
    from scipy import sparse

    counted = np.ones(len(cells)) if values is None else values
    matrix: npt.NDArray[np.float64] = sparse.csr_matrix((counted, (cells, patients)), shape=shape)
    return matrix


class Ranking:
    """The order of the samples by score, sorted once, to be counted with many weights.

    Args:
        truth: bool (n,), with both values in it.
        scores: float64 (n,); higher is more positive.
        patients: int64 (n,), the patient of each sample.
        count: Number of patients: rows of the weights.
    """

    def __init__(
        self,
        truth: npt.NDArray[np.bool_],
        scores: npt.NDArray[np.float64],
        patients: npt.NDArray[np.int64],
        count: int,
    ) -> None:
        cuts, level = np.unique(-scores[truth], return_inverse=True)  # the distinct positive scores, best first
        others = -scores[~truth]
        # The first cut that the score reaches; the last place is for those under every positive score.
        place = np.searchsorted(cuts, others).astype(np.int64)
        tied = np.isin(others, cuts)
        size = len(cuts)
        self._positives = totals(level.astype(np.int64), patients[truth], (size, count))
        self._negatives = totals(place, patients[~truth], (size + 1, count))
        self._tied = totals(place[tied], patients[~truth][tied], (size, count)) if tied.any() else None

    def areas(self, weights: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Returns AUROC and average precision for each column of weights; NaN where only one class was drawn.

        Ties count one half for AUROC (Mann and Whitney, 1947), and together for average precision, as in scikit-learn.

        Args:
            weights: float64 (patients, resamples).
        """
        positives = self._positives @ weights
        false = np.cumsum(self._negatives @ weights, axis=0)  # negatives called positive at each cut
        true = np.cumsum(positives, axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            below = false[-1] - false[:-1]
            if self._tied is not None:
                below += (self._tied @ weights) / 2
            auroc = np.einsum("ij,ij->j", positives, below) / (true[-1] * false[-1])
            called = np.maximum(true + false[:-1], 1)  # nothing called: nothing counted either
            precision = np.einsum("ij,ij->j", positives, true / called) / true[-1]
        precision[np.isnan(auroc)] = np.nan
        return auroc, precision


def areas(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns AUROC and average precision, as scikit-learn gives them, whose import takes a second.

    Args:
        truth: bool (n,), with both values in it.
        scores: float64 (n,); higher is more positive.
    """
    ranking = Ranking(truth, scores, np.zeros(len(truth), dtype=np.int64), 1)
    auroc, precision = ranking.areas(np.ones((1, 1)))
    return float(auroc[0]), float(precision[0])


def percentiles(values: npt.NDArray[np.float64]) -> Interval | None:
    """Returns the 2.5th and the 97.5th percentile of a figure's resamples.

    None where more than a tenth of the resamples do not give the figure, where a bound is infinite, and where all give
    the same: resampling a perfect score only repeats it, which shows nothing about the next patient.

    Args:
        values: float64 (resamples,); NaN where the figure could not be computed.
    """
    usable = _usable(values)
    if usable is None:
        return None
    # A member of the resamples: interpolating next to an infinite one would give no number.
    low, high = np.quantile(usable, (_TAIL, 1 - _TAIL), method="inverted_cdf")
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def on_logit_scale(value: float, values: npt.NDArray[np.float64], patients: int) -> Interval | None:
    """Returns the interval of a figure between 0 and 1: its bootstrap standard error on the scale of log-odds.

    Near 1 the resamples are lopsided and percentiles cover too little; log-odds are even (Newcombe, Statistics in
    Medicine 25 (2006) 559-573, for AUROC). With Student's t on patients less one. None where `percentiles` gives none.

    Args:
        value: The figure of all samples.
        values: float64 (resamples,); NaN where the figure could not be computed.
        patients: Those that the figure rests on, of the rarer kind.
    """
    from scipy.special import expit

    usable = _usable(values)
    if usable is None or not 0 < value < 1 or patients < FEWEST_PATIENTS:
        return None
    middle = math.log(value / (1 - value))
    half = student(patients - 1) * float(usable.std(ddof=1)) / (value * (1 - value))
    return float(expit(middle - half)), float(expit(middle + half))


def _usable(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    usable = values[~np.isnan(values)]
    return None if len(usable) < max(2, _USABLE * len(values)) or unvaried(usable) else usable


def unvaried(values: npt.NDArray[np.float64]) -> bool:
    """Returns whether all resamples that give the figure give the same.

    Args:
        values: float64 (resamples,); NaN where the figure could not be computed.
    """
    usable = values[~np.isnan(values)]
    return len(usable) > 0 and bool(usable.max() <= usable.min() + _ROUNDING)


def proportion(
    hits: npt.NDArray[np.float64], of: npt.NDArray[np.float64], patients: npt.NDArray[np.int64]
) -> Interval | None:
    """Returns Wilson's interval of a share of images, at the number of images that these patients are worth.

    Wilson, JASA 22 (1927) 209-212, with the effective sample size of Korn and Graubard (Survey Methodology 24 (1998)
    193-201): images divided by the design effect, which is the variance between patients over the variance of as many
    independent images; and Student's t on patients less one. Where the share is 0 or 1 the patients do not differ, and
    each counts as one image: the widest that is reasonable. None under `FEWEST_PATIENTS` patients.

    Args:
        hits: float64 (n,), 1 or 0 a sample.
        of: float64 (n,), 1 where the sample counts.
        patients: int64 (n,), the patient of each sample.
    """
    inside = np.bincount(patients, weights=of)
    right = np.bincount(patients, weights=hits * of)
    right, inside = right[inside > 0], inside[inside > 0]
    count, size = len(inside), float(inside.sum())
    if count < FEWEST_PATIENTS:
        return None
    share = float(right.sum()) / size
    effective = float(count)
    if 0 < share < 1:
        between = count / (count - 1) * float(((right - share * inside) ** 2).sum()) / size**2
        effective = min(size, share * (1 - share) / between) if between else size
    return _wilson(share, effective, student(count - 1))


def extreme(value: float, patients: int) -> Interval | None:
    """Returns bounds of a figure that is exactly 0 or 1, where resampling shows no spread; None for one patient.

    Wilson's interval with a patient for an image. It holds for AUROC too, with the patients of the rarer kind: the
    variance of AUROC A is at most A(1 - A) / min(m, n) (Birnbaum and Klose, Annals of Mathematical Statistics 28
    (1957) 933-945), as that of a share of min(m, n) images.

    Args:
        value: 0 or 1.
        patients: Those that the figure rests on.
    """
    return None if patients < 2 else _wilson(value, patients, student(patients - 1))


def student(freedom: float) -> float:
    """Returns the 97.5th percentile of Student's t: 1.96 for many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - _TAIL))


def _wilson(share: float, size: float, quantile: float) -> Interval:
    spread = quantile * quantile / size
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def delong(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns AUROC and its variance, every image being a patient of its own.

    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845, by the midranks of Sun and Xu, IEEE Signal
    Processing Letters 21 (2014) 1389-1393.

    Args:
        truth: bool (n,), two or more of each value.
        scores: float64 (n,); higher is more positive.

    Raises:
        DatasetError: There are fewer than two of a value.
    """
    areas, covariance = _delong(truth, scores[None])
    return float(areas[0]), float(covariance[0, 0])


def delong_paired(
    truth: npt.NDArray[np.bool_], first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Returns the AUROC of the second scores less that of the first, and the variance of the difference.

    As `delong`; both have scored the same images, which makes their areas alike.

    Args:
        truth: bool (n,), two or more of each value.
        first: float64 (n,).
        second: float64 (n,), of the same images in the same order.

    Raises:
        DatasetError: There are fewer than two of a value.
    """
    areas, covariance = _delong(truth, np.stack([first, second]))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return float(areas[1] - areas[0]), max(0.0, float(variance))


def _delong(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    positive, negative = scores[:, truth], scores[:, ~truth]
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2:
        raise DatasetError(f"DeLong's variance needs two images of each kind; got {m} with and {n} without")
    ranks = np.stack([_midranks(row) for row in scores])
    # For each positive, the share of negatives below it; for each negative, that of positives above it.
    above = (ranks[:, truth] - np.stack([_midranks(row) for row in positive])) / n
    below = 1 - (ranks[:, ~truth] - np.stack([_midranks(row) for row in negative])) / m
    covariance = np.cov(above) / m + np.cov(below) / n
    return above.mean(axis=1), np.atleast_2d(covariance)


def _midranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return middle
