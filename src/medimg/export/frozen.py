"""A network as one TensorFlow function with its weights as constants: what TensorFlow's exports are written from.

Keras exports a network with its variables. Each is traced, saved and read again one by one, in every function, and the
same number is stored twice: 3.7 s and 20 MB for a MobileNetV2, against 0.5 s and 9 MB with constants. Batch
normalisation is then folded into the convolution before it where the SavedModel is served, which halves the time of
an image. Nobody trains on from an export: that is what `model.keras` is for.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["frozen", "to_litert", "write_saved_model"]

MOST_BYTES = 1_900_000_000
"""Of a graph's constants: TensorFlow writes graphs of less than 2 GiB."""

_BYTES = 4  # of a weight: exports are in float32


def frozen(network: Any) -> Any | None:
    """Returns a TensorFlow function of float32 (n, height, width, channels) to what the network gives for inference.

    It has nothing but constants: None where a layer brings along a variable or a table that Keras does not know of, or
    where the weights are more than a graph holds.
    """
    if sum(math.prod(weight.shape) * _BYTES for weight in network.weights) > MOST_BYTES:
        return None
    function = _traced(network)
    return None if function.captured_inputs else function


def write_saved_model(network: Any, folder: Path) -> None:
    """Writes the network as a SavedModel; what serves it calls "serving_default", from Python also `.serve`."""
    import tensorflow as tf

    function = frozen(network)
    if function is None:
        network.export(str(folder), format="tf_saved_model", verbose=False)
        return
    module = tf.Module()
    module.serve = function
    tf.saved_model.save(module, str(folder), signatures=function)


def to_litert(network: Any) -> bytes:
    """Returns a Keras network on TensorFlow as a LiteRT file in float32, without a SavedModel on the way.

    It has no signatures, and is not compared with the network: whoever runs it does that, on images of its own.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([_traced(network)], network)
    converter.experimental_lower_to_saved_model = False  # else it writes one, reads it, and takes half as long again
    content: bytes = converter.convert()
    return content


def _traced(network: Any) -> Any:
    import tensorflow as tf

    weights = [
        [np.asarray(weight) for weight in part]
        for part in (network.trainable_variables, network.non_trainable_variables)
    ]
    entry = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="image")

    @tf.function(autograph=False, input_signature=[entry])  # type: ignore[untyped-decorator]
    def run(images: Any) -> Any:
        # Made in here they are constants of the graph; made outside they would be its inputs.
        constants = [[tf.constant(weight) for weight in part] for part in weights]
        return network.stateless_call(*constants, images, training=False)[0]

    return run.get_concrete_function()
