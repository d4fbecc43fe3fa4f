"""Several devices under MirroredStrategy train as one device does."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from medimg.training.steps import pad

# TensorFlow fixes its devices at first use, so this runs in a process of its own.
_TWO_DEVICES = """
import json, sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from medimg.training.steps import Devices, compile_for

seen = []

class Watch(keras.layers.Layer):
    # Notes how many rows each replica is given, and in which replica it runs.
    def call(self, x):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        tf.py_function(lambda n, r: seen.append((int(r), int(n))), [tf.shape(x)[0], replica], [])
        return x

    def compute_output_shape(self, shape):
        return shape

def train(devices, watch):
    keras.utils.set_random_seed(7)
    with devices.scope():
        entry = keras.Input((6, 6, 1))
        x = Watch()(entry) if watch else entry
        x = keras.layers.Conv2D(4, 3, activation="relu")(x)
        norm = keras.layers.BatchNormalization()
        norm.trainable = False
        x = norm(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(entry, keras.layers.Dense(1, activation="sigmoid")(x))
        compile_for(model, "binary", 1e-2)
        model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    x = rng.random((21, 6, 6, 1), dtype=np.float32)
    y = (x.mean(axis=(1, 2)) > 0.5).astype(np.float32)
    weights = rng.random((21, 1), dtype=np.float32) + 0.5
    step = devices.step(model)
    losses = [step(x[i:i + 8], y[i:i + 8], weights[i:i + 8]) for _ in range(5) for i in (0, 8, 16)]
    return [w.numpy().tolist() for w in model.weights], losses

two = Devices([device.name for device in tf.config.list_logical_devices("CPU")])
one = Devices([])
weights_two, losses_two = train(two, True)
weights_one, losses_one = train(one, False)
print(json.dumps({"count": two.count, "seen": seen, "two": weights_two, "one": weights_one,
                  "losses_two": losses_two, "losses_one": losses_one}))
"""


@pytest.fixture(scope="module")
def result() -> dict[str, list[object]]:
    """Five passes over 21 rows in batches of 8, on one device and on two."""
    run = subprocess.run([sys.executable, "-c", _TWO_DEVICES], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_each_of_two_devices_gets_half_the_batch(result: dict) -> None:
    """Batches of 8, 8 and 5 rows: four rows each, and three each after one row of padding."""
    assert result["count"] == 2
    sizes = [size for _, size in result["seen"]]
    assert sizes == [4, 4, 4, 4, 3, 3] * 5
    assert {replica for replica, _ in result["seen"]} == {0, 1}


def test_two_devices_end_with_the_weights_of_one(result: dict) -> None:
    """The remainder is padded with weight 0, so the mean over real rows is the same."""
    for two, one in zip(result["two"], result["one"], strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    np.testing.assert_allclose(result["losses_two"], result["losses_one"], rtol=0, atol=1e-5)


def test_padding_has_weight_zero_and_keeps_the_mean() -> None:
    """The weighted mean of a padded batch is that of its real rows."""
    x, weights = np.arange(5.0)[:, None], np.linspace(0.5, 1.5, 5)[:, None]
    (padded,), padded_weights = pad((x,), weights, 4)
    assert len(padded) == 8
    assert np.all(padded_weights[5:] == 0)
    assert np.isclose((padded * padded_weights).mean(), (x * weights).mean())


def test_a_full_batch_is_not_touched() -> None:
    """No copy is made where nothing is missing."""
    x, weights = np.ones((4, 2)), np.ones((4, 1))
    (same,), same_weights = pad((x,), weights, 2)
    assert same is x
    assert same_weights is weights
