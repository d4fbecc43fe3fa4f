"""What computes the features of a frozen backbone: LiteRT where it is the fastest and agrees with Keras, else Keras."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from medimg.errors import MedimgError
from medimg.export.frozen import to_litert
from medimg.home import cores
from medimg.inference.runtimes import LiteRTRuntime

if TYPE_CHECKING:
    from medimg.training.steps import Devices

__all__ = ["CHECKED", "Engine", "Run", "Unfit", "by_keras", "by_litert", "pays"]

FEWEST = 256  # images; for fewer, Keras is done before a network is converted
CHECKED = 4  # images on which both must agree

_AGREE = 1e-4  # of the largest feature; measured: 1e-6 at most
_MOST_BYTES = 4e9  # of all interpreters' weights
_COPIES = 3  # of its weights that an interpreter has, at most

Run = Callable[[np.ndarray], np.ndarray]
"""From images, float32 (n, height, width, channels), to features, float32 (n, d)."""


class Unfit(MedimgError):  # noqa: N818 - what it says of the engine
    """The backbone cannot be converted, or the result does not agree with Keras."""


@dataclass(frozen=True)
class Engine:
    """A way to compute features.

    Attributes:
        name: Part of the identity of what it computes: engines differ in the last bits.
        start: Makes it ready, which takes seconds: only for features that are not there yet.
    """

    name: str
    start: Callable[[], Run]


def pays(devices: Devices, images: int) -> bool:
    """Tells whether LiteRT is worth its conversion: on one CPU with TensorFlow, in float32, from 256 images on.

    It depends on nothing that another run of the same job would find otherwise.
    """
    plain = keras.backend.backend() == "tensorflow" and keras.mixed_precision.global_policy().name == "float32"
    return plain and not devices.accelerated and devices.count == 1 and images >= FEWEST


def by_keras(backbone: keras.Model, devices: Devices) -> Engine:
    """Returns Keras itself, on whatever it trains on."""
    name = "keras on accelerators" if devices.accelerated else "keras"
    return Engine(name, lambda: devices.forward(backbone))


def by_litert(backbone: keras.Model, sample: Callable[[], np.ndarray]) -> Engine:
    """Returns LiteRT with one single-threaded interpreter a core, each of which computes one image.

    Starting it raises `Unfit` where the conversion failed, or a feature differs by more than 1e-4 of the largest.

    Args:
        backbone: Images to features.
        sample: Returns images on which its features are compared with Keras'.
    """
    return Engine("litert", lambda: _start_litert(backbone, sample()))


def _start_litert(backbone: keras.Model, sample: np.ndarray) -> Run:
    try:
        content = to_litert(backbone)
        # An interpreter packs the weights for itself: of a large network on many cores, not every core gets one.
        workers = max(1, min(cores(), int(_MOST_BYTES / (_COPIES * len(content)))))
        with tempfile.TemporaryDirectory(prefix="medimg-features-") as folder:
            file = Path(folder) / "backbone.tflite"
            file.write_bytes(content)
            runtime = LiteRTRuntime(file, workers=workers)
        found = runtime.outputs(sample)
    except Exception as error:  # Keras computes what cannot be converted, whatever the reason
        reason = next(iter(str(error).strip().splitlines()), "")[:200]
        raise Unfit(f"the backbone cannot be converted to LiteRT ({type(error).__name__}: {reason})") from error
    expected = np.asarray(backbone(sample, training=False))
    difference, scale = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    if not difference <= _AGREE * scale:  # so that no number, too, is no agreement
        raise Unfit(f"LiteRT's features differ from Keras' by {difference:.2g}, of {scale:.2g} at most")
    return runtime.outputs
