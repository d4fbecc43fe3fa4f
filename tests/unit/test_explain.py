"""Grad-CAM shows the place that a network used, for every kind of network that can be walked through."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from medimg import models
from medimg.artifact import ModelFolder
from medimg.config import TrainConfig
from medimg.data.decode import to_pixels
from medimg.data.synthetic import phantom
from medimg.errors import ConfigError, ImageRejected
from medimg.evaluation.explain import Map, grad_cam, overlay

SIZES = {"inception_v3": 128, "xception": 128}  # below, their last maps are a cell or three


def images(count: int, size: int, channels: int = 1) -> np.ndarray:
    """Returns noise as a network takes it."""
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, channels)).astype(np.float32)


def chain(layers: Sequence[Any], size: int, channels: int = 1) -> Any:
    """Returns a functional network of layers in a row."""
    import keras

    image = x = keras.Input((size, size, channels))
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.available())
def test_every_architecture_is_explained(name: str) -> None:
    """Random weights: a map of the image's size with 1 as its largest value, not flat, and another for each image."""
    import keras

    keras.utils.set_random_seed(0)
    size = SIZES.get(name, 64)
    config = TrainConfig(model=name, weights=None, image_size=size)
    network = models.build(config, channels=1, outputs=3, task="multiclass", weights=None).model
    # So that something speaks for the class: deep random features are nearly the same everywhere, and never negative.
    last = next(layer for layer in reversed(network.layers) if layer.weights)
    last.kernel.assign(np.abs(last.kernel))
    maps = grad_cam(network, images(2, size), 1)
    assert (maps.shape, maps.dtype) == ((2, size, size), np.float32)
    assert maps.min() >= 0
    assert maps.max(axis=(1, 2)).tolist() == [1, 1]
    assert maps.std(axis=(1, 2)).min() > 0
    assert not np.array_equal(maps[0], maps[1])


def test_a_pooled_network_gives_the_class_activation_map_exactly() -> None:
    """Zhou et al. 2016: features times the class's weights, where the network itself averages."""
    import keras

    keras.utils.set_random_seed(0)  # one start in five has nothing that speaks for the class
    convolution, last = keras.layers.Conv2D(4, 3, padding="same", activation="relu"), keras.layers.Dense(3, "softmax")
    network = chain([convolution, keras.layers.GlobalAveragePooling2D(), last], 24)
    x = images(3, 24)
    activation = np.maximum(np.asarray(convolution(x)) @ np.asarray(last.kernel)[:, 1], 0)
    expected = activation / activation.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(grad_cam(network, x, 1), expected, atol=1e-5)


@pytest.mark.parametrize("inner", ["flat", "nested with the pooling", "nested without it", "sequential", "own layer"])
def test_networks_inside_networks_give_the_map_of_the_flat_one(inner: str) -> None:
    """The same layers in other boxes are the same network."""
    import keras

    class Block(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, layers: Sequence[Any]) -> None:
            super().__init__()
            self.parts = list(layers)

        def call(self, x: Any) -> Any:
            for part in self.parts:
                x = part(x)
            return x

    keras.utils.set_random_seed(1)
    body = [keras.layers.Conv2D(4, 3, activation="relu", padding="same") for _ in range(2)]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation="softmax")]
    flat = chain([*body, *head], 20)
    boxes = {
        "flat": lambda: flat,
        "nested with the pooling": lambda: chain([chain([*body, head[0]], 20), head[1]], 20),
        "nested without it": lambda: chain([chain(body, 20), *head], 20),
        "sequential": lambda: keras.Sequential([keras.Input((20, 20, 1)), keras.Sequential(body), *head]),
        "own layer": lambda: chain([Block(body), *head], 20),
    }
    x = images(2, 20)
    np.testing.assert_allclose(grad_cam(boxes[inner](), x, 0), grad_cam(flat, x, 0), atol=1e-6)


