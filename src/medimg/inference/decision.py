"""From probabilities to a decision at the thresholds that were frozen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medimg.artifact import ModelRecord

__all__ = ["Prediction", "decide", "distribution"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        label: The decided class; for multilabel the positive labels joined by " | ", or "none".
        probabilities: Class to probability.
        positives: Classes at or above their threshold; for multiclass the most probable one.
        threshold: Class to the probability from which it is called positive; empty for multiclass.
        latency_ms: Decoding and inference, in milliseconds; for an endpoint as the server measured it.
    """

    label: str
    probabilities: Mapping[str, float]
    positives: tuple[str, ...]
    threshold: Mapping[str, float]
    latency_ms: float

    def to_json(self) -> dict[str, Any]:
        """Returns what travels from an endpoint."""
        return {
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "positives": list(self.positives),
            "threshold": dict(self.threshold),
            "latency_ms": self.latency_ms,
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
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{name!r}: {value:.4f}" for name, value in self.probabilities.items())
        return f"Prediction(label={self.label!r}, probabilities={{{shown}}}, latency_ms={self.latency_ms:.1f})"


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
        return Prediction(label, by_class, (label,), {}, latency_ms)
    positives = tuple(name for name, limit in record.thresholds.items() if by_class[name] >= limit)
    if record.task == "binary":
        negative = next(name for name in record.classes if name != record.positive)
        label = str(record.positive) if positives else negative
    else:
        label = " | ".join(positives) or "none"
    return Prediction(label, by_class, positives, dict(record.thresholds), latency_ms)
