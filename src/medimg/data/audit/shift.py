"""Shift: images of one class that look different in train and in test.

A figure then says how the model fares on images of another origin. Of the figures the ranking (AUROC) is the most
likely to hold, and what depends on a threshold chosen on images like those of train the least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medimg.data.audit.separation import (
    FEATURES,
    HIDE_PROPORTIONS,
    Flags,
    Floats,
    Groups,
    Separation,
    ranking,
    separation,
)

__all__ = ["LIMIT", "Shift", "find_shift", "shift_message"]

LIMIT = 0.7
"""AUROC of telling train from test, within one class, from which the class is said to be shifted."""

# The interval must exclude a separation that small sets reach by luck.
_LUCK = 0.65

_WORDS = {
    "height": ("lower", "higher"),
    "width": ("narrower", "wider"),
    "brightness": ("darker", "brighter"),
    "contrast": ("of less contrast", "of more contrast"),
    "border brightness": ("darker at the border", "brighter at the border"),
    "border contrast": ("of less contrast at the border", "of more contrast at the border"),
    "stretch": ("stretched more from side to side", "squeezed more from side to side"),
}
# Of single features, below which the difference is not worth a word: AUROC from 0.5.
_TELLING = 0.1


@dataclass(frozen=True, slots=True)
class Shift:
    """A class whose images differ between train and test.

    Attributes:
        name: The class.
        separation: How well train and test are told apart by plain facts about the image.
        differences: In what test differs, in words, the clearest first; with the AUROC of that fact alone.
    """

    name: str
    separation: Separation
    differences: tuple[tuple[str, float], ...]


def find_shift(
    features: Floats, shows: Flags, in_test: Flags, groups: Groups, names: Sequence[str]
) -> tuple[Shift, ...] | None:
    """Returns the classes that are shifted, the clearest first; None where no class has enough images to say.

    Args:
        features: float64 (n, len(FEATURES)): `plain_features` of the images of train and of test.
        shows: bool (n, len(names)): which class each image shows.
        in_test: bool (n,): test, else train.
        groups: str or int64 (n,): the patient of each image.
        names: Of the classes.
    """
    found, asked = [], False
    for column, name in enumerate(names):
        rows = shows[:, column]
        apart = separation(features[rows], in_test[rows], groups[rows])
        asked = asked or apart is not None
        if apart is None or apart.auroc <= LIMIT or apart.low <= _LUCK:
            continue
        differences = tuple(
            (_WORDS[FEATURES[k]][auroc > 0.5], max(auroc, 1 - auroc))
            for auroc, k in ranking(features[rows], in_test[rows])
            if abs(auroc - 0.5) >= _TELLING
        )
        found.append(Shift(name, apart, differences))
    return tuple(sorted(found, key=lambda one: -one.separation.auroc)) if asked else None


def shift_message(found: Sequence[Shift]) -> str:
    """Returns what a reader should know and do about a shift, in plain words; it names no file and no patient."""
    lines = []
    for one in found[:3]:
        words = ", ".join(f"{word} (alone {auroc:.2f})" for word, auroc in one.differences[:3])
        lines.append(f"{one.name} {one.separation}{', in test ' if words else ''}{words}")
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    proportions = any(word in _WORDS["stretch"] for one in found for word, _ in one.differences)
    return (
        f"Images of the same class differ between train and test: {'; '.join(lines)}{more}. The ranking may hold, the "
        "threshold may not: choose it on images like those the model will be used on"
        f"{'; ' + HIDE_PROPORTIONS if proportions else ''}"
    )
