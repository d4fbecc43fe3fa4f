"""The report's figures, drawn from the predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medimg.evaluation.benefit import decision_curve, predictive_values
from medimg.evaluation.calibration import equal_mass, reliability
from medimg.evaluation.curves import precision_recall_points, roc_points
from medimg.evaluation.drawing import COLOURS, DASHES, INK, MUTED, Canvas, Figure, Panel, short, thin
from medimg.evaluation.intervals import numbered, proportion
from medimg.evaluation.metrics import ClassMetrics, Metrics
from medimg.evaluation.summary import share, with_interval
from medimg.evaluation.thresholds import Thresholds
from medimg.inference.predictions import Predictions

__all__ = [
    "calibration",
    "confusion",
    "decision_curves",
    "learning_curves",
    "precision_recall",
    "predictive_curves",
    "roc",
    "score_histograms",
]

_BLUE, _ORANGE, _GREEN = COLOURS[:3]
_CHANCE = "4 3"
_BAND = "#E69F00"  # amber of Okabe & Ito: uncertain
_MOST_PANELS = 24  # more could not be read
_MOST_HISTORIES = 4
_LARGE: dict[str, Any] = {"width": 480.0, "height": 290.0}
_SQUARE: dict[str, Any] = {"width": 480.0, "height": 360.0}
_SMALL: dict[str, Any] = {"width": 244.0, "height": 140.0, "ticks": 2}


@dataclass(frozen=True)
class _Curve:
    """One target of which a curve is drawn: truth bool (n,), scores float64 (n,), its figures and its look."""

    truth: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]
    one: ClassMetrics
    colour: str
    dash: str


_Draw = Callable[[Panel, _Curve], None]


def roc(predictions: Predictions, metrics: Metrics) -> Figure:
    """Returns the receiver operating characteristic of every target, with the point of its frozen threshold."""

    def draw(panel: Panel, curve: _Curve) -> None:
        panel.line([0, 1], [0, 1], MUTED, width=1, dash=_CHANCE)
        false_alarms, found = roc_points(curve.truth, curve.scores)
        panel.line(*thin(false_alarms, found), curve.colour, dash=curve.dash)
        one = curve.one
        if one.threshold is not None and one.sensitivity is not None and one.specificity is not None:
            panel.point(1 - one.specificity, one.sensitivity, curve.colour, radius=4.5, hollow=True)

    return _curves(predictions, metrics, draw, "AUROC", ("1 − specificity", "Sensitivity"))


def precision_recall(predictions: Predictions, metrics: Metrics) -> Figure:
    """Returns precision against sensitivity for every target; dashed: the prevalence, which is chance."""

    def draw(panel: Panel, curve: _Curve) -> None:
        panel.line([0, 1], [curve.truth.mean()] * 2, curve.colour, width=1, dash=_CHANCE)
        recall, precision = precision_recall_points(curve.truth, curve.scores)
        # Steps, because average precision is the area under steps: a straight line between points flatters.
        panel.steps(*thin(recall, precision), curve.colour, dash=curve.dash)

    return _curves(predictions, metrics, draw, "AUPRC", ("Sensitivity (recall)", "Precision (PPV)"))


def calibration(predictions: Predictions, metrics: Metrics) -> Figure:
    """Returns the observed share of images of each target over the predicted probability, in bins of equal mass."""

    def draw(panel: Panel, curve: _Curve) -> None:
        panel.line([0, 1], [0, 1], MUTED, width=1, dash=_CHANCE)
        if metrics.task == "binary":
            _at_the_foot(panel, curve, numbered(predictions.groups, predictions.ids))
        bins = reliability(curve.truth, curve.scores)
        said, found = [one.score for one in bins], [one.share for one in bins]
        panel.line(said, found, curve.colour, width=1.4, dash=curve.dash)
        for point in zip(said, found, strict=True):
            panel.point(*point, curve.colour, radius=3)

    return _curves(predictions, metrics, draw, "ECE", ("Predicted probability", "Observed share"))


def _at_the_foot(panel: Panel, curve: _Curve, patients: npt.NDArray[np.int64]) -> None:
    """Draws how the probabilities of either class are spread, and the interval of each bin."""
    for side, colour in ((~curve.truth, _BLUE), (curve.truth, _ORANGE)):
        counts, edges = np.histogram(curve.scores[side], np.linspace(0, 1, 41))
        panel.area(edges, 0.14 * counts / max(counts.max(), 1), colour, opacity=0.25)
    place = equal_mass(curve.scores)
    for rank in np.unique(place):
        inside = place == rank
        truth = curve.truth[inside].astype(np.float64)
        reach = proportion(truth, np.ones(len(truth)), patients[inside])
        if reach is not None:
            panel.line([curve.scores[inside].mean()] * 2, reach, curve.colour, width=1.2)


def score_histograms(predictions: Predictions, thresholds: Thresholds) -> Figure:
    """Returns how the probabilities of images with and without each target are spread, and where the decision falls."""
    alone = len(predictions.targets) == 1
    edges = np.linspace(0, 1, 26 if alone else 21)
    negative = next((name for name in predictions.classes if name != predictions.positive), "")
    names = (negative, predictions.positive or "") if alone else ("without", "with")
    panels = []
    for column, target in enumerate(predictions.targets[:_MOST_PANELS]):
        truth, scores = _known(predictions, column)
        key: list[tuple[str, str, str]] = []
        shares: list[tuple[npt.NDArray[np.float64], str]] = []
        for mask, colour, name in ((~truth, _BLUE, names[0]), (truth, _ORANGE, names[1])):
            if mask.any():
                shares.append((np.histogram(scores[mask], edges)[0] / mask.sum(), colour))
                key.append((colour, "fill", f"{short(name)} ({mask.sum():,})"))
        threshold, band = thresholds.values.get(target), thresholds.uncertain.get(target)
        if threshold is not None:
            key.append((INK, "5 3", f"threshold {threshold:.3f}"))
        if band is not None:
            key.append((_BAND, "fill", f"uncertain {band[0]:.3f} to {band[1]:.3f}"))
        panel = Panel(
            f"Spread of the scores of {target}", **(_LARGE if alone else _SMALL),
            y=(0, max((float(heights.max()) for heights, _ in shares), default=0.0) * 1.08 or 1.0),
            labels=(f"Probability of {short(target)}" if alone else "Probability", "Share of images"),
            title="" if alone else target, key=key, percent="y",
        )  # fmt: skip
        if band is not None:
            panel.band(list(band), [0, 0], [panel.y[1]] * 2, _BAND, opacity=0.35)
        for heights, colour in shares:
            panel.area(edges, heights, colour)
            panel.steps(edges, [*heights, heights[-1]], colour, width=1.6)
        if threshold is not None:
            panel.vertical(threshold, INK)
        panels.append(panel)
    return Figure(tuple(panels), columns=4)


def decision_curves(predictions: Predictions, metrics: Metrics) -> Figure:
    """Returns the net benefit of acting on the model, against acting on everyone and on no one, for each target."""
    grid = np.linspace(0.01, 0.99, 99)

    def draw(panel: Panel, curve: _Curve) -> None:
        benefit = decision_curve(curve.truth, curve.scores, grid)
        panel.line(grid, benefit.treat_all, MUTED, width=1.4, dash=DASHES[1])
        panel.line([0, 1], [0, 0], INK, width=1)
        panel.line(grid, benefit.model, curve.colour)
        if curve.one.threshold is not None:
            panel.vertical(curve.one.threshold, MUTED, dash="2 3", width=1)

    key = ((_BLUE, "", "act on the model"), (MUTED, DASHES[1], "act on everyone"), (INK, "", "act on no one"))
    return _each(
        predictions, metrics, draw, key, ("Threshold probability", "Net benefit"),
        lambda one: (-0.05, max(one.prevalence or 0, 0.05) * 1.1),
    )  # fmt: skip


def predictive_curves(predictions: Predictions, metrics: Metrics) -> Figure:
    """Returns what an answer is worth where the finding is rarer or more frequent than here, for each target."""
    grid = np.linspace(0.001, 0.999, 100)

    def draw(panel: Panel, curve: _Curve) -> None:
        one = curve.one
        assert one.sensitivity is not None and one.specificity is not None  # noqa: S101 - drawn only where estimable
        values = predictive_values(
            one.sensitivity, one.specificity, grid, sensitivity_interval=one.intervals.get("sensitivity"),
            specificity_interval=one.intervals.get("specificity"),
        )  # fmt: skip
        for low, high, shade in ((values.ppv_low, values.ppv_high, _ORANGE), (values.npv_low, values.npv_high, _BLUE)):
            if low is not None and high is not None:
                panel.band(grid, np.nan_to_num(low), np.nan_to_num(high), shade)
        panel.line(grid, values.ppv, _ORANGE)
        panel.line(grid, values.npv, _BLUE, dash=DASHES[1])
        if one.prevalence is not None:
            panel.vertical(one.prevalence, MUTED, dash="2 3", width=1)

    key = ((_ORANGE, "", "PPV: alarms that are right"), (_BLUE, DASHES[1], "NPV: all-clears that are right"))
    return _each(predictions, metrics, draw, key, ("Prevalence", "Predictive value"), lambda _: (0.0, 1.0), "xy")


def confusion(metrics: Metrics) -> Figure:
    """Returns the confusion matrix as counts, with each row's shares; for multilabel the four counts of each label."""
    multilabel = metrics.task == "multilabel"
    rows = list(metrics.confusion)
    columns = ["found", "missed", "false alarm", "cleared"] if multilabel else rows
    counts = np.array([list(row.values()) for row in metrics.confusion.values()])
    # Multilabel: of the images with the label, found and missed; of those without, false alarms and cleared.
    parts = counts.reshape(len(rows), -1, 2) if multilabel else counts[:, None, :]
    totals = np.broadcast_to(parts.sum(axis=2, keepdims=True), parts.shape).reshape(counts.shape)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)

    few = len(columns) <= 6
    left = 14 + 6.6 * min(max(map(len, rows)), 22) + 16
    top, bottom = (30.0, 8.0) if multilabel else (8.0, 46.0 if few else 120.0)
    across = 104.0 if multilabel else max(min((480 - left - 8) / len(columns), 150), 44)
    up = 30.0 if multilabel else (min(across * 0.72, 100) if few else 34.0)
    canvas = Canvas(left + across * len(columns) + 8, top + up * len(rows) + bottom, "Confusion: counts of images")
    for (row, column), count in np.ndenumerate(counts):
        x, y, part = left + column * across, top + row * up, float(shares[row, column])
        canvas.box(x + 1, y + 1, across - 2, up - 2, _shade(part), round_=2)
        colour, middle = "#fff" if part > 0.55 else INK, x + across / 2
        if not totals[row, column]:
            canvas.text(middle, y + up / 2 + 4, "–", anchor="middle")
        elif up >= 50:
            canvas.text(middle, y + up / 2 - 1, f"{count:,}", size=17, colour=colour, anchor="middle", bold=True)
            canvas.text(middle, y + up / 2 + 17, share(part), size=12, colour=colour, anchor="middle")
        elif across > 70:
            canvas.text(middle, y + up / 2 + 4, f"{count:,}   {share(part)}", colour=colour, anchor="middle")
        else:
            canvas.text(middle, y + up / 2 + 4, f"{count:,}", size=11, colour=colour, anchor="middle")
    for row, name in enumerate(rows):
        canvas.text(left - 8, top + (row + 0.5) * up + 4, short(name, 22), colour=INK, anchor="end")
    for column, name in enumerate(columns):
        x, y = left + (column + 0.5) * across, top - 10 if multilabel else top + len(rows) * up + 16
        if multilabel or few:
            canvas.text(x, y, short(name, max(int(across / 6.5), 4)), colour=INK, anchor="middle")
        else:
            canvas.text(x + 4, y, short(name, 18), size=11, colour=INK, anchor="end", angle=-50)
    if not multilabel:
        canvas.text(12, top + len(rows) * up / 2, "True class", size=11.5, anchor="middle", angle=-90)
        canvas.text(left + across * len(columns) / 2, canvas.height - 6, "Decided class", size=11.5, anchor="middle")
    return Figure((canvas,))


