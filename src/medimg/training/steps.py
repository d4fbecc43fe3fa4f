"""One step of training on one device or several: the batch is the user's, whatever the number of devices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import keras

__all__ = ["Devices", "Step", "compile_for", "pad"]

Arrays = tuple[np.ndarray, ...]


class Step(Protocol):
    """One step of training."""

    def __call__(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        """Trains on one batch and returns its loss."""
        ...

    def settle(self) -> None:
        """Gives the model's variables what was learnt; until then they may be behind."""
        ...


def pad(arrays: Arrays, weights: np.ndarray, multiple: int) -> tuple[Arrays, np.ndarray]:
    """Fills a batch up to a multiple of the devices with repeated rows of weight 0.

    The other weights grow so that the mean over the filled batch is the mean over the real rows.
    """
    count = len(weights)
    missing = -count % multiple
    if not missing:
        return arrays, weights
    # Rows of the same batch rather than zeros: batch statistics then see plausible images.
    extra = np.arange(missing) % count
    filled = tuple(np.concatenate([array, array[extra]]) for array in arrays)
    weights = np.concatenate([weights, np.zeros((missing, *weights.shape[1:]), weights.dtype)])
    return filled, weights * ((count + missing) / count)


class Devices:
    """The devices that train together: the GPUs if there are several, else one device.

    Args:
        names: Names of the devices; None finds them.

    Attributes:
        count: Number of devices that share a batch.
        accelerated: Whether they are something faster than a CPU.
        strategy: How they share it: TensorFlow's or Keras' own, for JAX; None for one device.
    """

    def __init__(self, names: list[str] | None = None) -> None:
        import keras

        self.strategy: Any = None
        self._on_jax = keras.backend.backend() == "jax"
        if self._on_jax:
            names = _gpus_of_jax() if names is None else names
            if len(names) > 1:
                self.strategy = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
        else:
            import tensorflow as tf

            if names is None:
                names = [device.name for device in tf.config.list_logical_devices("GPU")]
            if len(names) > 1:
                self.strategy = tf.distribute.MirroredStrategy(names)
        self.count = max(1, len(names))
        self.accelerated = _on_gpu()

    def scope(self) -> AbstractContextManager[Any]:
        """Returns the context in which the network must be built."""
        found: AbstractContextManager[Any] = nullcontext() if self.strategy is None else self.strategy.scope()
        return found

    def step(self, model: keras.Model) -> Step:
        """Returns what trains a compiled network on one batch after another."""
        if self._on_jax:
            from medimg.training.on_jax import JAXStep

            return JAXStep(model, self.strategy)
        return _TensorFlowStep(model, self.strategy, self.count)

    def forward(self, model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a function from inputs to outputs (float32), without dropout or augmentation."""
        if self._on_jax:
            from medimg.inference.on_jax import forward

            return forward(model)
        import tensorflow as tf

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def run(x: Any) -> Any:
            return model(x, training=False)

        return lambda x: np.asarray(run(tf.constant(x)))


class _TensorFlowStep:
    def __init__(self, model: keras.Model, strategy: Any, count: int) -> None:
        self._model, self._count = model, count
        self._replicated = None if strategy is None else self._on(strategy)

    def __call__(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        if self._replicated is None:
            return float(self._model.train_on_batch(x, y, sample_weight=weights))
        (x, y), weights = pad((x, y), weights, self._count)
        self._model.reset_metrics()
        self._replicated(x, y, weights)
        return float(self._model.get_metrics_result()["loss"])

    def settle(self) -> None:
        """Nothing is to be done: every step assigns the variables."""

    def _on(self, strategy: Any) -> Callable[..., None]:
        import tensorflow as tf

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def run(*batch: Any) -> None:
            strategy.run(lambda *data: self._model.train_step(data), args=batch)

        def replicated(*batch: np.ndarray) -> None:
            share = len(batch[0]) // self._count

            def part(array: np.ndarray) -> Any:
                # train_on_batch would hand every replica the whole batch.
                return strategy.experimental_distribute_values_from_function(
                    lambda context: tf.constant(array[context.replica_id_in_sync_group * share :][:share])
                )

            run(*map(part, batch))

        return replicated


def compile_for(model: keras.Model, task: str, learning_rate: float) -> None:
    """Compiles a network for a task: Adam, and a loss that takes one weight for each label."""
    import keras

    def each_label(truth: Any, probabilities: Any) -> Any:
        # One loss a label instead of their mean, so that weights can balance labels and mask unknown ones.
        return keras.ops.binary_crossentropy(truth, probabilities)

    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="sparse_categorical_crossentropy" if task == "multiclass" else each_label,
        # XLA on CPU made TensorFlow train these networks 17 times slower; JAX has nothing else, whatever is said here.
        jit_compile="auto" if _on_gpu() else False,
    )


def _on_gpu() -> bool:
    import keras

    if keras.backend.backend() == "jax":
        return bool(_gpus_of_jax())
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _gpus_of_jax() -> list[str]:
    """Returns the names of the GPUs, or TPUs, that JAX computes on; none where it has the CPU alone."""
    import keras

    return [name for name in keras.distribution.list_devices() if not name.startswith("cpu")]
