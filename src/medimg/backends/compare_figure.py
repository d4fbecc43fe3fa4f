"""The picture of a comparison: bars of seconds by what they were spent on, and bars of money."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medimg.backends.rates import money
from medimg.evaluation.drawing import COLOURS, INK, MUTED
from medimg.evaluation.plot import Plot, style, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from medimg.backends.compare import CostComparison, Place

__all__ = ["draw"]

_HEIGHT = 0.55  # inches, of a backend
_LIGHT = "#9fb3c8"


def draw(comparison: CostComparison) -> Plot:
    """Returns the picture of a comparison."""
    from medimg.backends.compare import GROUPS

    places = list(reversed(comparison.places))  # matplotlib draws from below
    figure = Plot(9.0, 1.9 + _HEIGHT * len(places))
    time, cost = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names = [f"{place.backend}\n{place.machine}" if place.machine else place.backend for place in places]
    for axes in (time, cost):
        style(axes)
        axes.set_yticks(range(len(places)), names)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.margins(x=0.2)
    _draw_time(time, places, GROUPS)
    _draw_cost(cost, places)
    # Of what there is a bar of.
    for group, colour in zip(GROUPS, COLOURS, strict=True):
        time.barh(0, 0, color=colour, label=group)
    figure.legend(loc="outside lower left", ncols=len(GROUPS), frameon=False, fontsize=8.5, labelcolor=MUTED)
    return figure


def _draw_time(axes: Axes, places: Sequence[Place], groups: Sequence[str]) -> None:
    title(axes, "Time", "from the call to the end of the job")
    axes.set_xlabel("seconds")
    for row, place in enumerate(places):
        start = 0.0
        for group, colour in zip(groups, COLOURS, strict=True):
            seconds = place.grouped[group]
            axes.barh(row, seconds, left=start, height=0.55, color=colour)
            start += seconds
        told = f" {start:,.0f} s" if place.job else " not done yet"
        axes.annotate(told, (start, row), va="center", fontsize=8.5, color=INK if place.job else MUTED)
    axes.set_xlim(left=0)


def _draw_cost(axes: Axes, places: Sequence[Place]) -> None:
    currency = next((place.estimate.currency for place in places if place.estimate is not None), "")
    title(axes, "Cost", "estimated (light), and as billed by today's price (dark)")
    axes.set_xlabel(currency)
    for row, place in enumerate(places):
        total = None if place.estimate is None else place.estimate.total
        billed = None if place.cost is None else place.cost.amount
        bound = place.estimate.bound if place.estimate is not None else ""
        for offset, amount, colour, before in ((0.16, total, _LIGHT, bound), (-0.16, billed, INK, "")):
            if amount is None:
                continue
            axes.barh(row + offset, amount, height=0.28, color=colour)
            told = money(amount, "").strip()
            axes.annotate(
                f" {before} {told}" if before else f" {told}",
                (amount, row + offset),
                va="center",
                fontsize=8,
                color=MUTED,
            )
        if total is None and billed is None:
            axes.annotate(" unknown", (0, row), va="center", fontsize=8.5, color=MUTED)
    axes.set_xlim(left=0)
