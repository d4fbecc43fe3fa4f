"""The order of classes that are numbers: 2 before 10, where text puts it after."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from medimg.data.dataset import Dataset, Labels

__all__ = ["in_order"]


def in_order(dataset: Dataset, numbers: Mapping[str, int] | None = None) -> Dataset:
    """Returns a dataset with its classes by number; as it is, unless each of them has one.

    Args:
        dataset: Its classes in any order.
        numbers: What the classes are numbered, if that is known of all; None: a class is its own number.
    """
    classes = dataset.classes
    if numbers is None or not numbers.keys() >= set(classes):
        if not all(re.fullmatch(r"-?\d{1,18}", name) for name in classes):
            return dataset
        numbers = {name: int(name) for name in classes}
    order = sorted(range(len(classes)), key=lambda place: (numbers[classes[place]], classes[place]))

    def moved(labels: Labels) -> Labels:
        return order.index(labels) if isinstance(labels, int) else tuple(labels[place] for place in order)

    return replace(
        dataset,
        classes=tuple(classes[place] for place in order),
        samples=tuple(replace(sample, labels=moved(sample.labels)) for sample in dataset.samples),
    )
