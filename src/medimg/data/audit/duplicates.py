"""The same picture twice: pixel for pixel, or nearly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.data.audit.findings import Found, Pair, found, leave_out
from medimg.data.audit.similarity import most_alike
from medimg.data.index import THUMBNAIL
from medimg.data.labels import amount

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample
    from medimg.data.index import PixelFacts

__all__ = ["conflicts", "copies", "near"]


def copies(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    """Tells of pictures that are there twice with the same pixels: an error where the copies are in several splits."""
    same = [found for found in _by_pixels(dataset, facts) if len(found) > 1]
    across = [group for group in same if len({sample.split for sample in group}) > 1]
    within = sum(
        number - 1 for group in same for number in Counter(sample.split for sample in group).values() if number > 1
    )
    inside = f"{amount(within, 'image')} with the pixels of another in the same split: they count more than the others"
    if across:
        where = Counter(" and ".join(sorted({str(sample.split) for sample in group}, key=_order)) for group in across)
        listed = ", ".join(f"{number:,} of {splits}" for splits, number in where.most_common())
        return found(
            "duplicate-images",
            "error",
            f"{amount(len(across), 'picture')} in more than one split, pixel for pixel ({listed}): the score would be "
            "too good. Leave the copies out: dataset = dataset.without(dataset.audit().duplicates)"
            + (f". Beside them {inside}" if within else ""),
            (_files(group) for group in across),
            (sample.id for group in across for sample in leave_out(group)),
        )
    if within:
        return found("duplicate-images", "warning", inside, (_files(group) for group in same))
    return found("duplicate-images", "fine", "no two images have the same pixels")


def conflicts(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    """Tells of pictures that are there twice with the same pixels and with different labels."""
    differing = [group for group in _by_pixels(dataset, facts) if _disagree(group)]
    if not differing:
        return found("conflicting-labels", "fine", "no picture is there with two labels")
    said = Counter(
        " and ".join(sorted({", ".join(dataset.label_names(sample)) or "none" for sample in group}))
        for group in differing
    )
    listed = "; ".join(f"{names} {number:,}×" for names, number in said.most_common(5))
    return found(
        "conflicting-labels",
        "warning",
        f"{amount(len(differing), 'picture')} with two labels ({listed}): at most one of them is right",
        (_files(group) for group in differing),
    )


def near(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    """Tells of pictures in two splits that look like one, saved anew, scaled or with other contrast.

    Of an image to leave out only the most alike is told, since frames of one film are all alike: their pairs grow with
    the square of their number. Images with equal pixels are `copies`. See `medimg.data.audit.similarity` for what is
    compared.
    """
    shown = [sample for sample in dataset.samples if facts[sample.id].appearance is not None]
    pairs: list[Pair] = []
    if len({sample.split for sample in shown}) > 1:
        pixels = np.unique([facts[sample.id].digest for sample in shown], return_inverse=True)[1]

        def thumbnails(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
            return np.stack([_thumbnail(facts[shown[row].id]) for row in rows.tolist()])

        best, similarity = most_alike(thumbnails, [sample.split for sample in shown], pixels)
        pairs = [
            Pair(shown[best[row]], shown[row], float(similarity[row])) for row in np.flatnonzero(best >= 0).tolist()
        ]
    if not pairs:
        return found("near-duplicates", "fine", "no two images of different splits look like copies")
    pairs.sort(key=lambda pair: -pair.similarity)
    return found(
        "near-duplicates",
        "warning",
        f"{amount(len(pairs), 'image')} with what looks like a copy in another split. Look at them: "
        "dataset.audit().sheet(). To leave them out: dataset.without(dataset.audit().near_duplicates)",
        (f"{pair.similarity:.3f}  {_files((pair.first, pair.second))}" for pair in pairs),
        (pair.second.id for pair in pairs),
        pairs,
    )


def _thumbnail(fact: PixelFacts) -> npt.NDArray[np.uint8]:
    assert fact.appearance is not None  # noqa: S101 - the caller has left those out
    return np.frombuffer(fact.appearance.thumbnail, np.uint8).reshape(THUMBNAIL, THUMBNAIL)


def _by_pixels(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Iterable[list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in dataset.samples:
        groups.setdefault(facts[sample.id].digest, []).append(sample)
    return groups.values()


def _disagree(group: Sequence[Sample]) -> bool:
    if isinstance(group[0].labels, int):
        return len({sample.labels for sample in group}) > 1
    columns = zip(*(sample.labels for sample in group if not isinstance(sample.labels, int)), strict=True)
    return any({0, 1} <= set(column) for column in columns)


def _order(split: str) -> int:
    return ("train", "val", "test", "None").index(split)


def _files(group: Iterable[Sample]) -> str:
    return " = ".join(f"{sample.path} ({sample.split})" for sample in group)