def learning_curves(history: Mapping[str, Sequence[float | None]]) -> Figure:
    """Returns one panel for each quantity of the training history: train and validation by epoch.

    Args:
        history: Name to one value an epoch, as Keras gives it: "loss" and "val_loss" share a panel. Quantities without
            a validation value, such as the learning rate, are left out while there are others.
    """
    names = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    names = [name for name in names if f"val_{name}" in history] or names
    names = sorted(names, key=lambda name: name != "loss")[:_MOST_HISTORIES]
    return Figure(tuple(_history(name, history) for name in names), columns=4)


def _history(name: str, history: Mapping[str, Sequence[float | None]]) -> Panel:
    lines = [
        (np.array(history[key], dtype=np.float64), colour, dash, label)  # None, not a finite value, becomes NaN
        for key, colour, dash, label in (
            (name, _BLUE, DASHES[0], "train"), (f"val_{name}", _ORANGE, DASHES[1], "validation"),
        )
        if history.get(key)
    ]  # fmt: skip
    known = np.concatenate([values[np.isfinite(values)] for values, *_ in lines]) if lines else np.array([])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.5
    panel = Panel(
        f"{name} by epoch", width=244, height=150, x=(1, max([2, *(len(values) for values, *_ in lines)])),
        y=(low - margin, high + margin), labels=("Epoch", ""), title=name.replace("_", " "), ticks=3,
        key=[(colour, dash, label) for _, colour, dash, label in lines],
    )  # fmt: skip
    for values, colour, dash, _ in lines:
        epochs = np.arange(1, len(values) + 1, dtype=np.float64)
        panel.line(epochs, values, colour, dash=dash, width=1.8)
        for epoch, value in zip(epochs[np.isfinite(values)], values[np.isfinite(values)], strict=True):
            panel.point(float(epoch), float(value), colour, radius=2)
    return panel


