"""Platt's scaling: what log-odds are to be divided by, and what is to be added, so that they mean frequencies."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from medimg.evaluation.calibration import sigmoid

__all__ = ["fit_platt"]

_STEPS = 100
_HALVINGS = 30
_LONGEST = 5.0  # step of Newton's method, in standard deviations of the logits
_SMALL = 1e-10


def fit_platt(
    logits: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], bounds: tuple[float, float]
) -> tuple[float, float]:
    """Returns the temperature that log-odds are to be divided by, and the shift to add then.

    A logistic regression of the truth on the log-odds (Platt, "Probabilistic outputs for support vector machines",
    1999; Cox, Biometrika 45 (1958) 562-565) with Firth's penalty (Biometrika 80 (1993) 27-38), so that it exists for
    separated classes too and few images do not make it steep. The shift is then the one of greatest likelihood, which
    makes the mean probability the share of positives (Puhr et al., Statistics in Medicine 36 (2017) 2302-2317).

    The temperature is positive, so the order of the images does not change.

    Args:
        logits: float64 (n,), log-odds of the finding.
        truth: 1 or 0, float64 (n,), with both values in it.
        bounds: Least and largest temperature; the largest where the logits rank no better than chance.
    """
    spread = float(logits.std())
    temperature = 1.0
    if spread > _SMALL:
        slope = _firth((logits - logits.mean()) / spread, truth) / spread
        temperature = min(max(1 / slope if slope > 0 else math.inf, bounds[0]), bounds[1])
    return temperature, _level(logits / temperature, truth)


def _firth(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Returns the slope of greatest penalised likelihood, by Newton's method with halved steps."""
    design = np.stack([np.ones(len(x)), x], axis=1)

    def curvature(coefficients: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        p = sigmoid(design @ coefficients)
        found: npt.NDArray[np.float64] = design.T @ (design * (p * (1 - p))[:, None])
        return found

    def loss(coefficients: npt.NDArray[np.float64]) -> float:
        z = design @ coefficients
        sign, size = np.linalg.slogdet(curvature(coefficients))
        return float((np.logaddexp(0, z) - y * z).sum() - size / 2) if sign > 0 else math.inf

    coefficients = np.zeros(2)
    least = loss(coefficients)
    for _ in range(_STEPS):
        p = sigmoid(design @ coefficients)
        inverse = np.linalg.inv(curvature(coefficients))
        leverage = p * (1 - p) * np.einsum("ij,jk,ik->i", design, inverse, design)
        step = inverse @ (design.T @ (y - p + leverage * (0.5 - p)))
        step *= min(1.0, _LONGEST / max(float(np.abs(step).max()), _SMALL))
        for halving in range(_HALVINGS):
            moved = coefficients + step / 2**halving
            now = loss(moved)
            if now < least:
                break
        else:  # nothing is better, to the last digits
            break
        coefficients, least = moved, now
    return float(coefficients[1])


def _level(z: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Returns what to add to log-odds so that the mean probability is the share of positives."""
    from scipy.optimize import brentq

    share = float(y.mean())
    middle = math.log(share / (1 - share))
    # Somewhere between: at these ends all probabilities lie on one side of the share.
    low, high = middle - float(z.max()) - 1, middle - float(z.min()) + 1
    return float(brentq(lambda shift: float(sigmoid(z + shift).mean()) - share, low, high, xtol=_SMALL))
