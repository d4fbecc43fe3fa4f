"""Pictures that look like one, among many: what to know a picture again by, and which are the most alike.

All pairs of 100,000 pictures are too many to compare in full. A few numbers a picture give a bound that no similarity
exceeds, and pairs are compared in full only where the bound allows a copy: as good as none but the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from medimg.data.audit.findings import rank

__all__ = ["SIMILAR", "most_alike", "signatures"]

# On four public sets (14 million pairs) no two different pictures are above it, the most alike being at 0.938; and it
# finds 98% and more of copies saved anew, scaled, or of other brightness, gamma or contrast:
# see benchmarks/studies/copies.py.
SIMILAR = 0.95
_NOTHING = 1e-3  # length below which a signature says nothing
_COMMON = 8192  # pictures that tell what the set has in common: more of them change nothing
_NUMBERS = 32  # of a signature's 1,024 that the bound takes; half as many let ten times as many pairs through
_BASIS = 2048  # pictures that the numbers are chosen by
_ROUNDING = 1e-3  # of float32, with much to spare
_ROWS, _COLUMNS = 256, 1024  # of the matrix of bounds at a time: 1 MB, which stays near the processor
_BLOCK = 1024  # signatures in memory at a time: 4 MB

Signatures = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Thumbnails = Callable[[Rows], npt.NDArray[np.uint8]]


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
    own = _ranks(thumbnails)
    return _less(own, _common(own))


def most_alike(
    thumbnails: Thumbnails, splits: Sequence[str | None], pixels: Rows
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Returns for each picture the most similar one of the splits that are kept rather, or -1, and how similar it is.

    Of equally similar ones the first. Pairs up to `SIMILAR` are no copies.

    Args:
        thumbnails: Returns those of some rows: uint8 (rows, 32, 32).
        splits: Of each row.
        pixels: A number for each row; those of equal pixels are not compared.
    """
    count = len(splits)
    some = _spread(count, _COMMON)
    parts = (some[top : top + _BLOCK] for top in range(0, len(some), _BLOCK))
    common = _common(np.stack([_ranks(thumbnails(part)).sum(axis=0) for part in parts]))

    def marks(rows: Rows) -> Signatures:
        return _less(_ranks(thumbnails(rows)), common)

    keys = _keys(marks, count)
    best, similarity = np.full(count, -1, np.int64), np.full(count, SIMILAR, np.float32)
    of = {split: np.flatnonzero([other == split for other in splits]) for split in sorted(set(splits), key=rank)}
    for kept, left_out in combinations(of.values(), 2):
        for ones, others in _near(keys, left_out, kept):
            bounds = keys[ones] @ keys[others].T
            if bounds.max() <= SIMILAR - _ROUNDING:
                continue
            possible = bounds > SIMILAR - _ROUNDING
            ones, others = ones[possible.any(axis=1)], others[possible.any(axis=0)]
            values = marks(ones) @ marks(others).T
            values[pixels[ones, None] == pixels[others]] = 0
            nearest = values.argmax(axis=1)
            value, found = values[np.arange(len(ones)), nearest], others[nearest]
            more = (value > similarity[ones]) | ((value == similarity[ones]) & (found < best[ones]))
            best[ones[more]], similarity[ones[more]] = found[more], value[more]
    return best, similarity


def _ranks(thumbnails: npt.NDArray[np.uint8]) -> Signatures:
    """Returns the ranks of each thumbnail's pixels, their mean 0 and their length 1: float32 (n, 1024)."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    own = np.empty(flat.shape, np.float32)
    for top in range(0, len(flat), _BLOCK):
        part = flat[top : top + _BLOCK]
        cells = part + 256 * np.arange(len(part))[:, None]
        counts = np.bincount(cells.ravel(), minlength=256 * len(part)).reshape(-1, 256)
        # Equal pixels share the mean of their ranks: a black border must not be given an order.
        shared = (np.cumsum(counts, axis=1) - (counts - 1) / 2).astype(np.float32)
        own[top : top + _BLOCK] = shared.ravel()[cells]
    own -= own.mean(axis=1, keepdims=True)
    _to_length_1(own)
    return own


def _common(own: Signatures) -> Signatures:
    """Returns what ranks, or sums of them, have in common, of length 1: float32 (1, 1024)."""
    common: Signatures = own.mean(axis=0, keepdims=True)
    _to_length_1(common)
    return common


def _less(own: Signatures, common: Signatures) -> Signatures:
    """Takes what is common out of ranks, in place, and returns them with length 1."""
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


def _spread(count: int, most: int) -> Rows:
    """Returns all rows, or so many evenly spread ones."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _keys(marks: Callable[[Rows], Signatures], count: int) -> Signatures:
    """Returns rows whose products are at least the similarities: float32 (count, `_NUMBERS` + 1).

    The part of a signature along the directions in which the set differs most, and the length of the rest (Cauchy and
    Schwarz: the rests of two signatures multiply to no more than their lengths do).
    """
    some = marks(_spread(count, _BASIS))
    # Subspace iteration finds the directions a hundred times faster than all of them are found.
    basis = np.random.default_rng(0).normal(size=(some.shape[1], _NUMBERS)).astype(np.float32)
    for _ in range(3):
        basis = np.linalg.qr(some.T @ (some @ basis))[0]
    along = some @ basis
    basis = basis @ np.linalg.eigh(along.T @ along)[1][:, ::-1]  # the directions that differ most first
    keys = np.empty((count, _NUMBERS + 1), np.float32)
    for top in range(0, count, _BLOCK):
        rows = np.arange(top, min(top + _BLOCK, count))
        part = marks(rows)
        keys[rows, :-1] = part @ basis
        rest = np.einsum("ij,ij->i", part, part) - np.einsum("ij,ij->i", keys[rows, :-1], keys[rows, :-1])
        keys[rows, -1] = np.sqrt(np.maximum(rest, 0))
    return keys


def _near(keys: Signatures, left_out: Rows, kept: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Yields blocks of rows of both whose pairs may be alike: whose first two numbers are not too far apart."""
    tiles = _tiles(keys, kept)
    low, high = (np.array([edge(keys[tile, :2], axis=0) for tile in tiles]) for edge in (np.min, np.max))
    furthest = 2 - 2 * (SIMILAR - _ROUNDING)  # the squared distance of two signatures of length 1
    for ones in _tiles(keys, left_out):
        first, last = keys[ones, :2].min(axis=0), keys[ones, :2].max(axis=0)
        apart = np.maximum(0, np.maximum(low - last, first - high))
        near = np.flatnonzero((apart**2).sum(axis=1) <= furthest).tolist()
        if near:
            others = np.sort(np.concatenate([tiles[number] for number in near]))
            yield from ((ones, others[left : left + _COLUMNS]) for left in range(0, len(others), _COLUMNS))


def _tiles(keys: Signatures, rows: Rows) -> list[Rows]:
    """Returns rows in parts that are near to each other in their first two numbers."""
    strips = max(1, round((len(rows) / _ROWS) ** 0.5))
    found = []
    for strip in np.array_split(rows[np.argsort(keys[rows, 0], kind="stable")], strips):
        parts = max(1, -(-len(strip) // _ROWS))
        found += np.array_split(strip[np.argsort(keys[strip, 1], kind="stable")], parts)
    return found
