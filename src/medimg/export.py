"""Exports of a trained network for other runtimes, each checked against the golden inputs before it is accepted.

Where the training used JAX, a GPU, mixed precision or several devices, this runs in a fresh process on CPU in float32
(`python -m medimg.export MODEL_FOLDER`), so that none of them leaves a trace in what is served; the golden
probabilities are computed there too. Else the process at hand is as good: TensorFlow is not imported a second time.

Without TensorFlow there are no exports; where it is installed they are made later, by `ModelFolder.export`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medimg.artifact import ModelFolder, ModelRecord
from medimg.framework import installed
from medimg.home import atomic_copy, atomic_write, home, locked, storage_errors
from medimg.inference.decision import distribution
from medimg.inference.predictor import TOLERANCE

__all__ = ["PATHS", "add", "export", "export_in_fresh_process"]

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
    """Tells whether this process is as good as a fresh one: on one CPU in float32, and on TensorFlow where it is."""
    import keras

    if keras.mixed_precision.global_policy().name != "float32":
        return False
    if keras.backend.backend() == "jax":
        return not installed("tensorflow") and keras.distribution.list_devices() == ["cpu:0"]
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU") and len(tf.config.list_logical_devices()) == 1


def export_in_fresh_process(folder: Path, *, check: Callable[[], None]) -> tuple[dict[str, str], dict[str, str]]:
    """Writes the exports that the draft model folder lacks, and golden probabilities where it has none.

    Args:
        folder: With `model.keras`, `medimg.json` and the golden files.
        check: Called several times a second; raises to stop.

    Returns:
        Runtime to path inside the folder, and runtime to why it is missing.

    Raises:
        RuntimeError: The process failed; the message ends with what it printed.
    """
    # A GPU computes other last bits; the reference is the CPU's. The network's file is the same for every framework.
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "tensorflow" if installed("tensorflow") else "jax",
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


def add(model: ModelFolder) -> ModelFolder:
    """Makes the exports that a sealed model lacks, checks them against its golden inputs and seals it anew.

    No file that was there is written into, so copies of the model, in a registry or an endpoint, are not touched.

    Raises:
        ModelFolderError: The folder is not what it was when it was loaded.
        StorageError: The disk is full, or the folder cannot be written.
    """
    with storage_errors(model.path), locked(home() / ".exports.lock"):
        ModelFolder.load(model.path, digest=model.digest)
        with tempfile.TemporaryDirectory(prefix="medimg-export-") as temporary:
            draft = Path(temporary)
            shutil.copytree(model.path / "golden", draft / "golden", copy_function=shutil.copyfile)
            for name in ("medimg.json", "model.keras"):
                shutil.copyfile(model.path / name, draft / name)
            runtimes, missing = export_in_fresh_process(draft, check=lambda: None)
            for name in runtimes.keys() - model.record.runtimes.keys():
                made = draft / PATHS[name]
                for file in (made, *made.rglob("*")):
                    if file.is_file():
                        target = model.path / file.relative_to(draft)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        atomic_copy(file, target)
        return ModelFolder.seal(model.path, model.record.model_copy(update={"runtimes": runtimes, "missing": missing}))


def _export(folder: Path, check: Callable[[], None] = lambda: None) -> dict[str, dict[str, str]]:
    record = ModelRecord.model_validate_json((folder / "medimg.json").read_bytes())
    golden = sorted(path for path in (folder / "golden").iterdir() if path.suffix != ".json")
    images = np.stack([record.preprocessing.prepare(path) for path in golden]).astype(np.float32)
    model = _load(folder)
    reference = _reference(folder, record, model, dict(zip((path.name for path in golden), images, strict=True)))

    runtimes = dict(record.runtimes)
    missing: dict[str, str] = {}
    for name, write in (("saved_model", _saved_model), ("litert", _litert)):
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
            run = write(model, target)
            found = distribution(record, np.concatenate([run(image) for image in images]))
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


def _load(folder: Path) -> Any:
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
