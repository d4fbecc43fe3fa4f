"""Grad-CAM: where in an image a network found what it says.

Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: visual explanations from deep networks via
gradient-based localization", ICCV 2017, section 3: the last convolutional maps, weighted by the gradient of a class's
logit and summed, and cut off below zero. The gradient is taken where it is, not averaged over the map first. Where maps
are averaged by the network itself, as in all pretrained ones, that is the same; where their places matter, as in
`small_cnn`, averaging shows places that were not used: Draelos and Carin, "Use HiResCAM instead of Grad-CAM", 2020,
arXiv:2011.08891, section 3. A cell's value is what it added to the logit.

A map says what moved this network; not that the network is right, nor that the bright part is a disease.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from medimg.data.decode import ImageLike, to_pixels
from medimg.data.pixels import Pixels, as_mode
from medimg.errors import ConfigError, did_you_mean
from medimg.evaluation.maps import Map, evidence
from medimg.home import atomic_write
from medimg.inference.decision import Prediction, decide

if TYPE_CHECKING:
    import keras

    from medimg.artifact import ModelFolder, ModelRecord

__all__ = ["Explainer", "Explanation", "Map", "grad_cam", "overlay", "png", "strongest_is_one"]

_MOST_COLOUR = 0.6  # of a pixel: the film stays readable under the brightest part


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Where a model found what it says of one image.

    Attributes:
        target: The class that the map is of.
        prediction: What the model says of the image.
        image: The image at the network's size: uint8 (h, w) or (h, w, 3).
        map: How much each place spoke for the target: float32 (h, w) in 0..1; all 0 where nothing did.
    """

    target: str
    prediction: Prediction
    image: Pixels
    map: Map

    @cached_property
    def overlay(self) -> Pixels:
        """The image with the map in colour over it: uint8 (h, w, 3)."""
        return overlay(self.image, self.map)

    def save(self, path: str | Path) -> Path:
        """Writes the image and, to its right, the overlay as one PNG; returns its path."""
        atomic_write(Path(path), self._repr_png_())
        return Path(path)

    def _repr_png_(self) -> bytes:
        return png(np.hstack([as_mode(self.image, 3), self.overlay]))

    def __repr__(self) -> str:
        share = self.prediction.probabilities[self.target]
        return f"<Explanation: what spoke for {self.target} ({share:.3f}); decided: {self.prediction.label}>"


class Explainer:
    """Explains a model's answers; loads the trained network itself, which needs Keras on TensorFlow or JAX.

    Args:
        model: The model.
    """

    def __init__(self, model: ModelFolder) -> None:
        from medimg.inference.predictor import Predictor
        from medimg.inference.runtimes import KerasRuntime

        runtime = KerasRuntime(model.path / "model.keras")
        self.record, self.network = model.record, runtime.model
        self.predictor = Predictor(model, runtime=runtime)
        self._evidence = evidence(self.network)

    def explain(self, image: ImageLike, target: str | None = None) -> Explanation:
        """Returns what spoke for a class in one image: see `ModelFolder.explain`."""
        side = self.record.preprocessing.image_size
        shown = to_pixels(image, size=(side, side))
        probabilities = self.predictor.probabilities(self.predictor.prepare(shown)[None])[0]
        prediction = decide(self.record, probabilities, latency_ms=0.0)
        chosen = target or _in_question(self.record, prediction)
        strength = strongest_is_one(self.evidence([shown], [chosen]))[0]
        return Explanation(chosen, prediction, shown, strength)

    def evidence(self, images: Iterable[Pixels], targets: Iterable[str]) -> Map:
        """Returns what each place added to the logit of the image's own target: float32 (n, h, w), 0 or more.

        Args:
            images: uint8 (h, w) or (h, w, 3), at the network's size.
            targets: One class an image. That of a binary task which is not the positive one is explained by what
                lowered the positive one's logit.

        Raises:
            ConfigError: There is no such class, or the network has no convolutions.
        """
        prepared = np.stack([self.predictor.prepare(image) for image in images]).astype(np.float32)
        return self._evidence(prepared, np.stack([_signs(self.record, target) for target in targets]))


def grad_cam(model: keras.Model, images: npt.NDArray[np.float32], target: int) -> Map:
    """Returns where each image speaks for one of the network's outputs: float32 (n, h, w) in 0..1.

    Args:
        model: A functional or sequential network, with others inside or not; its one output is (n, outputs).
        images: What it takes: float32 (n, h, w, c).
        target: Index of the output. It is its logit that is explained: a probability near 1 has no gradient left.

    Raises:
        ConfigError: The network has no convolutions, or cannot be walked through.
    """
    signs = np.zeros((len(images), int(model.output_shape[-1])), np.float32)
    signs[:, target] = 1
    return strongest_is_one(evidence(model)(images, signs))


def strongest_is_one(maps: Map) -> Map:
    """Returns maps, float32 (n, h, w), each with 1 as its largest value, or all 0 where nothing spoke."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    scaled: Map = np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)
    return scaled


def overlay(image: Pixels, strength: Map) -> Pixels:
    """Returns the image with the map over it: uint8 (h, w, 3).

    The colours are inferno's, of equal perceived steps, also without colour vision; a place is covered the more the
    more it spoke, and one that did not is left as it is.

    Args:
        image: uint8 (h, w) or (h, w, 3).
        strength: A map: float32 (h, w) in 0..1.
    """
    import matplotlib as mpl

    colours = mpl.colormaps["inferno"](strength)[..., :3] * 255
    cover = _MOST_COLOUR * strength[..., None]
    mixed = as_mode(image, 3) * (1 - cover) + colours * cover
    return np.asarray(np.round(mixed), np.uint8)


def png(pixels: Pixels) -> bytes:
    """Returns pixels, uint8 (h, w) or (h, w, 3), as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _in_question(record: ModelRecord, prediction: Prediction) -> str:
    """Returns the class to explain where none was asked for."""
    if record.positive is not None:
        return record.positive
    return max(prediction.positives or record.classes, key=prediction.probabilities.__getitem__)


def _signs(record: ModelRecord, target: str) -> npt.NDArray[np.float32]:
    """Returns how much each of the network's outputs speaks for a class: float32 (outputs,)."""
    if target not in record.classes:
        raise ConfigError(f"target={target!r}: the model has no such class.{did_you_mean(target, record.classes)}")
    if record.task == "binary":
        return np.array([1 if target == record.positive else -1], np.float32)
    return np.array([name == target for name in record.classes], np.float32)
