"""How many cores of which family of machines may be used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .calls import Answer, Request
from .kinds import ML

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["FAMILIES", "LOW_PRIORITY", "Quotas", "cores"]

_PLENTY = 100
LOW_PRIORITY = "lowPriorityCores"  # one limit for all families
FAMILIES = {
    "Standard_D4s_v3": "Standard DSv3 Family",
    "Standard_DS2_v2": "Standard DSv2 Family",
    "Standard_DS3_v2": "Standard DSv2 Family",
    "Standard_NC4as_T4_v3": "Standard NCASv3_T4 Family",
    "Standard_NC8as_T4_v3": "Standard NCASv3_T4 Family",
}


_CORES = {"Standard_DS2_v2": 2, "Standard_DS3_v2": 4}  # elsewhere the name tells


def cores(instance: str) -> int:
    """Returns how many cores a machine has."""
    return _CORES.get(instance) or int(re.sub(r"\D*(\d+).*", r"\1", instance))


class Quotas:
    """How many cores of which family may be used in a region; tests change them.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._limits: dict[str, int] = {}  # by families in small letters
        cloud.clears.append(self._limits.clear)
        cloud.verbs["quota"] = lambda given: self._limit(given["family"], given["cores"])
        place = rf"/(subscriptions/[^/]+)/providers/{re.escape(ML)}/locations/([^/]+)"
        cloud.arm.function("GET", f"{place}/usages", self._usages)
        cloud.arm.function("GET", f"{place}/quotas", self._usages)
        self._cloud = cloud

    def _limit(self, family: str, there: int) -> None:
        if family not in (*FAMILIES.values(), LOW_PRIORITY):
            raise ValueError(f"no such family: {family}; there are {sorted({*FAMILIES.values(), LOW_PRIORITY})}")
        self._limits[family.lower()] = there

    def cores(self, family: str) -> int:
        """Returns how many cores of a family, such as "Standard NCASv3_T4 Family", may be used."""
        return self._limits.get(family.lower(), _PLENTY)

    def _usages(self, request: Request, path: re.Match[str]) -> Answer:
        families = dict.fromkeys(FAMILIES.values())
        items = [
            {
                "id": f"/{path[1]}/providers/{ML}/locations/{path[2]}/usages/{family}",
                "type": f"{ML}/vmFamily/dedicatedCores/usages", "unit": "Count", "currentValue": 0,
                "limit": self.cores(family),
                "name": {"value": family, "localizedValue": f"{family} Cluster Dedicated vCPUs"},
            }
            for family in families
        ]  # fmt: skip
        low = "Total Cluster Low Priority Regional vCPUs"
        items.append(
            {
                "id": f"/{path[1]}/providers/{ML}/locations/{path[2]}/usages/{LOW_PRIORITY}",
                "type": f"{ML}/lowPriorityCores/usages", "unit": "Count", "currentValue": 0,
                "limit": self.cores(LOW_PRIORITY), "name": {"value": low, "localizedValue": low},
            }
        )  # fmt: skip
        return self._cloud.arm.paged(request, items)
