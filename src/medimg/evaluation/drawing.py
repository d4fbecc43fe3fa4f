"""Pictures as SVG, drawn by hand: a page of them takes milliseconds, stays sharp in print, and its words are text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medimg.home import atomic_write

__all__ = ["COLOURS", "DASHES", "INK", "LINE", "MUTED", "Canvas", "Figure", "Numbers", "Panel", "short", "thin"]

Numbers = Sequence[float] | npt.NDArray[np.float64]

# Blue, vermilion and green are Okabe & Ito's (jfly.uni-koeln.de/color, 2008), the purple Tol's: all four can be told
# apart with every common colour blindness. The dashes tell them apart in print without colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499")
DASHES = ("", "7 2.5", "2.5 2", "9 2.5 2 2.5")
INK, MUTED, LINE = "#1d2733", "#5b6875", "#c9d1d9"

_GRID = "#e9edf1"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_CURVE_POINTS = 400
_HALF = 32  # letters of a key's entry that fit into half a panel


class Canvas:
    """Shapes and words on white.

    Args:
        width: In pixels.
        height: In pixels.
        words: What the picture shows, for those who cannot see it.
    """

    def __init__(self, width: float, height: float, words: str) -> None:
        self.width, self.height, self.words = width, height, words
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, *, size: float = 12, colour: str = MUTED, anchor: str = "start",
        bold: bool = False, angle: float = 0,
    ) -> None:  # fmt: skip
        """Writes words with their baseline at a point; `anchor` is "start", "middle" or "end"."""
        turn = f' transform="rotate({angle:g} {_n(x)} {_n(y)})"' if angle else ""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{weight}{turn}>'
            f"{escape(short(words, 60))}</text>"
        )

    def box(
        self, x: float, y: float, width: float, height: float, colour: str, *, opacity: float = 1, round_: float = 0
    ) -> None:
        """Fills a rectangle."""
        corner = f' rx="{round_:g}"' if round_ else ""
        clear = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
        self._parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" height="{_n(max(height, 0))}" '
            f'fill="{colour}"{corner}{clear}/>'
        )

    def path(
        self, points: Iterable[tuple[float, float]], colour: str, *, width: float = 1.0, dash: str = "",
        fill: float = 0, closed: bool = False,
    ) -> None:  # fmt: skip
        """Draws a line through points; `fill` is the opacity of what it encloses, without an outline."""
        data = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points) + ("Z" if closed else "")
        broken = f' stroke-dasharray="{dash}"' if dash else ""
        look = (
            f'fill="{colour}" fill-opacity="{fill:g}"'
            if fill
            else f'fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round"{broken}'
        )
        self._parts.append(f'<path d="{data}" {look}/>')

    def dot(self, x: float, y: float, colour: str, *, radius: float = 4, hollow: bool = False) -> None:
        """Draws a disc, or a ring with a white middle."""
        look = f'fill="#fff" stroke="{colour}" stroke-width="2"' if hollow else f'fill="{colour}"'
        self._parts.append(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{radius:g}" {look}/>')

    def svg(self, place: str = "") -> str:
        """Returns the picture as one SVG element; `place` is more attributes, such as where it lies in another."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} {_n(self.height)}" '
            f'width="{_n(self.width)}" height="{_n(self.height)}" role="img" aria-label="{escape(self.words)}" '
            f'font-family="{_FONT}"{place}>{"".join(self._parts)}</svg>'
        )


