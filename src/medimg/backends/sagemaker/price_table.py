"""Prices for when AWS's price list cannot be asked: what several public tables agree on, with the day they were read.

They are no live prices. Where the tables disagreed, an instance is left out; so is all that only one of them names.
"""

from __future__ import annotations

from medimg.backends.price_list import PriceTable, TablePart

__all__ = ["TABLE"]

# USD per hour, on demand, for training and for hosting. The tables date from 2022 to 2025.
_INSTANCES = TablePart(
    "2026-11-20",
    ("us-east-1", "us-east-2"),
    {
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
    },
)

# USD, the first tier.
_SERVICES = TablePart(
    "2026-11-21",
    ("us-east-1",),
    {
        "S3 Standard": 0.023,  # a GB-month
        "Lambda memory": 0.0000166667,  # a GB-second, x86
        "Lambda calls": 0.20,  # a million
        "HTTP API": 1.00,  # a million
    },
)

TABLE = PriceTable((_INSTANCES, _SERVICES), home="us-east-1")
