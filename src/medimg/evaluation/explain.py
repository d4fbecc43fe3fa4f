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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medimg.data.decode import ImageLike, Pixels, as_mode, resize, to_pixels
from medimg.errors import ConfigError, did_you_mean
from medimg.home import atomic_write
from medimg.inference.decision import Prediction, decide

if TYPE_CHECKING:
    import keras

    from medimg.artifact import ModelFolder, ModelRecord

__all__ = ["Explainer", "Explanation", "Map", "grad_cam", "overlay", "png", "strongest_is_one"]

Map = npt.NDArray[np.float32]

_BATCH = 8  # images whose tail of the network is recorded at a time
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
    """Explains a model's answers; loads the trained network itself, which needs TensorFlow.

    Args:
        model: The model.
    """

    def __init__(self, model: ModelFolder) -> None:
        from medimg.inference.predictor import Predictor
        from medimg.inference.runtimes import KerasRuntime

        runtime = KerasRuntime(model.path / "model.keras")
        self.record, self.network = model.record, runtime.model
        self.predictor = Predictor(model, runtime=runtime)

    def explain(self, image: ImageLike, target: str | None = None) -> Explanation:
        """Returns what spoke for a class in one image: see `ModelFolder.explain`."""
        side = self.record.preprocessing.image_size
        shown = resize(to_pixels(image), (side, side))
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
        return _evidence(self.network, prepared, np.stack([_signs(self.record, target) for target in targets]))


def grad_cam(model: keras.Model, images: npt.NDArray[np.float32], target: int) -> Map:
    """Returns where each image speaks for one of the network's outputs: float32 (n, h, w) in 0..1.

    Args:
        model: A functional or sequential network, with others inside or not; its one output is (n, outputs).
        images: What it takes: float32 (n, h, w, c).
        target: Index of the output. It is its logit that is explained: a probability near 1 has no gradient left.

    Raises:
        ConfigError: The network has no convolutions, cannot be walked through, or runs on another library than
            TensorFlow.
    """
    signs = np.zeros((len(images), int(model.output_shape[-1])), np.float32)
    signs[:, target] = 1
    return strongest_is_one(_evidence(model, images, signs))


def strongest_is_one(evidence: Map) -> Map:
    """Returns maps, float32 (n, h, w), each with 1 as its largest value, or all 0 where nothing spoke."""
    largest = evidence.max(axis=(1, 2), keepdims=True)
    scaled: Map = np.divide(evidence, largest, out=np.zeros_like(evidence), where=largest > 0)
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


def _evidence(model: keras.Model, images: npt.NDArray[np.float32], signs: npt.NDArray[np.float32]) -> Map:
    """Returns what each place of the images added to the logits: float32 (n, h, w), 0 or more.

    Args:
        model: The network.
        images: What it takes: float32 (n, h, w, c).
        signs: How much each output's logit counts: float32 (n, outputs).
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ConfigError(f"Grad-CAM needs KERAS_BACKEND=tensorflow; this process runs {keras.backend.backend()}")
    import tensorflow as tf

    found: list[Map] = []
    for start in range(0, len(images), _BATCH):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            walk = _Walk(tape, images.shape[1:3])
            walk.through(model, tf.constant(images[start : start + _BATCH]))
            if walk.maps is None:
                raise ConfigError(
                    f"{model.name} has no convolution whose maps could be shown: Grad-CAM explains convolutional "
                    "networks only"
                )
            asked = tf.reduce_sum(tf.cast(walk.logits, tf.float32) * signs[start : start + _BATCH])
            gradient = tape.gradient(asked, walk.maps)
        if gradient is None:
            raise ConfigError(
                f"{model.name} lets no gradient through from its output to its last convolution (stop_gradient, or an "
                "operation without one): Grad-CAM needs it"
            )
        added = tf.reduce_sum(tf.cast(gradient * walk.maps, tf.float32), axis=-1)
        rows, columns = (
            axis.onto(size, reach) for axis, size, reach in zip(walk.axes, images.shape[1:3], walk.reach, strict=True)
        )
        found.append(rows @ np.maximum(added.numpy(), 0) @ columns.T)
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where the cells of a map lie along one side of the image, in pixels.

    Attributes:
        cells: How many.
        first: Centre of the first; the image's first pixel is at 0.
        step: From one centre to the next.
    """

    cells: int
    first: float = 0.0
    step: float = 1.0

    def after(self, cells: int, window: int, stride: int, before: int) -> _Axis:
        """Returns the axis after a window of that size and stride, with `before` cells of padding in front."""
        return _Axis(cells, self.first + self.step * ((window - 1) / 2 - before), self.step * stride)

    def stretched(self, cells: int) -> _Axis:
        """Returns the axis after an operation that is not known: its cells cover what there was evenly."""
        step = self.step * self.cells / cells
        return _Axis(cells, self.first + (step - self.step) / 2, step)

    def onto(self, pixels: int, reach: int) -> npt.NDArray[np.float32]:
        """Returns how much each cell counts at each pixel: float32 (pixels, cells).

        It falls linearly to 0 within `reach` cells; with 1 that is linear interpolation.

        A cell holds half a step beyond the outermost centres, then fades: no window of the network was centred there.
        """
        at = (np.arange(pixels) - self.first) / self.step
        inside = np.clip(at, 0, self.cells - 1)
        fading = np.clip(2 - 2 * np.abs(at - inside), 0, 1)
        near = np.maximum(0, 1 - np.abs(inside[:, None] - np.arange(self.cells)) / reach)
        return np.asarray(near * fading[:, None], np.float32)


