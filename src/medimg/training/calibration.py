"""Probabilities that mean frequencies: fitted on validation and built into the network's last layer.

Every runtime, export and golden input has the calibration then, with no further step after the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medimg.artifact import Calibration
from medimg.config import Task
from medimg.evaluation.calibration import fit_temperature, negative_log_likelihood
from medimg.evaluation.platt import fit_platt
from medimg.evaluation.thresholds import FEWEST_TO_ESTIMATE
from medimg.models.logits import logit_layer, rescale

if TYPE_CHECKING:
    import keras

    from medimg.training.loop import Source

__all__ = ["Fit", "calibrate", "fit_labels"]

Floats = npt.NDArray[np.float64]

_BOUNDS = (0.05, 20.0)  # of the temperature
_DIGITS = 4  # of temperature and shift: more than validation can tell, and free of a machine's last bits


def calibrate(
    network: keras.Model,
    validation: Source,
    *,
    task: Task,
    targets: Sequence[str],
    method: Literal["platt", "temperature"],
    batch_size: int,
    check: Callable[[], None],
) -> tuple[Calibration | None, tuple[str, ...]]:
    """Calibrates a trained network in place, and returns what was done and what its users should know.

    Nothing is done to a class where validation has fewer than 10 images with or without it, or where its likelihood
    does not grow. For a multiclass task only a temperature is fitted, on at least 10 images a class on average: shifts
    would change which class is the most probable.

    Args:
        network: Inputs to probabilities.
        validation: The images or features that the network takes, and their targets as `encode` gives them.
        task: "binary", "multiclass" or "multilabel".
        targets: Names of the network's outputs.
        method: "platt" or "temperature".
        batch_size: Rows at a time.
        check: Called between batches; raises to stop.
    """
    last = logit_layer(network, len(targets))
    if last is None:
        return None, ("Probabilities are not calibrated: the network does not end in a dense layer.",)
    with _linear(network):
        found = []
        for start in range(0, len(validation), batch_size):
            check()
            rows = np.arange(start, min(start + batch_size, len(validation)))
            found.append(np.asarray(network(validation.x(rows), training=False), np.float64))
    logits = np.concatenate(found)
    y = validation.y(np.arange(len(validation))).astype(np.float64)
    if task == "multiclass":
        fitted = _exclusive(logits, np.eye(len(targets))[y.astype(np.int64)])
        names: Sequence[str] = ("",)
    else:
        fitted, names = fit_labels(logits, y, method), targets
    few = [name for name, one in zip(names, fitted, strict=True) if not one.enough]
    told: tuple[str, ...] = ()
    if few:
        which = f": {', '.join(few)}" if task != "multiclass" else ""
        least = f"{FEWEST_TO_ESTIMATE} images {'a class' if task == 'multiclass' else 'with or without'}"
        told = (f"Probabilities are as trained, not calibrated: validation has fewer than {least}{which}.",)
    if all((one.temperature, one.shift) == (1, 0) for one in fitted):
        return None, told
    rescale(last, np.array([one.temperature for one in fitted]), np.array([one.shift for one in fitted]))
    known = sum(one.known for one in fitted)
    return Calibration(
        method="temperature" if task == "multiclass" else method,
        temperature={name: one.temperature for name, one in zip(names, fitted, strict=True)},
        shift={name: one.shift for name, one in zip(names, fitted, strict=True) if one.shift},
        nll_before=sum(one.before for one in fitted) / known,
        nll_after=sum(one.after for one in fitted) / known,
        images=len(validation),
    ), told


@dataclass(frozen=True)
class Fit:
    """Temperature and shift of one output, with the summed negative log-likelihoods of its known labels."""

    known: int
    before: float
    after: float
    temperature: float = 1.0
    shift: float = 0.0
    enough: bool = True


def _exclusive(logits: Floats, truth: Floats) -> list[Fit]:
    before = negative_log_likelihood(logits, truth)
    if len(truth) < FEWEST_TO_ESTIMATE * truth.shape[1]:
        return [Fit(len(truth), before, before, enough=False)]
    temperature = _rounded(float(np.clip(fit_temperature(logits, truth, "multiclass"), *_BOUNDS)))
    after = negative_log_likelihood(logits / temperature, truth)
    return [Fit(len(truth), before, after, temperature) if after < before else Fit(len(truth), before, before)]


def fit_labels(logits: Floats, y: Floats, method: Literal["platt", "temperature"]) -> list[Fit]:
    """Returns what to do to each label's logits, float64 (n, labels), for targets of that shape with NaN unknown."""
    fits = []
    for column in range(logits.shape[1]):
        known = ~np.isnan(y[:, column])
        z, truth = logits[known, column], y[known, column]
        before = negative_log_likelihood(z, truth)
        if min(truth.sum(), (1 - truth).sum()) < FEWEST_TO_ESTIMATE:
            fits.append(Fit(len(truth), before, before, enough=False))
            continue
        if method == "platt":
            temperature, shift = map(_rounded, fit_platt(z, truth, _BOUNDS))
        else:
            free = fit_temperature(z[:, None], truth[:, None], "binary")
            temperature, shift = _rounded(float(np.clip(free, *_BOUNDS))), 0.0
        after = negative_log_likelihood(z / temperature + shift, truth)
        better = after < before
        fits.append(Fit(len(truth), before, after, temperature, shift) if better else Fit(len(truth), before, before))
    return fits


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


# -- the network ------------------------------------------------------------------------------------------------------


@contextmanager
def _linear(network: Any) -> Iterator[None]:
    """Makes the network give logits while the context lasts."""
    import keras

    final = network.layers[-1]
    activation, final.activation = final.activation, keras.activations.linear
    try:
        yield
    finally:
        final.activation = activation
