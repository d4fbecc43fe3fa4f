"""Whether there are enough images of every class, and in every split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.data.audit.findings import Found, found
from medimg.data.labels import amount, listing

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample, Split

__all__ = ["LEAST_PER_CLASS", "absent", "imbalance", "lacking", "scarce", "truth", "validation"]

# A threshold chosen on fewer of a class is noise; under 50 it is uncertain.
LEAST_PER_CLASS = 10
ENOUGH_PER_CLASS = 50
# From here on accuracy says little: who always gives the majority's answer is right in four of five images.
LARGEST_MAJORITY = 0.8
RARE = 0.05  # share of a label below which accuracy on it says nothing


def truth(dataset: Dataset, samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
    """Returns 1, 0 or NaN (unknown) for each image and class: float64 (n, classes)."""
    labels = [sample.labels for sample in samples]
    if dataset.task == "multilabel":
        return np.array(labels, np.float64).reshape(len(labels), len(dataset.classes))  # None becomes NaN
    return np.eye(len(dataset.classes))[np.array(labels, np.int64)]


def scarce(dataset: Dataset, of: Split, least: int = LEAST_PER_CLASS) -> dict[str, int]:
    """Returns the classes of which a split has fewer than `least` images; for multilabel, the split as a whole."""
    if dataset.task == "multilabel":
        size = len(dataset.of(of))
        return {} if size >= 2 * least else {"images": size}
    return {name: count for name, count in dataset.counts(of).items() if count < least}


def lacking(dataset: Dataset) -> list[str]:
    """Returns a sentence for each split that lacks a class."""
    told = []
    for name in dataset.splits:
        missing = [label for label, count in dataset.counts(name).items() if not count]
        if missing:
            told.append(f"{name} has no image of {listing(missing)}")
    return told


def validation(dataset: Dataset) -> Found:
    """Tells whether validation is large enough to choose a threshold on: an error under 10 of a class."""
    if few := scarce(dataset, "val"):
        return found(
            "tiny-validation",
            "error",
            f"too few images to choose a threshold on: validation has only {_amounts(few)}, and {LEAST_PER_CLASS} of "
            "each class are needed. Add images",
        )
    told = []
    if few := scarce(dataset, "val", ENOUGH_PER_CLASS):
        told.append(f"small validation split ({_amounts(few)}): thresholds are uncertain")
    if dataset.task == "multilabel" and (rare := _inestimable(dataset)):
        told.append(
            f"validation has under {LEAST_PER_CLASS} images with or without {listing(rare)}: their thresholds are 0.5 "
            "and their figures not estimable"
        )
    if told:
        return found("tiny-validation", "warning", ". ".join(told))
    counts = ", ".join(f"{count:,} of {name!r}" for name, count in list(dataset.counts("val").items())[:5])
    return found("tiny-validation", "fine", f"validation has {amount(len(dataset.of('val')), 'image')}: {counts}")


def absent(dataset: Dataset) -> Found:
    """Tells of splits that lack a class: on them nothing can be said of it."""
    told = lacking(dataset)
    if told:
        return found("absent-classes", "warning", f"{'; '.join(told)}: nothing can be said of it there")
    return found("absent-classes", "fine", "every split has every class")


def imbalance(dataset: Dataset) -> Found:
    """Tells how often the majority's answer is right: what accuracy must be compared with."""
    samples = dataset.of("train")
    total = len(samples)
    counts = dataset.counts("train")
    if dataset.task == "multilabel":
        rare = {name: count for name, count in counts.items() if count < RARE * total}
        if rare:
            return found(
                "imbalance",
                "warning",
                f"rare in train: {_amounts(rare)} of {amount(total, 'image')}. A network that never finds them is "
                f"right in {1 - max(rare.values()) / total:.0%} or more: read AUPRC and sensitivity, not accuracy",
            )
        return found("imbalance", "fine", f"every label is on {RARE:.0%} of train's images or more")
    name, most = max(counts.items(), key=lambda item: item[1])
    share = most / total if total else 0.0
    message = f"always answering {name!r} is right in {share:.1%} of train"
    if share >= LARGEST_MAJORITY:
        return found(
            "imbalance", "warning", f"{message}: compare accuracy with that, and read sensitivity and AUPRC instead"
        )
    return found("imbalance", "fine", f"{message}: what accuracy is to be compared with")


def _inestimable(dataset: Dataset) -> list[str]:
    shown = truth(dataset, dataset.of("val"))
    fewer = np.minimum((shown == 1).sum(axis=0), (shown == 0).sum(axis=0))
    return [name for name, number in zip(dataset.classes, fewer.tolist(), strict=True) if number < LEAST_PER_CLASS]


def _amounts(few: Mapping[str, int]) -> str:
    shown = [f"{count} {name}" if name == "images" else f"{count} of {name!r}" for name, count in list(few.items())[:5]]
    return ", ".join(shown) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