class Panel(Canvas):
    """Axes with ticks, a grid and a key above them.

    Args:
        words: What the panel shows, for those who cannot see it.
        width: Of the whole panel in pixels.
        height: Of the axes' frame in pixels.
        x: Lowest and highest value across.
        y: Lowest and highest value up.
        labels: Of the axes: across and up.
        title: Above the key; "" for none.
        key: Colour, dash and words of each entry; a dash of "fill" is an area, "ring" a ring.
        percent: Which axes show percentages: "", "x", "y" or "xy".
        ticks: How many steps the axes have about.
    """

    def __init__(
        self, words: str, *, width: float, height: float, x: tuple[float, float] = (0, 1),
        y: tuple[float, float] = (0, 1), labels: tuple[str, str], title: str = "",
        key: Sequence[tuple[str, str, str]] = (), percent: str = "", ticks: int = 5,
    ) -> None:  # fmt: skip
        columns = 2 if width > 400 and len(key) > 1 and all(len(words) <= _HALF for *_, words in key) else 1
        rows = -(-len(key) // columns)
        self.left, self.top = (54.0 if width > 400 else 52.0), (20.0 if title else 0.0) + 17.0 * rows + 10.0
        super().__init__(width, self.top + height + 42, words)
        self.x, self.y = x, y
        self.inner = (width - self.left - 16, height)
        if title:
            self.text(self.left, 15, short(title, int(self.inner[0] / 7.4)), size=13, colour=INK, bold=True)
        for place, (colour, dash, entry) in enumerate(key):
            row, column = divmod(place, columns)
            across, down = self.left + column * self.inner[0] / columns, (20 if title else 0) + 17 * row + 9
            self._entry(across, down, colour, dash, short(entry, int((self.inner[0] / columns - 24) / 5.6)))
        self._frame(labels, percent, ticks)

    def _entry(self, x: float, y: float, colour: str, dash: str, words: str) -> None:
        if dash == "fill":
            self.box(x, y - 4, 18, 9, colour, opacity=0.45)
        elif dash == "ring":
            self.dot(x + 9, y, colour, radius=4, hollow=True)
        else:
            self.path([(x, y), (x + 18, y)], colour, width=2, dash=dash)
        self.text(x + 24, y + 4, words, size=11, colour=INK)

    def _frame(self, labels: tuple[str, str], percent: str, ticks: int) -> None:
        width, height = self.inner
        bottom, right = self.top + height, self.left + width
        for value in _ticks(*self.x, ticks):
            across = self.at(value, self.y[0])[0]
            self.path([(across, self.top), (across, bottom)], _GRID)
            self.text(across, bottom + 15, _tick(value, "x" in percent), size=11, anchor="middle")
        for value in _ticks(*self.y, ticks):
            up = self.at(self.x[0], value)[1]
            self.path([(self.left, up), (right, up)], _GRID)
            self.text(self.left - 7, up + 4, _tick(value, "y" in percent), size=11, anchor="end")
        self.path([(self.left, self.top), (self.left, bottom), (right, bottom)], LINE)
        self.text(self.left + width / 2, bottom + 34, labels[0], size=11.5, anchor="middle")
        self.text(12, self.top + height / 2, labels[1], size=11.5, anchor="middle", angle=-90)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns where a point of the axes lies on the canvas, held inside the frame."""
        (low, high), (floor, top) = self.x, self.y
        across = min(max((x - low) / (high - low), 0.0), 1.0)
        up = min(max((y - floor) / (top - floor), 0.0), 1.0)
        return self.left + across * self.inner[0], self.top + (1 - up) * self.inner[1]

    def line(self, x: Numbers, y: Numbers, colour: str, *, width: float = 2, dash: str = "") -> None:
        """Draws a line; it breaks where a value is not finite or below the frame."""
        run: list[tuple[float, float]] = []
        for across, up in [*zip(x, y, strict=True), (0.0, float("nan"))]:
            if np.isfinite(up) and up >= self.y[0]:
                run.append(self.at(across, up))
            elif run:
                self.path(run, colour, width=width, dash=dash)
                run = []

    def steps(self, x: Numbers, y: Numbers, colour: str, *, width: float = 2, dash: str = "") -> None:
        """Draws steps: a value holds until the next x."""
        corners = np.repeat(np.asarray(x, dtype=np.float64), 2)[1:], np.repeat(np.asarray(y, dtype=np.float64), 2)[:-1]
        self.line(*corners, colour, width=width, dash=dash)

    def band(self, x: Numbers, low: Numbers, high: Numbers, colour: str, *, opacity: float = 0.16) -> None:
        """Fills what lies between two lines."""
        there = [self.at(*point) for point in zip(x, high, strict=True)]
        back = [self.at(*point) for point in zip(x, low, strict=True)]
        self.path([*there, *reversed(back)], colour, fill=opacity, closed=True)

    def area(self, edges: Numbers, heights: Numbers, colour: str, *, opacity: float = 0.3) -> None:
        """Fills the bars of a histogram: one more edge than heights."""
        x = np.repeat(np.asarray(edges, dtype=np.float64), 2)[1:-1]
        y = np.repeat(np.asarray(heights, dtype=np.float64), 2)
        self.band(x, np.full(len(x), self.y[0]), y, colour, opacity=opacity)

    def vertical(self, x: float, colour: str, *, dash: str = "5 3", width: float = 1.4) -> None:
        """Draws a line over the whole height."""
        self.path([self.at(x, self.y[0]), self.at(x, self.y[1])], colour, width=width, dash=dash)

    def point(self, x: float, y: float, colour: str, *, radius: float = 4, hollow: bool = False) -> None:
        """Draws a dot or a ring."""
        self.dot(*self.at(x, y), colour, radius=radius, hollow=hollow)


@dataclass(frozen=True, eq=False, repr=False)
class Figure:
    """One picture, or small ones of the same kind side by side; shows itself in notebooks.

    Attributes:
        panels: What it is made of.
        columns: Panels in a row where there is room.
    """

    panels: tuple[Canvas, ...]
    columns: int = field(default=1)

    def svg(self) -> str:
        """Returns the whole figure as one SVG."""
        if len(self.panels) == 1:
            return self.panels[0].svg()
        columns = min(self.columns, len(self.panels))
        wide, high = max(one.width for one in self.panels), max(one.height for one in self.panels)
        rows = -(-len(self.panels) // columns)
        parts = (
            one.svg(f' x="{_n(place % columns * wide)}" y="{_n(place // columns * high)}"')
            for place, one in enumerate(self.panels)
        )
        width, height = _n(columns * wide), _n(rows * high)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}">{"".join(parts)}</svg>'
        )

    def save(self, path: str | Path) -> Path:
        """Writes the figure as an SVG file and returns its path."""
        atomic_write(Path(path), self.svg())
        return Path(path)

    def _repr_svg_(self) -> str:
        return self.svg()


def short(name: str, longest: int = 30) -> str:
    """Returns a name that fits, without characters that XML forbids."""
    clean = "".join(letter for letter in name if letter.isprintable())
    return clean if len(clean) <= longest else f"{clean[: max(longest - 1, 1)]}…"


def thin(across: npt.NDArray[np.float64], up: npt.NDArray[np.float64]) -> tuple[Numbers, Numbers]:
    """Returns at most about 400 of a curve's points: more are not visible, but weigh in the file."""
    if len(across) <= _CURVE_POINTS:
        return across, up
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(across)) + np.abs(np.diff(up)))])
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _CURVE_POINTS)).clip(0, len(across) - 1))
    return across[keep], up[keep]


def _ticks(low: float, high: float, steps: int) -> list[float]:
    # Round values, at most about `steps` of them: multiples of 1, 2, 2.5 or 5 times a power of 10.
    raw = (high - low) / steps
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= raw * 0.999)
    first = np.ceil(low / step - 1e-9)
    return [float((first + place) * step) for place in range(int(np.floor(high / step + 1e-9) - first) + 1)]


def _tick(value: float, percent: bool) -> str:
    shown = round(100 * value, 6) if percent else round(value, 9)
    return f"{shown + 0:g}{'%' if percent else ''}".replace("-", "−")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
