"""A Keras network as one function that JAX compiled, without Keras' own copies of its state around every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    import keras

__all__ = ["forward"]


def forward(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from inputs to outputs (float32) as in use, not training; several threads may call it.

    It follows the model's variables: what they are at a call counts. Rows are filled up to a power of two, which
    depends on their number alone: XLA takes seconds to compile a network for each number that it has not met.
    """

    @jax.jit
    def run(trainable: list[Any], fixed: list[Any], x: Any) -> tuple[Any, dict[int, Any]]:
        outputs, after = model.stateless_call(trainable, fixed, x, training=False)
        pairs = enumerate(zip(fixed, after, strict=True))
        return outputs, {index: new for index, (old, new) in pairs if new is not old}

    def outputs(x: np.ndarray) -> np.ndarray:
        rows = len(x)
        filled = 1 << (rows - 1).bit_length()
        if filled > rows:
            x = np.concatenate([x, np.repeat(x[-1:], filled - rows, axis=0)])
        fixed = model.non_trainable_variables
        found, changed = run([v.value for v in model.trainable_variables], [v.value for v in fixed], x)
        # States of random layers only; without them a network that is random in use would look as if it were not.
        for index, value in changed.items():
            fixed[index].assign(value)
        return np.asarray(found)[:rows]

    return outputs
