"""The machine that trains: exactness on CPU, precision on GPU, versions for the record."""

from __future__ import annotations

import platform
from importlib import metadata

import keras

__all__ = ["make_exact", "precision", "versions"]

_PACKAGES = ("medimg", "keras", "numpy", "pillow", "scikit-learn", "ai-edge-litert")
_FRAMEWORKS = {"tensorflow": ("tensorflow",), "jax": ("jax", "jaxlib")}


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
    capable = _have_bfloat16_on_jax() if keras.backend.backend() == "jax" else _have_bfloat16_on_tensorflow()
    return "mixed_bfloat16" if capable and all(capable) else "float32"


def _have_bfloat16_on_tensorflow() -> list[bool]:
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [one.get("compute_capability", (0, 0)) >= (8, 0) for one in details]


def _have_bfloat16_on_jax() -> list[bool]:
    import jax

    # A TPU has no compute capability, and computes in nothing else.
    devices = [device for device in jax.local_devices() if device.platform != "cpu"]
    return [float(getattr(device, "compute_capability", 8)) >= 8 for device in devices]


def versions() -> dict[str, str]:
    """Returns Python's version and those of the packages that decide the result.

    Of TensorFlow and JAX that one alone is named which Keras computed with.
    """
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *_FRAMEWORKS[keras.backend.backend()]):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
