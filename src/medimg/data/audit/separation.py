"""How well a few plain facts tell two sets of images apart: the measure behind the shortcut and shift checks.

A logistic regression on standardised features, their squares and products, cross-validated by patient. It finds what is
brighter, larger or in the middle of a range, and is as good here as boosted trees while it takes milliseconds (chest
set, pneumonia from mean and spread of brightness: AUROC 0.789, trees 0.781).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from medimg.data.index import PixelFacts

__all__ = [
    "FAMILIES",
    "FEATURES",
    "FEWEST",
    "HIDE_PROPORTIONS",
    "Separation",
    "plain_features",
    "ranking",
    "separation",
]

FEATURES = ("height", "width", "brightness", "contrast", "border brightness", "border contrast", "stretch")
"""The columns of `plain_features`."""

FAMILIES = {
    "size": ("height", "width"),
    "proportions": ("stretch",),
    "brightness and contrast": ("brightness", "contrast"),
    "the outer border": ("border brightness", "border contrast"),
}
"""What a reader calls the features, and which they are."""

HIDE_PROPORTIONS = "augment=medimg.Augment(stretch=0.3, views=2) trains on images of changed proportions"
"""What to do where squashed images betray the proportions they had; measured in docs/explanation/shift.md."""

FEWEST = 30
"""Images, and patients, on each side below which nothing is said."""

# More images would only narrow an interval that is narrow already.
_MOST = 4000
_FOLDS = 5
_RIDGE = 1.0
_STEPS = 12  # of Newton's method, which needs about six
_FURTHEST = 4.0  # standard deviations: squares of one wild value must not rule the fit

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Groups = npt.NDArray[np.str_] | npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Separation:
    """How well two sets of images are told apart.

    Attributes:
        auroc: Of images held out by patient; 0.5 is chance.
        low: Lower end of its 95% interval.
        high: Upper end.
    """

    auroc: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"AUROC {self.auroc:.2f} ({self.low:.2f} to {self.high:.2f})"


def plain_features(facts: Sequence[PixelFacts]) -> Floats:
    """Returns what is known of images without looking at what they show: float64 (n, len(FEATURES)).

    Sizes are logarithms, so that proportions are a difference.

    Args:
        facts: Of images that can be read.
    """
    rows = []
    for fact in facts:
        looks = fact.appearance
        assert looks is not None, "an image that was read has an appearance"  # noqa: S101 - rejected ones are left out
        size = (np.log(fact.height), np.log(fact.width))
        rows.append((*size, looks.mean, looks.std, looks.border_mean, looks.border_std, looks.stretch))
    return np.array(rows, np.float64).reshape(len(rows), len(FEATURES))


def separation(features: Floats, positive: Flags, groups: Groups, *, seed: int = 0) -> Separation | None:
    """Returns how well features tell positive images from the others; None where there are too few to say.

    The interval is DeLong's for clustered data (Obuchowski, Biometrics 53 (1997) 567-578): of patients, not images.

    Args:
        features: float64 (n, k).
        positive: bool (n,).
        groups: str or int64 (n,): the patient of each image; images of one are in one fold.
        seed: Of the folds.
    """
    chosen = _at_most(positive, groups, seed)
    features, positive, groups = features[chosen], positive[chosen], groups[chosen]
    for side in (positive, ~positive):
        if side.sum() < FEWEST or len(np.unique(groups[side])) < FEWEST:
            return None
    fold = _folds(positive, groups, seed)
    scores = np.zeros(len(features))
    for number in range(_FOLDS):
        held = fold == number
        scores[held] = _scores(features[~held], positive[~held], features[held])
    return _auroc(positive, scores, groups)


def ranking(features: Floats, positive: Flags) -> list[tuple[float, int]]:
    """Returns (AUROC, column) of each single feature, the one furthest from 0.5 first.

    Over 0.5: larger in positive images.

    Args:
        features: float64 (n, k).
        positive: bool (n,), with both values in it.
    """
    found = [(_wins(column[positive], column[~positive]).mean(), k) for k, column in enumerate(features.T)]
    return sorted(((float(auroc), k) for auroc, k in found), key=lambda pair: -abs(pair[0] - 0.5))


def _at_most(positive: Flags, groups: Groups, seed: int) -> npt.NDArray[np.int64]:
    """Returns the rows to use: all, or whole patients in a random order up to `_MOST` images a side."""
    _, group = np.unique(groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(group.max(initial=0) + 1)[group]
    kept = []
    for side in (positive, ~positive):
        rows = np.flatnonzero(side)
        rows = rows[np.argsort(place[rows], kind="stable")]
        if len(rows) > _MOST:
            rows = rows[place[rows] < place[rows[_MOST]]]
        kept.append(rows)
    return np.sort(np.concatenate(kept))


def _folds(positive: Flags, groups: Groups, seed: int) -> npt.NDArray[np.int64]:
    """Returns the fold of each image: patients dealt out in the order of their share of positive images."""
    _, group = np.unique(groups, return_inverse=True)
    share = np.bincount(group, positive) / np.bincount(group)
    order = np.lexsort((np.random.default_rng(seed).permutation(len(share)), share))
    fold = np.empty(len(share), np.int64)
    fold[order] = np.arange(len(share)) % _FOLDS
    return np.asarray(fold[group])


def _scores(features: Floats, positive: Flags, others: Floats) -> Floats:
    """Returns the logits for `others` of a ridge regression (Newton's method) fitted on `features`."""
    middle, spread = features.mean(axis=0), features.std(axis=0)
    varying = spread > 1e-9 * np.maximum(np.abs(middle), 1)

    def expanded(part: Floats) -> Floats:
        plain = np.clip((part[:, varying] - middle[varying]) / spread[varying], -_FURTHEST, _FURTHEST)
        first, second = np.triu_indices(plain.shape[1])
        return np.column_stack([plain, plain[:, first] * plain[:, second], np.ones(len(part))])

    x = expanded(features)
    penalty = np.full(x.shape[1], _RIDGE)
    penalty[-1] = 1e-6  # the constant is free
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (probability - positive) + penalty * weights
        curvature = (x * (probability * (1 - probability))[:, None]).T @ x + np.diag(penalty)
        weights -= np.linalg.solve(curvature, slope)
    return np.asarray(expanded(others) @ weights)


def _wins(first: Floats, second: Floats) -> Floats:
    """Returns for each value of `first` the share of `second` below it, ties counted half."""
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")
    return np.asarray(below / (2 * len(ordered)))


def _auroc(positive: Flags, scores: Floats, groups: Groups) -> Separation:
    wins, losses = _wins(scores[positive], scores[~positive]), 1 - _wins(scores[~positive], scores[positive])
    auroc = float(wins.mean())
    share = np.empty(len(scores))
    share[positive] = (wins - auroc) / positive.sum()
    share[~positive] = (losses - auroc) / (~positive).sum()
    _, group = np.unique(groups, return_inverse=True)
    patients = int(group.max()) + 1
    error = float(np.sqrt((np.bincount(group, share) ** 2).sum() * patients / (patients - 1)))
    return Separation(auroc, max(0.0, auroc - 1.96 * error), min(1.0, auroc + 1.96 * error))