class _Walk:
    """One pass through a network, operation by operation, also through networks inside it.

    Args:
        tape: Records what follows the last maps, and nothing before.
        size: Rows and columns of the images.

    Attributes:
        maps: The last output with rows and columns, before pooling: (n, rows, columns, channels).
        axes: Where its rows and columns lie in the image.
        reach: How far each cell stands for its neighbours: the window of the pooling that follows, else 1.
        logits: What the last activation made into probabilities: (n, outputs).
    """

    def __init__(self, tape: Any, size: Sequence[int]) -> None:
        self.tape = tape
        self.maps: Any = None
        self._image = self.axes = tuple(_Axis(cells) for cells in size)
        self.reach = (1, 1)
        self.logits: Any = None
        self._convolved = False

    def through(self, model: keras.Model, x: Any) -> Any:
        """Returns a network's output."""
        import keras

        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                x = self.step(layer, x)
            return x
        if not isinstance(model, keras.Function):
            raise ConfigError(
                f"{model.name} is a network written as a class, whose layers cannot be walked through. Build it as "
                "keras.Model(inputs, outputs)"
            )
        return model._run_through_graph(x, call_fn=self.step)

    def step(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns an operation's output, and keeps what explains the network."""
        import keras

        if isinstance(operation, keras.Model):
            return self.through(operation, *args)
        if isinstance(operation, keras.layers.Dense) and len(args[0].shape) == 2:
            self.logits = keras.ops.matmul(args[0], operation.kernel)
            if operation.use_bias:
                self.logits = keras.ops.add(self.logits, operation.bias)
            return operation.activation(self.logits)
        output = operation(*args, **kwargs)
        squashes = isinstance(operation, keras.layers.Activation | keras.layers.Softmax)
        self.logits = args[0] if squashes else output
        # A convolution's kernel has four axes, inside a layer of the user's own too.
        self._convolved |= any(len(weight.shape) == 4 for weight in getattr(operation, "weights", ()))
        given = keras.tree.flatten((args, kwargs))
        if not _is_maps(output) or any(output is tensor for tensor in given):
            return output
        before = next((tensor for tensor in given if _is_maps(tensor)), None)
        # Kept on the tensors, as Keras keeps its masks: they end with them.
        output.medimg_axes = _axes(operation, getattr(before, "medimg_axes", self._image), output)
        pools = isinstance(operation, keras.layers.MaxPooling2D | keras.layers.AveragePooling2D)
        if pools and before is self.maps:
            # The maps before show the place more finely; the cell that pooling took stands for its neighbours.
            self.reach = operation.pool_size
        elif self._convolved:
            self.maps, self.axes, self.reach = output, output.medimg_axes, (1, 1)
            self.tape.reset()
            self.tape.watch(output)
        return output


def _is_maps(output: Any) -> bool:
    shape = tuple(getattr(output, "shape", ()))
    return len(shape) == 4 and shape[1] * shape[2] > 1


def _axes(operation: Any, before: tuple[_Axis, ...], after: Any) -> tuple[_Axis, ...]:
    """Returns where the rows and columns of an operation's output lie in the image.

    Convolutions without padding lose a border, so that maps stretched over the whole image would show every place too
    far from the centre: at 224 pixels by up to 36 in Inception v3.
    """
    import keras

    layers = keras.layers
    convolves = isinstance(operation, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D)
    pools = isinstance(operation, layers.MaxPooling2D | layers.AveragePooling2D)
    found = []
    for side, axis in enumerate(before):
        cells = int(after.shape[1 + side])
        if isinstance(operation, keras.layers.ZeroPadding2D):
            found.append(axis.after(cells, 1, 1, operation.padding[side][0]))
        elif not convolves and not pools:
            found.append(axis.stretched(cells))
        else:
            window = operation.kernel_size if convolves else operation.pool_size
            dilation = operation.dilation_rate if convolves else (1, 1)
            dilated = (window[side] - 1) * (dilation[side] if isinstance(dilation, tuple) else dilation) + 1
            stride = operation.strides[side]
            padding = max((cells - 1) * stride + dilated - axis.cells, 0) if operation.padding == "same" else 0
            found.append(axis.after(cells, dilated, stride, padding // 2))
    return tuple(found)
