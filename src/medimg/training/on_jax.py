"""One step of training, compiled by JAX: the state stays on the device from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from medimg.training.steps import pad

if TYPE_CHECKING:
    import keras

__all__ = ["JAXStep"]


class JAXStep:
    """Trains a compiled network on one batch (x, y, weights) and gives its loss.

    `keras.Model.train_on_batch` does the same, but assigns every variable after every step. Here the model's own
    variables are behind, and not to be read, until `settle` is called.

    Args:
        model: The network; its variables are where training goes on from.
        strategy: `keras.distribution.DataParallel`, where several devices share a batch.
    """

    def __init__(self, model: keras.Model, strategy: Any) -> None:
        self._model = model
        self._state: tuple[list[Any], ...] | None = None
        self._mesh = None if strategy is None else strategy.device_mesh.backend_mesh
        self._rows: Any = PartitionSpec("batch")  # type: ignore[no-untyped-call]

        def step(state: tuple[list[Any], ...], x: Any, y: Any, weights: Any) -> tuple[Any, tuple[list[Any], ...]]:
            # Fresh metrics every time: the loss is then this batch's.
            metrics = [jnp.zeros(variable.shape, variable.dtype) for variable in model.metrics_variables]
            logs, after = model.train_step((*state, metrics), (x, y, weights))
            return logs["loss"], after[:3]

        self._step = jax.jit(step, donate_argnums=0)

    def __call__(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        """Trains on one batch and returns its loss."""
        if self._state is None:
            self._state = tuple([variable.value for variable in part] for part in self._variables())
        batch = x, y, weights
        if self._mesh is not None:
            (x, y), weights = pad((x, y), weights, self._mesh.size)
            batch = jax.device_put((x, y, weights), NamedSharding(self._mesh, self._rows))
        loss, self._state = self._step(self._state, *batch)
        return float(loss)

    def settle(self) -> None:
        """Gives the model's variables what was learnt."""
        if self._state is None:
            return
        for part, values in zip(self._variables(), self._state, strict=True):
            for variable, value in zip(part, values, strict=True):
                variable.assign(value)
        self._state = None

    def _variables(self) -> tuple[list[Any], ...]:
        model = self._model
        return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
