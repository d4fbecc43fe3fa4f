"""Two models counted on the same cases: the same resamples of patients, and McNemar's test with patients for images."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from medimg.evaluation.intervals import Ranking, totals
from medimg.evaluation.thresholds import FEWEST_TO_ESTIMATE
from medimg.inference.predictions import Predictions

__all__ = ["QUANTITIES", "McNemar", "Quantity", "Side", "caution", "mcnemar"]

Quantity = Literal["auroc", "sensitivity", "specificity", "accuracy", "brier"]
QUANTITIES: tuple[Quantity, ...] = ("auroc", "sensitivity", "specificity", "accuracy", "brier")

Values = npt.NDArray[np.float64]


class McNemar(BaseModel):
    """Where one model decided right and the other wrong.

    Attributes:
        first_only: Decisions that only the first model got right.
        second_only: Decisions that only the second got right.
        p: Two-sided and exact, that both are right equally often.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    first_only: int
    second_only: int
    p: float


class Side:
    """One model's counts by patient, ready to be weighted.

    Attributes:
        right: Whether each decision is right, bool (n, decisions a sample); unknown ones are not.
    """

    def __init__(
        self, table: Predictions, decided: npt.NDArray[np.bool_], patient: npt.NDArray[np.int64], count: int
    ) -> None:
        truth, self._task, self._size = table.truth, table.task, len(table.targets)
        known = ~np.isnan(truth)
        rows, columns = np.nonzero(known)
        y, p, whose = truth[known] == 1, table.scores[known], patient[rows]
        # Cells of a target: true negatives, false positives, false negatives, true positives.
        self._cells = totals(columns * 4 + 2 * y + decided[known], whose, (self._size * 4, count))
        self._squares = totals(columns, whose, (self._size, count), (p - y) ** 2)
        fewest = FEWEST_TO_ESTIMATE if table.task == "multilabel" else 1
        self._rankings: list[Ranking | None] = []
        for target in range(self._size):
            here = columns == target
            enough = min(int(y[here].sum()), int((~y[here]).sum())) >= fewest
            self._rankings.append(Ranking(y[here], p[here], whose[here], count) if enough else None)
        self.right = (decided == (truth == 1)) & known
        if table.task == "multiclass":  # an image has one decision, which is right where all columns are
            self.right, known = self.right.all(axis=1, keepdims=True), known[:, :1]
        self._decisions = totals(
            np.repeat([0, 1], len(table)), np.tile(patient, 2), (2, count),
            np.concatenate([self.right.sum(axis=1), known.sum(axis=1)]).astype(np.float64),
        )  # fmt: skip

    def figures(self, weights: Values) -> Values:
        """Returns each of `QUANTITIES` for each target and then over all: float64 (5, targets + 1, resamples).

        NaN where it cannot be estimated.

        Args:
            weights: float64 (patients, resamples).
        """
        negative, false, missed, found = np.moveaxis((self._cells @ weights).reshape(self._size, 4, -1), 1, 0)
        known = negative + false + missed + found
        areas = [np.full(weights.shape[1], np.nan) if one is None else one.areas(weights)[0] for one in self._rankings]
        with np.errstate(invalid="ignore", divide="ignore"):
            targets = np.stack(
                [
                    np.stack(areas),
                    found / (found + missed),
                    negative / (negative + false),
                    (found + negative) / known,
                    self._squares @ weights / known,
                ]
            )
            right, decisions = self._decisions @ weights
            accuracy = right / decisions
        if self._task == "multilabel":  # a label that is too rare has no figures at all
            targets[:, [one is None for one in self._rankings]] = np.nan
        whole = _means(targets)
        whole[QUANTITIES.index("accuracy")] = accuracy
        if self._task == "multiclass":  # Brier's own sum over the classes
            whole[QUANTITIES.index("brier")] *= self._size
        return np.concatenate([targets, whole[:, None]], axis=1)


def _means(targets: Values) -> Values:
    """Returns the mean over targets, of those that could be estimated: (5, targets, resamples) to (5, resamples)."""
    there = ~np.isnan(targets)
    with np.errstate(invalid="ignore"):
        mean: Values = np.where(there, targets, 0).sum(axis=1) / there.sum(axis=1)
    return mean


def caution(truth: Values, patient: npt.NDArray[np.int64], estimable: npt.NDArray[np.bool_]) -> Values:
    """Returns the variance to add to that of each difference: float64 (5, targets + 1), in the order of `figures`.

    Where the models decide alike on nearly all cases, resamples of the few others vary too little, and four cases to
    none would pass for a difference. As if of two patients more one fell to either model (Agresti and Min, Statistics
    in Medicine 24 (2005) 729-740); 0 for figures that are no rates.

    Args:
        truth: 1, 0 or NaN, float64 (n, targets).
        patient: int64 (n,).
        estimable: bool (5, targets), the figures that are in the means.
    """
    added = np.zeros((len(QUANTITIES), truth.shape[1] + 1))
    for row, quantity in enumerate(QUANTITIES):
        counted = {"sensitivity": truth == 1, "specificity": truth == 0, "accuracy": ~np.isnan(truth)}.get(quantity)
        if counted is not None and estimable[row].any():
            for target in np.flatnonzero(estimable[row]):
                added[row, target] = 1 / len(np.unique(patient[counted[:, target]])) ** 2
            added[row, -1] = added[row].sum() / estimable[row].sum() ** 2
    added[QUANTITIES.index("accuracy"), -1] = 1 / len(np.unique(patient)) ** 2
    return added


def mcnemar(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], patient: npt.NDArray[np.int64]) -> McNemar:
    """Returns McNemar's exact test of who is right, with patients in place of images.

    If the models are alike, a patient's surplus of right decisions of one could as well be the other's: the p is the
    share of all such exchanges that give a surplus as large. With one decision a patient this is McNemar's test in its
    exact, binomial form (McNemar, Psychometrika 12 (1947) 153-157).

    Args:
        first: Whether each decision of one model is right, bool (n, decisions a sample).
        second: Of the other.
        patient: int64 (n,).
    """
    gained = second.sum(axis=1) - first.sum(axis=1)
    surplus = np.rint(np.bincount(patient, weights=gained)).astype(np.int64)
    sizes, counts = np.unique(np.abs(surplus[surplus != 0]), return_counts=True)
    # Of the sum over patients of what falls to the second model: the share of each whole number.
    shares = np.ones(1)
    for size, number in zip(sizes.tolist(), counts.tolist(), strict=True):
        spaced = np.zeros(size * number + 1)
        spaced[::size] = _coins(number)
        shares = np.convolve(shares, spaced)
    total = len(shares) - 1
    far = np.abs(2 * np.arange(total + 1) - total) >= abs(int(surplus.sum()))
    return McNemar(
        first_only=int((first & ~second).sum()),
        second_only=int((second & ~first).sum()),
        p=min(1.0, float(shares[far].sum())),
    )


def _coins(number: int) -> Values:
    """Returns the probabilities of 0 to `number` heads: float64 (number + 1,)."""
    heads = [math.lgamma(number + 1) - math.lgamma(k + 1) - math.lgamma(number - k + 1) for k in range(number + 1)]
    return np.exp(np.array(heads) - number * math.log(2))
