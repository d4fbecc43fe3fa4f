"""A network in the three views that training needs, and which of its layers learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medimg.errors import ConfigError

if TYPE_CHECKING:
    import keras

__all__ = ["Classifier", "freeze", "top_layers"]


@dataclass(frozen=True)
class Classifier:
    """One functional Keras model, with its backbone and head as further models over the same layers.

    Attributes:
        model: Pixels as float32 (n, height, width, channels) in 0..255 to float32 probabilities (n, outputs).
            Preprocessing is inside; it saves and loads in safe mode without custom objects.
        backbone: The same pixels to float32 features (n, d); None for a network without a pretrained part.
        head: Features (n, d) to probabilities; None where backbone is None.
    """

    model: keras.Model
    backbone: keras.Model | None
    head: keras.Model | None


def freeze(classifier: Classifier) -> None:
    """Makes the head the only part that learns; batch normalisation then uses its stored statistics.

    Raises:
        ConfigError: The network has no backbone.
    """
    _train_only(_backbone(classifier), [])


def top_layers(classifier: Classifier, fraction: float) -> None:
    """Makes the head and the top `fraction` of the backbone learn; batch normalisation stays frozen.

    The fraction counts layers with weights of their own, so that it means the same for every architecture, and
    takes at least one. Batch normalisation keeps its stored statistics because those of a few small batches of
    another domain would undo what was pretrained (Keras' guide to transfer learning says the same).

    Args:
        classifier: A classifier with a backbone.
        fraction: Over 0, up to 1.

    Raises:
        ConfigError: The network has no backbone.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: must be over 0 and at most 1")
    import keras

    backbone = _backbone(classifier)
    learning = [
        layer for layer in backbone.layers if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)
    ]
    _train_only(backbone, learning[-math.ceil(fraction * len(learning)) :])


def _train_only(backbone: Any, layers: list[Any]) -> None:
    # The model's own flag must agree, or `backbone.trainable_weights` is empty. It goes first, since it overwrites
    # the layers' flags, though only where it changes: setting it alone would not undo an earlier choice.
    backbone.trainable = bool(layers)
    kept = {id(layer) for layer in layers}
    for layer in backbone.layers:
        layer.trainable = id(layer) in kept


def _backbone(classifier: Classifier) -> Any:
    if classifier.backbone is None:
        raise ConfigError(
            f"{classifier.model.name} has no pretrained backbone to freeze or fine-tune: it trains as a whole. "
            "Set fine_tune_epochs=0"
        )
    return classifier.backbone
