"""An estimate of costs: its lines, its total, and how a terminal and a notebook show it.

What is not known is said to be unknown and makes the total unknown; it never counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from medimg.backends.rates import Rate, money
from medimg.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Bound", "CostEstimate", "CostItem"]

Bound = Literal["", "at most", "at least"]

NOT_COUNTED = (
    "Not counted: taxes, discounts and free tiers; data sent out of the cloud; logs; single requests to storage; "
    "disks of machines; models and checkpoints beside the data."
)


@dataclass(frozen=True, slots=True)
class CostItem:
    """One line of an estimate.

    Attributes:
        what: What is paid for.
        quantity: How many units.
        rate: The price of one.
        bound: "at most" or "at least" where the quantity or the price is only a bound; "" where it is neither.
        note: Where the quantity comes from, and what else must be said.
        counted: Whether it is part of the total; what an endpoint costs an hour is only shown.
    """

    what: str
    quantity: float
    rate: Rate
    bound: Bound = ""
    note: str = ""
    counted: bool = True

    @property
    def unit(self) -> str:
        """Of what there are so many."""
        return self.rate.unit

    @property
    def amount(self) -> float | None:
        """What it costs; None: unknown."""
        return None if self.rate.amount is None else self.quantity * self.rate.amount

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Quantity, price, amount (in parentheses where it is only shown) and source, in words."""
        amount = "unknown" if self.amount is None else money(self.amount, self.rate.currency)
        if self.bound and self.amount:
            amount = f"{self.bound} {amount}"
        unit = {"hour": "h"}.get(self.unit, self.unit)
        if self.unit == "million requests":
            quantity = f"{self.quantity * 1e6:,.0f} requests"
        else:
            quantity = f"{self.quantity:,.4g} {unit}" if self.quantity < 1000 else f"{self.quantity:,.0f} {unit}"
        return quantity, self.rate.text, amount if self.counted else f"({amount})", self.rate.origin


@dataclass(frozen=True, slots=True, repr=False)
class CostEstimate:
    """What something will cost, line by line; print it, or show it in a notebook.

    Attributes:
        items: The lines.
        title: What is estimated.
        notes: What holds for all lines.
    """

    items: tuple[CostItem, ...]
    title: str = ""
    notes: tuple[str, ...] = (NOT_COUNTED,)

    def __post_init__(self) -> None:
        if len(found := {item.rate.currency for item in self.items}) > 1:
            raise ConfigError(f"prices in {' and '.join(sorted(found))} cannot be added. Give all in one currency")

    @property
    def currency(self) -> str:
        """Of all amounts."""
        return self.items[0].rate.currency if self.items else "USD"

    @property
    def unknown(self) -> tuple[str, ...]:
        """The counted lines whose amount is not known."""
        return tuple(item.what for item in self.items if item.counted and item.amount is None)

    @property
    def known(self) -> float:
        """The sum of the counted lines whose amount is known."""
        return sum(item.amount for item in self.items if item.counted and item.amount is not None)

    @property
    def total(self) -> float | None:
        """The sum of all counted lines; None: one of them is unknown."""
        return None if self.unknown else self.known

    @property
    def bound(self) -> Bound | Literal["about"]:
        """Whether the total is only a bound; "about" where some lines are upper and others lower bounds."""
        found = {item.bound for item in self.items if item.counted and item.bound and item.amount}
        return "about" if len(found) > 1 else next(iter(found), "")

    @property
    def summary(self) -> str:
        """The total in words."""
        known = money(self.known, self.currency)
        if self.unknown:
            return f"unknown ({', '.join(self.unknown)}); the known part is {f'{self.bound} {known}'.strip()}"
        return f"{self.bound} {known}".strip()

    def __rich__(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("", "quantity", "price", "amount", box=box.SIMPLE_HEAD, pad_edge=False)
        table.columns[0].min_width = 40
        for column in table.columns[1:]:
            column.justify = "right"
            column.no_wrap = True
        sources: dict[str, int] = {}
        for item in self.items:
            quantity, price, amount, source = item.cells
            told = "; ".join(filter(None, (source, item.rate.note)))
            price += f" [{sources.setdefault(told, len(sources) + 1)}]"
            what = Text(item.what)
            if item.note:
                what.append(f"\n  {item.note}", style="dim")
            table.add_row(
                what, *(Text(cell, style="" if item.counted else "dim") for cell in (quantity, price, amount))
            )
        numbered = [Text(f"[{number}] {told}") for told, number in sources.items()]
        return Group(Text(self.title, style="bold"), table, *map(Text, self._footer()), *numbered)

    def _footer(self) -> Iterator[str]:
        yield f"Total: {self.summary}"
        if any(not item.counted for item in self.items):
            yield "In parentheses: not part of the total."
        if names := dict.fromkeys(item.rate.of for item in self.items if item.amount is None and item.rate.of):
            example = ", ".join(f"{name!r}: …" for name in names)
            yield f"What you know of it can be given: prices={{{example}}}"
        yield from self.notes

    def __repr__(self) -> str:
        import io

        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, width=120, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def _repr_html_(self) -> str:
        rows = ""
        for item in self.items:
            notes = "".join(
                f"<br><small style='color:#666'>{escape(note)}</small>" for note in (item.note, item.rate.note) if note
            )
            cells = "".join(f"<td style='text-align:right'>{escape(cell)}</td>" for cell in item.cells)
            rows += f"<tr><td style='text-align:left'>{escape(item.what)}{notes}</td>{cells}</tr>"
        head = "".join(f"<th>{name}</th>" for name in ("", "quantity", "price", "amount", "price from"))
        total, *footer = self._footer()
        return (
            f"<div><p><b>{escape(self.title)}</b></p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p><b>{escape(total)}</b></p>" + "".join(f"<p>{escape(line)}</p>" for line in footer) + "</div>"
        )
