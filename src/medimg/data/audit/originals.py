"""Large JPEGs that are there again in full, such as a film and the PNG that was made of it.

The index decodes a large JPEG at 1/2, 1/4 or 1/8, so that its hash never is that of a lossless copy. The few that look
like one are decoded in full here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.data.decode import look, read
from medimg.data.formats.pillow import USUAL, reduction
from medimg.data.index import digest, in_parallel
from medimg.data.labels import amount
from medimg.errors import ImageRejected
from medimg.progress import Report, heartbeat

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample
    from medimg.data.index import PixelFacts

__all__ = ["with_lossless_copies"]

# How far a picture's brightness may be from that of its reduced decoding: twice and four times what films of 900 to
# 2,700 pixels have. More of them are decoded than need be, but none is called a copy that is not.
_MEAN = 1.0  # of the whole
_THUMBNAIL = 10.0  # of a pixel of the thumbnail, on average


def with_lossless_copies(dataset: Dataset, facts: Mapping[str, PixelFacts], report: Report) -> Mapping[str, PixelFacts]:
    """Returns the facts, with one hash for a JPEG and the pictures that hold all its pixels.

    Args:
        dataset: The images.
        facts: What `dataset.index()` returned.
        report: Told of progress.
    """
    possible, whole = _possible(dataset, facts)
    if not possible:
        return facts
    message = f"comparing {amount(len(possible), 'JPEG')} with what looks like a lossless copy"
    with heartbeat("auditing", report, message=message), closing(in_parallel(_digest_in_full, possible)) as results:
        found = dict(zip((sample.id for sample in possible), results, strict=True))
    equal = {id: replace(facts[id], digest=pixels) for id, pixels in found.items() if pixels in whole}
    return {**facts, **equal}


def _possible(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> tuple[list[Sample], set[str]]:
    """Returns the reduced JPEGs that look like a picture that was decoded in full, and the hashes of such pictures."""
    sizes: dict[tuple[int, int], tuple[list[Sample], list[PixelFacts]]] = {}
    for sample in dataset.samples:
        fact = facts[sample.id]
        if fact.rejection is None and reduction(fact.height, fact.width, USUAL) > 1:
            jpegs, others = sizes.setdefault((fact.height, fact.width), ([], []))
            if fact.jpeg:
                jpegs.append(sample)
            else:
                others.append(fact)
    possible: list[Sample] = []
    whole: set[str] = set()
    for jpegs, others in sizes.values():
        if jpegs and others:
            whole.update(fact.digest for fact in others)
            possible += _alike(jpegs, others, facts)
    return possible, whole


def _alike(jpegs: list[Sample], others: list[PixelFacts], facts: Mapping[str, PixelFacts]) -> list[Sample]:
    """Returns the JPEGs that look like one of the others; sorted by brightness, each is compared with a few only."""
    others = sorted(others, key=_brightness)
    means = np.array([_brightness(fact) for fact in others])
    thumbnails = np.stack([_thumbnail(fact) for fact in others])
    found = []
    for sample in jpegs:
        fact = facts[sample.id]
        first, last = np.searchsorted(means, [_brightness(fact) - _MEAN, _brightness(fact) + _MEAN])
        apart = np.abs(thumbnails[first:last] - _thumbnail(fact)).mean(axis=1)
        if (apart <= _THUMBNAIL).any():
            found.append(sample)
    return found


def _brightness(fact: PixelFacts) -> float:
    assert fact.appearance is not None  # noqa: S101 - the caller has left those out
    return fact.appearance.mean


def _thumbnail(fact: PixelFacts) -> npt.NDArray[np.int16]:
    assert fact.appearance is not None  # noqa: S101 - the caller has left those out
    return np.frombuffer(fact.appearance.thumbnail, np.uint8).astype(np.int16)


def _digest_in_full(sample: Sample) -> str:
    """Returns the hash of all pixels of an image; "" where it could be read before and no longer can."""
    try:
        picture = look(read(sample.path), name=str(sample.path))
        return digest(picture)
    except (ImageRejected, MemoryError):
        return ""
