"""What predictions are worth against labels, at thresholds that were frozen before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from medimg.config import Task
from medimg.evaluation.thresholds import FEWEST_TO_ESTIMATE
from medimg.inference.predictions import Predictions

__all__ = ["ClassMetrics", "Metrics", "measure"]

# Two runtimes differ by about 1e-6; a spread below that carries no information.
_NO_SPREAD = 1e-6


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
        reason: Why some figures are None, or None.
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

    For multiclass and multilabel tasks `auroc`, `auprc`, `sensitivity` and `specificity` are macro averages: the plain
    mean over the classes that can be estimated. A figure that cannot be estimated is None.

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

    def summary(self) -> dict[str, float]:
        """Returns the headline figures that could be estimated, name to value: what goes to a tracking server."""
        names = ("auroc", "auprc", "accuracy", "baseline_accuracy", "balanced_accuracy", "sensitivity", "specificity")
        values = {name: getattr(self, name) for name in names}
        if self.task == "binary":
            values["prevalence"] = self.per_class[0].prevalence
        return {name: value for name, value in values.items() if value is not None}


def measure(predictions: Predictions, thresholds: Mapping[str, float]) -> Metrics:
    """Returns the figures of labelled predictions at frozen thresholds.

    Args:
        predictions: With labels.
        thresholds: Class to threshold: `Thresholds.values`; empty for a multiclass task.

    Raises:
        DatasetError: There are no labels, or a target has no threshold.
    """
    truth, decided = predictions.truth, predictions.decide(thresholds)
    known = ~np.isnan(truth)
    fewest = FEWEST_TO_ESTIMATE if predictions.task == "multilabel" else 1
    per_class = tuple(
        _measure_class(
            name,
            truth[known[:, column], column] == 1,
            predictions.scores[known[:, column], column],
            decided[known[:, column], column],
            unknown=int((~known[:, column]).sum()),
            threshold=thresholds.get(name),
            fewest=fewest,
        )
        for column, name in enumerate(predictions.targets)
    )
    confusion = _confusion(predictions, decided, per_class)
    majority = None
    if predictions.task == "multilabel":
        decisions = int(known.sum())
        correct = sum(one.true_positives + one.true_negatives for one in per_class)
        baseline = sum(max(one.positives, one.negatives) for one in per_class)
        balanced = _mean(_both(one.sensitivity, one.specificity) for one in per_class)
    else:
        decisions = len(predictions)
        correct = sum(row[name] for name, row in confusion.items())
        sizes = {name: sum(row.values()) for name, row in confusion.items()}
        majority = max(sizes, key=lambda name: sizes[name])
        baseline = sizes[majority]
        recalls = [row[name] / sizes[name] for name, row in confusion.items() if sizes[name]]
        balanced = fmean(recalls) if len(recalls) > 1 else None
    metrics = Metrics(
        task=predictions.task,
        split=predictions.split,
        n=len(predictions),
        patients=len(set(predictions.groups)) if predictions.groups and None not in predictions.groups else None,
        decisions=decisions,
        correct=correct,
        accuracy=correct / decisions if decisions else None,
        majority=majority,
        baseline_accuracy=baseline / decisions if decisions else None,
        balanced_accuracy=balanced,
        auroc=_mean(one.auroc for one in per_class),
        auprc=_mean(one.auprc for one in per_class),
        sensitivity=_mean(one.sensitivity for one in per_class),
        specificity=_mean(one.specificity for one in per_class),
        per_class=per_class,
        confusion=confusion,
        notices=(),
    )
    return metrics.model_copy(update={"notices": tuple(_notices(predictions, decided, metrics))})


def _measure_class(
    name: str,
    truth: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float64],
    decided: npt.NDArray[np.bool_],
    *,
    unknown: int,
    threshold: float | None,
    fewest: int,
) -> ClassMetrics:
    from sklearn.metrics import average_precision_score, roc_auc_score

    positives, negatives = int(truth.sum()), int((~truth).sum())
    both = min(positives, negatives) >= fewest
    # A class that does not occur still has a specificity; a label that is too rare is left out altogether.
    enough, enough_without = (both, both) if fewest > 1 else (positives > 0, negatives > 0)
    true_positives, false_positives = int((truth & decided).sum()), int((~truth & decided).sum())
    reason = None
    if not both:
        least = "one of each is" if fewest == 1 else f"{fewest} of each are"
        reason = f"{positives:,} images with it and {negatives:,} without; at least {least} needed"
    return ClassMetrics(
        name=name,
        true_positives=true_positives,
        false_negatives=positives - true_positives,
        false_positives=false_positives,
        true_negatives=negatives - false_positives,
        unknown=unknown,
        prevalence=positives / len(truth) if len(truth) else None,
        threshold=threshold,
        auroc=float(roc_auc_score(truth, scores)) if both else None,
        auprc=float(average_precision_score(truth, scores)) if both else None,
        sensitivity=true_positives / positives if enough else None,
        specificity=1 - false_positives / negatives if enough_without else None,
        reason=reason,
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
    if missing := [f"{one.name} ({one.reason})" for one in metrics.per_class if one.reason]:
        averages = "" if predictions.task == "binary" else " Averages leave them out."
        yield f"Not estimable: {'; '.join(missing)}.{averages}"
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


def _both(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else (first + second) / 2
