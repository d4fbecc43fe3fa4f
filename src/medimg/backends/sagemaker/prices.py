"""What AWS charges: from its price list, kept for a week; where that cannot be asked, from what was kept or a table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medimg.backends.cost import ASSUMED_MEMORY_MB
from medimg.backends.price_list import Answer, PriceList, one_amount
from medimg.backends.rates import Rate, Unit, check_prices, given_rate
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.price_table import TABLE
from medimg.config import Resources, ServeConfig

__all__ = ["LIST", "list_of", "rates"]

LIST = "AWS price list"
LIST_REGION = "us-east-1"  # it answers for all regions, from here
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


def list_of(region: str) -> PriceList:
    """Returns AWS's price list of a region."""
    return PriceList(
        LIST, region, PriceList.kept_as(region), TABLE,
        not_allowed="the price list could not be asked: no AWS credentials, or without pricing:GetProducts",
    )  # fmt: skip


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
    failure = "" if account.partition == "aws" else f"the price list tells no prices in USD for {account.region}"
    return list_of(account.region).rates(products, lambda product: _ask(account, product), failure)


def _ask(account: Account, product: _Product) -> Answer:
    client, region = account.client("pricing", region=LIST_REGION, patient=False), account.region
    here = {"Type": "TERM_MATCH", "Field": "regionCode", "Value": region}
    field, value = product.match
    # What attributes a product has changes over the years; its usage type is what the bill says. So that is asked
    # for where the narrower question finds nothing.
    questions = (
        {"Type": "TERM_MATCH", "Field": field, "Value": value},
        {"Type": "CONTAINS", "Field": "usagetype", "Value": product.usage},
    )
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
        if amounts:
            break
    why = f"only per {', '.join(sorted(units))}" if units else "no"
    return one_amount(
        {amount * product.factor for amount in amounts},
        f"published {published}" if published else "",
        f"the price list names {why} price of it in {region}",
    )


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
