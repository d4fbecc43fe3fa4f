"""Random changes of training images, as Keras layers in front of the network that trains."""

from __future__ import annotations

from typing import Any

import keras

from medimg.config import Augment

__all__ = ["augmented"]


def augmented(network: keras.Model, augment: Augment) -> keras.Model:
    """Returns a network that changes its images before it gives them to `network`; the weights are shared."""
    # In float32 under every precision: eight bits of mantissa would band the greys.
    plain: dict[str, Any] = {"dtype": "float32"}
    black: dict[str, Any] = {"fill_mode": "constant", **plain}
    light: dict[str, Any] = {"value_range": (0, 255), **plain}
    layers = []
    if augment.flip:
        layers.append(
            keras.layers.RandomFlip({"both": "horizontal_and_vertical"}.get(augment.flip, augment.flip), **plain)
        )
    if augment.rotation:
        layers.append(keras.layers.RandomRotation(augment.rotation / 360, **black))
    if augment.translation:
        layers.append(keras.layers.RandomTranslation(augment.translation, augment.translation, **black))
    if augment.zoom:
        layers.append(keras.layers.RandomZoom(augment.zoom, **black))
    if augment.brightness:
        layers.append(keras.layers.RandomBrightness(augment.brightness, **light))
    if augment.contrast:
        layers.append(keras.layers.RandomContrast(augment.contrast, **light))
    entry = keras.Input(network.input_shape[1:], name="augmented")
    x = entry
    for layer in layers:
        x = layer(x)
    return keras.Model(entry, network(x))
