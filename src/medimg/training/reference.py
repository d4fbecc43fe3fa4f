"""What a served model is watched by: the images of validation, and what the model says of them."""

from __future__ import annotations

from medimg.artifact import ModelRecord
from medimg.data.pack import Pack
from medimg.inference.appearance import statistics
from medimg.inference.decision import decide
from medimg.inference.monitoring import Reference, Seen
from medimg.inference.predictions import Predictions

__all__ = ["validation_reference"]

_CHUNK = 256  # images in memory at a time


def validation_reference(record: ModelRecord, pack: Pack, predictions: Predictions) -> Reference:
    """Returns the reference that is kept with a model.

    Args:
        record: With the thresholds, which decide what is positive.
        pack: The images.
        predictions: Of the pack's validation split, in its order.
    """
    rows = pack.rows("val")
    seen: list[Seen] = []
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        prepared = record.preprocessing.prepare_batch(pack.images(part))
        for image, probabilities in zip(prepared, predictions.probabilities[start : start + len(part)], strict=True):
            answer = decide(record, probabilities, latency_ms=0.0).to_json()
            seen.append(Seen.of(answer, statistics(image)))
    return Reference.of(seen, positive=record.positive, groups=predictions.groups)
