"""The report in plain words, for people who do not read tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from medimg.evaluation.benefit import decision_curve
from medimg.evaluation.intervals import Interval
from medimg.evaluation.metrics import ClassMetrics, Metrics

if TYPE_CHECKING:
    from medimg.evaluation.report import Report
    from medimg.evaluation.thresholds import Thresholds

__all__ = [
    "as_text",
    "asked",
    "believed",
    "caveats",
    "figure",
    "findings",
    "number",
    "policy",
    "question",
    "range_text",
    "sentence",
    "share",
    "shown",
    "split_name",
    "useful",
    "with_interval",
]

_SHARES = frozenset(
    {"accuracy", "balanced_accuracy", "baseline_accuracy", "npv", "ppv", "prevalence", "sensitivity", "specificity"}
)


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
            return text
    return "over 99.999%" if value > 0.5 else "under 0.001%"


def shown(name: str, value: float | None) -> str:
    """Returns a figure as it is written: shares as percentages, all else with three digits."""
    if name in _SHARES:
        return share(value)
    return f"{value:.2f}" if name == "lr_positive" and value is not None else number(value)


def range_text(name: str, interval: Interval | None) -> str:
    """Returns an interval as it is written beside its figure, or nothing."""
    if interval is None:
        return ""
    low, high = (shown(name, bound) for bound in interval)
    return f"{low.removesuffix('%')}–{high}" if min(interval) >= 0 else f"{low} to {high}".replace("-", "−")


def with_interval(name: str, value: float | None, interval: Interval | None) -> str:
    """Returns a figure and, in brackets, its 95% interval."""
    text = shown(name, value).replace("-", "−")
    return text if value is None or interval is None else f"{text} ({range_text(name, interval)})"


def sentence(text: str) -> str:
    """Returns a text with a capital in front and a full stop behind."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def figure(metrics: Metrics, name: str) -> tuple[float, Interval | None] | None:
    """Returns a figure with its interval; None where it cannot be estimated, or is not of this task.

    A binary task has no averages over classes: the figures of its one target stand in.
    """
    sources: list[Metrics | ClassMetrics] = [metrics, *(metrics.per_class if metrics.task == "binary" else ())]
    for source in sources:
        value = getattr(source, name, None)
        if value is not None:
            return value, source.intervals.get(name)
    return None


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
    if one.name in report.thresholds.chosen:
        how = "chosen on validation and then frozen"
    else:
        how = "taken because validation gave none" if one.name in report.thresholds.fallback else "fixed beforehand"
    found = f"found {one.true_positives:,} of {_count(one.positives, 'image')} with {one.name}"
    cleared = f"cleared {one.true_negatives:,} of {one.negatives:,} with {other}"
    yield (
        f"At a threshold of {one.threshold:.3f}, {how}, the model {found} (sensitivity {_told(one, 'sensitivity')}) "
        f"and {cleared} (specificity {_told(one, 'specificity')}). "
        f"It missed {one.false_negatives:,} and raised {_count(one.false_positives, 'false alarm')}."
    )
    if one.auroc is not None:
        yield (
            f"Without any threshold: of two images, one with {one.name} and one with {other}, it gives the higher "
            f"score to the right one in {share(one.auroc)} of all pairs (AUROC {_told(one, 'auroc')}; chance is 0.5)."
        )


def _multiclass(_: Report, metrics: Metrics) -> Iterator[str]:
    yield (
        f"The model named the right class for {metrics.correct:,} of {_count(metrics.n, 'image')} "
        f"(accuracy {_told(metrics, 'accuracy')}); always answering {metrics.majority} would be right for "
        f"{share(metrics.baseline_accuracy)}."
    )
    known = [(one.sensitivity, one.name) for one in metrics.per_class if one.sensitivity is not None]
    if len(known) > 1:
        (low, worst), (high, best) = min(known), max(known)
        ends = f": best on {best} ({share(high)} found), worst on {worst} ({share(low)} found)" if low < high else ""
        even = _told(metrics, "balanced_accuracy", bracket=True)
        yield f"Counting every class the same it is right for {even}{ends}."


def _multilabel(_: Report, metrics: Metrics) -> Iterator[str]:
    known = [(one.auroc, one.name) for one in metrics.per_class if one.auroc is not None]
    if not known:
        yield "There are too few images to estimate any label."
        return
    (low, worst), (high, best) = min(known), max(known)
    yield (
        f"Over {len(known)} of {len(metrics.per_class)} labels that can be estimated the mean AUROC is "
        f"{_told(metrics, 'auroc', bracket=True)}, where chance is 0.5: from {number(low)} for {worst} to "
        f"{number(high)} for {best}."
    )
    yield (
        f"At the frozen thresholds it finds on average {_told(metrics, 'sensitivity', bracket=True)} of the images "
        f"with a finding, and clears {_told(metrics, 'specificity', bracket=True)} of those without."
    )


