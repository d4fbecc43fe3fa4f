"""How far two samples are apart, and how far chance alone puts them. Needs the standard library only.

- **Distributions** by the population stability index over bins, sum((p − q) ln(p / q)); half an image is added to each
  bin, so that an empty one is no infinity. Without any change it is about (1/n + 1/m) times a chi-squared of bins − 1
  degrees, for n images now and m then (Yurdakul and Naranjo 2020, J Risk Model Validation 14(4)): small samples differ
  by much. The limit is a quantile of that, and never less than 0.1, below which nobody calls it a change (Siddiqi 2006,
  Credit Risk Scorecards).
- **Rates** by the interval of a difference of two proportions from Wilson's of each (Newcombe 1998, Stat Med 17:873,
  method 10).

Images of one patient are alike, so n of them say less than n of as many patients. Both samples are therefore counted as
smaller by a design effect that validation shows (Rao and Scott 1981, JASA 76:221): a stream is taken to bring as many
images a patient as validation did.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from functools import cache
from statistics import NormalDist

__all__ = ["design_effect", "index_limit", "rate_difference", "stability_index", "superiority"]

_LEAST_INDEX = 0.1


def stability_index(now: Sequence[int], then: Sequence[int]) -> float:
    """Returns the population stability index of two counts of the same bins, half an image added to each bin."""
    more = len(then) / 2
    all_now, all_then = sum(now) + more, sum(then) + more
    total = 0.0
    for one, other in zip(now, then, strict=True):
        p, q = (one + 0.5) / all_now, (other + 0.5) / all_then
        total += (p - q) * math.log(p / q)
    return total


def superiority(now: Sequence[int], then: Sequence[int]) -> float:
    """Returns the probability that one now lies in a higher bin than one then, ties counted half."""
    below = 0.0
    total = 0.0
    for one, other in zip(now, then, strict=True):
        total += one * (below + other / 2)
        below += other
    return total / (sum(now) * below)


def design_effect(places: Sequence[int], groups: Sequence[Hashable]) -> float:
    """Returns by what factor images of the same group being alike makes chance larger, at least 1.

    It is the mean over bins of the variance of a bin's share when whole groups are drawn, over that when images are.

    Args:
        places: The bin of each image.
        groups: Whose image each is.
    """
    counts, images = Counter(places), len(places)
    if len(counts) < 2:
        return 1.0
    by_group: defaultdict[Hashable, Counter[int]] = defaultdict(Counter)
    for place, group in zip(places, groups, strict=True):
        by_group[group][place] += 1
    total = 0.0
    for place, count in counts.items():
        share = count / images
        total += sum((of[place] - of.total() * share) ** 2 for of in by_group.values()) / (images * share)
    return round(max(1.0, total / (len(counts) - 1)), 4)


def index_limit(images: float, reference: float, bins: int, level: float) -> float:
    """Returns what the index exceeds by chance with the probability `level`, and at least 0.1."""
    return max(_LEAST_INDEX, (1 / images + 1 / reference) * _chi_squared(bins - 1, level))


@cache
def _chi_squared(degrees: int, level: float) -> float:
    """Returns what a chi-squared of so many degrees exceeds with the probability `level`, by bisection."""
    low, high = 0.0, 1.0
    while _exceeds(high, degrees) > level:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _exceeds(middle, degrees) > level else (low, middle)
    return high


def _exceeds(value: float, degrees: int) -> float:
    """Returns the probability that a chi-squared is larger (Abramowitz and Stegun 1964, 26.4.4 and 26.4.5)."""
    half = value / 2
    odd = degrees % 2
    steps = (step + odd / 2 for step in range(degrees // 2))
    tail = sum(math.pow(half, step) * math.exp(-half) / math.gamma(step + 1) for step in steps)
    return tail + (math.erfc(math.sqrt(half)) if odd else 0.0)


@cache
def _normal(level: float) -> float:
    return NormalDist().inv_cdf(1 - level)


def rate_difference(
    count: int, images: int, then: int, before: int, level: float, *, together: float = 1.0
) -> tuple[float, float]:
    """Returns how far two rates are apart, and how far they are by chance at most, two-sided at `level`.

    Args:
        count: Images now that something is true of.
        images: All of them.
        then: As many on validation.
        before: All of validation.
        level: Probability of being further apart by chance.
        together: Of which both samples count as smaller: see `design_effect`.
    """
    z = _normal(level / 2)
    (high, high_n), (low, low_n) = (count / images, images), (then / before, before)
    if high < low:
        (high, high_n), (low, low_n) = (low, low_n), (high, high_n)
    lower, upper = _wilson(high, high_n / together, z)[0], _wilson(low, low_n / together, z)[1]
    return high - low, math.hypot(high - lower, upper - low)


def _wilson(share: float, images: float, z: float) -> tuple[float, float]:
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return centre - half, centre + half
