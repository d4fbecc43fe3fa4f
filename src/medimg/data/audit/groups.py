"""Patients in more than one split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medimg.data.audit.findings import Found, found
from medimg.data.labels import amount

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset

__all__ = ["leakage"]


def leakage(dataset: Dataset) -> Found:
    """Tells of patients in more than one split, an error; and warns where nobody knows whose images they are."""
    leaking = dataset.groups_in_two_splits()
    if leaking:
        return found(
            "group-leakage",
            "error",
            f"{amount(len(leaking), 'group')} (patients) in more than one split: the score would be too good. Divide "
            "anew by group: dataset = dataset.split()",
            (f"{group!r} in {' and '.join(where)}" for group, where in leaking.items()),
        )
    groups = {sample.group for sample in dataset.samples} - {None}
    if not groups:
        return found(
            "group-leakage",
            "warning",
            "no patient key: if a patient has several images, pass group= so that none is in two splits",
        )
    alone = sum(sample.group is None for sample in dataset.samples)
    without = f"; {amount(alone, 'image')} without one count as a patient each" if alone else ""
    return found("group-leakage", "fine", f"each of {amount(len(groups), 'group')} (patients) is in one split{without}")
