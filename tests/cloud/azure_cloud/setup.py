"""What surrounds a workspace and what `medimg azure bootstrap` makes: groups, accounts, identities, roles, quotas."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from .azurite import KEY
from .calls import Answer, AzureError, Request
from .kinds import ML, Address, Change, Kind, Operation, Record
from .login import TENANT
from .quotas import Quotas
from .roles import RoleAssignments, RoleDefinitions

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["GROUP", "SUBSCRIPTION", "add_setup"]

SUBSCRIPTION = "7e0a1b52-0000-4000-8000-00000000bbbb"
GROUP = "medimg-tests"
REGIONS = ("westeurope", "northeurope", "swedencentral", "eastus", "germanywestcentral")

_NAMESPACES = (
    ML, "Microsoft.Storage", "Microsoft.KeyVault", "Microsoft.Insights", "Microsoft.OperationalInsights",
    "Microsoft.ManagedIdentity", "Microsoft.Authorization", "Microsoft.Logic", "Microsoft.ContainerRegistry",
    "Microsoft.Resources",
)  # fmt: skip


class Subscriptions(Kind):
    """The one subscription."""

    type = "Microsoft.Resources/subscriptions"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.records[f"/subscriptions/{SUBSCRIPTION}"] = {
            "id": f"/subscriptions/{SUBSCRIPTION}", "subscriptionId": SUBSCRIPTION, "displayName": "Emulator",
            "state": "Enabled", "tenantId": TENANT, "authorizationSource": "RoleBased",
        }  # fmt: skip

    def check(self, change: Change) -> None:
        """Refuses all changes."""
        raise AzureError("MethodNotAllowed", "Subscriptions are not made here.", 405)

    def missing(self, address: Address) -> AzureError:
        """Returns Azure's words."""
        return AzureError("SubscriptionNotFound", f"The subscription '{address.name}' could not be found.", 404)


class ResourceGroups(Kind):
    """The resource groups."""

    type = "Microsoft.Resources/subscriptions/resourceGroups"
    shown = "resource_groups"

    def check(self, change: Change) -> None:
        """Needs a region that there is."""
        if change.record.get("location", "").lower().replace(" ", "") not in REGIONS:
            raise AzureError(
                "LocationNotAvailableForResourceGroup",
                f"The provided location '{change.record.get('location')}' is not available for resource group. List of "
                f"available regions is '{','.join(REGIONS)}'.",
            )
        if change.old is not None and change.old["location"] != change.record["location"]:
            raise AzureError(
                "InvalidResourceGroupLocation",
                f"Invalid resource group location '{change.record['location']}'. The Resource group already exists in "
                f"location '{change.old['location']}'.",
                409,
            )
        change.properties["provisioningState"] = "Succeeded"

    def missing(self, address: Address) -> AzureError:
        """Returns Azure's words."""
        return AzureError("ResourceGroupNotFound", f"Resource group '{address.name}' could not be found.", 404)

    def delete(self, request: Request, record: Record) -> Operation:
        """Ends and forgets all that is in it."""
        within = f"{record['id']}/".lower()

        def work() -> None:
            for kind in self.cloud.arm.kinds.values():
                for key, one in list(kind.records.items()):
                    if key.startswith(within) and kind.type.startswith("Microsoft.KeyVault/"):
                        kind.delete(request, one)
                    if key.startswith(within) and kind.type.lower() == f"{ML}/workspaces".lower():
                        self.cloud.close_workspace(one["id"])
            self.forget(record["id"])

        return Operation(work, kind="operationsStatus")


class _Simple(Kind):
    """What lies in a resource group and is nothing but kept."""

    def check(self, change: Change) -> None:
        """Needs its provider to be registered."""
        namespace = self.type.partition("/")[0]
        if namespace.lower() not in self.cloud.registered:
            raise AzureError(
                "MissingSubscriptionRegistration",
                f"The subscription is not registered to use namespace '{namespace}'. See "
                "https://aka.ms/rps-not-found for how to register subscriptions.",
                409,
            )
        change.properties["provisioningState"] = "Succeeded"
        self.complete(change)

    def complete(self, change: Change) -> None:
        """Refuses, or adds what Azure adds."""


class StorageAccounts(_Simple):
    """The storage accounts; Azurite has what is in them."""

    type = "Microsoft.Storage/storageAccounts"
    shown = "storage_accounts"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.actions["listkeys"] = lambda *_: Answer(
            {"keys": [{"keyName": f"key{number}", "value": KEY, "permissions": "FULL"} for number in (1, 2)]}
        )

    def complete(self, change: Change) -> None:
        """Checks the name."""
        name = change.record["name"]
        if not re.fullmatch("[a-z0-9]{3,24}", name):
            raise AzureError(
                "AccountNameInvalid",
                f"{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters "
                "in length and use numbers and lower-case letters only.",
            )
        taken = [one for one in self.records.values() if one["name"] == name and one["id"] != change.record["id"]]
        if taken:
            raise AzureError("StorageAccountAlreadyTaken", f"The storage account named {name} is already taken.", 409)
        change.properties["primaryEndpoints"] = {"blob": f"https://{name}.blob.core.windows.net/"}


