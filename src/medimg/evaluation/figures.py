"""The report's figures. They are drawn without pyplot, so nothing global is left open and no window is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from medimg.evaluation.metrics import Metrics
from medimg.evaluation.plot import COLOURS, DASHES, INK, LINE, MUTED, Plot, plain, style, thin, title
from medimg.evaluation.thresholds import FEWEST_TO_ESTIMATE
from medimg.inference.predictions import Predictions

__all__ = ["confusion", "learning_curves", "precision_recall", "roc", "score_histograms"]

Truth = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
_BLUE, _ORANGE = COLOURS[:2]
_MOST_HISTORIES = 4


def roc(predictions: Predictions, thresholds: Mapping[str, float]) -> Plot:
    """Returns the receiver operating characteristic of every target, with the point of its frozen threshold."""
    from sklearn.metrics import roc_auc_score, roc_curve

    def draw(axes: Axes, truth: Truth, scores: Scores, name: str, look: dict[str, Any]) -> str:
        across, up, _ = roc_curve(truth, scores)
        axes.plot(*thin(across, up), clip_on=False, **look)
        if name in thresholds:
            positive = scores >= thresholds[name]
            point = (positive[~truth].mean(), positive[truth].mean())
            axes.plot(*point, "o", color="white", mec=look["color"], mew=2, ms=8, clip_on=False, zorder=5)
        return f"{roc_auc_score(truth, scores):.3f}"

    figure = _curves(predictions, draw, "AUROC", ("1 − specificity", "Sensitivity"), "lower right")
    for axes in figure.axes:
        axes.plot([0, 1], [0, 1], color=LINE, lw=1, ls=(0, (4, 3)), zorder=0)
    return figure


def precision_recall(predictions: Predictions) -> Plot:
    """Returns precision against sensitivity for every target; dashed: the prevalence, which is chance."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    def draw(axes: Axes, truth: Truth, scores: Scores, _: str, look: dict[str, Any]) -> str:
        precision, recall, _cuts = precision_recall_curve(truth, scores, drop_intermediate=True)
        # Steps, because average precision is the area under steps: a straight line between points flatters.
        axes.plot(*thin(recall, precision), drawstyle="steps-post", clip_on=False, **look)
        axes.axhline(truth.mean(), color=look["color"], lw=1, ls=(0, (4, 3)), alpha=0.7, zorder=0)
        return f"{average_precision_score(truth, scores):.3f} (chance {truth.mean():.3f})"

    return _curves(predictions, draw, "AUPRC", ("Sensitivity (recall)", "Precision"), "lower left")


def score_histograms(predictions: Predictions, thresholds: Mapping[str, float]) -> Plot:
    """Returns how the probabilities of images with and without each target are spread, and the frozen threshold."""
    alone = len(predictions.targets) == 1
    figure, panels = Plot.grid(predictions.targets, side=4.6 if alone else 2.55)
    edges = np.linspace(0, 1, 26 if alone else 21)
    negative = next((name for name in predictions.classes if name != predictions.positive), "")
    names = (negative, predictions.positive or "") if alone else ("without", "with")
    for column, axes in enumerate(panels):
        target = predictions.targets[column]
        truth, scores = _known(predictions, column)
        highest = 0.0
        for mask, colour, name in ((~truth, _BLUE, names[0]), (truth, _ORANGE, names[1])):
            if mask.any():
                share = np.histogram(scores[mask], edges)[0] / mask.sum()
                highest = max(highest, share.max())
                axes.stairs(share, edges, fill=True, color=colour, alpha=0.28)
                axes.stairs(share, edges, color=colour, lw=1.6, label=f"{plain(name)} ({mask.sum():,})")
        top = highest * (1.4 if alone else 1.6) or 1.0
        if target in thresholds:
            label = f"threshold {thresholds[target]:.3f}"
            axes.vlines(thresholds[target], 0, highest * 1.05, color=INK, lw=1.4, ls=(0, (4, 2)), label=label)
        style(axes)
        ticks = MaxNLocator(5).tick_values(0, highest)
        axes.set(xlim=(0, 1), ylim=(0, top), yticks=[tick for tick in ticks if 0 <= tick <= min(highest * 1.2, 1)])
        axes.yaxis.set_major_formatter(lambda tick, _: f"{100 * tick:g}%")
        axes.legend(frameon=False, fontsize=9 if alone else 7, loc="upper center")
        if alone:
            axes.set(xlabel=f"Probability of {plain(target)}", ylabel="Share of the images")
        else:
            title(axes, target)
    if not alone:
        figure.supxlabel("Probability", color=MUTED, fontsize=9)
        figure.supylabel("Share of the images", color=MUTED, fontsize=9)
    return figure


