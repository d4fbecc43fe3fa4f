"""What training insists on: images that can be read, a validation split, and no error of the audit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medimg.data.audit.checks import STOPPING, check
from medimg.data.audit.classes import LEAST_PER_CLASS, scarce
from medimg.data.audit.files import rejected
from medimg.data.audit.findings import Found
from medimg.data.audit.originals import with_lossless_copies
from medimg.data.audit.report import AuditReport
from medimg.data.dataset import Dataset
from medimg.data.labels import amount, listing
from medimg.data.splits import split
from medimg.errors import AuditError, ConfigError, DatasetError, did_you_mean
from medimg.progress import Event, Report, silent

if TYPE_CHECKING:
    from medimg.data.index import PixelFacts

__all__ = ["Prepared", "audited", "ready_for_training"]

VALIDATION_SHARE = 0.15
LARGEST_SHARE = 0.3
# Of splits that nobody asked for: always the same, so that runs of different seeds are judged on the same test images.
SPLIT_SEED = 0
_SHOWN = 10  # examples in a message


@dataclass(frozen=True)
class Prepared:
    """A dataset that can be trained on.

    Attributes:
        dataset: The images to pack, divided.
        audit: What the checks found in it.
    """

    dataset: Dataset
    audit: AuditReport

    @property
    def notices(self) -> tuple[str, ...]:
        """What was done to what the user gave."""
        return self.audit.notices


def ready_for_training(
    dataset: Dataset,
    *,
    allow: Collection[str],
    facts: Mapping[str, PixelFacts] | None = None,
    seed: int = SPLIT_SEED,
    report: Report = silent,
) -> Prepared:
    """Returns a dataset that can be trained on, and what was done to it or should be known.

    Images that cannot be read are left out; missing splits are made; a validation split too small to choose a threshold
    on is folded into train and cut anew by group. The test split is never touched.

    Args:
        dataset: What the user gave.
        allow: Checks to override.
        facts: What `dataset.index()` returned; None: it is asked.
        seed: Of the splits that are made.
        report: Told of what was found, by name; notices and findings name no file, for they travel.

    Raises:
        AuditError: An error of the audit that is not named in `allow`.
        ConfigError: `allow` names what is no check.
        DatasetError: Nothing to train on.
    """
    for name in allow:
        if name not in STOPPING:
            raise ConfigError(f"allow={name!r} is no check that stops training.{did_you_mean(name, STOPPING)}")
    facts = dataset.index(report) if facts is None else facts
    broken = _broken(dataset, facts)
    _stop([broken], allow)  # first, for too many of them may leave nothing to divide
    prepared = _prepare(dataset, facts, broken, allow, seed, report)
    _stop(prepared.audit.found, allow)
    for notice in prepared.notices:
        report(Event("warning", message=notice))
    for each in prepared.audit.found:
        if each.finding.level in ("error", "warning"):
            report(Event("warning", message=_with_examples(each.finding.message, each.examples)))
    return replace(prepared, audit=_marked(prepared.audit))


def _marked(audit: AuditReport) -> AuditReport:
    """Returns the audit with what was allowed said so, for whoever reads it in the model's report."""
    found = tuple(
        replace(each, finding=each.finding.model_copy(update={"message": f"{each.finding.message} (allowed)"}))
        if each.finding.level == "error"
        else each
        for each in audit.found
    )
    return replace(audit, found=found)


def audited(dataset: Dataset, facts: Mapping[str, PixelFacts], *, report: Report = silent) -> AuditReport:
    """Returns what the checks find in a dataset as training would have it; one without train is taken as it is.

    Raises:
        DatasetError: Nothing to train on.
    """
    if dataset.splits and not dataset.of("train"):
        return check(dataset, with_lossless_copies(dataset, facts, report), report=report)
    return _prepare(dataset, facts, _broken(dataset, facts), (), SPLIT_SEED, report).audit


