"""The picture of a load test: throughput, latency and, where there were any, failures over the number of clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from medimg.evaluation.drawing import COLOURS, INK, LINE, MUTED
from medimg.evaluation.plot import Plot, style, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from medimg.backends.load.load_test import LoadTest, Step

__all__ = ["draw"]

_BLUE, _RED, _GREEN, _PURPLE = COLOURS
_WIDTH, _HEIGHT = 4.3, 3.5  # inches, of a panel
_KINDS = 4  # that are told apart; the rest is one line
_GRID = "#e9edf1"


def draw(test: LoadTest) -> Plot:
    """Returns the picture of a load test."""
    failed = any(step.errors for step in test.steps)
    figure = Plot(_WIDTH * (2 + failed), _HEIGHT)
    panels = figure.subplots(1, 2 + failed)
    _throughput(panels[0], test.steps)
    _latency(panels[1], test.steps)
    if failed:
        _failures(panels[2], test.steps)
    clients = [step.clients for step in test.steps]
    for axes in panels:
        style(axes)
        axes.set_xscale("log")
        axes.set_xticks(clients, [_short(number) for number in clients])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel("clients")
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_xlim(min(clients) / 1.3, max(clients) * 1.3)
        if test.knee is not None and len(clients) > 1:
            axes.axvline(test.knee, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    if test.knee is not None and len(clients) > 1:
        told, place = f" knee: {test.knee:,} ", (test.knee, 0.03)
        side = "right" if test.knee == max(clients) else "left"
        panels[0].annotate(told, place, xycoords=("data", "axes fraction"), fontsize=8.5, color=MUTED, ha=side)
    return figure


def _throughput(axes: Axes, steps: Sequence[Step]) -> None:
    title(axes, "Throughput", "answers a second")
    axes.plot([step.clients for step in steps], [step.throughput for step in steps], "o-", color=_BLUE, markersize=4)
    axes.set_ylim(0, 1.15 * max(step.throughput for step in steps) or 1)


def _latency(axes: Axes, steps: Sequence[Step]) -> None:
    title(axes, "Latency", "milliseconds until half, 95 % and 99 % of the answers")
    axes.set_yscale("log")
    answered = [step for step in steps if step.p50_ms is not None]
    for name, colour, mark in (("p99", _RED, "^-"), ("p95", _GREEN, "s-"), ("p50", _BLUE, "o-")):
        values = [getattr(step, f"{name}_ms") for step in answered]
        axes.plot([step.clients for step in answered], values, mark, color=colour, markersize=4, label=name)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", color=LINE)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)


def _failures(axes: Axes, steps: Sequence[Step]) -> None:
    title(axes, "Refused or failed", "requests a second that got no answer, by kind")
    totals: dict[str, int] = {}
    for step in steps:
        for kind, count in step.errors.items():
            totals[kind] = totals.get(kind, 0) + count
    kinds = sorted(totals, key=lambda kind: -totals[kind])
    lines: dict[str, tuple[str, ...]] = {kind: (kind,) for kind in kinds[:_KINDS]}
    if len(kinds) > _KINDS:
        lines = {"others": tuple(kinds[_KINDS - 1 :])}
        lines = {kind: (kind,) for kind in kinds[: _KINDS - 1]} | lines
    marks = zip(lines.items(), (_RED, _BLUE, _GREEN, _PURPLE), ("o-", "s--", "^:", "D-."), strict=False)
    for (label, several), colour, mark in marks:
        rates = [sum(step.errors.get(kind, 0) for kind in several) / step.seconds for step in steps]
        axes.plot([step.clients for step in steps], rates, mark, color=colour, markersize=4, label=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)


def _short(number: int) -> str:
    return f"{number / 1000:g}k" if number >= 1000 else str(number)
