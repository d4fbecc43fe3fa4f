"""Splits by group, stratified by class; and the validation split that training insists on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medimg.data.dataset import Dataset, Sample, Split
from medimg.data.labels import amount, listing
from medimg.errors import AuditError, DatasetError
from medimg.progress import Event, Report, silent

if TYPE_CHECKING:
    from medimg.data.index import PixelFacts

__all__ = ["absent", "ready_for_training", "scarce", "split", "subset"]

# A threshold chosen on fewer of a class is noise; under 50 it is uncertain.
LEAST_PER_CLASS = 10
ENOUGH_PER_CLASS = 50
VALIDATION_SHARE = 0.15
LARGEST_SHARE = 0.3
MOST_REJECTED = 0.01
# Of splits that nobody asked for: always the same, so that runs of different seeds are judged on the same test images.
SPLIT_SEED = 0

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
    groups = _groups(rest, seed)
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


def ready_for_training(
    dataset: Dataset,
    *,
    allow: Collection[str],
    facts: Mapping[str, PixelFacts] | None = None,
    seed: int = SPLIT_SEED,
    report: Report = silent,
) -> tuple[Dataset, tuple[str, ...]]:
    """Returns a dataset that can be trained on, and what was done to it or should be known.

    Images that cannot be read are left out; missing splits are made; a validation split too small to choose a threshold
    on is folded into train and cut anew by group. The test split is never touched.

    Args:
        dataset: What the user gave.
        allow: Checks to override.
        facts: What `dataset.index()` returned; None: it is asked.
        seed: Of the splits that are made.
        report: Told of the images that are left out, by name; the notices returned name none, for they travel.

    Raises:
        AuditError: "rejected-images", "group-leakage" or "tiny-validation", unless named in `allow`.
        DatasetError: Nothing to train on.
    """
    notices: list[str] = list(dataset.notices)
    facts = dataset.index(report) if facts is None else facts
    dataset = _drop_rejected(dataset, facts, allow, notices, report)
    if not dataset.splits:
        dataset = split(dataset, val=VALIDATION_SHARE, test=VALIDATION_SHARE, seed=seed)
        sizes = ", ".join(f"{name} {count:,}" for name, count in dataset.splits.items())
        notices.append(f"no splits given: divided by group into {sizes} (seed {seed})")
    elif any(sample.split is None for sample in dataset.samples):
        raise DatasetError("some images have a split and some have none. Give all of them one, or call .split()")
    _check_train(dataset)
    dataset = _with_validation(dataset, seed, allow, notices)
    leaking = dataset.groups_in_two_splits()
    if leaking:
        many = f"{amount(len(leaking), 'group')} (patients) in more than one split"
        group, where = next(iter(leaking.items()))
        if "group-leakage" not in allow:
            raise AuditError(
                "group-leakage",
                f"{many}, such as {group!r} in {' and '.join(where)}: the score would be too good. Divide anew by "
                "group: dataset = dataset.split()",
            )
        notices.append(f"{many}, which was allowed: the score is too good")
    if all(sample.group is None for sample in dataset.samples):
        notices.append("no patient key: if a patient has several images, pass group= so that none is in two splits")
    return dataset, tuple(dict.fromkeys([*notices, *absent(dataset)]))


def absent(dataset: Dataset) -> list[str]:
    """Returns a notice for each split that lacks a class."""
    found = []
    for name in dataset.splits:
        lacking = [label for label, count in dataset.counts(name).items() if not count]
        if lacking:
            found.append(f"{name} has no image of {listing(lacking)}")
    return found


def scarce(dataset: Dataset, of: Split, least: int = LEAST_PER_CLASS) -> dict[str, int]:
    """Returns the classes of which a split has fewer than `least` images; for multilabel, the split as a whole."""
    if dataset.task == "multilabel":
        size = len(dataset.of(of))
        return {} if size >= 2 * least else {"images": size}
    return {name: count for name, count in dataset.counts(of).items() if count < least}


def _drop_rejected(
    dataset: Dataset, facts: Mapping[str, PixelFacts], allow: Collection[str], notices: list[str], report: Report
) -> Dataset:
    reasons_by_id = {sample.id: facts[sample.id].rejection for sample in dataset.samples}
    rejected = {id: reason for id, reason in reasons_by_id.items() if reason is not None}
    if not rejected:
        return dataset
    share = len(rejected) / len(dataset)
    count = f"{len(rejected):,} of {amount(len(dataset), 'image')} cannot be read ({share:.1%})"
    shown = "\n".join(f"  {error}" for error in list(rejected.values())[:10])
    more = f"\n  and {len(rejected) - 10:,} more: dataset.rejected()" if len(rejected) > 10 else ""
    if len(rejected) == len(dataset):
        raise DatasetError(f"none of {amount(len(dataset), 'image')} can be read:\n{shown}{more}")
    if share > MOST_REJECTED and "rejected-images" not in allow:
        raise AuditError("rejected-images", f"{count}:\n{shown}{more}")
    report(Event("warning", message=f"{count}:\n{shown}{more}"))
    codes = Counter(error.code for error in rejected.values())
    reasons = ", ".join(f"{number:,} {code}" for code, number in codes.most_common())
    notices.append(f"{count} and were left out: {reasons}")
    return dataset.without(rejected)


def _check_train(dataset: Dataset) -> None:
    """Refuses what nothing can be learnt from: no train split, or one (with val) that lacks a class altogether."""
    if not dataset.of("train"):
        raise DatasetError("there are no images to train on. Call .split(), or name a split 'train'")
    train, val, test = (dataset.counts(name) for name in ("train", "val", "test"))
    lacking = [name for name in dataset.classes if not train[name] + val[name]]
    if lacking and dataset.task != "multilabel":
        raise DatasetError(
            f"train has no image of {listing(lacking)} (test has {test[lacking[0]]:,}): what is not in train cannot be "
            "learnt. Add such images, leave the class out, or divide anew: dataset = dataset.split()"
        )


def _with_validation(dataset: Dataset, seed: int, allow: Collection[str], notices: list[str]) -> Dataset:
    old = len(dataset.of("val"))
    if scarce(dataset, "val") and not (old and "tiny-validation" in allow):
        dataset = _cut_validation(dataset, seed, allow)
        reason = (
            f"the validation split of {amount(old, 'image')} is too small to choose a threshold on"
            if old
            else "there is no validation split"
        )
        notices.append(f"{reason}: {len(dataset.of('val')):,} images were cut out of train by group (seed {seed})")
    if few := scarce(dataset, "val", ENOUGH_PER_CLASS):
        notices.append(f"small validation split ({_amounts(few)}): thresholds are uncertain")
    if not dataset.of("test"):
        notices.append("there is no test split: only validation figures can be given, and they are optimistic")
    return dataset


def _cut_validation(dataset: Dataset, seed: int, allow: Collection[str]) -> Dataset:
    """Returns the dataset with train and validation divided anew, with enough of each class where it can be."""
    pool = replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.split != "test"))
    share = VALIDATION_SHARE
    if dataset.task != "multilabel":
        train, val = dataset.counts("train"), dataset.counts("val")
        rarest = min(train[name] + val[name] for name in dataset.classes)
        share = min(max(share, 1.2 * LEAST_PER_CLASS / rarest), LARGEST_SHARE)
    cut = split(pool, val=share, test=0, seed=seed)
    lacking = scarce(cut, "val")
    if lacking and "tiny-validation" not in allow:
        raise AuditError(
            "tiny-validation",
            f"too few images to choose a threshold on: a validation split of {share:.0%} of them has only "
            f"{_amounts(lacking)}, and {LEAST_PER_CLASS} of each class are needed. Add images",
        )
    by_id = {sample.id: sample for sample in cut.samples}
    return replace(dataset, samples=tuple(by_id.get(sample.id, sample) for sample in dataset.samples))


def _amounts(few: dict[str, int]) -> str:
    shown = [f"{count} {name}" if name == "images" else f"{count} of {name!r}" for name, count in list(few.items())[:5]]
    return ", ".join(shown) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
