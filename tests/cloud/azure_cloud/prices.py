"""prices.azure.com: the list of retail prices, with all that must not be taken for the price of a Linux machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from .calls import Answer, AzureError, Request

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["Prices"]

Item = dict[str, Any]

# USD per hour; the regions differ, so that one that is not minded shows.
_REGIONS = ("eastus", "westeurope", "northeurope")
_HOURLY = {
    "Standard_DS2_v2": (0.141, 0.161, 0.151), "Standard_DS3_v2": (0.282, 0.322, 0.302),
    "Standard_D4s_v3": (0.182, 0.232, 0.212), "Standard_NC4as_T4_v3": (0.51, 0.61, 0.56),
    "Standard_NC8as_T4_v3": (0.72, 0.86, 0.79), "Standard_NC24ads_A100_v4": (3.5, 4.2, 3.9),
}  # fmt: skip
_STORAGE = (0.021, 0.022, 0.023)  # USD for a GB and month
_LOW_PRIORITY, _SPOT, _WINDOWS = 0.2, 0.15, 1.6  # of the price of a Linux machine
_BEGIN = "2026-03-01T00:00:00Z"
_PAGE = 100


class Prices:
    """The list.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        cloud.serve_host("prices.azure.com", self._answer, path="/api/retail/prices", token=False)
        cloud.verbs["prices"] = self._tell
        cloud.clears.append(self._reset)
        self._reset()

    def _reset(self) -> None:
        self._items, self._page, self._garbage = _items(), _PAGE, False

    def _tell(self, given: Mapping[str, Any]) -> None:
        """Changes the list until faults are cleared.

        Args:
            given: "items": what it has instead; "more": what it has, too; "page": items on a page; "garbage": whether
                the answer is a page for people.
        """
        self._items = [*given.get("items", self._items), *given.get("more", ())]
        self._page = given.get("page", self._page)
        self._garbage = given.get("garbage", self._garbage)

    def _answer(self, request: Request) -> Answer:
        if self._garbage:
            return Answer(b"<html>We will be back soon.</html>", 200, {"Content-Type": "text/html"})
        found = [item for item in self._items if _fits(item, request.parameter("$filter"))]
        begin = int(request.parameter("$skip") or 0)
        following = None
        if begin + self._page < len(found):
            query = {**request.query, "$skip": str(begin + self._page)}
            following = f"https://prices.azure.com:443{request.path}?{urlencode(query, quote_via=quote)}"
        items = found[begin : begin + self._page]
        return Answer(
            {
                "BillingCurrency": "USD", "CustomerEntityId": "Default", "CustomerEntityType": "Retail", "Items": items,
                "NextPageLink": following, "Count": len(items),
            }
        )  # fmt: skip


def _fits(item: Item, question: str) -> bool:
    """Tells whether an item fits a question: the list knows comparisons with `eq`, joined by `and`."""
    for part in filter(None, re.split(r"\s+and\s+", question)):
        found = re.fullmatch(r"(\w+) eq (?:'(.*)'|(\w+))", part.strip())
        if found is None:
            raise AzureError("InvalidFilter", f"Invalid OData parameters supplied: {part}")
        field = "type" if found[1] == "priceType" else found[1]
        # Its own documentation: the values are compared with their case.
        if str(item.get(field)).replace("True", "true") != (found[2] if found[2] is not None else found[3]):
            return False
    return True


def _items() -> list[Item]:
    return [
        *(item for name in _HOURLY for at in range(len(_REGIONS)) for item in _machine(name, at)),
        *(_item("Storage", "General Block Blob v2", "Hot LRS", "Hot LRS Data Stored", region, price, "1 GB/Month")
          for region, price in zip(_REGIONS, _STORAGE, strict=True)),
        *(_item("Storage", "General Block Blob v2", "Cool LRS", "Cool LRS Data Stored", region, 0.01, "1 GB/Month")
          for region in _REGIONS),
    ]  # fmt: skip


def _machine(name: str, at: int) -> list[Item]:
    """Returns everything that the list has of a machine in a region; one of it is the price of Linux on demand."""
    meter = name.removeprefix("Standard_").replace("_", " ")
    series = re.sub(r"\d+", "", name.removeprefix("Standard_").partition("_")[0]) + " Series"
    region, price = _REGIONS[at], _HOURLY[name][at]

    def item(ending: str, factor: float, system: str = "", **more: Any) -> Item:
        product = f"Virtual Machines {series}{system}"
        named = f"{meter}{ending}"
        return _item(
            "Virtual Machines", product, named, named, region, round(price * factor, 6), "1 Hour",
            armSkuName=name, **more,
        )  # fmt: skip

    reserved: Item = {"type": "Reservation", "reservationTerm": "1 Year", "retailPrice": round(price * 5000, 2)}
    return [
        item(" Spot", _SPOT),
        item(" Low Priority", _LOW_PRIORITY),
        item("", _WINDOWS, " Windows"),
        item(" Spot", _SPOT * _WINDOWS, " Windows"),
        item(" Low Priority", _LOW_PRIORITY * _WINDOWS, " Windows"),
        item("", 1, **reserved),
        item("", 0.9, type="DevTestConsumption"),
        item("", 1.1, isPrimaryMeterRegion=False),
        item("", 1),
    ]


def _item(
    service: str, product: str, sku: str, meter: str, region: str, price: float, unit: str, **more: Any
) -> Item:  # fmt: skip
    id = hashlib.sha256(f"{product} {sku} {region} {sorted(more)}".encode()).hexdigest()[:12].upper()
    return {
        "currencyCode": "USD", "tierMinimumUnits": 0.0, "retailPrice": price, "unitPrice": price,
        "armRegionName": region, "location": region, "effectiveStartDate": _BEGIN, "meterId": id, "meterName": meter,
        "productId": f"DZH318Z0{id[:4]}", "skuId": f"DZH318Z0{id[:4]}/{id[4:8]}", "productName": product,
        "skuName": sku, "serviceName": service, "serviceFamily": "Compute" if "Mach" in service else "Storage",
        "unitOfMeasure": unit, "type": "Consumption", "isPrimaryMeterRegion": True, "armSkuName": "", **more,
    }  # fmt: skip
