"""Files that cannot be read, and kinds of files that go with a class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.data.audit.classes import truth
from medimg.data.audit.findings import Found, found
from medimg.data.labels import amount

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset
    from medimg.data.index import PixelFacts

__all__ = ["MOST_REJECTED", "burned_in", "kinds", "orientation", "rejected"]

MOST_REJECTED = 0.01
# A kind of file goes with a class where its shares differ by a tenth and by four standard errors: so that of a dozen
# kinds and classes none is called by chance, while ten files against ten are enough if they differ altogether.
LEAST_DIFFERENCE = 0.1
LEAST_ERRORS = 4.0

_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "palette", "RGB": "colour",
    "RGBA": "colour with transparency", "CMYK": "CMYK",
}  # fmt: skip


def rejected(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    """Tells of images that cannot be read: an error above one in a hundred."""
    broken = [sample.id for sample in dataset.samples if facts[sample.id].rejection is not None]
    reasons = [reason for id in broken if (reason := facts[id].rejection) is not None]
    if not reasons:
        return found("rejected-images", "fine", f"all {len(dataset):,} images can be read")
    codes = Counter(error.code for error in reasons)
    listed = ", ".join(f"{number:,} {code}" for code, number in codes.most_common())
    share = len(reasons) / len(dataset)
    return found(
        "rejected-images",
        "error" if share > MOST_REJECTED else "warning",
        f"{len(reasons):,} of {amount(len(dataset), 'image')} cannot be read ({share:.1%}): {listed}",
        map(str, reasons),
        broken,
    )


def kinds(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    """Tells whether the mode or the bit depth of a file goes with what it shows.

    The network sees the same kind of pixels whatever the file held. But where they differ by class, so did the way the
    images were made, and that may be in the pixels too.
    """
    seen = {sample.id: facts[sample.id].appearance for sample in dataset.samples}
    names = {id: "" if looks is None else _kind(looks.mode, looks.bits) for id, looks in seen.items()}
    counts = Counter(names.values())
    counts.pop("", None)
    listed = ", ".join(f"{name} {number:,}" for name, number in counts.most_common())
    told = [
        f"{name} is {with_class:.0%} of {label!r} and {others:.0%} of the others"
        for name in counts
        for label, with_class, others in _differing(dataset, {id: kind == name for id, kind in names.items()})
    ]
    if told:
        return found(
            "file-kinds",
            "warning",
            f"files of the classes differ: {'; '.join(told[:6])}. Were the classes collected in different ways? A "
            "network can learn that instead of the disease",
        )
    return found("file-kinds", "fine", f"files of all classes are of the same kinds: {listed or 'none'}")


def orientation(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    """Tells of EXIF orientations that mean nothing, which is an error, and of those that go with a class."""
    tags = {sample.id: looks.orientation for sample in dataset.samples if (looks := facts[sample.id].appearance)}
    lost = [dataset[id] for id, tag in tags.items() if tag == 0]
    if lost:
        return found(
            "orientation",
            "error",
            f"{amount(len(lost), 'image')} with an EXIF orientation that means nothing: nobody knows which way up. "
            "Look at them and save them anew, or leave them out: dataset.without(…)",
            (str(sample.path) for sample in lost),
            (sample.id for sample in lost),
        )
    turned = sum(tag > 1 for tag in tags.values())
    if differing := _differing(dataset, {id: tag > 1 for id, tag in tags.items()}):
        shares = "; ".join(f"{mine:.0%} of {label!r}, {others:.0%} of the others" for label, mine, others in differing)
        return found(
            "orientation",
            "warning",
            f"EXIF turns {shares}. It is applied, but the classes come from different cameras or programs",
        )
    told = f"EXIF turns {amount(turned, 'image')}, which is applied" if turned else "EXIF turns no image"
    return found("orientation", "fine", told)


def burned_in(dataset: Dataset) -> Found:
    """Tells of DICOM files that say that text is burned into their pixels: it may be the patient's name."""
    told = [sample for sample in dataset.samples if sample.columns.get("BurnedInAnnotation") == "YES"]
    if told:
        return found(
            "burned-in-text",
            "warning",
            f"{amount(len(told), 'image')} whose header says that text is burned into the pixels. It is not removed: "
            "it would leave this machine, and a network can read it. Mask it, or leave them out: dataset.without(…)",
            (str(sample.path) for sample in told),
            (sample.id for sample in told),
        )
    return found("burned-in-text", "fine", "no DICOM header says that text is burned into the pixels")


def _kind(mode: str, bits: int) -> str:
    return f"{bits}-bit {'grey' if mode.startswith('I') else _MODES.get(mode, mode)}"


def _differing(dataset: Dataset, has: Mapping[str, bool]) -> list[tuple[str, float, float]]:
    """Returns the classes with which a trait goes, and its share in the class and in the other images."""
    trait = np.array([has.get(sample.id, False) for sample in dataset.samples], bool)
    told = []
    for label, shows in zip(dataset.classes, truth(dataset, dataset.samples).T, strict=True):
        mine, others = trait[shows == 1], trait[shows == 0]
        if len(mine) and len(others) and _is_clear(mine, others):
            told.append((label, float(mine.mean()), float(others.mean())))
        if len(dataset.classes) == 2 and dataset.task != "multilabel" and told:
            break  # of two classes the second says the same
    return told


def _is_clear(mine: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]) -> bool:
    """Tells whether two shares differ (two-proportion z test)."""
    pooled = (int(mine.sum()) + int(others.sum())) / (len(mine) + len(others))
    error = math.sqrt(pooled * (1 - pooled) * (1 / len(mine) + 1 / len(others)))
    difference = abs(float(mine.mean()) - float(others.mean()))
    return difference >= max(LEAST_DIFFERENCE, LEAST_ERRORS * error) and error > 0