def _curves(predictions: Predictions, metrics: Metrics, draw: _Draw, figure: str, labels: tuple[str, str]) -> Figure:
    """Returns all curves on one panel while they can be told apart, else one panel each that can be estimated."""
    field = figure.lower()

    def words(one: ClassMetrics) -> str:
        return f"{figure} {with_interval(field, getattr(one, field), one.intervals.get(field))}"

    known = [one for one in metrics.per_class[:_MOST_PANELS] if one.auroc is not None]
    if len(predictions.targets) > len(COLOURS):
        panels = []
        for one in known:
            key = [(_BLUE, "", words(one))]
            panel = Panel(f"{one.name}: {words(one)}", **_SMALL, labels=labels, title=one.name, key=key)
            draw(panel, _curve(predictions, one))
            panels.append(panel)
        return Figure(tuple(panels), columns=4)
    looks = dict(zip(predictions.targets, zip(COLOURS, DASHES, strict=True), strict=False))
    names = {one.name: "" if predictions.task == "binary" else f"{short(one.name)}: " for one in metrics.per_class}
    key = [(*looks[one.name], f"{names[one.name]}{words(one)}") for one in metrics.per_class]
    told = "; ".join(f"{one.name}: {words(one)}" for one in metrics.per_class)
    panel = Panel(told, **_SQUARE, labels=labels, key=key)
    for one in known:
        draw(panel, _curve(predictions, one, *looks[one.name]))
    return Figure((panel,))


