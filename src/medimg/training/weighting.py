"""Targets as the loss takes them, with the weights that balance classes and mask unknown labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Balance", "encode"]

# A label seen in 1 of 1,000 images would otherwise get 500 times the weight, and its few images would rule training.
MOST = 10.0


@dataclass(frozen=True)
class Balance:
    """Weights of each class, learnt from train and used for validation too.

    Attributes:
        positive: float32 (outputs,): weight of a present label or class.
        negative: float32 (outputs,): weight of an absent one; unused for exclusive classes.
    """

    positive: np.ndarray
    negative: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, task: str, outputs: int, *, balanced: bool) -> Balance:
        """Returns the weights for targets as `encode` gives them."""
        ones = np.ones(outputs, np.float32)
        if not balanced:
            return cls(ones, ones)
        if task == "multiclass":
            counts = np.bincount(y.astype(np.int64), minlength=outputs)
            return cls(np.minimum(len(y) / (outputs * np.maximum(counts, 1)), MOST).astype(np.float32), ones)
        known = np.maximum((~np.isnan(y)).sum(axis=0), 1)
        present = np.clip(np.nansum(y, axis=0) / known, 1e-6, 1 - 1e-6)
        return cls(
            np.minimum(0.5 / present, MOST).astype(np.float32), np.minimum(0.5 / (1 - present), MOST).astype(np.float32)
        )

    def weigh(self, y: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns targets without gaps and one weight each: 0 where the label is unknown."""
        if task == "multiclass":
            return y, self.positive[y.astype(np.int64)]
        weights = np.where(y == 1, self.positive, self.negative).astype(np.float32)
        weights[np.isnan(y)] = 0.0
        return np.nan_to_num(y).astype(np.float32), weights


def encode(targets: np.ndarray, task: str, classes: tuple[str, ...], positive: str | None) -> np.ndarray:
    """Returns targets as the network's outputs: (n, 1) of the positive class, (n,) indices, or (n, labels) with NaN."""
    if task == "binary":
        index = classes.index(str(positive))
        column: np.ndarray = (targets == index).astype(np.float32)[:, None]
        return column
    return targets
