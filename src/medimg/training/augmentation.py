"""Random changes of training images, as Keras layers in front of the network that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from medimg.config import Augment

if TYPE_CHECKING:
    from medimg.training.features import Images

__all__ = ["View", "augmentation", "augmented"]


def augmented(network: keras.Model, augment: Augment) -> keras.Model:
    """Returns a network that changes its images before it gives them to `network`; the weights are shared."""
    changes = augmentation(network.input_shape[1:], augment)
    return keras.Model(changes.input, network(changes.output))


def augmentation(shape: tuple[int, ...], augment: Augment) -> keras.Model:
    """Returns a network that changes images at random when it is called with `training=True`, and has no weights.

    Args:
        shape: Height, width and channels.
        augment: What to change, and how much.
    """
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
    if augment.stretch:
        layers.append(keras.layers.RandomZoom((-augment.stretch, 0.0), (-augment.stretch, 0.0), **black))
    if augment.brightness:
        layers.append(keras.layers.RandomBrightness(augment.brightness, **light))
    if augment.contrast:
        layers.append(keras.layers.RandomContrast(augment.contrast, **light))
    entry = keras.Input(shape, name="augmented")
    x = entry
    for layer in layers:
        x = layer(x)
    return keras.Model(entry, x)


class View:
    """The images of a source, each changed at random; the same batch of rows is always changed the same way.

    So a run that was interrupted goes on with the same bits, as long as it asks in the same batches.

    Args:
        source: The images.
        augment: What to change, and how much.
        key: Tells this view's changes from those of others: seed and number.

    Attributes:
        identity: What the images are, in words that another run uses too.
    """

    def __init__(self, source: Images, augment: Augment, key: tuple[int, ...]) -> None:
        self._source, self._key = source, key
        self.identity = f"{source.identity}|{augment.model_dump_json()}|{key}"
        self._changes = augmentation(source.x(np.arange(1)).shape[1:], augment)

    def __len__(self) -> int:
        return len(self._source)

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Returns changed images by position: float32 (n, height, width, channels) in 0..255."""
        for number, state in enumerate(self._changes.variables):  # it has no others than its layers' random states
            draw = np.random.default_rng([*self._key, number, int(rows[0])])
            state.assign(draw.integers(2**32, size=tuple(state.shape), dtype=np.uint32))
        return np.asarray(self._changes(self._source.x(rows), training=True))

    def y(self, rows: np.ndarray) -> np.ndarray:
        """Returns encoded targets by position, unchanged."""
        return self._source.y(rows)