def _each(
    predictions: Predictions,
    metrics: Metrics,
    draw: _Draw,
    key: Sequence[tuple[str, str, str]],
    labels: tuple[str, str],
    up: Callable[[ClassMetrics], tuple[float, float]],
    percent: str = "",
) -> Figure:
    """Returns one panel for each target that can be estimated; many share the key that the page gives them."""
    alone = len(predictions.targets) == 1
    panels = []
    for one in [one for one in metrics.per_class if one.auroc is not None][:_MOST_PANELS]:
        panel = Panel(
            f"{labels[1]} by {labels[0].lower()} for {one.name}", **(_LARGE if alone else _SMALL), y=up(one),
            labels=labels, title="" if alone else one.name, key=key if alone else (), percent=percent,
        )  # fmt: skip
        draw(panel, _curve(predictions, one))
        panels.append(panel)
    return Figure(tuple(panels), columns=4)


def _curve(predictions: Predictions, one: ClassMetrics, colour: str = _BLUE, dash: str = "") -> _Curve:
    return _Curve(*_known(predictions, predictions.targets.index(one.name)), one, colour, dash)


def _known(predictions: Predictions, column: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    known = ~np.isnan(predictions.truth[:, column])
    return predictions.truth[known, column] == 1, predictions.scores[known, column]


def _shade(part: float) -> str:
    """Returns a blue between almost white and the deep one."""
    pale, deep = np.array([240, 244, 248]), np.array([8, 81, 140])
    red, green, blue = np.rint(pale + (deep - pale) * part**0.8).astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"
