"""Prices for when Azure's price list cannot be asked: what several public tables agree on, with the day they were read.

They are no live prices, and hold for one region only: others are unknown.
"""

from __future__ import annotations

from medimg.backends.price_list import PriceTable, TablePart

__all__ = ["TABLE"]

# USD per hour, Linux, on demand. The tables date from 2022 to 2025.
_MACHINES = TablePart(
    "2026-11-20",
    ("eastus",),
    {
        "Standard_D4s_v3": 0.192,
        "Standard_F4s_v2": 0.169,
        "Standard_NC4as_T4_v3": 0.526,
        "Standard_NC6s_v3": 3.06,
        "Standard_NC8as_T4_v3": 0.752,
        "Standard_NC16as_T4_v3": 1.204,
        "Standard_NC24ads_A100_v4": 3.673,
        "Standard_NC64as_T4_v3": 4.352,
    },
)

TABLE = PriceTable((_MACHINES,), home="eastus")
