"""Splits by group, stratified by class."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medimg.data.dataset import Dataset, Sample, Split
from medimg.data.labels import amount, listing
from medimg.errors import DatasetError
from medimg.garbage import paused

__all__ = ["split", "subset"]

Group = list[Sample]


def _groups(samples: Sequence[Sample], seed: int, pixels: Mapping[str, str] | None = None) -> list[Group]:
    """Returns the samples by group in a random order that depends on the seed and the groups' names only.

    Groups that share a picture are one.
    """
    found: dict[str, Group] = {}
    for sample in samples:
        found.setdefault(f"g:{sample.group}" if sample.group is not None else f"p:{sample.path}", []).append(sample)
    if pixels is not None:
        of: dict[str, str] = {}  # picture to the group that it is with
        for name in sorted(found):
            first, *others = sorted(
                {name} | {of[pixels[sample.id]] for sample in found[name] if pixels[sample.id] in of}
            )
            for other in others:
                found[first] += found.pop(other)
            of.update((pixels[sample.id], first) for sample in found[first])
    order = sorted(found)
    random.Random(seed).shuffle(order)  # noqa: S311 - a draw of patients, not a secret
    return [found[name] for name in order]


def _label_counts(dataset: Dataset, samples: Sequence[Sample]) -> np.ndarray:
    """Returns how many of the samples are of each class, and how many there are: float64 (classes + 1,)."""
    counts = np.zeros(len(dataset.classes) + 1)
    for sample in samples:
        counts[-1] += 1
        if isinstance(sample.labels, int):
            counts[sample.labels] += 1
        else:
            counts[:-1] += [value == 1 for value in sample.labels]
    return counts


def _divide(dataset: Dataset, groups: list[Group], shares: dict[Split, float]) -> dict[str, Split]:
    """Returns the split of each sample id.

    Greedy, the largest groups first: each goes where the sum over classes of (given / total)² / share grows least,
    which fills all splits in proportion at every size of group. Rare classes count as much as common ones (after
    iterative stratification: Sechidis et al., ECML PKDD 2011, section 3.1, on groups).
    """
    names = list(shares)
    share = np.array([shares[name] for name in names])
    dearness = (share.min() / share)[:, None]  # 1 / share, but finite for any share
    counts = np.array([_label_counts(dataset, group) for group in groups])
    counts /= np.maximum(counts.sum(axis=0), 1.0)
    given = np.zeros((len(names), len(dataset.classes) + 1))
    assigned: dict[str, Split] = {}
    for index in sorted(range(len(groups)), key=lambda i: -len(groups[i])):
        growth = ((2 * given + counts[index]) * counts[index] * dearness).sum(axis=1)
        best = int(np.argmin(growth))
        given[best] += counts[index]
        assigned.update((sample.id, names[best]) for sample in groups[index])
    return assigned


@paused()
def split(
    dataset: Dataset, *, val: float, test: float | None, seed: int, pixels: Mapping[str, str] | None = None
) -> Dataset:
    """Divides a dataset: see `Dataset.split`.

    Args:
        dataset: What to divide.
        val: Share for validation.
        test: Share for test; None keeps it.
        seed: Of the draw.
        pixels: Hash of each image's pixels by sample id: equal pictures then come into one split. None: not asked.
    """
    for name, value in (("val", val), ("test", test)):
        if value is not None and not 0 <= value < 1:
            raise DatasetError(f"{name}={value}: a share from 0 to 1, such as 0.15")
    if val + (test or 0) >= 1:
        raise DatasetError(f"val={val} and test={test} leave nothing to train on")
    kept = dataset.of("test") if test is None else ()
    if test is None and not kept:
        raise DatasetError("test=None keeps the test split, but there is none. Pass test=0.15")
    rest = [sample for sample in dataset.samples if not (test is None and sample.split == "test")]
    leaking = sorted({s.group for s in kept if s.group} & {s.group for s in rest if s.group})
    if leaking:
        raise DatasetError(
            f"{amount(len(leaking), 'group')} of the test split with images outside it too: {listing(leaking)}. "
            "Call .split() without test=None to divide everything anew"
        )
    shares: dict[Split, float] = {"train": 1 - val - (test or 0)}
    if val:
        shares["val"] = val
    if test:
        shares["test"] = test
    groups = _groups(rest, seed, pixels)
    assigned = _divide(dataset, groups, shares)
    empty = set(shares) - set(assigned.values())
    if empty:
        wanted = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        raise DatasetError(
            f"cannot divide {amount(len(groups), 'group')} into {wanted}: {listing(sorted(empty))} would be empty"
        )
    return replace(
        dataset,
        samples=tuple(replace(s, split=assigned[s.id]) if s.id in assigned else s for s in dataset.samples),
    )


def subset(dataset: Dataset, *, fraction: float, seed: int, split: Split | None) -> Dataset:
    """Takes a share of the groups: see `Dataset.subset`."""
    if not 0 < fraction <= 1:
        raise DatasetError(f"fraction={fraction}: above 0, at most 1")
    pool = dataset.samples if split is None else dataset.of(split)
    if not pool:
        raise DatasetError(
            f"there is no {split} split. Splits: {listing(dataset.splits) or 'none; call .split() first'}"
        )
    # All groups stand in one order that no fraction changes, and the first of them are taken: so subsets are nested.
    # Groups of like content are spread evenly over the order, so each start of it has nearly the classes' shares.
    rows: dict[tuple[object, ...], list[Group]] = {}
    for group in _groups(pool, seed):
        content = sorted({dataset.label_names(sample) for sample in group})
        rows.setdefault((group[0].split, *content), []).append(group)
    draw = random.Random(seed)  # noqa: S311 - a draw of patients, not a secret
    places: list[tuple[float, Group]] = []
    for key in sorted(rows, key=repr):
        offset = draw.random()
        places.extend(((rank + offset) / len(rows[key]), group) for rank, group in enumerate(rows[key]))
    order = [group for _, group in sorted(places, key=lambda place: place[0])]
    seen: set[tuple[object, str]] = set()
    first: list[Group] = []
    others: list[Group] = []
    for group in order:
        shows = {(sample.split, name) for sample in group for name in dataset.label_names(sample)}
        (others if shows <= seen else first).append(group)
        seen |= shows
    number = max(round(fraction * len(order)), len(first))
    chosen = {sample.id for group in [*first, *others][:number] for sample in group}
    dropped = {sample.id for sample in pool} - chosen
    return dataset.without(dropped)
