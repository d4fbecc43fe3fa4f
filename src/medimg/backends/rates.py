"""Prices as they are known: each with its source and its date, and None where it is not known.

A backend tells its prices as a mapping from these keys (those that the job or endpoint at hand needs):

    training        a machine that trains, per hour
    training-spot   the same as interruptible capacity, per hour
    upload          data sent into the cloud, per GB
    storage         data kept there, per GB-month
    endpoint        a machine that serves, per hour
    compute         memory of what computes predictions on demand (serverless endpoint, function), per GB-second
    relay           memory of the function behind an HTTP address that passes requests on, per GB-second
    requests        calls of a function, per million
    gateway         requests to an HTTP address, per million
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from medimg.errors import ConfigError, did_you_mean

__all__ = ["GIVEN", "UNITS", "Rate", "Unit", "check_prices", "given_rate", "money", "own_machine_rates"]

Unit = Literal["GB", "GB-month", "GB-second", "hour", "million requests"]

UNITS: Mapping[str, Unit] = {
    "training": "hour",
    "training-spot": "hour",
    "upload": "GB",
    "storage": "GB-month",
    "endpoint": "hour",
    "compute": "GB-second",
    "relay": "GB-second",
    "requests": "million requests",
    "gateway": "million requests",
}

GIVEN = "given by you"


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one unit of something.

    Attributes:
        amount: In `currency`; None: unknown.
        unit: What it is the price of one of.
        source: Who says so; of an unknown price, why it is not known.
        date: The day on which the source said so, as YYYY-MM-DD; "" where that means nothing.
        of: What is priced, such as "ml.g4dn.xlarge".
        currency: Such as "USD".
        note: What else must be said wherever the price is shown.
    """

    amount: float | None
    unit: Unit
    source: str
    date: str = ""
    of: str = ""
    currency: str = "USD"
    note: str = ""

    def __post_init__(self) -> None:
        if self.amount is not None and not (math.isfinite(self.amount) and self.amount >= 0):
            raise ConfigError(f"a price of {self.amount!r} for {self.of or self.unit} cannot be: 0 or more, or None")
        if self.amount is not None and not self.source:
            raise ConfigError(f"the price {self.amount!r} for {self.of or self.unit} has no source. Say who says so")

    @property
    def text(self) -> str:
        """The price in words: "0.7364 USD per hour", or "unknown"."""
        if self.amount is None:
            return "unknown"
        digits = f"{self.amount:.10f}".rstrip("0").rstrip(".")
        return f"{digits} {self.currency} per {self.unit}"

    @property
    def origin(self) -> str:
        """The source and its date; with its age where that is two days or more."""
        if not self.date:
            return self.source
        days = (dt.date.today() - dt.date.fromisoformat(self.date)).days
        return f"{self.source}, {self.date}" + (f" ({days} days old)" if days > 1 else "")


def own_machine_rates(given: Mapping[str, float] | None = None) -> dict[str, Rate]:
    """Returns the prices of a backend that runs on the user's own machine: nobody bills for them.

    Args:
        given: Prices by key that the user wants counted all the same, such as an hour's electricity as "training".

    Raises:
        ConfigError: A given price that cannot be, or of something else.
    """
    check_prices(given, UNITS)
    source = "your own machine: nobody bills for it; its electricity is not counted"
    return {
        key: given_rate(given, key, "this machine") or Rate(0.0, unit, source, of="this machine")
        for key, unit in UNITS.items()
    }


def given_rate(prices: Mapping[str, float] | None, key: str, of: str) -> Rate | None:
    """Returns the price that the user gives for something, by its name or by the key; None where none is given.

    Args:
        prices: Name ("ml.g4dn.xlarge") or key ("storage") to the price of one unit.
        key: One of those above.
        of: Name of what is priced.

    Raises:
        ConfigError: A price that cannot be.
    """
    for name in (key, of):  # "training" says more than the machine's name, which an endpoint may have too
        if prices and name in prices:
            amount = prices[name]
            if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
                raise ConfigError(f"prices[{name!r}]={amount!r}: a number, 0 or more, per {UNITS[key]}")
            return Rate(float(amount), UNITS[key], GIVEN, of=of)
    return None


def check_prices(prices: Mapping[str, float] | None, known: Iterable[str]) -> None:
    """Checks that each price the user gives is of something that is needed.

    Raises:
        ConfigError: It is not: a price for a mistyped instance would otherwise be ignored in silence.
    """
    names = {name for name in known if name}
    for name in prices or ():
        if name not in names:
            raise ConfigError(f"prices[{name!r}]: nothing of that name is needed here.{did_you_mean(name, names)}")


def money(amount: float, currency: str) -> str:
    """Returns an amount in words: two decimals; two digits below 1, so that small amounts do not become nothing."""
    if amount == 0 or amount >= 1:
        return f"{amount:,.2f} {currency}"
    decimals = max(2, 1 - math.floor(math.log10(amount)))
    return f"{amount:.{min(decimals, 12)}f} {currency}"
