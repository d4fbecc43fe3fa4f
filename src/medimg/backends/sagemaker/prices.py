"""What AWS charges: from its price list, kept for a week; where that cannot be asked, from what was kept or a table."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimg.backends.cost import ASSUMED_MEMORY_MB
from medimg.backends.rates import Rate, Unit, check_prices, given_rate
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.price_table import table_rate
from medimg.config import Resources, ServeConfig
from medimg.errors import AccessError, ConfigError, MedimgError
from medimg.home import atomic_write, home, locked

__all__ = ["LIST", "price_file", "rates"]

LIST = "AWS price list"
LIST_REGION = "us-east-1"  # it answers for all regions, from here
FRESH_DAYS = 7
_MOST_PAGES = 20

# What the price list calls the unit, and what we call it.
_UNITS: Mapping[str, str] = {
    "hour": r"h(ou)?rs?",
    "GB-month": r"gb-?mo.*",
    "GB-second": r".*sec.*",
    "million requests": r"requests?",
}

_UPLOAD = Rate(
    0.0, "GB", "AWS's FAQ on its network: no charge for data sent into AWS", "2026-11-21", of="data sent to AWS"
)
_SPOT = Rate(
    None, "hour", "AWS publishes no prices of spot training",
    note="spot costs up to 90 % less, in AWS's words; how much less is known when the job is done",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Product:
    """Something to ask the price of.

    Attributes:
        key: Of the rate.
        of: Its name in messages and in the table; an instance, or a service.
        unit: Of the rate.
        service: Its service's code.
        usage: How its usage type ends; before that stands a code of the region, or nothing.
        match: An attribute and its value, to ask for fewer products.
        factor: From the list's unit to ours.
    """

    key: str
    of: str
    unit: Unit
    service: str
    usage: str
    match: tuple[str, str]
    factor: float = 1.0

    @property
    def id(self) -> str:
        """Its name in the file of kept prices."""
        return f"{self.service} {self.usage}"

    def fits(self, attributes: Mapping[str, str], region: str) -> bool:
        """Tells whether a product of the list is this one."""
        usage = attributes.get("usagetype", "")
        return attributes.get("regionCode", region) == region and bool(
            re.fullmatch(rf"(?:[A-Z]{{2,4}}\d?-)?{re.escape(self.usage)}", usage)
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the price list said of a product.

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

    def rate(self, product: _Product, note: str = "") -> Rate:
        """Returns it as a price."""
        notes = "; ".join(filter(None, (note, self.note)))
        return Rate(self.amount, product.unit, LIST, self.asked, product.of, note=notes)


def price_file(region: str) -> Path:
    """Returns the file where the prices of a region are kept; removing it has them asked anew."""
    return home() / "prices" / f"{region}.json"


def rates(
    account: Account,
    resources: Resources,
    serve: ServeConfig | None = None,
    *,
    given: Mapping[str, float] | None = None,
) -> dict[str, Rate]:
    """Returns the prices that a training, and an endpoint, depend on; asks AWS where they are not known of late.

    It never fails for want of a price: one that cannot be found out is unknown and says why.

    Args:
        account: Whose region and credentials.
        resources: Of the training; its instance should be named.
        serve: Of the endpoint; None: there is none. Its instance should be named if it keeps machines.
        given: Prices that the user knows: by instance, by the names in the estimate, or by key. They win.

    Raises:
        ConfigError: A given price that cannot be, or of something that is not needed here.
    """
    products = list(_products(resources, serve))
    names = [name for product in products for name in (product.key, product.of)]
    check_prices(given, [*names, "upload", *(["training-spot"] if resources.spot else [])])
    found = {"upload": given_rate(given, "upload", _UPLOAD.of) or _UPLOAD}
    asked = []
    for product in products:
        rate = given_rate(given, product.key, product.of)
        if rate is not None:
            found[product.key] = rate
        elif not product.of:
            found[product.key] = Rate(None, product.unit, "no instance is named, so its price is not known")
        else:
            asked.append(product)
    found |= _asked(account, asked)
    if resources.spot:
        found["training-spot"] = given_rate(given, "training-spot", "") or _SPOT
    return found


def _products(resources: Resources, serve: ServeConfig | None) -> Iterator[_Product]:
    yield _machine("training", "Train", resources.instance or "")
    yield _Product("storage", "S3 Standard", "GB-month", "AmazonS3", "TimedStorage-ByteHrs", ("volumeType", "Standard"))
    if serve is None:
        return
    if serve.kind == "realtime":
        yield _machine("endpoint", "Host", serve.instance or "")
    elif serve.kind == "serverless":
        size = min(6, math.ceil((serve.memory_mb or ASSUMED_MEMORY_MB["serverless"]) / 1024))
        yield _Product(
            "compute", "serverless memory", "GB-second", "AmazonSageMaker", f"ServerlessInf:Mem-{size}GB",
            ("productFamily", "ML Serverless"), 1 / size,
        )  # fmt: skip
    else:
        yield _function_memory("compute")
    if serve.kind == "lambda" or serve.http_api:
        if serve.kind != "lambda":
            yield _function_memory("relay")
        yield _Product(
            "requests", "Lambda calls", "million requests", "AWSLambda", "Request", ("group", "AWS-Lambda-Requests"),
            1e6,
        )  # fmt: skip
        yield _Product(
            "gateway", "HTTP API", "million requests", "AmazonApiGateway", "ApiGatewayHttpRequest",
            ("operation", "ApiGatewayHttpApi"), 1e6,
        )  # fmt: skip


def _function_memory(key: str) -> _Product:
    group = ("group", "AWS-Lambda-Duration")  # of x86, as are our functions
    return _Product(key, "Lambda memory", "GB-second", "AWSLambda", "Lambda-GB-Second", group)


def _machine(key: str, use: str, instance: str) -> _Product:
    return _Product(key, instance, "hour", "AmazonSageMaker", f"{use}:{instance}", ("instanceName", instance))


def _asked(account: Account, products: list[_Product]) -> dict[str, Rate]:
    """Returns the prices from what was kept, from the list, else from the table."""
    kept = _read(account.region)
    fresh: dict[str, _Answer] = {}
    client = None
    failure = "" if account.partition == "aws" else f"the price list tells no prices in USD for {account.region}"
    found = {}
    for product in products:
        answer = fresh.get(product.id) or kept.get(product.id)
        if (answer is None or not answer.is_fresh) and not failure:
            try:
                client = client or account.client("pricing", region=LIST_REGION, patient=False)
                answer = fresh[product.id] = _ask(client, product, account.region)
            except AccessError:
                failure = "the price list could not be asked: no AWS credentials, or without pricing:GetProducts"
            except MedimgError:
                failure = "the price list could not be reached"
            except (ValueError, KeyError, TypeError, AttributeError):
                failure = "the price list gave an answer that cannot be read"
        if answer is None:
            found[product.key] = table_rate(product.of, product.unit, account.region, failure)
        else:
            found[product.key] = answer.rate(product, "" if answer.is_fresh else failure)
    if fresh:
        _keep(account.region, fresh)
    return found


def _ask(client: Any, product: _Product, region: str) -> _Answer:
    here = {"Type": "TERM_MATCH", "Field": "regionCode", "Value": region}
    field, value = product.match
    # What attributes a product has changes over the years; its usage type is what the bill says. So that is asked
    # for where the narrower question finds nothing.
    questions = (
        {"Type": "TERM_MATCH", "Field": field, "Value": value},
        {"Type": "CONTAINS", "Field": "usagetype", "Value": product.usage},
    )
    today = dt.date.today().isoformat()
    units: set[str] = set()
    for question in questions:
        amounts: set[float] = set()
        published = ""
        with translated(f"asking the price of {product.of}"):
            pages = client.get_paginator("get_products").paginate(
                ServiceCode=product.service, Filters=[here, question], FormatVersion="aws_v1",
                PaginationConfig={"PageSize": 100, "MaxItems": 100 * _MOST_PAGES},
            )  # fmt: skip
            for text in (text for page in pages for text in page.get("PriceList", ())):
                item = json.loads(text)
                if not product.fits(item.get("product", {}).get("attributes", {}), region):
                    continue
                published = max(published, str(item.get("publicationDate", ""))[:10])
                for unit, amount in _first_tier(item):
                    if re.fullmatch(_UNITS[product.unit], unit, re.IGNORECASE):
                        amounts.add(amount)
                    else:
                        units.add(unit)
        if len(amounts) == 1:
            note = f"published {published}" if published else ""
            return _Answer(amounts.pop() * product.factor, note, today)
        if amounts:
            several = ", ".join(f"{amount:g}" for amount in sorted(amounts))
            return _Answer(None, f"the price list names several prices: {several} USD", today)
    why = f"only per {', '.join(sorted(units))}" if units else "no"
    return _Answer(None, f"the price list names {why} price of it in {region}", today)


def _first_tier(item: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields unit and USD of each price on demand above 0 that holds from the first unit on."""
    for term in item.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            try:
                amount = float(dimension["pricePerUnit"]["USD"])
            except (KeyError, ValueError):
                continue  # another currency
            if amount > 0 and float(dimension.get("beginRange") or 0) == 0:
                yield str(dimension.get("unit", "")), amount


def _read(region: str) -> dict[str, _Answer]:
    try:
        content = json.loads(price_file(region).read_text(encoding="utf-8"))
        answers = {id: _Answer(**fields) for id, fields in content.items()}
        for answer in answers.values():
            dt.date.fromisoformat(answer.asked)
            Rate(answer.amount, "hour", LIST)
    except (OSError, ValueError, TypeError, AttributeError, ConfigError):
        return {}  # none, or damaged: they are asked anew
    return answers


def _keep(region: str, fresh: dict[str, _Answer]) -> None:
    file = price_file(region)
    # A disk that is full or cannot be written is no reason to withhold an estimate.
    with contextlib.suppress(OSError), locked(file.with_name(f".{region}.lock")):
        answers = _read(region) | fresh
        content = {
            id: {"amount": answer.amount, "note": answer.note, "asked": answer.asked} for id, answer in answers.items()
        }
        atomic_write(file, json.dumps(content, indent=1, sort_keys=True))
