"""Exports of a trained network for other runtimes, each checked against Keras before it is accepted.

Where the training used a GPU, mixed precision or several devices, this runs in a fresh process on CPU in float32
(`python -m medimg.export MODEL_FOLDER`), so that none of them leaves a trace in what is served; the golden
probabilities are computed there too. Else the process at hand is as good: TensorFlow is not imported a second time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medimg.artifact import ModelRecord
from medimg.home import atomic_write
from medimg.inference.decision import distribution
from medimg.inference.predictor import TOLERANCE

__all__ = ["PATHS", "export", "export_in_fresh_process"]

# The SavedModel lies in a folder that is its version's number: TensorFlow Serving takes `exports/saved_model` as it is.
PATHS = {"litert": "exports/model.tflite", "saved_model": "exports/saved_model/1"}


def export(folder: Path, *, check: Callable[[], None]) -> tuple[dict[str, str], dict[str, str]]:
    """Writes the exports and golden probabilities of the draft model folder, in this process where that is as good.

    Args and Returns: as `export_in_fresh_process`.
    """
    if not _is_plain():
        return export_in_fresh_process(folder, check=check)
    result = _export(folder, check)
    return result["runtimes"], result["missing"]


def _is_plain() -> bool:
    """Tells whether this process computes on one CPU in float32, as every server does."""
    import keras

    if keras.backend.backend() != "tensorflow" or keras.mixed_precision.global_policy().name != "float32":
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU") and len(tf.config.list_logical_devices()) == 1


def export_in_fresh_process(folder: Path, *, check: Callable[[], None]) -> tuple[dict[str, str], dict[str, str]]:
    """Writes the exports and golden probabilities of the draft model folder.

    Args:
        folder: With `model.keras`, `medimg.json` and the golden files.
        check: Called several times a second; raises to stop.

    Returns:
        Runtime to path inside the folder, and runtime to why it is missing.

    Raises:
        RuntimeError: The process failed; the message ends with what it printed.
    """
    # A GPU computes other last bits; the reference is the CPU's.
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
    }
    log = folder / ".export.log"
    with log.open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "medimg.export", str(folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            while True:
                try:
                    code = process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    check()
        except BaseException:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        printed = output.read()
    log.unlink()
    if code:
        raise RuntimeError(f"exporting failed with exit code {code}:\n{printed[-2000:]}")
    result = json.loads((folder / ".exports.json").read_text())
    (folder / ".exports.json").unlink()
    return result["runtimes"], result["missing"]


def _export(folder: Path, check: Callable[[], None] = lambda: None) -> dict[str, dict[str, str]]:
    import keras

    record = ModelRecord.model_validate_json((folder / "medimg.json").read_bytes())
    model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    golden = sorted(path for path in (folder / "golden").iterdir() if path.suffix != ".json")
    images = np.stack([record.preprocessing.prepare(path) for path in golden]).astype(np.float32)
    # One image at a time, as every server does: the batch's size may change the last bits.
    reference = np.concatenate([np.asarray(model(image[None], training=False)) for image in images])
    probabilities = distribution(record, reference)
    rows = {path.name: values.tolist() for path, values in zip(golden, probabilities, strict=True)}
    atomic_write(folder / "golden" / "golden.json", json.dumps(rows, indent=1))

    runtimes: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, write in (("saved_model", _saved_model), ("litert", _litert)):
        target = folder / PATHS[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        check()
        try:
            run = write(model, target)
            found = np.concatenate([run(image) for image in images])
        except Exception as error:  # an export that fails is left out and recorded, whatever the reason
            # Only the kind of error: its text may hold this machine's paths, and the folder travels.
            missing[name] = f"the conversion failed ({type(error).__name__})"
        else:
            worst = float(np.abs(found - reference).max())
            if worst <= TOLERANCE:
                runtimes[name] = PATHS[name]
            else:
                missing[name] = f"its probabilities differ from Keras' by {worst:.2g}"
        if name in missing:
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
    return {"runtimes": runtimes, "missing": missing}


def _litert(model: Any, target: Path) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    from medimg.inference.runtimes import LiteRTRuntime

    saved_model = target.parents[1] / PATHS["saved_model"]
    if saved_model.exists():
        # Keras would write the same SavedModel again in order to convert it: half of the time of both exports.
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
        converter.experimental_enable_resource_variables = True
        target.write_bytes(converter.convert())
    else:
        model.export(str(target), format="litert", verbose=False)
    runtime = LiteRTRuntime(target, workers=1)
    return lambda image: runtime.outputs(image[None])


def _saved_model(model: Any, target: Path) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    model.export(str(target), format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(target))
    return lambda image: np.asarray(loaded.serve(tf.constant(image[None])))


def main() -> None:
    """Exports the draft model folder that is named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m medimg.export")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    atomic_write(folder / ".exports.json", json.dumps(_export(folder)))


if __name__ == "__main__":
    main()
