"""The same predictions asked of patients: several images of one are one case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from medimg.errors import DatasetError
from medimg.evaluation.metrics import Metrics, measure
from medimg.inference.predictions import Label, Predictions

__all__ = ["How", "by_patient", "measure_patients", "mixed_patients"]

How = Literal["mean", "max"]
"""How the probabilities of a patient's images become one: their mean, or that of the most suspicious image."""

_HOWS: tuple[How, ...] = ("mean", "max")


def by_patient(predictions: Predictions, how: How) -> Predictions:
    """Returns one row a patient; the sample ids are the groups, in the order in which they first occur.

    An image without a group keeps its id; where that is also a group's name, " (image)" is added.

    A patient has a finding if any image shows it (binary: the positive class), has not if an image is known not to
    show it and none shows it, and else the label is unknown. In a multiclass task the images of a patient must agree:
    patients whose images differ are left out, and `mixed_patients` names them. An image without a group is a patient
    of its own. Named columns are dropped: images of a patient may differ in them.

    Args:
        predictions: One row an image.
        how: "mean" or "max" over the images of a patient. Binary: of the positive class. Multiclass: of each class,
            and "max" is divided by its sum over the classes, so that it is a distribution.

    Raises:
        DatasetError: Another `how`, or no patient is left.
    """
    if how not in _HOWS:
        raise DatasetError(f'how={how!r}: "mean" or "max"')
    names, patient = _patients(predictions)
    table = predictions.probabilities
    if how == "mean":
        found = np.zeros((len(names), table.shape[1]))
        np.add.at(found, patient, table)
        found /= np.bincount(patient)[:, None]
    else:
        found = np.zeros((len(names), table.shape[1]))
        np.maximum.at(found, patient, table)
        if predictions.positive is not None:
            positive = predictions.classes.index(predictions.positive)
            found[:, 1 - positive] = 1 - found[:, positive]
        elif predictions.task == "multiclass":
            found /= found.sum(axis=1, keepdims=True)
    kept = np.flatnonzero(~_mixed(predictions, len(names), patient)).tolist()
    if not kept:
        raise DatasetError("every patient has images of different classes: there is nothing to measure by patient")
    labels = None if predictions.labels is None else _labels(predictions, len(names), patient)
    ids = tuple(names[row] for row in kept)
    return Predictions(
        classes=predictions.classes,
        task=predictions.task,
        ids=ids,
        probabilities=np.clip(found[kept], 0.0, 1.0),  # a mean of ones may round to a little more
        positive=predictions.positive,
        labels=None if labels is None else tuple(labels[row] for row in kept),
        groups=ids,
        split=predictions.split,
    )


def mixed_patients(predictions: Predictions) -> tuple[str, ...]:
    """Returns the patients of a multiclass task whose images show different classes; for any other task none."""
    names, patient = _patients(predictions)
    return tuple(names[row] for row in np.flatnonzero(_mixed(predictions, len(names), patient)).tolist())


def _mixed(predictions: Predictions, patients: int, patient: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Returns for each patient of a multiclass task whether their images show different classes."""
    if predictions.task != "multiclass" or predictions.labels is None:
        return np.zeros(patients, dtype=bool)
    shown: list[set[Label]] = [set() for _ in range(patients)]
    for row, label in zip(patient.tolist(), predictions.labels, strict=True):
        shown[row].add(label)
    return np.array([len(labels) > 1 for labels in shown])


def measure_patients(
    predictions: Predictions, thresholds: Mapping[str, float], *, resamples: int = 0, seed: int = 0
) -> dict[str, Metrics]:
    """Returns "mean" and "max" with the figures by patient; empty where no patient has several images.

    The thresholds stay those that were frozen on images. How many patients were left out is among the notices.

    Args:
        predictions: One row an image, with labels.
        thresholds: Class to threshold: `Thresholds.values`.
        resamples: Of the bootstrap behind the intervals; 0: no intervals.
        seed: Of the resamples.
    """
    names, _ = _patients(predictions)
    mixed = len(mixed_patients(predictions))
    if len(names) == len(predictions) or mixed == len(names):
        return {}
    found: dict[str, Metrics] = {
        how: measure(by_patient(predictions, how), thresholds, resamples=resamples, seed=seed) for how in _HOWS
    }
    if not mixed:
        return found
    left_out = f"{mixed:,} of {len(names):,} patients have images of different classes and were left out."
    return {how: one.model_copy(update={"notices": (left_out, *one.notices)}) for how, one in found.items()}


def _patients(predictions: Predictions) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Returns the patients in the order of their first image, and for each image the position of its patient."""
    groups: Sequence[str | None] = predictions.groups or (None,) * len(predictions)
    places: dict[tuple[bool, str], int] = {}
    rows = [
        places.setdefault((group is None, sample if group is None else group), len(places))
        for sample, group in zip(predictions.ids, groups, strict=True)
    ]
    # A group may be called like an image without one.
    taken = {*groups, *predictions.ids}
    names = []
    for alone, name in places:
        if alone and (False, name) in places:
            while name in taken:
                name += " (image)"
            taken.add(name)
        names.append(name)
    return names, np.array(rows, dtype=np.int64)


def _labels(predictions: Predictions, patients: int, patient: npt.NDArray[np.int64]) -> list[Label]:
    if predictions.task == "multilabel":
        known = np.zeros((patients, len(predictions.classes)), dtype=bool)
        shown = np.zeros_like(known)
        np.logical_or.at(known, patient, ~np.isnan(predictions.truth))
        np.logical_or.at(shown, patient, predictions.truth == 1)
        return [
            tuple(int(one) if is_known else None for one, is_known in zip(row, row_known, strict=True))
            for row, row_known in zip(shown.tolist(), known.tolist(), strict=True)
        ]
    found: list[Label] = [0] * patients
    if predictions.positive is None:
        for row, label in zip(patient.tolist(), predictions.labels or (), strict=True):
            found[row] = label
        return found
    positive = predictions.classes.index(predictions.positive)
    any_positive = np.zeros(patients, dtype=bool)
    np.logical_or.at(any_positive, patient, predictions.truth[:, 0] == 1)
    return [positive if one else 1 - positive for one in any_positive.tolist()]
