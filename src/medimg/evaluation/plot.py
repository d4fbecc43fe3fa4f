"""The canvas and look of figures that are drawn with matplotlib."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medimg.evaluation.drawing import INK, LINE, MUTED

__all__ = ["Plot", "style", "title"]


class Plot(Figure):
    """A matplotlib figure that notebooks show without pyplot."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
        FigureCanvasAgg(self)

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


def style(axes: Axes) -> None:
    """Gives axes the project's look."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=MUTED, labelsize=8.5)
    axes.xaxis.label.set(color=MUTED, size=9)
    axes.yaxis.label.set(color=MUTED, size=9)
    axes.set_axisbelow(True)


def title(axes: Axes, name: str, below: str = "") -> None:
    """Names a panel, with a smaller line below the name."""
    axes.set_title(name, fontsize=9.5, color=INK, loc="left", fontweight="bold", pad=18 if below else 6)
    axes.annotate(below, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8, color=MUTED)