def _broken(dataset: Dataset, facts: Mapping[str, PixelFacts]) -> Found:
    broken = rejected(dataset, facts)
    if len(broken.drop) == len(dataset):
        raise DatasetError(_with_examples(f"none of {amount(len(dataset), 'image')} can be read", broken.examples))
    return broken


def _prepare(
    dataset: Dataset,
    facts: Mapping[str, PixelFacts],
    broken: Found,
    allow: Collection[str],
    seed: int,
    report: Report,
) -> Prepared:
    notices = list(dataset.notices)
    if broken.drop:
        dataset = dataset.without(broken.drop)
        notices.append(f"{amount(len(broken.drop), 'image')} that cannot be read left out")
    facts = with_lossless_copies(dataset, facts, report)
    pixels = {sample.id: facts[sample.id].digest for sample in dataset.samples}
    if not dataset.splits:
        dataset = split(dataset, val=VALIDATION_SHARE, test=VALIDATION_SHARE, seed=seed, pixels=pixels)
        sizes = ", ".join(f"{name} {count:,}" for name, count in dataset.splits.items())
        notices.append(f"no splits given: divided by group into {sizes} (seed {seed})")
    elif any(sample.split is None for sample in dataset.samples):
        raise DatasetError("some images have a split and some have none. Give all of them one, or call .split()")
    _check_train(dataset)
    dataset = _with_validation(dataset, pixels, seed, allow, notices)
    if not dataset.of("test"):
        notices.append("there is no test split: only validation figures can be given, and they are optimistic")
    return Prepared(dataset, check(dataset, facts, rejected=broken, notices=tuple(notices), report=report))


def _stop(found: Iterable[Found], allow: Collection[str]) -> None:
    """Raises the first error that is not allowed."""
    stopping = [each for each in found if each.finding.level == "error" and each.finding.check not in allow]
    if stopping:
        first = stopping[0]
        others = listing([each.finding.check for each in stopping[1:]])
        more = f"\nBeside it: {others}. See all: dataset.audit()" if others else ""
        raise AuditError(first.finding.check, _with_examples(first.finding.message, first.examples) + more)


def _with_examples(message: str, examples: tuple[str, ...]) -> str:
    shown = "".join(f"\n  {line}" for line in examples[:_SHOWN])
    more = f"\n  and {len(examples) - _SHOWN:,} more: dataset.audit().examples" if len(examples) > _SHOWN else ""
    return f"{message}{':' if shown else ''}{shown}{more}"


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


def _with_validation(
    dataset: Dataset, pixels: Mapping[str, str], seed: int, allow: Collection[str], notices: list[str]
) -> Dataset:
    old = len(dataset.of("val"))
    if not scarce(dataset, "val") or (old and "tiny-validation" in allow):
        return dataset
    dataset = _cut_validation(dataset, pixels, seed)
    reason = (
        f"the validation split of {amount(old, 'image')} is too small to choose a threshold on"
        if old
        else "there is no validation split"
    )
    notices.append(f"{reason}: {len(dataset.of('val')):,} images were cut out of train by group (seed {seed})")
    return dataset


def _cut_validation(dataset: Dataset, pixels: Mapping[str, str], seed: int) -> Dataset:
    """Returns the dataset with train and validation divided anew, with enough of each class where it can be."""
    pool = replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.split != "test"))
    share = VALIDATION_SHARE
    if dataset.task != "multilabel":
        train, val = dataset.counts("train"), dataset.counts("val")
        rarest = min(train[name] + val[name] for name in dataset.classes)
        share = min(max(share, 1.2 * LEAST_PER_CLASS / rarest), LARGEST_SHARE)
    cut = split(pool, val=share, test=0, seed=seed, pixels=pixels)
    by_id = {sample.id: sample for sample in cut.samples}
    return replace(dataset, samples=tuple(by_id.get(sample.id, sample) for sample in dataset.samples))
