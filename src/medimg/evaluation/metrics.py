"""What predictions are worth against labels, at thresholds that were frozen before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from medimg.config import Task
from medimg.evaluation.calibration import brier
from medimg.evaluation.intervals import Interval, numbered
from medimg.evaluation.metric_intervals import accuracy_interval, average_intervals, target_intervals, why_none
from medimg.evaluation.resampling import Resamples, kappa, matthews, resample
from medimg.evaluation.target import Target
from medimg.evaluation.thresholds import FEWEST_TO_ESTIMATE
from medimg.inference.predictions import Predictions

__all__ = ["ClassMetrics", "Metrics", "measure"]

# Two runtimes differ by about 1e-6; a spread below that carries no information.
_NO_SPREAD = 1e-6
_AVERAGES = ("auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "mcc", "brier", "ece")


class ClassMetrics(BaseModel):
    """One class against all others (multilabel: one label present against absent), where the label is known.

    A figure that cannot be estimated is None, and `reason` says why.

    Attributes:
        name: The class.
        true_positives: Images of the class that were decided to be of it.
        false_negatives: Images of the class that were missed.
        false_positives: Images of no such class that were decided to be of it.
        true_negatives: Images of no such class that were decided so.
        unknown: Images whose label is unknown; they count nowhere else.
        prevalence: Share of images of the class among those with a known label.
        threshold: The frozen threshold; None where the most probable class is decided.
        auroc: Area under the receiver operating characteristic.
        auprc: Average precision; its value by chance is the prevalence.
        sensitivity: Share of images of the class that were found.
        specificity: Share of the other images that were cleared.
        reason: Why there are too few images for some figures, or None.
        ppv: Positive predictive value: share of the images called positive that are; at the prevalence of these images.
        npv: Negative predictive value: share of the images cleared that are negative; at the same prevalence.
        lr_positive: Positive likelihood ratio: sensitivity / (1 - specificity).
        lr_negative: Negative likelihood ratio: (1 - sensitivity) / specificity.
        balanced_accuracy: Mean of sensitivity and specificity.
        mcc: Matthews correlation, from -1 to 1; 0 is chance.
        brier: Mean squared distance of the probability from the truth, from 0 (perfect) to 1.
        calibration_slope: 1 is right; under 1 the probabilities are too extreme.
        calibration_intercept: In log-odds, with the slope held at 1: 0 is right; under 0 they are too high.
        ece: Expected calibration error, in ten bins of equal mass.
        intervals: Figure to its 95% interval, where one can be estimated.
        reasons: Figure to why it, or its interval, is missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int
    unknown: int
    prevalence: float | None
    threshold: float | None
    auroc: float | None
    auprc: float | None
    sensitivity: float | None
    specificity: float | None
    reason: str | None
    ppv: float | None = None
    npv: float | None = None
    lr_positive: float | None = None
    lr_negative: float | None = None
    balanced_accuracy: float | None = None
    mcc: float | None = None
    brier: float | None = None
    calibration_slope: float | None = None
    calibration_intercept: float | None = None
    ece: float | None = None
    intervals: dict[str, Interval] = Field(default_factory=dict)
    reasons: dict[str, str] = Field(default_factory=dict)

    @property
    def positives(self) -> int:
        """Images of the class."""
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> int:
        """Images known not to be of the class."""
        return self.true_negatives + self.false_positives


