"""Prices for when AWS's price list cannot be asked: what several public tables agree on, with the day they were read.

They are no live prices. Where the tables disagreed, an instance is left out; so is all that only one of them names.
"""

from __future__ import annotations

from collections.abc import Mapping

from medimg.backends.rates import Rate, Unit

__all__ = ["known_price", "table_rate"]

SOURCE = "table from public repositories, not the live price"

# USD per hour, on demand, for training and for hosting. The tables date from 2022 to 2025.
_INSTANCES_READ = "2026-11-20"
_INSTANCE_REGIONS = ("us-east-1", "us-east-2")
_INSTANCES: Mapping[str, float] = {
    "ml.c5.xlarge": 0.204,
    "ml.c5.2xlarge": 0.408,
    "ml.c5.4xlarge": 0.816,
    "ml.c5.9xlarge": 1.836,
    "ml.g4dn.xlarge": 0.7364,
    "ml.g4dn.2xlarge": 0.94,
    "ml.g4dn.4xlarge": 1.505,
    "ml.g4dn.8xlarge": 2.72,
    "ml.g4dn.12xlarge": 4.89,
    "ml.g5.xlarge": 1.408,
    "ml.g5.2xlarge": 1.515,
    "ml.g5.12xlarge": 7.09,
    "ml.m5.large": 0.115,
    "ml.m5.xlarge": 0.23,
    "ml.m5.2xlarge": 0.461,
    "ml.m5.4xlarge": 0.922,
    "ml.p3.2xlarge": 3.825,
    "ml.p3.8xlarge": 14.688,
    "ml.p4d.24xlarge": 37.688,
    "ml.t3.medium": 0.05,
}

# USD, the first tier.
_SERVICES_READ = "2026-11-21"
_SERVICE_REGIONS = ("us-east-1",)
_SERVICES: Mapping[str, float] = {
    "S3 Standard": 0.023,  # a GB-month
    "Lambda memory": 0.0000166667,  # a GB-second, x86
    "Lambda calls": 0.20,  # a million
    "HTTP API": 1.00,  # a million
}


def known_price(of: str, region: str) -> tuple[float, str] | None:
    """Returns the price of an instance or a service in a region and the day it was read; None: not in the table."""
    if of in _INSTANCES and region in _INSTANCE_REGIONS:
        return _INSTANCES[of], _INSTANCES_READ
    if of in _SERVICES and region in _SERVICE_REGIONS:
        return _SERVICES[of], _SERVICES_READ
    return None


def table_rate(of: str, unit: Unit, region: str, why: str) -> Rate:
    """Returns the table's price, or an unknown one.

    Args:
        of: An instance, or a service as it is named here.
        unit: Of which it is the price.
        region: Where. For other regions than the table's the price is unknown; what us-east-1's is goes into the note.
        why: Why the price list itself does not tell.
    """
    if found := known_price(of, region):
        return Rate(found[0], unit, SOURCE, found[1], of, note=why)
    elsewhere = known_price(of, "us-east-1")
    hint = ""
    if elsewhere and region != "us-east-1":
        hint = f"; in us-east-1 it is {elsewhere[0]:g} USD ({SOURCE}, {elsewhere[1]}), other regions differ"
    return Rate(None, unit, f"no price of {of} in {region} is known here", of=of, note=f"{why}{hint}")
