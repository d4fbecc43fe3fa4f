"""What images look like, whatever they show: shortcuts within train, and shift from train to test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.data.audit.classes import truth
from medimg.data.audit.findings import Found, found
from medimg.data.audit.separation import FEWEST, plain_features
from medimg.data.audit.shift import find_shift, shift_message
from medimg.data.audit.shortcuts import find_shortcuts, shortcut_message

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample
    from medimg.data.index import PixelFacts

__all__ = ["shifts", "shortcuts"]


def shortcuts(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    """Tells of classes that size, brightness and border alone give away, in train and validation."""
    samples = [s for s in dataset.samples if s.split != "test" and facts[s.id].appearance is not None]
    shown, names = truth(dataset, samples), dataset.classes
    if dataset.positive is not None:  # of two classes the other says the same
        names = (dataset.positive,)
        shown = shown[:, [dataset.classes.index(dataset.positive)]]
    features = plain_features([facts[sample.id] for sample in samples])
    told = find_shortcuts(features, shown, _patients(samples), names)
    if told is None:
        return found("shortcuts", "unknown", f"no class has {FEWEST} images and patients on both sides to ask this of")
    if told:
        return found("shortcuts", "warning", shortcut_message(told))
    return found("shortcuts", "fine", "size, proportions, brightness and border alone tell no class")


def shifts(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    """Tells of classes whose images look different in train (or validation) and in test."""
    samples = [s for s in dataset.samples if s.split is not None and facts[s.id].appearance is not None]
    in_test = np.array([sample.split == "test" for sample in samples], bool)
    if not in_test.any():
        return found("shift", "unknown", "there is no test split to compare train with")
    features = plain_features([facts[sample.id] for sample in samples])
    told = find_shift(features, truth(dataset, samples) == 1, in_test, _patients(samples), dataset.classes)
    if told is None:
        return found("shift", "unknown", f"no class has {FEWEST} images and patients in train and in test")
    if told:
        return found("shift", "warning", shift_message(told))
    return found("shift", "fine", "images of one class look alike in train and test")


def _patients(samples: list[Sample]) -> npt.NDArray[np.int64]:
    """Returns the patient of each image as a number: int64 (n,)."""
    names = [f"i:{sample.id}" if sample.group is None else f"g:{sample.group}" for sample in samples]
    place = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([place[name] for name in names], np.int64)
