"""The last convolutional maps of a network, where they lie in the image, and what they added to its logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medimg.errors import ConfigError

if TYPE_CHECKING:
    import keras

__all__ = ["Map", "evidence"]

Map = npt.NDArray[np.float32]

_BATCH = 8  # images whose tail of the network is recorded at a time


Floats = npt.NDArray[np.float32]


def evidence(model: keras.Model) -> Callable[[Floats, Floats], Map]:
    """Returns a function that tells what each place of images added to the logits: float32 (n, h, w), 0 or more.

    It takes images as the network does, float32 (n, h, w, c), and how much each output's logit counts, float32
    (n, outputs). It raises ConfigError where the network has no convolutions or cannot be walked through.
    """
    import keras

    added = _on_jax(model) if keras.backend.backend() == "jax" else partial(_on_tensorflow, model)

    def run(images: Floats, signs: Floats) -> Map:
        found: list[Map] = []
        for start in range(0, len(images), _BATCH):
            cells, places = added(images[start : start + _BATCH], signs[start : start + _BATCH])
            rows, columns = (
                axis.onto(size, reach) for size, (axis, reach) in zip(images.shape[1:3], places, strict=True)
            )
            found.append(rows @ np.maximum(cells, 0) @ columns.T)
        return np.concatenate(found)

    return run


def _on_tensorflow(model: keras.Model, images: Floats, signs: Floats) -> tuple[Floats, _Places]:
    """Returns what each cell of a network's last maps added, float32 (n, rows, columns), and where they lie."""
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def watch(output: Any) -> None:
            # What follows the last maps is recorded, and nothing before.
            tape.reset()
            tape.watch(output)

        walk = _Walk(images.shape[1:3], watch)
        walk.through(model, tf.constant(images))
        _check(model, walk)
        asked = tf.reduce_sum(tf.cast(walk.logits, tf.float32) * signs)
        gradient = tape.gradient(asked, walk.maps)
    if gradient is None:
        raise ConfigError(
            f"{model.name} lets no gradient through from its output to its last convolution (stop_gradient, or an "
            "operation without one): Grad-CAM needs it"
        )
    return tf.reduce_sum(tf.cast(gradient * walk.maps, tf.float32), axis=-1).numpy(), walk.places


def _on_jax(model: keras.Model) -> Callable[[Floats, Floats], tuple[Floats, _Places]]:
    """Returns the same as a function of images and signs, compiled: operations one by one would take a minute."""
    import jax
    import keras

    places: list[_Places] = []  # as each compilation found them: the number of images alone differs

    @jax.jit
    def run(values: list[Any], images: Any, signs: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            walk = _Walk(images.shape[1:3])
            walk.through(model, images)
            _check(model, walk)

            def asked(maps: Any) -> Any:
                tail = _Tail(maps, walk.operations)
                tail.through(model, images)
                return (tail.logits.astype("float32") * signs).sum()

            gradient = jax.grad(asked)(walk.maps)
            places.append(walk.places)
            return (gradient * walk.maps).astype("float32").sum(axis=-1)

    def added(images: Floats, signs: Floats) -> tuple[Floats, _Places]:
        rows = len(images)
        filled = np.resize(np.arange(rows), 1 if rows == 1 else _BATCH)
        cells = run([variable.value for variable in model.variables], images[filled], signs[filled])
        return np.asarray(cells)[:rows], places[0]

    return added


def _check(model: keras.Model, walk: _Walk) -> None:
    if walk.maps is None:
        raise ConfigError(
            f"{model.name} has no convolution whose maps could be shown: Grad-CAM explains convolutional networks only"
        )


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


_Places = tuple[tuple[_Axis, int], ...]  # of rows and columns: where they lie, and how far each cell stands


class _Walk:
    """One pass through a network, operation by operation, also through networks inside it.

    Args:
        size: Rows and columns of the images.
        found: Called with every output that may be the last maps.

    Attributes:
        operations: How many there were up to the last maps.
        maps: The last output with rows and columns, before pooling: (n, rows, columns, channels).
        axes: Where its rows and columns lie in the image.
        reach: How far each cell stands for its neighbours: the window of the pooling that follows, else 1.
        logits: What the last activation made into probabilities: (n, outputs).
    """

    def __init__(self, size: Sequence[int], found: Callable[[Any], None] | None = None) -> None:
        self._found, self._done, self.operations = found, 0, 0
        self.maps: Any = None
        self._image = self.axes = tuple(_Axis(cells) for cells in size)
        self._traced: dict[int, tuple[Any, tuple[_Axis, ...]]] = {}
        self.reach = (1, 1)
        self.logits: Any = None
        self._convolved = False

    @property
    def places(self) -> _Places:
        """Where the maps lie in the image."""
        return tuple(zip(self.axes, self.reach, strict=True))

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
        self._done += 1
        return self.after(operation, output, args, kwargs)

    def after(self, operation: Any, output: Any, args: Any, kwargs: Any) -> Any:
        """Returns what goes on in the place of an operation's output, and keeps the maps and where they lie."""
        import keras

        # A convolution's kernel has four axes, inside a layer of the user's own too.
        self._convolved |= any(len(weight.shape) == 4 for weight in getattr(operation, "weights", ()))
        given = keras.tree.flatten((args, kwargs))
        if not _is_maps(output) or any(output is tensor for tensor in given):
            return output
        before = next((tensor for tensor in given if _is_maps(tensor)), None)
        axes = _axes(operation, self._lies(before), output)
        try:
            # Kept on the tensors, as Keras keeps its masks: they end with them.
            output.medimg_axes = axes
        except AttributeError:
            self._traced[id(output)] = output, axes  # JAX's stand-ins take none, and hold no data
        pools = isinstance(operation, keras.layers.MaxPooling2D | keras.layers.AveragePooling2D)
        if pools and before is self.maps:
            # The maps before show the place more finely; the cell that pooling took stands for its neighbours.
            self.reach = operation.pool_size
        elif self._convolved:
            self.maps, self.axes, self.reach, self.operations = output, axes, (1, 1), self._done
            if self._found is not None:
                self._found(output)
        return output

    def _lies(self, maps: Any) -> tuple[_Axis, ...]:
        """Returns where the rows and columns of an operation's output lie; None: of the image."""
        traced = self._traced.get(id(maps), (maps, self._image))[1]
        found: tuple[_Axis, ...] = getattr(maps, "medimg_axes", traced)
        return found


class _Tail(_Walk):
    """The same pass again, for its logits, with given maps in the place of an operation's output.

    Args:
        maps: What goes on from there.
        operations: Number of that operation.
    """

    def __init__(self, maps: Any, operations: int) -> None:
        super().__init__(())
        self._given, self._at = maps, operations

    def after(self, operation: Any, output: Any, args: Any, kwargs: Any) -> Any:
        """Returns the given maps where it is their turn, else the operation's output."""
        return self._given if self._done == self._at else output


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
