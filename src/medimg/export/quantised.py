"""A network in 8-bit integers: weights per channel, activations at the ranges of representative images.

Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018.
Two things keep it usable for a classifier:

- The last activation stays in floating point. In 8 bits it has 256 values, of which sure images take the outermost two:
  their order, and with it the AUROC, would be lost.
- Rounding moves features, and so logits, on average. That is put right in the last layer, as in Nagel et al.,
  "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2, here by a slope and
  a shift of each logit, fitted by least squares to the logits of the trained network on the same images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medimg.artifact import ModelRecord
from medimg.export.frozen import write_saved_model
from medimg.export.network import PATHS, load
from medimg.home import atomic_write
from medimg.inference.runtimes import LiteRTRuntime
from medimg.models.logits import logit_layer, rescale

__all__ = ["correction", "quantise"]

Floats = npt.NDArray[np.float64]

_IN_FLOAT = ["LOGISTIC", "SOFTMAX"]
_SUREST = 1e-6  # probabilities nearer to 0 or 1 have lost the digits that a logit is made of
_BATCH = 32


def quantise(folder: Path, images: Path) -> dict[str, dict[str, str]]:
    """Writes the int8 export of the draft model folder; how well it agrees is for the gate to judge.

    Args:
        folder: With `model.keras` and `medimg.json`.
        images: A .npy file of representative images as the network takes them: uint8 (n, height, width, channels).

    Returns:
        As `medimg.export.network.write`.
    """
    record = ModelRecord.model_validate_json((folder / "medimg.json").read_bytes())
    shown = np.load(images, mmap_mode="r")
    network = load(folder)
    target = folder / PATHS["int8"]
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, _converted(network, shown))
    last = logit_layer(network, int(network.output_shape[-1]))
    if last is not None:
        parts = [shown[start : start + _BATCH].astype(np.float32) for start in range(0, len(shown), _BATCH)]
        wanted = np.concatenate([np.asarray(network(part, training=False)) for part in parts])
        found = LiteRTRuntime(target).outputs(shown)
        slope, shift = correction(found, wanted, exclusive=record.task == "multiclass")
        rescale(last, 1 / slope, shift)
        atomic_write(target, _converted(network, shown))
    return {"runtimes": {**record.runtimes, "int8": PATHS["int8"]}, "missing": {}}


def correction(found: npt.ArrayLike, wanted: npt.ArrayLike, *, exclusive: bool) -> tuple[Floats, Floats]:
    """Returns by what to multiply logits, and what to add then, for them to be those that were wanted: float64 (k,).

    Args:
        found: Probabilities (n, k).
        wanted: Those of the trained network on the same images, (n, k).
        exclusive: Whether they are a softmax's: then one slope is for all, as their logits are known up to a constant.
    """
    x, y = _logits(found, exclusive), _logits(wanted, exclusive)
    dx, dy = x - x.mean(axis=0), y - y.mean(axis=0)
    axis = None if exclusive else 0
    spread = np.square(dx).sum(axis=axis)
    slope = np.divide((dx * dy).sum(axis=axis), spread, out=np.ones_like(spread), where=spread > 0)
    # An output that hardly differs between images says nothing of a slope, and one that turned round cannot be saved.
    slope = np.broadcast_to(np.where((slope > 0.5) & (slope < 2), slope, 1.0), x.shape[1:])
    return slope, np.asarray(y.mean(axis=0) - slope * x.mean(axis=0))


def _logits(probabilities: npt.ArrayLike, exclusive: bool) -> Floats:
    p = np.clip(np.asarray(probabilities, np.float64), _SUREST, 1 - _SUREST)
    if exclusive:
        logits = np.log(p)
        return np.asarray(logits - logits.mean(axis=1, keepdims=True))
    return np.asarray(np.log(p / (1 - p)))


def _converted(network: Any, images: npt.NDArray[np.uint8]) -> bytes:
    """Returns the network as a LiteRT file with 8-bit weights and activations; input and output are float32."""
    import tensorflow as tf

    def representative() -> Iterator[list[npt.NDArray[np.float32]]]:
        for image in images:
            yield [image[None].astype(np.float32)]

    with tempfile.TemporaryDirectory(prefix="medimg-int8-") as folder:
        write_saved_model(network, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.experimental_enable_resource_variables = True
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=_IN_FLOAT)
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=representative, debug_options=options
        )
        content: bytes = debugger.get_nondebug_quantized_model()
        return content