class Metrics(BaseModel):
    """The figures of one split.

    For multiclass and multilabel tasks `auroc`, `auprc`, `sensitivity`, `specificity` and `ece` are macro averages: the
    plain mean over the classes that can be estimated. A figure that cannot be estimated is None.

    Attributes:
        task: "binary", "multiclass" or "multilabel".
        split: The split, or None.
        n: Images.
        patients: Distinct groups, or None if unknown.
        decisions: Decisions with a known label: `n`, or for multilabel the known labels of all images.
        correct: How many of them are right.
        accuracy: correct / decisions.
        majority: The most frequent class; None for multilabel.
        baseline_accuracy: Accuracy of always giving the most frequent answer.
        balanced_accuracy: Binary: mean of sensitivity and specificity. Multiclass: mean sensitivity of the classes
            that occur. Multilabel: mean over labels of the binary one.
        auroc: Area under the receiver operating characteristic.
        auprc: Average precision.
        sensitivity: At the frozen threshold.
        specificity: At the frozen threshold.
        per_class: One entry a target: the positive class (binary), or every class.
        confusion: True class to decided class to images. Multilabel: label to the four counts.
        notices: What a reader should know about these figures.
        mcc: Matthews correlation: of all classes together (multiclass), or the mean over labels (multilabel).
        kappa: Cohen's kappa with quadratic weights; None unless the classes were said to be in order.
        brier: Multiclass: the squares summed over classes, 0 to 2. Multilabel: the mean over labels.
        ece: Expected calibration error, in ten bins of equal mass.
        intervals: Figure to its 95% interval, where one can be estimated.
        interval_method: How the intervals were made, in a sentence; None without.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Task
    split: str | None
    n: int
    patients: int | None
    decisions: int
    correct: int
    accuracy: float | None
    majority: str | None
    baseline_accuracy: float | None
    balanced_accuracy: float | None
    auroc: float | None
    auprc: float | None
    sensitivity: float | None
    specificity: float | None
    per_class: tuple[ClassMetrics, ...]
    confusion: dict[str, dict[str, int]]
    notices: tuple[str, ...]
    mcc: float | None = None
    kappa: float | None = None
    brier: float | None = None
    ece: float | None = None
    intervals: dict[str, Interval] = Field(default_factory=dict)
    interval_method: str | None = None

    def summary(self) -> dict[str, float]:
        """Returns the headline figures that could be estimated, name to value: what goes to a tracking server."""
        names = (
            "auroc", "auprc", "accuracy", "baseline_accuracy", "balanced_accuracy", "sensitivity", "specificity", "mcc",
            "kappa", "brier", "ece",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        if self.task == "binary":
            values["prevalence"] = self.per_class[0].prevalence
        return {name: value for name, value in values.items() if value is not None}


def measure(
    predictions: Predictions,
    thresholds: Mapping[str, float],
    *,
    ordinal: bool = False,
    resamples: int = 0,
    seed: int = 0,
) -> Metrics:
    """Returns the figures of labelled predictions at frozen thresholds.

    Args:
        predictions: With labels.
        thresholds: Class to threshold: `Thresholds.values`; empty for a multiclass task.
        ordinal: Whether the classes of a multiclass task are in order, from least to most: gives kappa.
        resamples: Of the patients, for the intervals: 2,000 is usual. 0: no intervals.
        seed: Of the resamples.

    Raises:
        DatasetError: There are no labels, or a target has no threshold.
    """
    table = _Table.of(predictions, thresholds)
    fewest = FEWEST_TO_ESTIMATE if predictions.task == "multilabel" else 1
    targets = [
        Target.of(
            table.truth[known, column] == 1,
            table.scores[known, column],
            table.decided[known, column],
            table.patients[known],
            fewest=fewest,
        )
        for column, known in enumerate(table.known.T)
    ]
    drawn = None
    if resamples:
        drawn = resample(
            table.truth,
            table.scores,
            table.decided,
            table.patients,
            multiclass=predictions.task == "multiclass",
            resamples=resamples,
            seed=seed,
        )
    per_class = tuple(
        _class_metrics(
            name,
            target,
            unknown=len(predictions) - len(target.truth),
            threshold=thresholds.get(name),
            resamples=None if drawn is None else {name: values[column] for name, values in drawn.targets.items()},
        )
        for column, (name, target) in enumerate(zip(predictions.targets, targets, strict=True))
    )
    decided = predictions.decide(thresholds)
    metrics = _together(predictions, _confusion(predictions, decided, per_class), per_class)
    if predictions.task == "multiclass":
        metrics = metrics.model_copy(update=_of_all_classes(metrics, table, ordinal=ordinal))
    update: dict[str, object] = {"notices": tuple(_notices(predictions, decided, metrics))}
    if drawn is not None:
        update["intervals"] = _intervals(metrics, table, targets, drawn)
        update["interval_method"] = _method(predictions, resamples, table.count)
    return metrics.model_copy(update=update)


@dataclass(frozen=True)
class _Table:
    """The samples by id, so that the order of the rows cannot matter, not even to the last digit."""

    truth: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    decided: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]

    @classmethod
    def of(cls, predictions: Predictions, thresholds: Mapping[str, float]) -> _Table:
        order = np.argsort(np.array(predictions.ids), kind="stable")
        return cls(
            predictions.truth[order],
            predictions.scores[order],
            predictions.decide(thresholds)[order],
            numbered(predictions.groups, predictions.ids)[order],
        )

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self.truth)

    @property
    def count(self) -> int:
        """Patients."""
        return int(self.patients.max()) + 1


def _class_metrics(
    name: str,
    target: Target,
    *,
    unknown: int,
    threshold: float | None,
    resamples: Mapping[str, npt.NDArray[np.float64]] | None,
) -> ClassMetrics:
    reasons = dict(target.reasons)
    intervals: dict[str, Interval] = {}
    if resamples is not None:
        intervals = target_intervals(target, resamples)
        rarer = min(target.positive_patients, target.negative_patients)
        for figure, value in target.values.items():
            if value is not None and figure not in intervals:
                reasons[figure] = why_none(figure, value, rarer, resamples.get(figure))
    return ClassMetrics(
        name=name,
        true_positives=target.count(True, True),
        false_negatives=target.count(True, False),
        false_positives=target.count(False, True),
        true_negatives=target.count(False, False),
        unknown=unknown,
        prevalence=float(target.truth.mean()) if len(target.truth) else None,
        threshold=threshold,
        reason=target.reason,
        intervals=intervals,
        reasons=reasons,
        **target.values,
    )


def _together(
    predictions: Predictions, confusion: dict[str, dict[str, int]], per_class: tuple[ClassMetrics, ...]
) -> Metrics:
    """Returns counts and plain averages, without notices and intervals."""
    majority = None
    if predictions.task == "multilabel":
        decisions = sum(one.positives + one.negatives for one in per_class)
        correct = sum(one.true_positives + one.true_negatives for one in per_class)
        baseline = sum(max(one.positives, one.negatives) for one in per_class)
    else:
        decisions = len(predictions)
        correct = sum(row[name] for name, row in confusion.items())
        sizes = {name: sum(row.values()) for name, row in confusion.items()}
        majority = max(sizes, key=lambda name: sizes[name])
        baseline = sizes[majority]
    groups = predictions.groups
    return Metrics(
        task=predictions.task,
        split=predictions.split,
        n=len(predictions),
        patients=len(set(groups)) if groups and None not in groups else None,
        decisions=decisions,
        correct=correct,
        accuracy=correct / decisions if decisions else None,
        majority=majority,
        baseline_accuracy=baseline / decisions if decisions else None,
        **{name: _mean(getattr(one, name) for one in per_class) for name in _AVERAGES},
        per_class=per_class,
        confusion=confusion,
        notices=(),
    )


def _of_all_classes(metrics: Metrics, table: _Table, *, ordinal: bool) -> dict[str, float | None]:
    recalls = [one.sensitivity for one in metrics.per_class if one.sensitivity is not None]
    confusion = np.array([list(row.values()) for row in metrics.confusion.values()], dtype=np.float64)
    return {
        "balanced_accuracy": fmean(recalls) if len(recalls) > 1 else None,
        "mcc": _finite(matthews(confusion)),
        "kappa": _finite(kappa(confusion)) if ordinal else None,
        "brier": brier(table.truth, table.scores),
    }


def _intervals(metrics: Metrics, table: _Table, targets: Sequence[Target], drawn: Resamples) -> dict[str, Interval]:
    values = {name: getattr(metrics, name) for name in (*_AVERAGES, "kappa")}
    right, known = table.decided == (table.truth == 1), table.known
    if metrics.task == "multiclass":
        right, known = right.all(axis=1, keepdims=True), known[:, :1]
    if metrics.task == "binary":
        found = {name: bounds for name, bounds in metrics.per_class[0].intervals.items() if name in values}
    else:
        found = average_intervals(targets, values, drawn, table.count)
    accuracy = accuracy_interval(right, known, table.patients)
    return found if accuracy is None else {**found, "accuracy": accuracy}


def _method(predictions: Predictions, resamples: int, count: int) -> str:
    groups = set(predictions.groups or (None,))
    if None not in groups:
        drawn = f"{count:,} patients, each with all of its images"
    elif groups == {None}:
        drawn = (
            f"{count:,} images; patients are not known, and the intervals are too narrow if some have several images"
        )
    else:
        drawn = f"{count:,} patients; an image without a known patient counts as one of its own"
    return (
        f"95% intervals from {resamples:,} resamples of {drawn}. Shares of images: Wilson's interval at the number of "
        "independent images that these are worth. Calibration slope and intercept: robust to several images a patient."
    )


def _confusion(
    predictions: Predictions, decided: npt.NDArray[np.bool_], per_class: tuple[ClassMetrics, ...]
) -> dict[str, dict[str, int]]:
    counts = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    if predictions.task == "multilabel":
        return {one.name: {name: getattr(one, name) for name in counts} for one in per_class}
    classes = predictions.classes
    if predictions.positive is None:
        decision = decided.argmax(axis=1)
    else:
        positive = classes.index(predictions.positive)
        decision = np.where(decided[:, 0], positive, 1 - positive)
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(table, (np.array(predictions.labels), decision), 1)
    return {name: dict(zip(classes, row, strict=True)) for name, row in zip(classes, table.tolist(), strict=True)}


def _notices(predictions: Predictions, decided: npt.NDArray[np.bool_], metrics: Metrics) -> Iterable[str]:
    if len(predictions) > 1:
        yield from _constant(predictions, decided, metrics)
    accuracy, baseline = metrics.accuracy, metrics.baseline_accuracy
    if predictions.task != "multilabel" and accuracy is not None and baseline is not None and accuracy <= baseline:
        yield f"Accuracy {accuracy:.1%} is no better than always answering {metrics.majority} ({baseline:.1%})."
    below = [one for one in metrics.per_class if one.auroc is not None and one.auroc < 0.5]
    if below:
        names = ", ".join(f"{one.name} ({one.auroc:.3f})" for one in below)
        yield f"The ranking is worse than chance for {names}: are the labels the right way round?"
    if missing := [one for one in metrics.per_class if one.reason]:
        counts = ", ".join(f"{one.name} ({one.positives:,} with, {one.negatives:,} without)" for one in missing)
        least = f"{FEWEST_TO_ESTIMATE} of each are" if predictions.task == "multilabel" else "one of each is"
        averages = "" if predictions.task == "binary" else " Averages leave them out."
        yield f"Not estimable: {counts}; at least {least} needed.{averages}"
    few = [
        one for one in metrics.per_class if not one.reason and min(one.positives, one.negatives) < FEWEST_TO_ESTIMATE
    ]
    if few:
        counts = ", ".join(f"{one.name} ({one.positives} with, {one.negatives} without)" for one in few)
        yield f"Fewer than {FEWEST_TO_ESTIMATE} images with or without: {counts}. One image more changes the figures."


def _constant(predictions: Predictions, decided: npt.NDArray[np.bool_], metrics: Metrics) -> Iterable[str]:
    spread = np.ptp(predictions.scores, axis=0)
    flat = [name for name, width in zip(predictions.targets, spread, strict=True) if width < _NO_SPREAD]
    if flat:
        yield f"Constant: the model gives every image the same probability of {', '.join(flat)}."
    same = (decided == decided[0]).all(axis=0)
    if predictions.task == "multilabel":
        known = [one.name for one in metrics.per_class if not one.reason and one.name not in flat]
        stuck = [name for name, one in zip(predictions.targets, same, strict=True) if one and name in known]
        if stuck:
            yield f"Constant: every image gets the same decision on {', '.join(stuck)}."
    elif same.all():
        only = {answer for row in metrics.confusion.values() for answer, count in row.items() if count}
        yield f"Constant: every image was decided to be {only.pop()}; the accuracy is only the share of that class."


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _finite(value: npt.NDArray[np.float64]) -> float | None:
    return float(value) if np.isfinite(value) else None
