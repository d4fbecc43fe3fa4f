"""What all clouds' prices have in common: a list that is asked once a week, and a table for when it cannot be."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from medimg.backends.rates import Rate, Unit
from medimg.errors import AccessError, ConfigError, MedimgError
from medimg.home import atomic_write, home, locked

__all__ = ["TABLE_SOURCE", "Answer", "PriceList", "PriceTable", "Product", "TablePart", "one_amount"]

TABLE_SOURCE = "table from public repositories, not the live price"
FRESH_DAYS = 7


class Product(Protocol):
    """Something to ask the price of."""

    @property
    def key(self) -> str:
        """Of the rate."""

    @property
    def of(self) -> str:
        """Its name in messages and in the table; an instance, or a service."""

    @property
    def unit(self) -> Unit:
        """Of the rate."""

    @property
    def id(self) -> str:
        """Its name in the file of kept prices."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a price list said of a product.

    Attributes:
        amount: In USD for one unit of ours; None: it names none, or several.
        note: When it was published, or why there is no amount.
        asked: The day.
    """

    amount: float | None
    note: str
    asked: str

    @property
    def is_fresh(self) -> bool:
        """Whether it need not be asked again."""
        age = dt.date.today() - dt.date.fromisoformat(self.asked)
        return dt.timedelta(0) <= age < dt.timedelta(days=FRESH_DAYS)


@dataclass(frozen=True, slots=True)
class TablePart:
    """Prices that were read on one day.

    Attributes:
        read: The day, as YYYY-MM-DD.
        regions: Where they hold.
        amounts: USD for one unit, by instance or service.
    """

    read: str
    regions: tuple[str, ...]
    amounts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices for when a list cannot be asked; they are no live prices.

    Attributes:
        parts: In the order in which they are looked at.
        home: The region whose prices are told, though not counted, where another has none.
    """

    parts: tuple[TablePart, ...]
    home: str

    def known(self, of: str, region: str) -> tuple[float, str] | None:
        """Returns a price and the day it was read; None: not in the table."""
        for part in self.parts:
            if of in part.amounts and region in part.regions:
                return part.amounts[of], part.read
        return None

    def rate(self, of: str, unit: Unit, region: str, why: str) -> Rate:
        """Returns the table's price, or an unknown one.

        Args:
            of: An instance, or a service as it is named here.
            unit: Of which it is the price.
            region: Where; "": that is not known. For other regions than the table's the price is unknown.
            why: Why the price list itself does not tell.
        """
        if found := self.known(of, region):
            return Rate(found[0], unit, TABLE_SOURCE, found[1], of, note=why)
        elsewhere = self.known(of, self.home)
        hint = ""
        if elsewhere and region != self.home:
            hint = f"; in {self.home} it is {elsewhere[0]:g} USD ({TABLE_SOURCE}, {elsewhere[1]}), other regions differ"
        where = f"in {region}" if region else "without knowing the region"
        return Rate(None, unit, f"no price of {of} {where} is known here", of=of, note=f"{why}{hint}")


P = TypeVar("P", bound=Product)


@dataclass(frozen=True, slots=True)
class PriceList:
    """A cloud's list of prices in one region.

    Attributes:
        name: Of the list, which is the source of its prices.
        region: Where.
        file: Where answers are kept; removing it has them asked anew.
        table: What answers where the list does not.
        not_allowed: What is said where the list may not be asked.
    """

    name: str
    region: str
    file: Path
    table: PriceTable
    not_allowed: str = "the price list could not be asked"

    @staticmethod
    def kept_as(name: str) -> Path:
        """Returns the file for a region's answers."""
        return home() / "prices" / f"{name}.json"

    def rates(self, products: Iterable[P], ask: Callable[[P], Answer], failure: str = "") -> dict[str, Rate]:
        """Returns the prices by key: from what was kept, from the list, else from the table.

        Args:
            products: To be priced.
            ask: Asks the list about one.
            failure: Why the list cannot be asked at all; "": it can.
        """
        kept = self._read()
        fresh: dict[str, Answer] = {}
        found = {}
        for product in products:
            answer = fresh.get(product.id) or kept.get(product.id)
            if (answer is None or not answer.is_fresh) and not failure:
                try:
                    answer = fresh[product.id] = ask(product)
                except AccessError:
                    failure = self.not_allowed
                except MedimgError:
                    failure = "the price list could not be reached"
                except (ValueError, KeyError, TypeError, AttributeError):
                    failure = "the price list gave an answer that cannot be read"
            if answer is None:
                found[product.key] = self.table.rate(product.of, product.unit, self.region, failure)
            else:
                note = "; ".join(filter(None, ("" if answer.is_fresh else failure, answer.note)))
                found[product.key] = Rate(answer.amount, product.unit, self.name, answer.asked, product.of, note=note)
        if fresh:
            self._keep(fresh)
        return found

    def _read(self) -> dict[str, Answer]:
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            answers = {id: Answer(**fields) for id, fields in content.items()}
            for answer in answers.values():
                dt.date.fromisoformat(answer.asked)
                Rate(answer.amount, "hour", self.name)
        except (OSError, ValueError, TypeError, AttributeError, ConfigError):
            return {}  # none, or damaged: they are asked anew
        return answers

    def _keep(self, fresh: dict[str, Answer]) -> None:
        # A disk that is full or cannot be written is no reason to withhold an estimate.
        with contextlib.suppress(OSError), locked(self.file.with_name(f".{self.file.stem}.lock")):
            answers = self._read() | fresh
            content = {
                id: {"amount": answer.amount, "note": answer.note, "asked": answer.asked}
                for id, answer in answers.items()
            }
            atomic_write(self.file, json.dumps(content, indent=1, sort_keys=True))


def one_amount(amounts: set[float], note: str, missing: str) -> Answer:
    """Returns today's answer: the amount where the list names one, else why there is none.

    Args:
        amounts: In USD for one unit of ours.
        note: Told beside an amount.
        missing: Why there is none.
    """
    today = dt.date.today().isoformat()
    if len(amounts) == 1:
        return Answer(min(amounts), note, today)
    if amounts:
        several = ", ".join(f"{amount:g}" for amount in sorted(amounts))
        return Answer(None, f"the price list names several prices: {several} USD", today)
    return Answer(None, missing, today)
