"""One step of training on one device or several: the batch is the user's, whatever the number of devices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

__all__ = ["Devices", "compile_for", "pad"]

Arrays = tuple[np.ndarray, ...]


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
    """

    def __init__(self, names: list[str] | None = None) -> None:
        import keras

        self.strategy: Any = None
        if keras.backend.backend() != "tensorflow":
            return
        import tensorflow as tf

        if names is None:
            names = [device.name for device in tf.config.list_logical_devices("GPU")]
        if len(names) > 1:
            self.strategy = tf.distribute.MirroredStrategy(names)

    @property
    def count(self) -> int:
        """Number of devices that share a batch."""
        return 1 if self.strategy is None else int(self.strategy.num_replicas_in_sync)

    def scope(self) -> AbstractContextManager[Any]:
        """Returns the context in which the network must be built."""
        return nullcontext() if self.strategy is None else self.strategy.scope()

    def step(self, model: keras.Model) -> Callable[[np.ndarray, np.ndarray, np.ndarray], float]:
        """Returns a function that trains on one batch (x, y, weights) and gives its loss."""
        if self.strategy is None:

            def single(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
                return float(model.train_on_batch(x, y, sample_weight=weights))

            return single
        return self._replicated_step(model)

    def forward(self, model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a function from inputs to outputs (float32), without dropout or augmentation."""
        import keras

        if keras.backend.backend() != "tensorflow":
            return lambda x: np.asarray(model.predict_on_batch(x))
        import tensorflow as tf

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def run(x: Any) -> Any:
            return model(x, training=False)

        return lambda x: np.asarray(run(tf.constant(x)))

    def _replicated_step(self, model: keras.Model) -> Callable[[np.ndarray, np.ndarray, np.ndarray], float]:
        import tensorflow as tf

        strategy = self.strategy

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def run(x: Any, y: Any, weights: Any) -> None:
            strategy.run(lambda *data: model.train_step(data), args=(x, y, weights))

        def replicated(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
            (x, y), weights = pad((x, y), weights, self.count)
            share = len(x) // self.count

            def part(array: np.ndarray) -> Any:
                # train_on_batch would hand every replica the whole batch.
                return strategy.experimental_distribute_values_from_function(
                    lambda context: tf.constant(array[context.replica_id_in_sync_group * share :][:share])
                )

            model.reset_metrics()
            run(part(x), part(y), part(weights))
            return float(model.get_metrics_result()["loss"])

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
        # XLA on CPU made these networks 17 times slower.
        jit_compile=False if not _on_gpu() else "auto",
    )


def _on_gpu() -> bool:
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return any("cpu" not in str(device).lower() for device in keras.distribution.list_devices())