def test_a_certain_network_is_explained_as_well_as_a_doubtful_one() -> None:
    """The logit is explained: the gradient of a probability of 1.0 is 0."""
    import keras

    keras.utils.set_random_seed(0)
    last = keras.layers.Dense(1, activation="sigmoid")
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D(), last]
    network = chain(layers, 16)
    x = images(2, 16)
    last.kernel.assign(np.abs(last.kernel))
    doubtful = grad_cam(network, x, 0)
    last.kernel.assign(last.kernel * 1e4)
    assert (np.asarray(network(x)) == 1).all()
    np.testing.assert_allclose(grad_cam(network, x, 0), doubtful, atol=1e-5)
    assert doubtful.max() == 1


@pytest.mark.parametrize("at", [(24, 30), (60, 40), (70, 75)])
@pytest.mark.parametrize(
    ("padding", "strides"), [("valid", (1, 1, 1)), ("valid", (2, 2, 2)), ("same", (2, 1, 2)), ("same", (1, 1, 1))]
)
def test_the_map_lies_over_what_made_it(at: tuple[int, int], padding: str, strides: tuple[int, ...]) -> None:
    """A blob is found within a cell, also where convolutions without padding shrink the maps."""
    import keras

    layers: list[Any] = [
        keras.layers.Conv2D(1, 5, stride, padding=padding, kernel_initializer="ones") for stride in strides
    ]
    layers += [keras.layers.ZeroPadding2D(((2, 0), (0, 2))), keras.layers.MaxPooling2D(2, padding=padding)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, kernel_initializer="ones")]
    x = np.zeros((1, 96, 96, 1), np.float32)
    x[0, at[0] - 2 : at[0] + 3, at[1] - 2 : at[1] + 3] = 1
    found = grad_cam(chain(layers, 96), x, 0)[0]
    rows, columns = np.mgrid[:96, :96]
    centre = np.array([(rows * found).sum(), (columns * found).sum()]) / found.sum()
    assert np.abs(centre - at).max() <= int(np.prod(strides)), f"found at {centre}"


def test_networks_that_cannot_be_explained_say_so() -> None:
    """Without a convolution there is no map, and through a class there is no way."""
    import keras

    dense = chain([keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(2)], 8)
    with pytest.raises(ConfigError, match="has no convolution"):
        grad_cam(dense, images(1, 8), 0)

    class Own(keras.Model):  # type: ignore[misc]
        output_shape = (None, 2)

        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(ConfigError, match=r"keras.Model\(inputs, outputs\)"):
        grad_cam(Own(), images(1, 8), 0)

    stops = keras.layers.Lambda(keras.ops.stop_gradient, output_shape=lambda shape: shape)
    cut = chain([keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D(), stops, keras.layers.Dense(2)], 8)
    with pytest.raises(ConfigError, match="lets no gradient through"):
        grad_cam(cut, images(1, 8), 0)


def test_a_layer_of_the_users_own_may_name_its_settings_as_it_likes() -> None:
    """What lies where is known of Keras's own windows only; any other layer's maps are stretched over the image."""
    import keras

    class Blur(keras.layers.Layer):  # type: ignore[misc]
        kernel_size = 7
        pool_size = strides = padding = "mine"

        def call(self, x: Any) -> Any:
            return x[:, 1:-1, 1:-1] / 2

    layers = [Blur(), keras.layers.Conv2D(2, 3), Blur(), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    assert grad_cam(chain(layers, 16), images(2, 16), 0).shape == (2, 16, 16)


def _films(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int] | None]]:
    rng = np.random.default_rng(seed)
    made = [phantom(rng, finding=bool(number % 2), size=64) for number in range(count)]
    return (
        np.stack([film for film, _ in made])[..., None].astype(np.float32),
        np.arange(count) % 2,
        [p for _, p in made],
    )


