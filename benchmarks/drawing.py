"""Draws the summary of `benchmarks/results.md`: medimg's lead in each work over the best peer, and the goal.

    python benchmarks/drawing.py [--results FILE] [--picture FILE]

`make bench` does so at its end. The colours are read on a light and on a dark page; the ground is clear.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results.md"
PICTURE = FOLDER.parent / "docs" / "images" / "speed.svg"
GREY, AHEAD, BEHIND, GOAL = "#7d8590", "#2f81f7", "#db6d28", "#d4a72c"
TITLE = "Lead over the fastest peer (left of 1 ×: the peer leads), and the goal (upright line)"
LEAD = re.compile(r"^\| (?P<work>.+?) \| (?P<peer>.+?) \| ≥ (?P<goal>[\d.]+) × \| (?P<ratio>[\d.,]+) × \|")


@dataclass(frozen=True)
class Bar:
    """A lead over a peer, and the least that it was to be."""

    work: str
    peer: str
    goal: float
    ratio: float


def bars(results: str) -> list[Bar]:
    """Returns a bar for each work of a page of results: against the peer over which its lead is least.

    A goal below 1 is no lead: a share of the floor, or a figure of merit that is not to be lower.
    """
    least: dict[str, Bar] = {}
    for line in results.partition("\n## ")[0].splitlines():
        if found := LEAD.match(line):
            ratio = float(found["ratio"].replace(",", ""))
            work, peer = (found[name].replace("`", "") for name in ("work", "peer"))
            bar = Bar(work, peer, float(found["goal"]), ratio)
            if bar.goal < 1:
                continue
            if bar.work not in least or bar.ratio < least[bar.work].ratio:
                least[bar.work] = bar
    return list(least.values())


def draw(results: Path = RESULTS, picture: Path = PICTURE) -> None:
    """Writes the picture of a page of results; none where no row has a peer."""
    found = bars(results.read_text(encoding="utf-8"))[::-1]
    if not found:
        return
    # The same results give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "speed", "font.size": 9, "text.color": GREY, "axes.labelcolor": GREY}):
        figure = Figure(figsize=(8, 0.9 + 0.27 * len(found)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for place, bar in enumerate(found):
            colour = AHEAD if bar.ratio >= bar.goal else BEHIND
            axes.barh(place, bar.ratio - 1, left=1, height=0.62, color=colour)
            axes.plot([bar.goal] * 2, [place - 0.42, place + 0.42], color=GOAL, linewidth=2.5, solid_capstyle="butt")
            text = f"{bar.ratio:,.0f} ×" if bar.ratio >= 10 else f"{bar.ratio:.1f} ×"
            axes.annotate(text, (max(bar.ratio, bar.goal, 1), place), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(found)), [f"{bar.work} · {bar.peer}" for bar in found])
        axes.set_ylim(-0.6, len(found) - 0.4)
        shown = [value for bar in found for value in (bar.ratio, bar.goal)]
        axes.set_xlim(min(0.8, min(shown) * 0.8), max(max(shown) * 2.2, 100))
        axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:,g} ×")
        axes.axvline(1, color=GREY, linewidth=0.8)
        axes.tick_params(colors=GREY, which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.suptitle(TITLE, x=0.01, ha="left", fontsize=9)
        figure.savefig(picture, transparent=True, metadata={"Date": None} if picture.suffix == ".svg" else None)


def main() -> None:
    """Draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    draw(given.results, given.picture)


if __name__ == "__main__":
    main()