def policy(thresholds: Thresholds) -> str:
    """Returns how the thresholds came about."""
    if isinstance(thresholds.policy, float):
        return f"fixed at {thresholds.policy:g} beforehand"
    youden = thresholds.policy == "youden"
    aim = (
        "largest sensitivity + specificity on validation (Youden)" if youden else f"{thresholds.policy}, on validation"
    )
    if not thresholds.fallback:
        return aim
    if not thresholds.chosen:
        return "0.5, because validation gave none"
    return f"{aim}; 0.5 for {', '.join(thresholds.fallback)}, because validation gave none"


def believed(report: Report) -> Iterator[str]:
    """Yields sentences on whether the probabilities can be taken at their word; none where that is not known."""
    metrics = report.splits[report.headline]
    known = [one for one in metrics.per_class if {"calibration_slope", "calibration_intercept"} & one.intervals.keys()]
    off: dict[str, list[str]] = {}
    for one in known:
        for words in _miscalibrated(one):
            off.setdefault(words, []).append(one.name)
    for words, names in off.items():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        of = "" if metrics.task == "binary" else f" of {', '.join(names[:5])}{more}"
        yield f"The probabilities{of} are {words}."
    if report.headline == "val" and report.record.get("calibration"):
        yield (
            "The probabilities were calibrated on these validation images: that they agree here does not show that "
            "they do elsewhere."
        )
    elif known and not off:
        yield (
            "No error of the probabilities could be shown: the intervals of the calibration's slope and intercept "
            "hold their ideal values, 1 and 0."
        )


def _miscalibrated(one: ClassMetrics) -> Iterator[str]:
    slope, intercept = one.intervals.get("calibration_slope"), one.intervals.get("calibration_intercept")
    if slope is not None and slope[1] < 1:
        yield "too extreme: high ones should be lower, low ones higher (slope below 1)"
    if slope is not None and slope[0] > 1:
        yield "not extreme enough: high ones should be higher, low ones lower (slope above 1)"
    if intercept is not None and intercept[1] < 0:
        yield "too high on average (intercept below 0)"
    if intercept is not None and intercept[0] > 0:
        yield "too low on average (intercept above 0)"


def useful(report: Report) -> Iterator[str]:
    """Yields for which threshold probabilities acting on the model is of most benefit; binary tasks only."""
    table = report.predictions[report.headline]
    if table.task != "binary" or report.splits[report.headline].auroc is None:
        return
    grid = np.linspace(0.01, 0.99, 99)
    curve = decision_curve(table.truth[:, 0] == 1, table.scores[:, 0], grid)
    better = curve.model > np.maximum(curve.treat_all, 0) + 1e-9
    if not better.any():
        yield "At no threshold probability is acting on the model of more benefit than acting on all images or on none."
        return
    low, high = grid[better].min(), grid[better].max()
    holes = "" if better[(grid >= low) & (grid <= high)].all() else " (with gaps)"
    yield (
        "Acting on the model is of more benefit than acting on all images or on none where one would act from a "
        f"probability between {low:.0%} and {high:.0%}{holes}."
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
    fitted = []
    if report.thresholds.chosen:
        which = "threshold was" if len(report.thresholds.chosen) == 1 else "thresholds were"
        fitted.append(f"the {which} chosen")
    if report.record.get("calibration"):
        fitted.append("the probabilities were calibrated")
    if fitted:
        return sentence(f"{' and '.join(fitted)} on the validation images, so their figures flatter the model")
    return "Validation images were watched during training, so their figures tend to flatter the model."


def as_text(report: Report) -> str:
    """Returns the report for a terminal."""
    metrics = report.splits[report.headline]
    lines = [f"{question(report)} Asked of {asked(report)}.", *findings(report), ""]
    values = metrics.summary()
    values.pop("prevalence", None)
    width = max(map(len, values), default=0)
    lines += [
        f"  {name.replace('_', ' '):{width}}  {with_interval('', value, report.intervals.get(name))}"
        for name, value in values.items()
    ]
    if report.worries:
        lines += ["", "What to worry about:", *(f"- {sentence(worry)}" for worry in report.worries)]
    lines += ["", *(f"{heading}. {text}" for heading, text in caveats(report) if "optimistic" in heading)]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="  " if line[:2] == "- " else "") for line in lines)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _told(metrics: Metrics | ClassMetrics, name: str, *, bracket: bool = False) -> str:
    text, reach = shown(name, getattr(metrics, name)).replace("-", "−"), range_text(name, metrics.intervals.get(name))
    if not reach:
        return text
    return f"{text} (95% interval {reach})" if bracket else f"{text}, 95% interval {reach}"