def _inside(maps: Map, places: Sequence[tuple[int, int, int] | None]) -> list[bool]:
    """Returns for each film with a finding whether the brightest point of its map lies in it."""
    peaks = [np.unravel_index(each.argmax(), each.shape) for each in maps]
    both = [(peak, place) for peak, place in zip(peaks, places, strict=True) if place is not None]
    return [bool(np.hypot(row - at[0], column - at[1]) <= at[2]) for (row, column), at in both]


def _alike(first: Map, second: Map) -> np.ndarray:
    """Returns Spearman's correlation of each pair of maps, without the border that small_cnn has no cells for."""
    inner = (slice(None), slice(10, -10), slice(10, -10))
    return np.array([spearmanr(a, b, axis=None).statistic for a, b in zip(first[inner], second[inner], strict=True)])


@pytest.mark.slow
def test_the_brightest_point_lies_in_the_planted_finding_and_goes_with_the_weights() -> None:
    """In at least 80% of unseen phantoms with a nodule; with random weights nothing of the map is left.

    The second is the sanity check of Adebayo et al. 2018: a map that stays would show edges, not the network.
    """
    import keras

    keras.utils.set_random_seed(0)
    config = TrainConfig(model="small_cnn", weights=None, image_size=64)
    network = models.build(config, channels=1, outputs=1, task="binary", weights=None).model
    network.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy", jit_compile=False)
    x, y, _ = _films(500, seed=0)
    network.fit(x, y, epochs=10, batch_size=32, verbose=0)

    x, y, places = _films(120, seed=1)
    maps = grad_cam(network, x, 0)
    found = _inside(maps, places)
    assert len(found) == 60
    assert np.mean(found) >= 0.8

    random = models.build(config, channels=1, outputs=1, task="binary", weights=None).model
    random.layers[-1].kernel.assign(np.abs(random.layers[-1].kernel))  # so that no map is empty
    meaningless = grad_cam(random, x, 0)
    assert np.mean(_inside(meaningless, places)) < 0.2
    assert np.mean(_alike(maps, meaningless)[y == 1]) < 0.4


# -- of a model folder ----------------------------------------------------------------------------------------------


def test_a_model_explains_whatever_it_predicts(trained: ModelFolder, phantoms: Path, tmp_path: Path) -> None:
    """A path, bytes, a PIL image and an array give the same; the class defaults to the positive one."""
    path = next((phantoms / "test/NODULE").iterdir())
    explained = trained.explain(path)
    assert (explained.target, explained.map.shape) == ("NODULE", (64, 64))
    assert explained.prediction.label == trained.predict(path).label
    for image in (path.read_bytes(), Image.open(path), to_pixels(path)):
        np.testing.assert_array_equal(trained.explain(image).map, explained.map)
    other = trained.explain(path, "CLEAR")
    assert other.map.argmax() != explained.map.argmax(), "what speaks most for one cannot speak for the other"
    shown = Image.open(io.BytesIO(explained._repr_png_()))
    assert (shown.size, shown.mode) == ((128, 64), "RGB")
    assert explained.save(tmp_path / "seen.png").read_bytes() == explained._repr_png_()
    assert "what spoke for NODULE" in repr(explained)


def test_a_class_that_is_none_is_refused(trained: ModelFolder, phantoms: Path) -> None:
    """With the nearest name; and what cannot be read is refused as predict refuses it."""
    with pytest.raises(ConfigError, match="Did you mean 'NODULE'"):
        trained.explain(next((phantoms / "test/NODULE").iterdir()), "NODUL")
    with pytest.raises(ImageRejected):
        trained.explain(b"no image")


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_an_overlay_leaves_alone_what_did_not_speak(shape: tuple[int, ...]) -> None:
    """And lets the film through where it spoke most."""
    film = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    strength = np.zeros((8, 8), np.float32)
    strength[:4] = 1
    seen = overlay(film, strength)
    grey = film if film.ndim == 3 else np.repeat(film[..., None], 3, axis=2)
    np.testing.assert_array_equal(seen[4:], grey[4:])
    assert (seen[:4].std(axis=(0, 1)) > 0).all()
