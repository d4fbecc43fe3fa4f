"""The same picture twice: pixel for pixel, or nearly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medimg.data.audit.findings import Found, Pair, found, leave_out, rank
from medimg.data.index import THUMBNAIL
from medimg.data.labels import amount

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample
    from medimg.data.index import PixelFacts

__all__ = ["SIMILAR", "conflicts", "copies", "near", "signatures"]

# On four public sets (14 million pairs) no two different pictures are above it, the most alike being at 0.938; and it
# finds 98% and more of copies saved anew, scaled, or of other brightness, gamma or contrast: see benchmarks/audit.py.
SIMILAR = 0.95
_NOTHING = 1e-3  # length below which a signature says nothing
_BLOCK = 2048  # rows of the matrix of similarities at a time: 2048² float32 are 17 MB

Signatures = npt.NDArray[np.float32]


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
    the square of their number. Images with equal pixels are `copies`. See `signatures` for what is compared.
    """
    shown = [sample for sample in dataset.samples if facts[sample.id].appearance is not None]
    pairs: list[Pair] = []
    if len({sample.split for sample in shown}) > 1:
        marks = signatures(np.stack([_thumbnail(facts[sample.id]) for sample in shown]))
        pixels = np.unique([facts[sample.id].digest for sample in shown], return_inverse=True)[1]
        best, similarity = _most_alike(marks, [sample.split for sample in shown], pixels)
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


def signatures(thumbnails: npt.NDArray[np.uint8]) -> Signatures:
    """Returns what to know a picture again by: the product of two rows is the similarity of two pictures.

    A row holds the ranks of the thumbnail's pixels, so that brightness, contrast and gamma do not matter, less what the
    images of the set have in common, since all radiographs of one kind correlate, to length 1. Perceptual hashes of
    64 bits were measured beside it: they call 1,189 of the chest set's pairs copies at 6 bits, where 29 are.

    Args:
        thumbnails: uint8, (n, 32, 32).

    Returns:
        float32, (n, 1024); a row of zeros where nothing is a picture's own, such as for a blank one.
    """
    flat = thumbnails.reshape(len(thumbnails), -1)
    # Equal pixels share the mean of their ranks: a black border must not be given an order.
    own = np.empty(flat.shape, np.float32)
    for row, values in enumerate(flat):
        counts = np.bincount(values, minlength=256)
        own[row] = (np.cumsum(counts) - (counts - 1) / 2)[values]
    own -= own.mean(axis=1, keepdims=True)
    _to_length_1(own)
    common = own.mean(axis=0, keepdims=True)
    _to_length_1(common)
    for top in range(0, len(own), _BLOCK):
        part = own[top : top + _BLOCK]
        part -= (part @ common.T) * common
    _to_length_1(own)
    return own


def _to_length_1(rows: Signatures) -> None:
    """Brings rows to length 1 in place; of a picture that is like all others only rounding is left, which becomes 0."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    rows /= np.maximum(length, _NOTHING)[:, None]
    rows[length <= _NOTHING] = 0


def _most_alike(
    marks: Signatures, splits: Sequence[str | None], pixels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Returns for each row the most similar one of the splits that are kept rather, or -1, and how similar it is.

    Args:
        marks: Of `signatures`.
        splits: Of each row.
        pixels: A number for each row; those of equal pixels are not compared.
    """
    best, similarity = np.full(len(marks), -1, np.int64), np.full(len(marks), SIMILAR, np.float32)
    rows = {split: np.flatnonzero([other == split for other in splits]) for split in sorted(set(splits), key=rank)}
    for kept, left_out in combinations(rows.values(), 2):
        for top in range(0, len(left_out), _BLOCK):
            for left in range(0, len(kept), _BLOCK):
                ones, others = left_out[top : top + _BLOCK], kept[left : left + _BLOCK]
                values = marks[ones] @ marks[others].T
                values[pixels[ones, None] == pixels[others]] = 0
                nearest = values.argmax(axis=1)
                value = values[np.arange(len(ones)), nearest]
                more = value > similarity[ones]
                best[ones[more]], similarity[ones[more]] = others[nearest[more]], value[more]
    return best, similarity


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
