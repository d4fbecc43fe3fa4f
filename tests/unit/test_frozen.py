"""What exports are written from: a network with its weights as constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medimg.export.frozen import frozen, to_litert, write_saved_model
from medimg.inference.runtimes import LiteRTRuntime


@keras.saving.register_keras_serializable("tests")
class Hidden(keras.layers.Layer):  # type: ignore[misc]
    """Multiplies by a number that Keras does not know of."""

    def build(self, shape: Any) -> None:
        """Makes the number."""
        self.hidden = tf.Variable(2.0, trainable=False)

    def call(self, inputs: Any) -> Any:
        """Returns the product."""
        return inputs * self.hidden


def _network(*more: keras.layers.Layer) -> Any:
    entry = keras.Input((8, 8, 3))
    features = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(entry))
    for layer in more:
        features = layer(features)
    found = keras.layers.Dense(2, "softmax")(keras.layers.GlobalAveragePooling2D()(features))
    return keras.Model(entry, found)


@pytest.fixture(scope="module")
def network() -> Any:
    """Convolution, batch normalisation with statistics of its own, dropout and a head."""
    keras.utils.set_random_seed(0)
    made = _network(keras.layers.Dropout(0.5))
    made.layers[2].moving_mean.assign([30.0, -20.0, 5.0, 0.0])
    return made


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise: uint8 (3, 8, 8, 3)."""
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def test_both_exports_give_what_the_network_gives(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    """For inference, so without dropout; the SavedModel takes any number of images, by either of its names."""
    expected = np.asarray(network(images.astype(np.float32), training=False))
    (tmp_path / "model.tflite").write_bytes(to_litert(network))
    write_saved_model(network, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    floats = tf.constant(images, tf.float32)
    np.testing.assert_allclose(LiteRTRuntime(tmp_path / "model.tflite").outputs(images), expected, atol=1e-6)
    np.testing.assert_allclose(loaded.serve(floats), expected, atol=1e-6)
    np.testing.assert_allclose(loaded.signatures["serving_default"](floats)["output_0"], expected, atol=1e-6)


def test_a_weight_is_stored_once(tmp_path: Path) -> None:
    """Keras' own export has it twice; nothing is left for a checkpoint beside the graph."""
    entry = keras.Input((8, 8, 3))
    large = keras.layers.Dense(5000)(keras.layers.Flatten()(entry))
    write_saved_model(keras.Model(entry, keras.layers.Dense(1)(large)), tmp_path)
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert 8 * 8 * 3 * 5000 * 4 < stored < 1.1 * 8 * 8 * 3 * 5000 * 4


def test_more_weights_than_a_graph_holds_are_exported_by_keras(
    network: Any, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As variables, which lie in files of their own."""
    monkeypatch.setattr("medimg.export.frozen.MOST_BYTES", 100)
    assert frozen(network) is None
    write_saved_model(network, tmp_path / "1")
    assert (tmp_path / "1" / "variables" / "variables.index").stat().st_size > 200
    floats = images.astype(np.float32)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    np.testing.assert_allclose(loaded.serve(tf.constant(floats)), network(floats, training=False), atol=1e-6)


def test_a_variable_that_keras_does_not_know_is_exported_too(images: np.ndarray, tmp_path: Path) -> None:
    """Such a network is no constant: Keras writes its SavedModel."""
    network = _network(Hidden())
    assert frozen(network) is None
    write_saved_model(network, tmp_path / "1")
    floats = images.astype(np.float32)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    np.testing.assert_allclose(loaded.serve(tf.constant(floats)), network(floats, training=False), atol=1e-6)
    (tmp_path / "model.tflite").write_bytes(to_litert(network))
    found = LiteRTRuntime(tmp_path / "model.tflite", workers=1).outputs(images)
    np.testing.assert_allclose(found, network(floats, training=False), atol=1e-6)
