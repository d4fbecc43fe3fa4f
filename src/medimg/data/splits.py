"""Splits by group, stratified by class; and the validation split that training insists on."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from medimg.data.dataset import Dataset, Sample, Split
from medimg.data.labels import listing
from medimg.errors import AuditError, DatasetError

__all__ = ["LEAST_PER_CLASS", "ready_for_training", "split", "subset"]

# A threshold chosen on fewer is noise: facts of the field say error under 10 of a class, warning under 50.
LEAST_PER_CLASS = 10
ENOUGH_PER_CLASS = 50
VALIDATION_SHARE = 0.15
LARGEST_SHARE = 0.3
MOST_REJECTED = 0.01

Group = list[Sample]


def _groups(samples: Sequence[Sample], seed: int) -> list[Group]:
    """Returns the samples by group in a random order that depends on the seed and the groups' names only."""
    found: dict[str, Group] = {}
    for sample in samples:
        found.setdefault(f"g:{sample.group}" if sample.group is not None else f"p:{sample.path}", []).append(sample)
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

    Greedy: the largest groups first, each to the split that lacks most of what the group holds, the classes weighted by
    their rarity (after iterative stratification: Sechidis et al., ECML PKDD 2011, section 3.1, on groups).
    """
    names = list(shares)
    share = np.array([shares[name] for name in names])
    counts = [_label_counts(dataset, group) for group in groups]
    total = np.sum(counts, axis=0)
    wanted = share[:, None] * total
    rarity = 1.0 / np.maximum(total, 1.0)
    given = np.zeros_like(wanted)
    assigned: dict[str, Split] = {}
    for index in sorted(range(len(groups)), key=lambda i: -len(groups[i])):
        # How much nearer to its target each split would come, in shares of each class.
        before = np.abs(wanted - given) * rarity
        after = np.abs(wanted - given - counts[index]) * rarity
        best = int(np.argmax((before - after).sum(axis=1) + 1e-9 * share))
        given[best] += counts[index]
        assigned.update((sample.id, names[best]) for sample in groups[index])
    return assigned


def split(dataset: Dataset, *, val: float, test: float | None, seed: int) -> Dataset:
    """Divides a dataset: see `Dataset.split`."""
    for name, value in (("val", val), ("test", test)):
        if value is not None and not 0 <= value < 1:
            raise DatasetError(f"{name}={value}: a share from 0 to 1, such as 0.15")
    if val + (test or 0) >= 1:
        raise DatasetError(f"val={val} and test={test} leave nothing to train on")
    kept = dataset.of("test") if test is None else ()
    if test is None and not kept:
        raise DatasetError("test=None keeps the test split, but there is none. Pass test=0.15")
    rest = [sample for sample in dataset.samples if not (test is None and sample.split == "test")]
    held = {sample.group for sample in kept if sample.group is not None}
    leaking = sorted({sample.group for sample in rest if sample.group in held and sample.group is not None})
    if leaking:
        raise AuditError(
            "group-leakage",
            f"{len(leaking):,} groups of the test split have images outside it too: {listing(leaking)}. "
            "Call .split() without test=None to divide everything anew",
        )
    groups = _groups(rest, seed)
    shares: dict[Split, float] = {"train": 1 - val - (test or 0)}
    if val:
        shares["val"] = val
    if test:
        shares["test"] = test
    if len(groups) < len(shares):
        raise DatasetError(f"{len(groups)} groups cannot be divided into {len(shares)} splits")
    assigned = _divide(dataset, groups, shares)
    return replace(
        dataset,
        samples=tuple(replace(s, split=assigned[s.id]) if s.id in assigned else s for s in dataset.samples),
        notices=tuple(notice for notice in dataset.notices if not notice.startswith(("val has no", "test has no"))),
    )


def subset(dataset: Dataset, *, fraction: float, seed: int, split: Split | None) -> Dataset:
    """Takes a share of the groups: see `Dataset.subset`."""
    if not 0 < fraction <= 1:
        raise DatasetError(f"fraction={fraction}: above 0, at most 1")
    pool = dataset.samples if split is None else dataset.of(split)
    if not pool:
        raise DatasetError(f"there is no {split} split. Splits: {listing(dataset.splits) or 'none; call .split() first'}")
    # Groups of like content in a row, so that cutting each row at the same share keeps the classes' shares.
    rows: dict[tuple[object, ...], list[Group]] = {}
    for group in _groups(pool, seed):
        key = (group[0].split, tuple(sorted({dataset.label_names(sample) for sample in group})))
        rows.setdefault(key, []).append(group)
    chosen: set[str] = set()
    carry = 0.0
    for key in sorted(rows, key=repr):
        exact = fraction * len(rows[key]) + carry
        number = min(len(rows[key]), max(round(exact), 1 if len(rows[key]) * fraction >= 0.5 else 0))
        carry = exact - number
        chosen.update(sample.id for group in rows[key][:number] for sample in group)
    inside = {sample.id for sample in pool}
    samples = tuple(s for s in dataset.samples if s.id not in inside or s.id in chosen)
    return replace(dataset, samples=samples)


def ready_for_training(dataset: Dataset, *, seed: int, allow: Collection[str]) -> tuple[Dataset, tuple[str, ...]]:
    """Returns a dataset that can be trained on, and what was done to it or should be known.

    Images that cannot be read are left out; missing splits are made; a validation split too small to choose a threshold
    on is folded into train and cut anew by group. The test split is never touched.

    Raises:
        AuditError: "rejected-images", "group-leakage" or "tiny-validation", unless named in `allow`.
        DatasetError: Nothing to train on.
    """
    notices: list[str] = list(dataset.notices)
    dataset = _drop_rejected(dataset, allow, notices)
    if not dataset.splits:
        dataset = split(dataset, val=VALIDATION_SHARE, test=VALIDATION_SHARE, seed=seed)
        notices.append(f"no splits given: divided by group into {_sizes(dataset)} (seed {seed})")
    elif any(sample.split is None for sample in dataset.samples):
        raise DatasetError("some images have a split and some have none. Give all of them one, or call .split()")
    leaking = dataset.groups_in_two_splits()
    if leaking:
        first, where = next(iter(leaking.items()))
        message = (
            f"{len(leaking):,} groups (patients) are in more than one split, such as {first!r} in {' and '.join(where)}: "
            "the score on test would be too good. Divide anew by group: dataset = dataset.split()"
        )
        if "group-leakage" not in allow:
            raise AuditError("group-leakage", message)
        notices.append(f"{message} (allowed)")
    if all(sample.group is None for sample in dataset.samples):
        notices.append("no patient key: if a patient has several images, pass group= so that none is in two splits")
    return _with_validation(dataset, seed, allow, notices), tuple(dict.fromkeys(notices))


def _sizes(dataset: Dataset) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in dataset.splits.items())


def _drop_rejected(dataset: Dataset, allow: Collection[str], notices: list[str]) -> Dataset:
    rejected = dataset.rejected()
    if not rejected:
        return dataset
    shown = "\n".join(f"  {error}" for error in list(rejected.values())[:10])
    more = f"\n  and {len(rejected) - 10:,} more: dataset.rejected()" if len(rejected) > 10 else ""
    share = len(rejected) / len(dataset)
    message = f"{len(rejected):,} of {len(dataset):,} images cannot be read ({share:.1%}):\n{shown}{more}"
    if share > MOST_REJECTED and "rejected-images" not in allow:
        raise AuditError("rejected-images", message)
    notices.append(f"{message}\nThey were left out")
    return dataset.without(rejected)


def _scarce(dataset: Dataset, of: Split, least: int) -> dict[str, int]:
    """Returns the classes of which a split has fewer than `least` images; for multilabel, the split as a whole."""
    if dataset.task == "multilabel":
        size = len(dataset.of(of))
        return {} if size >= 2 * least else {"images": size}
    return {name: count for name, count in dataset.counts(of).items() if count < least}


def _with_validation(dataset: Dataset, seed: int, allow: Collection[str], notices: list[str]) -> Dataset:
    scarce = _scarce(dataset, "val", LEAST_PER_CLASS)
    old = len(dataset.of("val"))
    if scarce and not (old and "tiny-validation" in allow):
        dataset = _cut_validation(dataset, seed, allow)
        notices[:] = [notice for notice in notices if not notice.startswith("val has no")]
        reason = (
            f"the validation split of {old} images is too small to choose a threshold on"
            if old
            else "there is no validation split"
        )
        notices.append(f"{reason}: {len(dataset.of('val')):,} images were cut out of train by group (seed {seed})")
    if few := _scarce(dataset, "val", ENOUGH_PER_CLASS):
        found = ", ".join(f"{count} of {name!r}" for name, count in list(few.items())[:5])
        notices.append(f"small validation split ({found}): thresholds are uncertain")
    if not dataset.of("test"):
        notices.append("there is no test split: only validation figures can be given, and they are optimistic")
    return dataset


def _cut_validation(dataset: Dataset, seed: int, allow: Collection[str]) -> Dataset:
    """Returns the dataset with train and validation divided anew, enough of each class in validation where it can be."""
    pool = replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.split != "test"))
    share = VALIDATION_SHARE
    if dataset.task != "multilabel":
        train, val = dataset.counts("train"), dataset.counts("val")
        rarest = min(train[name] + val[name] for name in dataset.classes)
        share = min(max(share, 1.2 * LEAST_PER_CLASS / max(rarest, 1)), LARGEST_SHARE)
    cut = split(pool, val=share, test=0, seed=seed)
    lacking = _scarce(cut, "val", LEAST_PER_CLASS)
    if lacking and "tiny-validation" not in allow:
        found = ", ".join(f"{count} of {name!r}" for name, count in lacking.items())
        raise AuditError(
            "tiny-validation",
            f"too few images to choose a threshold on: a validation split of {share:.0%} of them has only {found}, and "
            f"{LEAST_PER_CLASS} of each class are needed. Add images",
        )
    by_id = {sample.id: sample for sample in cut.samples}
    return replace(dataset, samples=tuple(by_id.get(sample.id, sample) for sample in dataset.samples))
