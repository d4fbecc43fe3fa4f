"""From probabilities to a decision at the thresholds that were frozen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medimg.artifact import ModelRecord

if TYPE_CHECKING:
    from medimg.inference.predictions import Predictions

__all__ = ["Prediction", "decide", "decided", "distribution"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        label: The decided class; for multilabel the positive labels joined by " | ", or "none".
        probabilities: Class to probability.
        positives: Classes at or above their threshold; for multiclass the most probable one.
        threshold: Class to the probability from which it is called positive; empty for multiclass.
        latency_ms: Decoding and inference, in milliseconds; for an endpoint as the server measured it.
        uncertain: Whether another draw of validation patients might have decided otherwise: some probability lies in
            the band around its threshold that 95% of such draws span; for multiclass, not exactly one class is in the
            set that holds the true one in 90% of images. Always False where validation gave no band. It says nothing
            of an image unlike those of validation.
    """

    label: str
    probabilities: Mapping[str, float]
    positives: tuple[str, ...]
    threshold: Mapping[str, float]
    latency_ms: float
    uncertain: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns what travels from an endpoint."""
        return {
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "positives": list(self.positives),
            "threshold": dict(self.threshold),
            "latency_ms": self.latency_ms,
            "uncertain": self.uncertain,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prediction:
        """Returns the prediction that `to_json` wrote."""
        return cls(
            label=data["label"],
            probabilities=dict(data["probabilities"]),
            positives=tuple(data["positives"]),
            threshold=dict(data["threshold"]),
            latency_ms=float(data["latency_ms"]),
            uncertain=bool(data.get("uncertain", False)),  # a server of an earlier version does not say
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{name!r}: {value:.4f}" for name, value in self.probabilities.items())
        doubt = ", uncertain=True" if self.uncertain else ""
        return f"Prediction(label={self.label!r}, probabilities={{{shown}}}{doubt}, latency_ms={self.latency_ms:.1f})"


def distribution(record: ModelRecord, outputs: np.ndarray) -> np.ndarray:
    """Returns one probability for each class: float64 (n, classes) from the network's outputs (n, outputs).

    A binary network has one output, the probability of the positive class.
    """
    outputs = np.asarray(outputs, np.float64)
    if record.task != "binary":
        return outputs
    positive = outputs[:, 0]
    columns = [positive if name == record.positive else 1.0 - positive for name in record.classes]
    return np.stack(columns, axis=1)


def decide(record: ModelRecord, probabilities: Sequence[float] | np.ndarray, *, latency_ms: float) -> Prediction:
    """Returns the decision for one image's probabilities (classes,)."""
    by_class = {name: float(value) for name, value in zip(record.classes, probabilities, strict=True)}
    if record.task == "multiclass":
        label = max(by_class, key=by_class.__getitem__)
        limit = record.conformal
        uncertain = limit is not None and sum(value >= limit for value in by_class.values()) != 1
        return Prediction(label, by_class, (label,), {}, latency_ms, uncertain)
    positives = tuple(name for name, limit in record.thresholds.items() if by_class[name] >= limit)
    if record.task == "binary":
        negative = next(name for name in record.classes if name != record.positive)
        label = str(record.positive) if positives else negative
    else:
        label = " | ".join(positives) or "none"
    uncertain = any(low <= by_class[name] <= high for name, (low, high) in record.uncertain.items())
    return Prediction(label, by_class, positives, dict(record.thresholds), latency_ms, uncertain)


def decided(record: ModelRecord, predictions: Predictions) -> Predictions:
    """Returns a table with what the model decides for each sample: `decide` of each row."""
    answers = [decide(record, row, latency_ms=0.0) for row in predictions.probabilities]
    return replace(
        predictions,
        decided=tuple(answer.positives for answer in answers),
        uncertain=tuple(answer.uncertain for answer in answers),
    )
