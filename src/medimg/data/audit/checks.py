"""All checks of a dataset, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medimg.data.audit import classes, duplicates, files, groups, looks
from medimg.data.audit.report import AuditReport
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.data.audit.findings import Found
    from medimg.data.dataset import Dataset
    from medimg.data.index import PixelFacts

__all__ = ["STOPPING", "check"]

STOPPING = (
    "rejected-images", "group-leakage", "duplicate-images", "tiny-validation", "orientation", "constant-predictions",
)  # fmt: skip
"""The checks whose errors stop a training: what `allow` may name. The last is asked when the network is trained."""


def check(
    dataset: Dataset,
    facts: Mapping[str, PixelFacts],
    *,
    rejected: Found | None = None,
    notices: tuple[str, ...] = (),
    report: Report,
) -> AuditReport:
    """Returns what every check finds in a dataset as it is divided now.

    Args:
        dataset: The images.
        facts: What `dataset.index()` returned.
        rejected: What was found of images that are left out of the dataset already; None: nothing was left out.
        notices: What was done to the dataset before.
        report: Told of progress.
    """
    report(Event("stage", "auditing", 0, len(dataset)))
    if rejected is None:
        rejected = files.rejected(dataset, facts)
        dataset = dataset.without(rejected.drop)
    # Validation's size is asked only where there is something to train.
    trained = bool(dataset.of("train"))
    found = [
        rejected,
        groups.leakage(dataset),
        duplicates.copies(dataset, facts),
        duplicates.near(dataset, facts),
        duplicates.conflicts(dataset, facts),
        *((classes.validation(dataset), classes.absent(dataset), classes.imbalance(dataset)) if trained else ()),
        files.kinds(dataset, facts),
        files.orientation(dataset, facts),
        # Only a reader of DICOM headers can know.
        *((files.burned_in(dataset),) if any("BurnedInAnnotation" in s.columns for s in dataset.samples) else ()),
        looks.shortcuts(dataset, facts),
        looks.shifts(dataset, facts),
    ]
    report(Event("stage", "auditing", len(dataset), len(dataset)))
    return AuditReport(dataset.name, len(dataset), dataset.splits, tuple(found), notices)
