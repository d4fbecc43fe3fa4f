"""What Azure charges: from its list of retail prices, kept for a week; where that cannot be asked, what is known here.

Azure Machine Learning adds nothing to the price of the machine. The list needs no login; the workspace's region does.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.core import PipelineClient
from azure.core.pipeline.policies import RetryPolicy, UserAgentPolicy
from azure.core.rest import HttpRequest

from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.price_table import TABLE
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.price_list import Answer, PriceList, one_amount
from medimg.backends.rates import Rate, Unit, check_prices, given_rate
from medimg.config import Resources, ServeConfig
from medimg.errors import MedimgError
from medimg.home import atomic_write, home, locked

__all__ = ["ADDRESS", "LIST", "list_of", "machine_rate", "rates", "storage_rate"]

LIST = "Azure retail prices"
ADDRESS = "https://prices.azure.com/api/retail/prices"
_MOST_PAGES = 20
_CONNECT_SECONDS, _READ_SECONDS = 4, 15

_UPLOAD = Rate(
    0.0, "GB", "Azure's page on bandwidth: no charge for data sent into Azure", "2026-11-21", of="data sent to Azure"
)
_LOW_PRIORITY = " Low Priority"


@dataclass(frozen=True, slots=True)
class _Product:
    """Something to ask the price of.

    Attributes:
        key: Of the rate.
        of: Its name in messages and in the table; a machine, or a service.
        unit: Of the rate.
        measure: What the list calls the unit.
        match: Fields and their values, which the question names.
        low_priority: Whether it is a machine that may be taken away.
    """

    key: str
    of: str
    unit: Unit
    measure: str
    match: Mapping[str, str]
    low_priority: bool = False

    @property
    def id(self) -> str:
        """Its name in the file of kept prices."""
        return self.of

    def question(self, region: str) -> str:
        """Returns what the list is asked."""
        wanted = {"armRegionName": region, "priceType": "Consumption", **self.match}
        return " and ".join(f"{field} eq '{value}'" for field, value in wanted.items())

    def fits(self, item: Mapping[str, Any], region: str) -> bool:
        """Tells whether an item of the list is this one: the price that Linux machines are billed at from now on."""
        meter = str(item.get("meterName", ""))
        begins = str(item.get("effectiveStartDate") or "")[:10]
        return (
            item.get("armRegionName") == region
            and item.get("type") == "Consumption"
            and all(item.get(field) == value for field, value in self.match.items())
            and item.get("isPrimaryMeterRegion") is not False  # the others are not billed by
            and "Windows" not in str(item.get("productName", ""))
            and not meter.endswith(" Spot")
            and meter.endswith(_LOW_PRIORITY) == self.low_priority
            and float(item.get("tierMinimumUnits") or 0) == 0
            and begins <= dt.date.today().isoformat()
        )


_STORAGE = _Product(
    "storage", "Blob Storage", "GB-month", "1 GB/Month",
    {
        "serviceName": "Storage", "productName": "General Block Blob v2", "skuName": "Hot LRS",
        "meterName": "Hot LRS Data Stored",
    },
)  # fmt: skip


def list_of(region: str) -> PriceList:
    """Returns Azure's price list of a region."""
    return PriceList(LIST, region, PriceList.kept_as(f"azure-{region}"), TABLE)


def rates(
    workspace: Workspace,
    resources: Resources,
    serve: ServeConfig | None = None,
    *,
    given: Mapping[str, float] | None = None,
) -> dict[str, Rate]:
    """Returns the prices that a training, and an endpoint, depend on; asks Azure where they are not known of late.

    It never fails for want of a price: one that cannot be found out is unknown and says why.

    Args:
        workspace: Whose region.
        resources: Of the training; its instance should be named.
        serve: Of the endpoint; None: there is none. Its instance should be named.
        given: Prices that the user knows: by instance, by the names in the estimate, or by key. They win.

    Raises:
        ConfigError: A given price that cannot be, or of something that is not needed here.
    """
    products = list(_products(resources, serve))
    check_prices(given, [*(name for product in products for name in (product.key, product.of)), "upload"])
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
    return found | (_asked(workspace, asked) if asked else {})


