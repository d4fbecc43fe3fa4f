"""A network in other runtimes' files, each checked against the golden inputs before it is accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medimg.artifact import ModelRecord
from medimg.export.frozen import to_litert, write_saved_model
from medimg.framework import installed
from medimg.home import atomic_write
from medimg.inference.decision import distribution
from medimg.inference.predictor import TOLERANCE

__all__ = ["PATHS", "TRAINED", "load", "write"]

# The SavedModel lies in a folder that is its version's number: TensorFlow Serving takes `exports/saved_model` as it is.
PATHS = {
    "litert": "exports/model.tflite",
    "saved_model": "exports/saved_model/1",
    "onnx": "exports/model.onnx",
    "int8": "exports/int8.tflite",
}

TRAINED = ("saved_model", "litert")
"""What every training makes, in this order: the second is made of the first."""

_NOISE = 8  # images on which ONNX must agree too: the golden ones look alike, and its conversion has been broken

Run = Callable[[np.ndarray], np.ndarray]
"""From one image, float32 (height, width, channels), to the network's outputs (1, outputs)."""


def write(
    folder: Path, wanted: Sequence[str] = TRAINED, check: Callable[[], None] = lambda: None
) -> dict[str, dict[str, str]]:
    """Writes those exports that the draft model folder lacks, and golden probabilities where it has none.

    Args:
        folder: With `model.keras`, `medimg.json` and the golden files.
        wanted: Which of `PATHS`.
        check: Called before each; raises to stop.

    Returns:
        "runtimes", runtime to path inside the folder, and "missing", runtime to why it is not there.
    """
    record = ModelRecord.model_validate_json((folder / "medimg.json").read_bytes())
    golden = sorted(path for path in (folder / "golden").iterdir() if path.suffix != ".json")
    images = np.stack([record.preprocessing.prepare(path) for path in golden]).astype(np.float32)
    model = load(folder)
    reference = _reference(folder, record, model, dict(zip((path.name for path in golden), images, strict=True)))

    runtimes = dict(record.runtimes)
    missing: dict[str, str] = {}
    for name in wanted:
        if name in runtimes:
            continue
        if not installed("tensorflow"):
            missing[name] = (
                f"it was trained without TensorFlow, which writes it. Where that is installed: model.export({name!r})"
            )
            continue
        target = folder / PATHS[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        check()
        try:
            run = _WRITERS[name](model, target)
            found = distribution(record, np.concatenate([run(image) for image in images]))
            differences = [np.abs(found - reference).max()]
            if name == "onnx":
                differences.append(_on_noise(record, model, run))
        except Exception as error:  # an export that fails is left out and recorded, whatever the reason
            # Only the kind of error: its text may hold this machine's paths, and the folder travels.
            missing[name] = f"the conversion failed ({type(error).__name__})"
        else:
            worst = float(np.max(differences))
            if worst <= TOLERANCE:
                runtimes[name] = PATHS[name]
            else:
                missing[name] = f"its probabilities differ from Keras' by {worst:.2g}"
        if name in missing:
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
    return {"runtimes": runtimes, "missing": missing}


def load(folder: Path) -> Any:
    """Returns the trained network of a model folder."""
    import keras

    return keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)


def _reference(folder: Path, record: ModelRecord, model: Any, images: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the golden probabilities, float64 (n, classes): those recorded, else computed by Keras and recorded."""
    file = folder / "golden" / "golden.json"
    if not file.exists():
        # One image at a time, as every server does: the batch's size may change the last bits.
        outputs = np.concatenate([np.asarray(model(image[None], training=False)) for image in images.values()])
        rows = dict(zip(images, distribution(record, outputs).tolist(), strict=True))
        atomic_write(file, json.dumps(rows, indent=1))
    rows = json.loads(file.read_text())
    return np.array([rows[name] for name in images])


def _litert(model: Any, target: Path) -> Run:
    import tensorflow as tf

    from medimg.inference.runtimes import LiteRTRuntime

    saved_model = target.parents[1] / PATHS["saved_model"]
    if saved_model.exists():
        # Of the SavedModel, so that the file has its signature.
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
        converter.experimental_enable_resource_variables = True
        target.write_bytes(converter.convert())
    else:
        target.write_bytes(to_litert(model))
    runtime = LiteRTRuntime(target, workers=1)
    return lambda image: runtime.outputs(image[None])


def _saved_model(model: Any, target: Path) -> Run:
    import tensorflow as tf

    write_saved_model(model, target)
    loaded = tf.saved_model.load(str(target))
    return lambda image: np.asarray(loaded.serve(tf.constant(image[None])))


def _onnx(model: Any, target: Path) -> Run:
    from medimg.inference.runtimes import ONNXRuntime

    model(np.zeros((1, *model.input_shape[1:]), np.float32))  # Keras exports none that was never called
    model.export(str(target), format="onnx", verbose=False)
    runtime = ONNXRuntime(target, workers=1)
    return lambda image: runtime.outputs(image[None])


def _on_noise(record: ModelRecord, model: Any, run: Run) -> float:
    """Returns the largest difference of a probability between Keras and a runtime on noise, one image at a time."""
    side, channels = record.preprocessing.image_size, record.preprocessing.channels
    noise = np.random.default_rng(0).integers(0, 256, (_NOISE, side, side, channels)).astype(np.float32)
    differences = [
        distribution(record, run(image)) - distribution(record, model(image[None], training=False)) for image in noise
    ]
    return float(np.abs(differences).max())


_WRITERS: dict[str, Callable[[Any, Path], Run]] = {"saved_model": _saved_model, "litert": _litert, "onnx": _onnx}
