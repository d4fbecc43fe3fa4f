"""Which interval each figure gets: the one that covers best in simulation (benchmarks/studies/coverage.py).

Shares of images: Wilson's at the effective number of images; likelihood ratios: from those of their two shares. AUROC,
AUPRC and balanced accuracy: the bootstrap's standard error on the scale of log-odds. Calibration slope and intercept:
Wald's, robust to clusters. ECE: none, since chance makes it larger and resampling adds to that, so that no interval
tried held the true one. The rest: percentiles of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medimg.evaluation.intervals import (
    FEWEST_PATIENTS,
    Interval,
    on_logit_scale,
    percentiles,
    proportion,
    unvaried,
)
from medimg.evaluation.resampling import Resamples
from medimg.evaluation.target import Target

__all__ = ["accuracy_interval", "average_intervals", "target_intervals", "why_none"]


def target_intervals(target: Target, resamples: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Interval]:
    """Returns the intervals of one target's figures, as far as they can be estimated.

    Args:
        target: With the figures of all samples.
        resamples: Figure to float64 (resamples,).
    """
    truth, decided = target.truth.astype(np.float64), target.decided.astype(np.float64)
    patients, values = target.patients, target.values
    with_it, without = target.positive_patients, target.negative_patients
    rarer = min(with_it, without)
    sensitivity, specificity = proportion(decided, truth, patients), proportion(1 - decided, 1 - truth, patients)
    found: dict[str, Interval | None] = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": proportion(truth, decided, patients),
        "npv": proportion(1 - truth, 1 - decided, patients),
        "calibration_slope": target.line.slope_interval,
        "calibration_intercept": target.line.intercept_interval,
    }
    if rarer >= FEWEST_PATIENTS:
        perfect = [target.bounds(name) for name in ("sensitivity", "specificity")]
        found["auroc"] = target.bounds("auroc") or _on_logit_scale("auroc", values, resamples, rarer)
        found["auprc"] = _on_logit_scale("auprc", values, resamples, with_it)
        balanced = _on_logit_scale("balanced_accuracy", values, resamples, rarer)
        found["balanced_accuracy"] = _widened(balanced, values["balanced_accuracy"], perfect, 2)
        if perfect == [None, None]:
            found["mcc"] = percentiles(resamples["mcc"])  # it would take a share of 0 or 1 for certain
    hit, clear = values["sensitivity"], values["specificity"]
    if sensitivity and specificity and hit is not None and clear is not None:
        found["lr_positive"] = _ratio(hit, sensitivity, 1 - clear, _others(specificity))
        found["lr_negative"] = _ratio(1 - hit, _others(sensitivity), clear, specificity)
    if len(np.unique(patients)) >= FEWEST_PATIENTS:
        found["brier"] = percentiles(resamples["brier"])
    return {name: bounds for name, bounds in found.items() if bounds is not None and values[name] is not None}


def average_intervals(
    targets: Sequence[Target],
    values: Mapping[str, float | None],
    resamples: Resamples,
    patients: int,
) -> dict[str, Interval]:
    """Returns the intervals of averages over targets, and of figures of all classes together.

    An average is over the targets that have the figure. A resample in which one of them does not have it is left out.

    Args:
        targets: One a class or label.
        values: Figure to value: "auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "mcc", "brier"
            and "kappa" where the classes have an order.
        resamples: Of the same targets.
        patients: How many there are.
    """
    if patients < FEWEST_PATIENTS:
        return {}
    found: dict[str, Interval | None] = {}
    for name in ("auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "brier"):
        # Of several classes, one is decided: balanced accuracy is their mean sensitivity.
        part = "sensitivity" if name == "balanced_accuracy" and resamples.whole else name
        having = [place for place, target in enumerate(targets) if target.values[part] is not None]
        if not having or values[name] is None:
            continue
        mean = resamples.targets[part][having].mean(axis=0)
        if name == "brier":
            found[name] = percentiles(resamples.whole.get(name, mean))
            continue
        parts = ("sensitivity", "specificity") if part == "balanced_accuracy" else (part,)
        interval = _on_logit_scale(name, values, {name: mean}, patients)
        if part == "auprc":
            certain = any(targets[place].values[part] == 1 for place in having)
            found[name] = None if certain else interval
        else:
            perfect = [targets[place].bounds(one) for place in having for one in parts]
            found[name] = _widened(interval, values[name], perfect, len(perfect))
    if resamples.whole:
        found |= {name: percentiles(resamples.whole[name]) for name in ("kappa", "mcc")}
    else:
        having = [place for place, target in enumerate(targets) if target.values["mcc"] is not None]
        shares = ("sensitivity", "specificity")
        certain = any(targets[place].values[name] in (0, 1) for place in having for name in shares)
        if having and not certain:
            found["mcc"] = percentiles(resamples.targets["mcc"][having].mean(axis=0))
    return {name: bounds for name, bounds in found.items() if bounds is not None and values[name] is not None}


def accuracy_interval(
    right: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], patients: npt.NDArray[np.int64]
) -> Interval | None:
    """Returns the interval of the share of right decisions.

    Args:
        right: bool (n, targets).
        known: bool (n, targets): which of them count.
        patients: int64 (n,), from `numbered`.
    """
    of = known.astype(np.float64)
    return proportion(right.astype(np.float64).ravel(), of.ravel(), np.repeat(patients, right.shape[1]))


def why_none(figure: str, value: float, patients: int, resamples: npt.NDArray[np.float64] | None) -> str:
    """Returns why a figure that has a value has no interval.

    Args:
        figure: Its name.
        value: Of all samples.
        patients: Those that it rests on, of the rarer kind.
        resamples: Of the figure, float64 (resamples,); None where it is not resampled.
    """
    if figure == "ece":
        return "no interval: chance alone makes it larger, and drawing images again adds to that"
    if 0 < value < 1 and resamples is not None and unvaried(resamples):
        return "no interval: all resamples of the patients give the same figure"
    if patients < FEWEST_PATIENTS:
        return f"no interval: {patients:,} patients; at least {FEWEST_PATIENTS} are needed"
    if figure.startswith("calibration"):
        return "no interval: probabilities so near 0 and 1 do not tell it"
    if value in (0, 1) or figure == "mcc":
        return "no interval: drawing the same patients again does not show how far a perfect figure can fall"
    if figure in ("ppv", "npv"):
        return f"no interval: it rests on fewer than {FEWEST_PATIENTS} patients"
    return "no interval: too many resamples of the patients do not give this figure"


def _on_logit_scale(
    name: str,
    values: Mapping[str, float | None],
    resamples: Mapping[str, npt.NDArray[np.float64]],
    patients: int,
) -> Interval | None:
    value = values[name]
    return None if value is None else on_logit_scale(value, resamples[name], patients)


def _others(share: Interval) -> Interval:
    return 1 - share[1], 1 - share[0]


def _ratio(above: float, above_interval: Interval, below: float, below_interval: Interval) -> Interval | None:
    """Returns the interval of a ratio of two independent figures; None where it has no bound.

    MOVER-R: Newcombe, Statistical Methods in Medical Research 25 (2016) 1774-1778.
    """
    (low, high), (least, most) = above_interval, below_interval
    if least <= 0:
        return None
    product = above * below
    lower = low * (2 * above - low)
    # Rounding must not make the root of 0 one of a negative number.
    root = math.sqrt(max(0.0, product**2 - lower * most * (2 * below - most)))
    size = least * (2 * below - least)
    upper = product + math.sqrt(max(0.0, product**2 - high * (2 * above - high) * size))
    return (lower / (product + root) if lower else 0.0), upper / size


def _widened(
    interval: Interval | None, value: float | None, perfect: Sequence[Interval | None], parts: int
) -> Interval | None:
    """Returns the interval of an average, widened by parts that are exactly 0 or 1 and so never moved.

    The squares of the distances add up, as for a sum of independent figures (Zou and Donner, Statistics in Medicine
    27 (2008) 1693-1702).

    Args:
        interval: As if those parts were certain.
        value: The average.
        perfect: Their own bounds, and None for the parts that did move.
        parts: How many figures the average is of.
    """
    if value is None:
        return None
    certain = [bounds for bounds in perfect if bounds is not None]
    if interval is None:
        # Nothing moved: what is left is the bounds of the parts.
        if len(certain) < parts:
            return None
        interval = (value, value)
    down = sum((1 - low) ** 2 for low, high in certain if high == 1) / parts**2
    up = sum(high**2 for low, high in certain if low == 0) / parts**2
    low, high = interval
    return max(0.0, value - math.hypot(value - low, math.sqrt(down))), min(
        1.0, value + math.hypot(high - value, math.sqrt(up))
    )
