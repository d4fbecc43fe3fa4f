"""Shortcuts: what a network could learn in place of the finding.

If size, brightness or border alone give the class away, a good figure may be theirs. The classic cases are scanners or
wards that saw one class only, and markers burnt into the corner (Zech et al., PLOS Medicine 15 (2018) e1002683).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medimg.data.audit.separation import (
    FAMILIES,
    FEATURES,
    HIDE_PROPORTIONS,
    Flags,
    Floats,
    Groups,
    Separation,
    separation,
)

__all__ = ["LIMIT", "Shortcut", "find_shortcuts", "shortcut_message"]

LIMIT = 0.65
"""AUROC from which plain facts are said to give a class away."""

# The interval must exclude a separation that small sets reach by luck.
_LUCK = 0.6


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A class that plain facts about the image give away.

    Attributes:
        name: The class.
        together: How well all facts together tell it from the others.
        alone: Each family of facts (a key of `FAMILIES`) that does so alone, the best first.
    """

    name: str
    together: Separation
    alone: tuple[tuple[str, Separation], ...]


def find_shortcuts(
    features: Floats, truth: Floats, groups: Groups, names: Sequence[str]
) -> tuple[Shortcut, ...] | None:
    """Returns the classes that are given away, the clearest first; None where no class has enough images to say.

    Args:
        features: float64 (n, len(FEATURES)): `plain_features` of the images to learn from, not those of test.
        truth: float64 (n, len(names)): 1, 0 or NaN (unknown) for each class. Of a binary task the positive class is
            enough.
        groups: str or int64 (n,): the patient of each image.
        names: Of the classes.
    """
    found, asked = [], False
    for column, name in enumerate(names):
        known = ~np.isnan(truth[:, column])
        x, positive, patients = features[known], truth[known, column] == 1, groups[known]
        together = separation(x, positive, patients)
        asked = asked or together is not None
        if together is None or not _is_clear(together):
            continue
        found.append(Shortcut(name, together, _families(x, positive, patients)))
    return tuple(sorted(found, key=lambda one: -one.together.auroc)) if asked else None


def shortcut_message(found: Sequence[Shortcut]) -> str:
    """Returns what a reader should know and do about shortcuts, in plain words; it names no file and no patient."""
    lines = []
    for one in found[:3]:
        alone = "".join(f", {family} alone {each.auroc:.2f}" for family, each in one.alone)
        lines.append(f"{one.name} {one.together}{alone}")
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    proportions = any(family == "proportions" for one in found for family, _ in one.alone)
    return (
        "A class can be told from size, proportions, brightness and border, without looking for the finding: "
        f"{'; '.join(lines)}{more}. Some of it may belong to the finding, some to the scanner, and a network takes "
        "either: score it on images of another origin, and where classes came from different sources bring them to "
        f"one size and crop{'; ' + HIDE_PROPORTIONS if proportions else ''}"
    )


def _is_clear(one: Separation | None) -> bool:
    return one is not None and one.auroc > LIMIT and one.low > _LUCK


def _families(features: Floats, positive: Flags, groups: Groups) -> tuple[tuple[str, Separation], ...]:
    found = []
    for family, members in FAMILIES.items():
        each = separation(features[:, [FEATURES.index(member) for member in members]], positive, groups)
        if each is not None and _is_clear(each):
            found.append((family, each))
    return tuple(sorted(found, key=lambda pair: -pair[1].auroc))
