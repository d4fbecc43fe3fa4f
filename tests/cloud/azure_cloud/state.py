"""The side door: what tests tell the emulator and ask of it, and everything that exists, by kind."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .azurite import Place
from .calls import Request
from .login import PRINCIPAL
from .roles import RoleAssignments, RoleDefinitions
from .setup import GROUP, SUBSCRIPTION
from .workspaces import Datastores, Workspaces

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["add_side_door", "forget", "make_ender", "make_workspace", "state"]

_GROUP_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"


def add_side_door(cloud: Cloud) -> None:
    """Answers the handle; see `AzureEmulator` for what each does."""
    cloud.verbs |= {
        "fault": lambda given: cloud.faults.add(given),
        "clear_faults": lambda _: _clear(cloud),
        "calls": lambda given: cloud.journal.since(given["mark"]),
        "count": lambda _: cloud.journal.count(),
        "state": lambda given: state(cloud, given["workspace"]),
        "settings": lambda given: _set(cloud, given),
        "reset_clock": lambda _: cloud.clock.reset(),
        "make_ender": lambda _: make_ender(cloud),
        "make_workspace": lambda given: make_workspace(cloud, given["name"], given["region"]),
        "reset_workspace": lambda given: forget(cloud, given["name"]),
        "environment": lambda _: cloud.environment(),
        "everything": lambda given: everything(cloud, given["workspace"]),
        "schema_report": lambda _: cloud.schemas.report(),
    }


def workspace_id(name: str) -> str:
    """Returns the ARM id of a workspace that the handle names."""
    return f"{_GROUP_ID}/providers/{Workspaces.type}/{name}"


def _put(cloud: Cloud, id: str, api: str, body: Mapping[str, Any]) -> None:
    """Makes something as a client would, and returns when it is ready."""
    request = Request.to("PUT", f"https://management.azure.com{id}?api-version={api}", body)
    request.caller = PRINCIPAL
    cloud.operations.await_end(cloud.arm.answer(request))


def make_workspace(cloud: Cloud, name: str, region: str) -> None:
    """Makes a workspace, with what it needs, and returns when it is ready."""
    providers = f"{_GROUP_ID}/providers"
    if cloud.arm.find(_GROUP_ID) is None:
        _put(cloud, _GROUP_ID, "2024-03-01", {"location": region})
    account = "".join(letter for letter in f"st{name}" if letter.isalnum()).lower()[:24]
    place = {"location": region}
    storage = f"{providers}/Microsoft.Storage/storageAccounts/{account}"
    vault = f"{providers}/Microsoft.KeyVault/vaults/kv-{name[:20]}"
    insights = f"{providers}/Microsoft.Insights/components/{name}"
    _put(cloud, storage, "2023-05-01", {**place, "kind": "StorageV2", "sku": {"name": "Standard_LRS"}})
    _put(cloud, vault, "2023-07-01", {**place, "properties": {}})
    _put(cloud, insights, "2020-02-02", {**place, "kind": "web", "properties": {"Application_Type": "web"}})
    _put(
        cloud, workspace_id(name), "2024-10-01",
        {
            **place, "identity": {"type": "SystemAssigned"},
            "properties": {"storageAccount": storage, "keyVault": vault, "applicationInsights": insights},
        },
    )  # fmt: skip


def make_ender(cloud: Cloud) -> None:
    """Makes the identity that deletes endpoints when their time is up, with its role in the resource group."""
    providers = f"{_GROUP_ID}/providers"
    id = f"{providers}/Microsoft.ManagedIdentity/userAssignedIdentities/medimg-ender"
    if cloud.arm.find(_GROUP_ID) is None:
        _put(cloud, _GROUP_ID, "2024-03-01", {"location": "westeurope"})
    role = f"{providers}/{RoleDefinitions.type}/{uuid.uuid5(uuid.NAMESPACE_URL, 'role of the ender')}"
    actions = [f"{Workspaces.type}/onlineEndpoints/{word}" for word in ("read", "delete")]
    told = {
        "roleName": "medimg ender", "assignableScopes": [_GROUP_ID],
        "permissions": [{"actions": [*actions, "Microsoft.Logic/workflows/delete"]}],
    }  # fmt: skip
    _put(cloud, id, "2023-01-31", {"location": "westeurope"})
    _put(cloud, role, "2022-04-01", {"properties": told})
    identity = cloud.arm.find(id)
    assert identity is not None
    given = {"roleDefinitionId": role, "principalId": identity["properties"]["principalId"]}
    assignment = f"{providers}/{RoleAssignments.type}/{uuid.uuid5(uuid.NAMESPACE_URL, 'the ender has its role')}"
    _put(cloud, assignment, "2022-04-01", {"properties": {**given, "principalType": "ServicePrincipal"}})


def forget(cloud: Cloud, name: str) -> None:
    """Ends and forgets everything in a workspace, its blobs too; the workspace itself stays."""
    id = workspace_id(name)
    cloud.close_workspace(id)
    with cloud.lock:
        for kind in cloud.arm.kinds.values():
            kept = kind.type == Datastores.type
            for key, record in list(kind.records.items()):
                about = str(record["properties"].get("targetResourceUri", "")) if "properties" in record else ""
                if not kept and (key.startswith(f"{id}/".lower()) or about.lower().startswith(f"{id}/".lower())):
                    del kind.records[key]
    for account, container in _containers(cloud, id):
        cloud.azurite.delete_container(account, container)
    for store in cloud.arm.kind(Datastores.type).within(id):
        told = store["properties"]
        cloud.azurite.make_container(told["accountName"], told["containerName"])


def _containers(cloud: Cloud, workspace: str) -> list[tuple[str, str]]:
    record = cloud.arm.find(workspace)
    if record is None:
        return []
    account = record["properties"]["storageAccount"].rpartition("/")[2]
    return [(account, container) for container in cloud.azurite.containers(account)]


def state(cloud: Cloud, workspace: str | None) -> dict[str, list[str]]:
    """Returns the names of what exists, by kind; kinds of which there is nothing are left out.

    Args:
        cloud: The emulator.
        workspace: Only what is in it, with what belongs to none; None: all.
    """
    id = workspace_id(workspace) if workspace else None
    found = cloud.arm.state(id)
    for kind, tell in cloud.tells.items():
        found.setdefault(kind, []).extend(tell(id))
    found["blobs"] = list(_blobs(cloud, id))
    return {kind: sorted(names) for kind, names in sorted(found.items()) if names}


def _blobs(cloud: Cloud, workspace: str | None) -> Iterator[str]:
    """Yields "container/path" of all blobs, in front of it the account where all workspaces are asked for."""
    for record in list(cloud.arm.kind(Workspaces.type).records.values()):
        if workspace is None or record["id"].lower() == workspace.lower():
            account = record["properties"]["storageAccount"].rpartition("/")[2]
            for name in cloud.azurite.names(account):
                yield name if workspace else f"{account}/{name}"


def everything(cloud: Cloud, workspace: str) -> dict[str, str]:
    """Returns all that is kept of a workspace as text: blobs with their names, and records with their ids."""
    id, told = workspace_id(workspace), dict[str, str]()
    account = cloud.arm.find(id)["properties"]["storageAccount"].rpartition("/")[2]  # type: ignore[index]
    for name in cloud.azurite.names(account):
        container, _, path = name.partition("/")
        content = cloud.azurite.read(Place(account, container, path))
        told[f"blob {name}"] = name + content.decode("latin-1")
    for kind in cloud.arm.kinds.values():
        for record in list(kind.records.values()):
            told[f"ARM {record['id']}"] = json.dumps(record, default=str)
    return told


def _clear(cloud: Cloud) -> None:
    cloud.faults.clear()
    for clear in cloud.clears:
        clear()


def _set(cloud: Cloud, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if not hasattr(cloud.settings, name):
            raise ValueError(f"no such setting: {name}")
        setattr(cloud.settings, name, value)
