"""What a doctor asks beside the things themselves: what one may do, which machines there are, what a group holds."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from .calls import Answer, Request
from .kinds import ML
from .login import PRINCIPAL
from .quotas import FAMILIES, cores
from .roles import RoleAssignments, RoleDefinitions

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["add_catalogue"]


def add_catalogue(cloud: Cloud) -> None:
    """Serves all of this."""
    cloud.arm.function("GET", r"(.*)/providers/Microsoft\.Authorization/permissions", partial(_permissions, cloud))
    cloud.arm.function("GET", "/subscriptions", partial(_subscriptions, cloud))
    place = rf"/subscriptions/[^/]+/providers/{re.escape(ML)}/locations/[^/]+"
    cloud.arm.function("GET", f"{place}/vmSizes", lambda request, _: cloud.arm.paged(request, _sizes()))
    cloud.arm.function("GET", r"(/subscriptions/[^/]+/resourceGroups/[^/]+)/resources", partial(_resources, cloud))


def _subscriptions(cloud: Cloud, request: Request, _: re.Match[str]) -> Answer:
    """Answers the subscriptions that a caller sees: that in which it has a role somewhere."""
    assigned = cloud.arm.kind(RoleAssignments.type).records.values()
    sees = any(one["properties"]["principalId"] == request.caller for one in assigned)
    everyone = request.caller == PRINCIPAL and not cloud.settings.enforce_roles
    known = list(cloud.arm.kind("Microsoft.Resources/subscriptions").records.values())
    return cloud.arm.paged(request, known if sees or everyone else [])


def _permissions(cloud: Cloud, request: Request, path: re.Match[str]) -> Answer:
    """Answers what the caller's roles allow at a scope, one entry for each."""
    if request.caller == PRINCIPAL and not cloud.settings.enforce_roles:
        return cloud.arm.paged(request, [{"actions": ["*"], "notActions": [], "dataActions": [], "notDataActions": []}])
    roles = cloud.arm.kind(RoleDefinitions.type)
    assert isinstance(roles, RoleDefinitions)
    held = [
        roles.actions_of(one["properties"]["roleDefinitionId"])
        for one in cloud.arm.kind(RoleAssignments.type).records.values()
        if one["properties"]["principalId"] == request.caller
        and f"{path[1]}/".lower().startswith(f"{one['properties']['scope']}/".lower())
    ]
    return cloud.arm.paged(request, held)


def _sizes() -> list[dict[str, Any]]:
    return [
        {
            "name": name, "family": family.replace(" ", "").replace("Standard", "standard"),
            "vCPUs": cores(name), "gpus": int("_N" in name),
            "lowPriorityCapable": True, "premiumIO": True, "supportedComputeTypes": ["AmlCompute", "ComputeInstance"],
        }
        for name, family in FAMILIES.items()
    ]  # fmt: skip


def _resources(cloud: Cloud, request: Request, path: re.Match[str]) -> Answer:
    """Answers what lies directly in a resource group; roles and assignments do not count as that."""
    start = f"{path[1]}/providers/".lower()
    found = [
        {name: record.get(name) for name in ("id", "name", "type", "location", "tags")}
        for kind in cloud.arm.kinds.values()
        if kind.type.count("/") == 1 and not kind.type.startswith("Microsoft.Authorization/")
        for key, record in list(kind.records.items())
        if key.startswith(start)
    ]
    return cloud.arm.paged(request, found)