def machine_rate(workspace: Workspace, instance: str) -> Rate:
    """Returns the price of a machine-hour."""
    return _asked(workspace, [_machine("endpoint", instance)])["endpoint"]


def storage_rate(workspace: Workspace) -> Rate:
    """Returns the price of keeping a GB for a month."""
    return _asked(workspace, [_STORAGE])["storage"]


def _products(resources: Resources, serve: ServeConfig | None) -> Iterator[_Product]:
    yield _machine("training", resources.instance or "")
    if resources.spot:
        yield _machine("training-spot", resources.instance or "", low_priority=True)
    yield _STORAGE
    if serve is not None:
        yield _machine("endpoint", serve.instance or "")


def _machine(key: str, instance: str, *, low_priority: bool = False) -> _Product:
    match = {"serviceName": "Virtual Machines", "armSkuName": instance}
    of = f"{instance}{_LOW_PRIORITY}" if instance and low_priority else instance
    return _Product(key, of, "hour", "1 Hour", match, low_priority)


def _asked(workspace: Workspace, products: list[_Product]) -> dict[str, Rate]:
    """Returns the prices from what was kept, from the list, else from the table."""
    region, failure = _region(workspace), ""
    if not region:
        failure = "the region is not known: the workspace could not be asked. Check: medimg azure doctor"
    return list_of(region).rates(products, lambda product: _ask(product, region), failure)


# -- the region -------------------------------------------------------------------------------------------------------


def _region(workspace: Workspace) -> str:
    """Returns the workspace's region; where it cannot be asked now, that of the last time; "" where there was none."""
    file = _regions_file()
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        kept = kept if isinstance(kept, dict) else {}
    except (OSError, ValueError):
        kept = {}
    try:
        region = workspace.location_soon()
    except MedimgError:
        return str(kept.get(workspace.id.lower(), ""))
    if kept.get(workspace.id.lower()) != region:
        with contextlib.suppress(OSError), locked(file.with_name(f".{file.stem}.lock")):
            atomic_write(file, json.dumps({**kept, workspace.id.lower(): region}, indent=1, sort_keys=True))
    return region


def _regions_file() -> Path:
    return home() / "prices" / "azure.json"


# -- the list ---------------------------------------------------------------------------------------------------------


def _ask(product: _Product, region: str) -> Answer:
    amounts: set[float] = set()
    units: set[str] = set()
    begins = ""
    for item in _items(product, region):
        if not product.fits(item, region):
            continue
        if item["unitOfMeasure"] == product.measure and item["currencyCode"] == "USD":
            amounts.add(float(item["retailPrice"]))
            begins = max(begins, str(item.get("effectiveStartDate") or "")[:10])
        else:
            units.add(f"{item['unitOfMeasure']} in {item['currencyCode']}")
    why = f"only per {', '.join(sorted(units))}" if units else "no"
    return one_amount(
        amounts, f"in force since {begins}" if begins else "", f"the price list names {why} price of it in {region}"
    )


def _items(product: _Product, region: str) -> Iterator[Mapping[str, Any]]:
    with translated(f"asking the price of {product.of}"), _client() as client:
        request = HttpRequest("GET", ADDRESS, params={"$filter": product.question(region), "currencyCode": "USD"})
        for _ in range(_MOST_PAGES):
            response = client.send_request(
                request, connection_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS
            )  # fmt: skip
            response.raise_for_status()
            content = json.loads(response.text())
            yield from content["Items"]
            following = content.get("NextPageLink")
            if not following:
                return
            request = HttpRequest("GET", following)


def _client() -> Any:
    # An estimate does not wait for minutes: one more attempt, no more.
    return PipelineClient(ADDRESS, policies=[UserAgentPolicy("medimg"), RetryPolicy(retry_total=1)])
