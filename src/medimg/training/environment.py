"""The machine that trains: exactness on CPU, precision on GPU, versions for the record."""

from __future__ import annotations

import platform
from importlib import metadata

import keras

__all__ = ["make_exact", "precision", "versions"]

_PACKAGES = ("medimg", "keras", "tensorflow", "numpy", "pillow", "scikit-learn", "ai-edge-litert")


def make_exact() -> None:
    """Asks TensorFlow for deterministic kernels where they cost nothing: on CPU.

    On GPU they would slow training, or fail for want of a deterministic one.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()


def precision(wanted: str) -> str:
    """Returns the dtype policy: what was asked for, or for "auto" what the devices compute fastest."""
    if wanted != "auto":
        return wanted
    if keras.backend.backend() != "tensorflow":
        return "float32"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    capable = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0) for gpu in gpus
    ]
    return "mixed_bfloat16" if capable and all(capable) else "float32"


def versions() -> dict[str, str]:
    """Returns Python's version and those of the packages that decide the result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
