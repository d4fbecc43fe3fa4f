"""A network that says the same of every image has learnt nothing, whatever its accuracy."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from medimg.config import Finding
from medimg.data.labels import amount, listing
from medimg.errors import AuditError
from medimg.evaluation.thresholds import Thresholds
from medimg.inference.predictions import Predictions

__all__ = ["CHECK", "check_varied"]

CHECK = "constant-predictions"
# Far below what float32 tells apart in two images, far above what a batch's shape changes in one.
_SAME = 1e-6


def check_varied(predictions: Predictions, thresholds: Thresholds, *, allow: Collection[str]) -> Finding:
    """Returns what is to be said of predictions that hardly differ; it travels with the report.

    Args:
        predictions: Those of validation.
        thresholds: Chosen on it.
        allow: Checks to override.

    Raises:
        AuditError: "constant-predictions": every image has the same probabilities, and that is not allowed.
    """
    scores = predictions.scores
    same = [name for name, column in zip(predictions.targets, scores.T, strict=True) if np.ptp(column) < _SAME]
    images = amount(len(scores), "validation image")
    if len(same) == len(predictions.targets):
        told = (
            f"the network gives all {images} the same probabilities: it has learnt nothing. Lower the learning rate, "
            "train for more epochs, or look at the images as they are resized: dataset.show()"
        )
        if CHECK not in allow:
            raise AuditError(CHECK, told)
        return Finding(check=CHECK, level="error", message=f"{told} (allowed)")
    if same:
        told = f"the network gives all {images} the same probability of {listing(same)}: it has learnt nothing of it"
        return Finding(check=CHECK, level="warning", message=told)
    if decided := _always(predictions, thresholds):
        told = f"all {images} are decided alike ({decided}): no better than always answering that"
        return Finding(check=CHECK, level="warning", message=told)
    return Finding(check=CHECK, level="fine", message=f"probabilities and decisions differ among {images}")


def _always(predictions: Predictions, thresholds: Thresholds) -> str:
    """Returns what is decided of every image; "" where decisions differ or there are several labels at once."""
    if predictions.task == "multilabel":
        return ""
    if predictions.task == "multiclass":
        best = np.unique(predictions.probabilities.argmax(axis=1))
        return repr(predictions.classes[best[0]]) if len(best) == 1 else ""
    (positive,) = predictions.targets
    found = np.unique(predictions.scores[:, 0] >= thresholds.values[positive])
    other = next(name for name in predictions.classes if name != positive)
    return (repr(positive) if found[0] else repr(other)) if len(found) == 1 else ""
