"""A network in the three views that training needs, and which of its layers learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from medimg.config import Task, TrainConfig
from medimg.errors import ConfigError

if TYPE_CHECKING:
    import keras

__all__ = ["Builder", "Classifier", "freeze", "top_layers"]


@dataclass(frozen=True)
class Classifier:
    """One functional Keras model, with its backbone and head as further models over the same layers.

    Attributes:
        model: Pixels as float32 (n, height, width, channels) in 0..255 to float32 probabilities (n, outputs).
            Preprocessing is inside; it saves and loads in safe mode without custom objects.
        backbone: The same pixels to float32 features (n, d); None for a network that can only be trained as a whole.
        head: Features (n, d) to probabilities; None where backbone is None.
    """

    model: keras.Model
    backbone: keras.Model | None
    head: keras.Model | None


class Builder(Protocol):
    """A function that makes a network: `model="module:function"` names one of the user's own."""

    def __call__(
        self, config: TrainConfig, *, channels: Literal[1, 3], outputs: int, task: Task
    ) -> keras.Model | Classifier:
        """Returns a new network from pixels, float32 (n, height, width, channels) in 0..255, to probabilities.

        Args:
            config: `image_size` and `dropout`; `model_options` are the user's own to read.
            channels: 1 for grey images, 3 for RGB.
            outputs: Probabilities an image: 1 for a binary task, else the number of classes.
            task: "multiclass" needs a softmax at the end, "binary" and "multilabel" a sigmoid.

        Returns:
            A `keras.Model` of Keras' own layers: (n, outputs) as float32. If one of its layers is called "features"
            and gives (n, d), weights can be taken over up to there. Or a `Classifier`, which names its parts.
        """


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