class KeyVaults(_Simple):
    """The key vaults."""

    type = "Microsoft.KeyVault/vaults"
    shown = "key_vaults"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self._deleted: set[str] = set()  # names, which stay taken until they are recovered

    def delete(self, request: Request, record: Record) -> None:
        """Keeps what was deleted to be recovered: that cannot be switched off."""
        self._deleted.add(record["name"].lower())

    def complete(self, change: Change) -> None:
        """Checks the name and what it must be given."""
        name = change.record["name"]
        if name.lower() in self._deleted and change.properties.get("createMode") != "recover":
            raise AzureError(
                "ConflictError",
                "A vault with the same name already exists in deleted state. You need to either recover or purge "
                "existing key vault. Follow this link https://go.microsoft.com/fwlink/?linkid=2149745 for more "
                "information on soft delete.",
                409,
            )
        self._deleted.discard(name.lower())
        if not re.fullmatch("[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]", name):
            raise AzureError("VaultNameNotValid", f"The vault name '{name}' is invalid.")
        change.properties["vaultUri"] = f"https://{name}.vault.azure.net/"


class LogAnalytics(_Simple):
    """The workspaces of Log Analytics."""

    type = "Microsoft.OperationalInsights/workspaces"
    shown = "log_analytics"

    def complete(self, change: Change) -> None:
        """Adds its id."""
        change.properties["customerId"] = str(uuid.uuid4())


class Insights(_Simple):
    """Application Insights."""

    type = "Microsoft.Insights/components"
    shown = "insights"

    def complete(self, change: Change) -> None:
        """Adds its key."""
        change.properties["InstrumentationKey"] = str(uuid.uuid4())


class ContainerRegistries(_Simple):
    """The container registries."""

    type = "Microsoft.ContainerRegistry/registries"
    shown = "registries"


class AutoscaleSettings(_Simple):
    """How many instances deployments have, by their load; only kept, never acted upon."""

    type = "Microsoft.Insights/autoscaleSettings"
    shown = "autoscale"

    def complete(self, change: Change) -> None:
        """Needs a target that exists, and sensible numbers."""
        told = change.properties
        target = told.get("targetResourceUri", "")
        if self.cloud.arm.find(target) is None:
            raise AzureError("BadRequest", f"The target resource '{target}' of the autoscale setting was not found.")
        if not told.get("profiles"):
            raise AzureError("BadRequest", "An autoscale setting needs at least one profile.")
        for profile in told["profiles"]:
            capacity = {name: int(value) for name, value in profile["capacity"].items()}
            if not capacity["minimum"] <= capacity["default"] <= capacity["maximum"]:
                raise AzureError("InvalidCapacity", "The capacity must be minimum <= default <= maximum.")


class Identities(_Simple):
    """The user-assigned managed identities."""

    type = "Microsoft.ManagedIdentity/userAssignedIdentities"
    shown = "identities"

    def complete(self, change: Change) -> None:
        """Adds its ids, which stay the same when it is put again."""
        old = (change.old or {}).get("properties", {})
        change.record["properties"] = {
            "tenantId": TENANT,
            "principalId": old.get("principalId", str(uuid.uuid4())),
            "clientId": old.get("clientId", str(uuid.uuid4())),
        }

    def principal(self, id: str) -> str:
        """Returns the principal's id of an identity, by its ARM id; raises where there is none."""
        return str(self.get(self.cloud.arm.address(id))["properties"]["principalId"])


class Providers:
    """Which of Azure's services the subscription may use: `Cloud.registered`."""

    def __init__(self, cloud: Cloud) -> None:
        cloud.registered = {name.lower() for name in _NAMESPACES}
        self._registered = cloud.registered
        path = r"/subscriptions/[^/]+/providers/([^/]+)"
        cloud.arm.function("GET", path, lambda _, found: self._describe(found[1]))
        cloud.arm.function("POST", f"{path}/register", lambda _, found: self._register(found[1]))
        cloud.arm.function("POST", f"{path}/unregister", lambda _, found: self._unregister(found[1]))

    def _describe(self, name: str) -> Answer:
        known = next((one for one in _NAMESPACES if one.lower() == name.lower()), None)
        if known is None:
            raise AzureError("InvalidResourceNamespace", f"The resource namespace '{name}' is invalid.", 404)
        state = "Registered" if name.lower() in self._registered else "NotRegistered"
        id = f"/subscriptions/{SUBSCRIPTION}/providers/{known}"
        return Answer({"id": id, "namespace": known, "registrationState": state, "resourceTypes": []})

    def _register(self, name: str) -> Answer:
        self._registered.add(name.lower())
        return self._describe(name)

    def _unregister(self, name: str) -> Answer:
        self._registered.discard(name.lower())
        return self._describe(name)


def add_setup(cloud: Cloud) -> None:
    """Serves all of this."""
    Providers(cloud)
    cloud.cores = Quotas(cloud).cores
    for kind in (
        Subscriptions, ResourceGroups, StorageAccounts, KeyVaults, LogAnalytics, Insights, ContainerRegistries,
        AutoscaleSettings, Identities, RoleDefinitions,
    ):  # fmt: skip
        cloud.arm.serve(kind(cloud))
    assignments = RoleAssignments(cloud)
    cloud.arm.serve(assignments)
    cloud.allows = assignments.allows
