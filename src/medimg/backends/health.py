"""`Health`: whether an endpoint is asked what its model was validated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from medimg.home import atomic_write

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Health", "Measure"]

_WORDS = {"ok": "ok", "alarm": "ALARM", "too-few": "too few images", "unknown": "not known"}
_COLOURS = {"ok": "#1a7f4b", "alarm": "#b3261e", "too-few": "#5b6875", "unknown": "#8a6100"}
_THEN, _NOW, _ALARM = "#c9d1d9", "#0072B2", "#D55E00"
_WIDTH, _HEIGHT = 120, 34  # of a figure, in pixels
_PAGE = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><style>body{{font:15px/1.5 "
    "system-ui,sans-serif;color:#1d2733;max-width:60rem;margin:2rem auto;padding:0 1rem}}table{{border-collapse:"
    "collapse}}th,td{{padding:.35rem .8rem;border-bottom:1px solid #e9edf1}}</style></head><body><h1>{title}</h1>"
    "{content}</body></html>"
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is compared with validation.

    Attributes:
        name: What it is.
        value: How far now is from validation: the population stability index of a distribution, the difference of a
            rate.
        limit: What chance exceeds so rarely that it is taken for a change.
        alarm: Whether the value is over the limit.
        message: The same in a sentence.
        reference: Shares of validation's images in each bin; of a rate, the rate alone.
        now: Those of the latest images.
    """

    name: str
    value: float
    limit: float
    alarm: bool
    message: str
    reference: tuple[float, ...] = ()
    now: tuple[float, ...] = ()


@dataclass(frozen=True, repr=False)
class Health:
    """How the images that an endpoint answered last compare with those of validation.

    Attributes:
        status: "ok"; "alarm": at least one measure is over its limit; "too-few": under 50 images; "unknown": the model
            has nothing to compare with.
        images: How many are compared, 500 at most; the same image sent again counts once.
        since: When the oldest of them was answered, UTC, ISO 8601; "" without images.
        measures: What was compared.
        message: The result in a sentence or two.
    """

    status: str
    images: int
    since: str
    measures: tuple[Measure, ...]
    message: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns what GET /health answered."""
        measures = tuple(
            Measure(
                one["name"], one["value"], one["limit"], one["alarm"], one["message"], tuple(one.get("reference", ())),
                tuple(one.get("now", ())),
            )
            for one in data["measures"]
        )  # fmt: skip
        return cls(data["status"], data["images"], data["since"] or "", measures, data["message"])

    @property
    def alarms(self) -> tuple[Measure, ...]:
        """The measures over their limits, the furthest first."""
        found = [one for one in self.measures if one.alarm]
        return tuple(sorted(found, key=lambda one: -one.value / one.limit))

    def to_html(self, path: str | Path) -> Path:
        """Writes a page with the table and its figures, and returns its path.

        Raises:
            StorageError: The disk is full or not writable.
        """
        title = "Images now and those of validation"
        atomic_write(Path(path), _PAGE.format(title=title, content=self._repr_html_()))
        return Path(path)

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table("measure", "value", "limit", "", "what that means", caption=self._summary, caption_justify="left")
        for one in self.measures:
            word = Text("ALARM", style="red") if one.alarm else Text("ok", style="green")
            message = Text(one.message, overflow="fold")
            table.add_row(Text(one.name), f"{one.value:.3f}", f"{one.limit:.3f}", word, message)
        return table

    def __repr__(self) -> str:
        lines = [self._summary]
        for one in self.measures:
            over = "ALARM" if one.alarm else "ok"
            lines.append(f"{over:>7}  {one.value:7.3f} of {one.limit:.3f}  {one.message}")
        return "\n".join(lines)

    @property
    def _summary(self) -> str:
        since = f" since {self.since}" if self.since else ""
        return f"{_WORDS.get(self.status, self.status)}, {self.images:,} images{since}. {self.message}"

    def _repr_html_(self) -> str:
        colour = _COLOURS.get(self.status, "#5b6875")
        word, rest = self._summary.split(", ", 1)
        head = f"<p><strong style='color:{colour}'>{escape(word)}</strong>, {escape(rest)}</p>"
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(one.name)}</td><td>{_figure(one)}</td>"
            f"<td style='white-space:nowrap'>{one.value:.3f} of {one.limit:.3f}</td><td style='text-align:left;color:"
            f"{_COLOURS['alarm' if one.alarm else 'ok']}'>{'ALARM' if one.alarm else 'ok'}</td>"
            f"<td style='text-align:left'>{escape(one.message)}</td></tr>"
            for one in self.measures
        )
        if not rows:
            return head
        key = "<p>Grey: validation; in colour: now. Each bar is a bin of numbers, from low to high.</p>"
        names = "<th>measure</th><th>validation and now</th><th>value</th><th></th><th>what that means</th>"
        return f"{head}<table><tr>{names}</tr>{rows}</table>{key}"


def _figure(measure: Measure) -> str:
    """Returns bars of validation's shares, and narrower ones of now's in front of them."""
    pairs = list(zip(measure.reference, measure.now, strict=True))
    highest = max((value for pair in pairs for value in pair), default=0.0) or 1.0
    each = _WIDTH / max(1, len(pairs))
    colour = _ALARM if measure.alarm else _NOW
    bars = []
    for place, pair in enumerate(pairs):
        for share, fill, inset in zip(pair, (_THEN, colour), (0.06, 0.28), strict=True):
            tall = _HEIGHT * share / highest
            bars.append(
                f"<rect x='{(place + inset) * each:.1f}' y='{_HEIGHT - tall:.1f}' "
                f"width='{(1 - 2 * inset) * each:.1f}' height='{tall:.1f}' fill='{fill}'/>"
            )
    words = f"{escape(measure.name)}: value {measure.value:.3f}, limit {measure.limit:.3f}"
    return f"<svg width='{_WIDTH}' height='{_HEIGHT}' role='img' aria-label='{words}'>{''.join(bars)}</svg>"
