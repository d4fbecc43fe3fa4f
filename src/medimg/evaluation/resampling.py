"""Every figure of a table, counted anew in each resample of its patients.

Nothing is sorted or compared twice: what a sample adds to is known beforehand, and a resample only changes how often
it adds. Counts then are products of sparse matrices with the weights of the patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medimg.evaluation.intervals import Ranking, bootstrap_weights, totals

__all__ = ["Resamples", "kappa", "matthews", "rates", "resample"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resamples:
    """Figures of many resamples; NaN where one could not be computed.

    Attributes:
        targets: Figure to float64 (targets, resamples).
        whole: Figure of all classes together to float64 (resamples,): "kappa", "mcc" and "brier", multiclass alone.
    """

    targets: Mapping[str, Floats]
    whole: Mapping[str, Floats]


def rates(counts: Floats) -> dict[str, Floats]:
    """Returns what follows from the four counts; NaN where the denominator is 0, infinite ratios as such.

    Args:
        counts: float64 (4, …): true positives, false negatives, false positives, true negatives.
    """
    true_positives, false_negatives, false_positives, true_negatives = counts
    positives, negatives = true_positives + false_negatives, false_positives + true_negatives
    called, cleared = true_positives + false_positives, false_negatives + true_negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = true_positives / positives, true_negatives / negatives
        # One factor a root: the product of four counts of a large table leaves the exact integers.
        spread = np.sqrt(called * cleared) * np.sqrt(positives * negatives)
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": true_positives / called,
            "npv": true_negatives / cleared,
            "lr_positive": sensitivity / (false_positives / negatives),
            "lr_negative": (false_negatives / positives) / specificity,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "mcc": (true_positives * true_negatives - false_positives * false_negatives) / spread,
        }


def matthews(table: Floats) -> Floats:
    """Returns the Matthews correlation of several classes; NaN where all images are of one class or decided so.

    Gorodkin, Computational Biology and Chemistry 28 (2004) 367-374.

    Args:
        table: float64 (classes, classes, …): true class, decided class.
    """
    size = table.sum(axis=(0, 1))
    right = np.einsum("kk...->...", table)
    true, decided = table.sum(axis=1), table.sum(axis=0)
    spread = np.sqrt(size**2 - (decided**2).sum(axis=0)) * np.sqrt(size**2 - (true**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: Floats = (right * size - (true * decided).sum(axis=0)) / spread
    return np.where(spread == 0, np.nan, correlation)


def kappa(table: Floats) -> Floats:
    """Returns Cohen's kappa with quadratic weights, for classes in order; NaN where chance alone is perfect.

    Cohen, Psychological Bulletin 70 (1968) 213-220.

    Args:
        table: float64 (classes, classes, …): true class, decided class.
    """
    steps = np.arange(len(table))
    distance = (steps[:, None] - steps) ** 2.0
    expected = np.einsum("ij,i...,j...->...", distance, table.sum(axis=1), table.sum(axis=0))
    seen = np.einsum("ij,ij...->...", distance, table) * table.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        agreement: Floats = 1 - seen / expected
    return np.where(expected == 0, np.nan, agreement)


def resample(
    truth: Floats,
    scores: Floats,
    decided: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.int64],
    *,
    multiclass: bool,
    resamples: int,
    seed: int,
) -> Resamples:
    """Returns the figures of resamples of the patients.

    Args:
        truth: 1, 0 or NaN (unknown), float64 (n, targets).
        scores: float64 (n, targets).
        decided: bool (n, targets).
        patients: int64 (n,), from `numbered`.
        multiclass: Whether each sample is of exactly one target, and decided to be of one.
        resamples: How many.
        seed: Of the generator.
    """
    count = int(patients.max()) + 1
    rows, columns = np.nonzero(~np.isnan(truth))
    y, p, whose = truth[rows, columns] == 1, scores[rows, columns], patients[rows]
    size = truth.shape[1]
    # The four cells of a target in the order of `rates`.
    cell = 2 * ~y + ~decided[rows, columns]
    counts = totals(columns * 4 + cell, whose, (size * 4, count))
    squares = totals(columns, whose, (size, count), (p - y) ** 2)
    rankings: list[Ranking | None] = []
    for target in range(size):
        here = columns == target
        both = y[here].any() and not y[here].all()
        rankings.append(Ranking(y[here], p[here], whose[here], count) if both else None)
    together = None
    if multiclass:
        together = totals(truth.argmax(axis=1) * size + decided.argmax(axis=1), patients, (size * size, count))

    def chunk(weights: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
        now = weights.shape[1]
        cells = np.moveaxis((counts @ weights).reshape(size, 4, now), 1, 0)
        known = cells.sum(axis=0)
        targets = rates(cells)
        areas = [np.full((2, now), np.nan) if one is None else np.stack(one.areas(weights)) for one in rankings]
        targets["auroc"], targets["auprc"] = np.stack(areas, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            targets["brier"] = squares @ weights / known
        if together is None:
            return targets, {}
        table = (together @ weights).reshape(size, size, now)
        return targets, {"kappa": kappa(table), "mcc": matthews(table), "brier": targets["brier"].sum(axis=0)}

    parts = [chunk(weights) for weights in bootstrap_weights(patients, resamples, seed)]
    return Resamples(_joined(targets for targets, _ in parts), _joined(whole for _, whole in parts))


def _joined(parts: Iterable[Mapping[str, Floats]]) -> dict[str, Floats]:
    chunks = list(parts)
    return {name: np.concatenate([chunk[name] for chunk in chunks], axis=-1) for name in chunks[0]}
