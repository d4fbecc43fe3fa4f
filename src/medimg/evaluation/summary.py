"""The report in plain words, for people who do not read tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from medimg.evaluation.metrics import Metrics

if TYPE_CHECKING:
    from medimg.evaluation.report import Report

__all__ = ["as_text", "caveats", "findings", "number", "question", "share", "split_name"]


def split_name(split: str) -> str:
    """Returns the word for a split."""
    return {"val": "validation", "train": "training"}.get(split, split)


def number(value: float | None) -> str:
    """Returns an area such as AUROC with three digits."""
    return "not estimable" if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    """Returns a share as a percentage; never 100% or 0% by rounding."""
    if value is None:
        return "not estimable"
    for digits in (1, 2, 3):
        text = f"{value:.{digits}%}"
        if (float(text[:-1]) in (0, 100)) == (value in (0, 1)):
            break
    return text


def question(report: Report) -> str:
    """Returns what the model was asked of each image."""
    table = report.predictions[report.headline]
    if table.positive is not None:
        negative = next(name for name in table.classes if name != table.positive)
        return f"Does this image show {table.positive} rather than {negative}?"
    noun = "classes does this image show" if table.task == "multiclass" else "findings does this image show, if any"
    named = f": {', '.join(table.classes[:-1])} or {table.classes[-1]}" if 1 < len(table.classes) <= 4 else ""
    return f"Which of these {len(table.classes)} {noun}{named}?"


def asked(report: Report) -> str:
    """Returns on how many images of how many patients the model was asked."""
    metrics = report.splits[report.headline]
    whose = "" if metrics.patients is None else f" of {_count(metrics.patients, 'patient')}"
    return f"{_count(metrics.n, f'{split_name(report.headline)} image')}{whose}"


def findings(report: Report) -> Iterator[str]:
    """Yields sentences on how well the model did on the headline split."""
    metrics = report.splits[report.headline]
    yield from {"binary": _binary, "multiclass": _multiclass, "multilabel": _multilabel}[metrics.task](report, metrics)


def _binary(report: Report, metrics: Metrics) -> Iterator[str]:
    one = metrics.per_class[0]
    other = next(name for name in metrics.confusion if name != one.name)
    how = "chosen on validation and then frozen" if one.name in report.thresholds.chosen else "fixed beforehand"
    found = f"found {one.true_positives:,} of {_count(one.positives, 'image')} with {one.name}"
    cleared = f"cleared {one.true_negatives:,} of {one.negatives:,} with {other}"
    yield (
        f"At a threshold of {one.threshold:.3f}, {how}, the model {found} (sensitivity {share(one.sensitivity)}) and "
        f"{cleared} (specificity {share(one.specificity)}). "
        f"It missed {one.false_negatives:,} and raised {_count(one.false_positives, 'false alarm')}."
    )
    if one.auroc is not None:
        yield (
            f"Without any threshold: of two images, one with {one.name} and one with {other}, it gives the higher "
            f"score to the right one in {share(one.auroc)} of all pairs (AUROC {one.auroc:.3f}; chance is 0.5)."
        )


def _multiclass(_: Report, metrics: Metrics) -> Iterator[str]:
    yield (
        f"The model named the right class for {metrics.correct:,} of {_count(metrics.n, 'image')} "
        f"(accuracy {share(metrics.accuracy)}); always answering {metrics.majority} would be right for "
        f"{share(metrics.baseline_accuracy)}."
    )
    known = [(one.sensitivity, one.name) for one in metrics.per_class if one.sensitivity is not None]
    if len(known) > 1:
        (low, worst), (high, best) = min(known), max(known)
        yield (
            f"Counting every class the same it is right for {share(metrics.balanced_accuracy)}: best on {best} "
            f"({share(high)} found), worst on {worst} ({share(low)} found)."
        )


def _multilabel(_: Report, metrics: Metrics) -> Iterator[str]:
    known = [(one.auroc, one.name) for one in metrics.per_class if one.auroc is not None]
    if not known:
        yield "There are too few images to estimate any label."
        return
    (low, worst), (high, best) = min(known), max(known)
    yield (
        f"Over {len(known)} of {len(metrics.per_class)} labels that can be estimated the mean AUROC is "
        f"{number(metrics.auroc)} (chance is 0.5), from {number(low)} for {worst} to {number(high)} for {best}."
    )
    yield (
        f"At the frozen thresholds it finds on average {share(metrics.sensitivity)} of the images with a finding "
        f"(sensitivity) and clears {share(metrics.specificity)} of those without (specificity)."
    )


def caveats(report: Report) -> Iterator[tuple[str, str]]:
    """Yields what every reader must know: a heading and a sentence."""
    if "test" in report.splits:
        times = "once" if report.test_looks == 1 else f"{report.test_looks:,} times"
        more = " A model picked for its test figures is fitted to test, and they flatter it."
        if report.test_looks == 1:
            more = ""
        yield f"Test was scored {times}", f"Test images took no part in fitting or in choosing thresholds.{more}"
        if "val" in report.splits:
            yield "Validation is optimistic", f"{_optimistic(report)} Judge the model by test."
    elif "val" in report.splits:
        yield "These figures are optimistic", f"{_optimistic(report)} No test images were scored."
    yield (
        "These are estimates",
        "They hold for images like these. Another hospital, scanner or mix of patients gives other figures; "
        "so would another sample of the same patients.",
    )
    yield (
        "Not a medical device",
        "medimg is software for research and teaching. It is not approved for diagnosis, and no patient should be "
        "treated on its answer alone.",
    )


def _optimistic(report: Report) -> str:
    if report.thresholds.chosen:
        which = "threshold was" if len(report.thresholds.chosen) == 1 else "thresholds were"
        return f"The {which} chosen on the validation images, so their figures flatter the model."
    return "Validation images were watched during training, so their figures tend to flatter the model."


def as_text(report: Report) -> str:
    """Returns the report for a terminal."""
    metrics = report.splits[report.headline]
    lines = [f"{question(report)} Asked of {asked(report)}.", *findings(report), ""]
    values = metrics.summary()
    values.pop("prevalence", None)
    width = max(map(len, values), default=0)
    lines += [f"  {name.replace('_', ' '):{width}}  {value:.3f}" for name, value in values.items()]
    if report.notices:
        lines += ["", f"{_count(len(report.notices), 'notice')}:", *(f"- {notice}" for notice in report.notices)]
    lines += ["", *(f"{heading}. {text}" for heading, text in caveats(report) if "optimistic" in heading)]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="  " if line[:2] == "- " else "") for line in lines)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