def confusion(metrics: Metrics) -> Plot:
    """Returns the confusion matrix as counts, with each row's shares; for multilabel the four counts of each label."""
    multilabel = metrics.task == "multilabel"
    rows = list(metrics.confusion)
    columns = ["found", "missed", "false alarm", "cleared"] if multilabel else rows
    counts = np.array([list(row.values()) for row in metrics.confusion.values()])
    # Multilabel: of the images with the label, found and missed; of those without, false alarms and cleared.
    parts = counts.reshape(len(rows), -1, 2) if multilabel else counts[:, None, :]
    totals = np.broadcast_to(parts.sum(axis=2, keepdims=True), parts.shape).reshape(counts.shape)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)

    side, size = next(look for most, *look in ((3, 1.3, 11), (10, 0.9, 8.5), (10**9, 0.6, 6)) if len(columns) <= most)
    if multilabel:
        side, size = 1.5, 9
    figure = Plot(side * len(columns) + 2.2, max((0.42 if multilabel else side) * len(rows) + 1.2, 2.2))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    between = "   " if multilabel else "\n"
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,}{between}{shares[row, column]:.1%}" if totals[row, column] else "–"
        colour = "white" if shares[row, column] > 0.6 else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=size, linespacing=1.35, color=colour)
    axes.set_xticks(range(len(columns)), [plain(name, 18) for name in columns])
    axes.set_yticks(range(len(rows)), [plain(name, 22) for name in rows])
    if not multilabel and len(columns) > 4:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="both", length=0, labelsize=9.5, labelcolor=INK)
    axes.spines[:].set_visible(False)
    if multilabel:
        axes.xaxis.tick_top()
    else:
        axes.set_ylabel("True class", color=MUTED)
        axes.set_xlabel("Decided class", color=MUTED)
    return figure


def learning_curves(history: Mapping[str, Sequence[float | None]]) -> Plot:
    """Returns one panel for each quantity of the training history: train and validation by epoch.

    Args:
        history: Name to one value an epoch, as Keras gives it: "loss" and "val_loss" share a panel. Quantities without
            a validation value, such as the learning rate, are left out while there are others.
    """
    names = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    names = [name for name in names if f"val_{name}" in history] or names
    names = sorted(names, key=lambda name: name != "loss")[:_MOST_HISTORIES]
    figure = Plot(max(3.6 * len(names), 4.9), 2.9)
    lines = (("", "train", _BLUE, DASHES[0]), ("val_", "validation", _ORANGE, DASHES[1]))
    for axes, name in zip(figure.panels(names), names, strict=True):
        for prefix, label, colour, dash in lines:
            values = np.array(history.get(prefix + name, ()), dtype=np.float64)  # None, not a finite value, becomes NaN
            epochs = np.arange(1, len(values) + 1)
            if len(values):
                axes.plot(epochs, values, color=colour, ls=dash, lw=1.8, marker="o", ms=3, label=label)
        style(axes, grid=True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Epoch")
        title(axes, name.replace("_", " "))
        axes.legend(frameon=False, fontsize=8)
    return figure


def _curves(
    predictions: Predictions,
    draw: Callable[[Axes, Truth, Scores, str, dict[str, Any]], str],
    area: str,
    labels: tuple[str, str],
    corner: Literal["lower left", "lower right"],
) -> Plot:
    """Returns all curves on one axes while they can be told apart, else one panel each."""
    targets = predictions.targets
    together = len(targets) <= len(COLOURS)
    figure, panels = Plot.grid(("",), side=4.7) if together else Plot.grid(targets)
    fewest = FEWEST_TO_ESTIMATE if predictions.task == "multilabel" else 1
    handles, entries = [], []
    for column, name in enumerate(targets if together else targets[: len(panels)]):
        axes = panels[0 if together else column]
        look: dict[str, Any] = {"color": _BLUE, "lw": 2, "ls": "-"}
        if together:
            look |= {"color": COLOURS[column], "ls": DASHES[column]}
        truth, scores = _known(predictions, column)
        possible = min(truth.sum(), (~truth).sum()) >= fewest
        value = draw(axes, truth, scores, name, look) if possible else "not estimable"
        handles.append(Line2D([], [], **look))
        entries.append(f"{value}  {plain(name)}")
        if not together:
            title(axes, name, f"{area} {value}")
    for axes in panels:
        style(axes, grid=True)
        ticks = np.linspace(0, 1, 6 if together else 3)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=ticks, yticks=ticks)
    if together:
        panels[0].set(xlabel=labels[0], ylabel=labels[1])
        legend = panels[0].legend(handles, entries, title=area, loc=corner, edgecolor="none", fontsize=9)
        legend.set_alignment("left")
        legend.get_title().set_fontsize(9)
    else:
        figure.supxlabel(labels[0], color=MUTED, fontsize=9)
        figure.supylabel(labels[1], color=MUTED, fontsize=9)
    return figure


def _known(predictions: Predictions, column: int) -> tuple[Truth, Scores]:
    known = ~np.isnan(predictions.truth[:, column])
    return predictions.truth[known, column] == 1, predictions.scores[known, column]
