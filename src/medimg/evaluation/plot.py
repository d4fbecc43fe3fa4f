"""The canvas, colours and axes that all figures share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["COLOURS", "DASHES", "INK", "LINE", "MUTED", "Plot", "plain", "style", "thin", "title"]

# Blue, vermilion and green are Okabe & Ito's (jfly.uni-koeln.de/color, 2008), the purple Tol's: all four can be told
# apart with every common colour blindness. The dashes tell them apart in print without colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
INK, MUTED, LINE, _GRID = "#1d2733", "#5b6875", "#c9d1d9", "#eef1f4"

_MOST_PANELS = 24
_CURVE_POINTS = 400


class Plot(Figure):
    """A matplotlib figure that notebooks show without pyplot."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
        FigureCanvasAgg(self)

    def panels(self, names: Sequence[str]) -> list[Axes]:
        """Returns one axes a name, in rows of four: at most 24, because more could not be read."""
        shown = len(names[:_MOST_PANELS])
        columns = min(shown, 4)
        rows = -(-shown // columns)
        return [self.add_subplot(rows, columns, place + 1) for place in range(shown)]

    @classmethod
    def grid(cls, names: Sequence[str], *, side: float = 2.55) -> tuple[Plot, list[Axes]]:
        """Returns a figure and its panels, one a name."""
        shown = len(names[:_MOST_PANELS])
        figure = cls(side * min(shown, 4), side * -(-shown // 4))
        return figure, figure.panels(names)

    def png(self) -> bytes:
        """Returns the figure as PNG."""
        return self._bytes("png")

    def _repr_png_(self) -> bytes:
        return self.png()

    def svg(self) -> bytes:
        """Returns the figure as SVG with text as outlines: it looks the same with any fonts."""
        with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "medimg"}):
            return self._bytes("svg", metadata={"Date": None})

    def _bytes(self, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


def style(axes: Axes, *, grid: bool = False) -> None:
    """Gives axes the report's look."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=MUTED, labelsize=8.5)
    axes.xaxis.label.set(color=MUTED, size=9)
    axes.yaxis.label.set(color=MUTED, size=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=_GRID, lw=0.8)


def title(axes: Axes, name: str, below: str = "") -> None:
    """Names a panel, with a smaller line below the name."""
    axes.set_title(plain(name), fontsize=9.5, color=INK, loc="left", fontweight="bold", pad=18 if below else 6)
    axes.annotate(below, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8, color=MUTED)


def plain(name: str, longest: int = 30) -> str:
    """Returns a class name that matplotlib shows as it is: no formulas between dollars, not too long."""
    short = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return short.replace("$", r"\$")


def thin(across: npt.NDArray[np.float64], up: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    """Returns at most about 400 of a curve's points: more are not visible, but weigh in the file."""
    if len(across) <= _CURVE_POINTS:
        return across, up
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(across)) + np.abs(np.diff(up)))])
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _CURVE_POINTS)).clip(0, len(across) - 1))
    return across[keep], up[keep]
