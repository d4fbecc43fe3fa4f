"""Exporting in the process at hand, or in a fresh one where that one's state would show in what is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from medimg.export.network import write
from medimg.framework import installed

__all__ = ["export", "export_in_fresh_process"]


def export(folder: Path, *, check: Callable[[], None]) -> tuple[dict[str, str], dict[str, str]]:
    """Writes the exports and golden probabilities of the draft model folder, in this process where that is as good.

    Args and Returns: as `export_in_fresh_process`.
    """
    if not _is_plain():
        return export_in_fresh_process(folder, check=check)
    result = write(folder, check=check)
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


def export_in_fresh_process(
    folder: Path, *, check: Callable[[], None] = lambda: None, options: Sequence[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """Writes the exports that the draft model folder lacks, and golden probabilities where it has none.

    Args:
        folder: With `model.keras`, `medimg.json` and the golden files.
        check: Called several times a second; raises to stop.
        options: Further ones of `python -m medimg.export`; without them, the exports of every training.

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
            [sys.executable, "-m", "medimg.export", str(folder), *options],
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
