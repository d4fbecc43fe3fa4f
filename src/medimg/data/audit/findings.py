"""One check's result: the finding that travels, and beside it what stays at home."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medimg.config import Finding

if TYPE_CHECKING:
    from medimg.data.dataset import Sample

__all__ = ["Found", "Pair", "found", "leave_out", "rank"]

# Of two copies the one that is judged on stays: test is never touched.
_KEPT_FIRST = {"test": 0, "val": 1, "train": 2, None: 3}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that look like copies of one.

    Attributes:
        first: The one in the split that is kept rather: test, then validation.
        second: The other.
        similarity: Correlation of what is their own, 0 to 1.
    """

    first: Sample
    second: Sample
    similarity: float


@dataclass(frozen=True, slots=True)
class Found:
    """What one check found.

    Attributes:
        finding: What travels with the job.
        examples: Lines that name files or patients: for the user alone.
        drop: Ids of images that `Dataset.without` may leave out to be rid of it.
        pairs: What the contact sheet shows.
    """

    finding: Finding
    examples: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()


def found(
    check: str,
    level: Literal["error", "warning", "fine", "unknown"],
    message: str,
    examples: Iterable[str] = (),
    drop: Iterable[str] = (),
    pairs: Iterable[Pair] = (),
) -> Found:
    """Returns a check's result; arguments as the attributes of `Finding` and `Found`."""
    return Found(Finding(check=check, level=level, message=message), tuple(examples), tuple(drop), tuple(pairs))


def rank(split: str | None) -> int:
    """Returns the place of a split among those that are kept rather, from 0."""
    return _KEPT_FIRST[split]


def leave_out(copies: Iterable[Sample]) -> list[Sample]:
    """Returns the copies to leave out so that the picture is in one split only: test's stay, else validation's."""
    copies = list(copies)
    kept = min((sample.split for sample in copies), key=rank)
    return [sample for sample in copies if sample.split != kept]
