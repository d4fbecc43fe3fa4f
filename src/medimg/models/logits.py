"""The layer that makes a network's logits, and how they are changed in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["logit_layer", "rescale"]

Floats = npt.NDArray[np.float64]


def logit_layer(network: Any, outputs: int) -> Any | None:
    """Returns the layer that makes the logits; None where it is not followed by their mean and activation alone."""
    import keras

    layers = list(network.layers)
    after: list[Any] = []
    while layers and not layers[-1].weights:
        after.insert(0, layers.pop())
    if not layers or not isinstance(layers[-1], keras.layers.Dense | keras.layers.Conv2D) or layers[-1].bias is None:
        return None
    linear = all(isinstance(one, keras.layers.GlobalAveragePooling2D) for one in after[:-1])
    closed = [layers[-1], *after][-1]
    known = getattr(closed, "activation", None) in (keras.activations.sigmoid, keras.activations.softmax)
    straight = not after or layers[-1].activation is keras.activations.linear
    return layers[-1] if linear and known and straight and layers[-1].bias.shape == (outputs,) else None


def rescale(layer: Any, temperature: Floats, shift: Floats) -> None:
    """Divides each logit by its temperature and adds its shift, float64 (outputs,), in the layer that makes them."""
    kernel, bias = np.asarray(layer.kernel, np.float64), np.asarray(layer.bias, np.float64)
    layer.kernel.assign((kernel / temperature).astype(np.float32))
    layer.bias.assign((bias / temperature + shift).astype(np.float32))
