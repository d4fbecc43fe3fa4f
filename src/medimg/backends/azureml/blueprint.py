"""What bootstrap makes at Azure, as data: resources in the order in which they need each other, and why."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from medimg.backends.azureml.roles import DATA_SCIENTIST, ENDER_ROLE, USER_ROLE, Role
from medimg.backends.azureml.workspace import ENDER, Workspace

__all__ = ["GROUP_API", "OF_WORKSPACE", "PROVIDERS", "BuiltIn", "Here", "Of", "Part", "blueprint", "group_body"]

GROUP_API = "2021-04-01"  # of resource groups, providers and subscriptions
OF_WORKSPACE = ("logs", "insights", "storage", "vault")  # parts that a workspace made elsewhere has of its own

# What a subscription must have switched on, and for what.
PROVIDERS: Mapping[str, str] = {
    "Microsoft.MachineLearningServices": "the workspace",
    "Microsoft.Storage": "its storage account",
    "Microsoft.KeyVault": "its key vault",
    "Microsoft.Insights": "its logs, and endpoints that scale",
    "Microsoft.OperationalInsights": "where its logs are kept",
    "Microsoft.ContainerRegistry": "the images that Azure builds for jobs and endpoints",
    "Microsoft.ManagedIdentity": f"the identity {ENDER}",
    "Microsoft.Logic": "the workflows that end endpoints",
}


class Here(Enum):
    """What is known where a blueprint is carried out, and not before."""

    REGION = "region"
    TENANT = "tenant"
    GROUP = "group"  # the resource group's id


@dataclass(frozen=True)
class Of:
    """Something of another part.

    Attributes:
        key: The part's.
        path: "id", or where it stands in Azure's answer, such as "properties.principalId".
    """

    key: str
    path: str = "id"


@dataclass(frozen=True)
class BuiltIn:
    """The id of one of Microsoft's roles.

    Attributes:
        role: Its own part of that.
    """

    role: str


@dataclass(frozen=True)
class Part:
    """One resource.

    Attributes:
        key: A short name, the same in templates.
        what: What it is called in messages.
        type: In Azure's words.
        api_version: Of that.
        name: In its resource group.
        body: As Azure takes it; some values are `Here`, `Of` and `BuiltIn`.
        why: What it is for.
        on: Key of the part that it belongs to; "": the resource group.
    """

    key: str
    what: str
    type: str
    api_version: str
    name: str
    body: Mapping[str, Any]
    why: str
    on: str = ""

    @property
    def label(self) -> str:
        """What people know it by: its name, where that is no number."""
        if self.type == "Microsoft.Authorization/roleAssignments":
            return self.why
        return str(self.body.get("properties", {}).get("roleName") or self.name)

    def id(self, container: str) -> str:
        """Returns its ARM id.

        Args:
            container: The ARM id of the resource group, or of the part that it is on.
        """
        return f"{container}/providers/{self.type}/{self.name}"


def group_body(workspace: Workspace, region: str) -> dict[str, Any]:
    """Returns the body of the resource group."""
    return {"location": region, "tags": workspace.tag_map()}


def blueprint(workspace: Workspace, user: str | None = None) -> tuple[Part, ...]:
    """Returns what is made in the resource group, in order.

    Args:
        workspace: Whose names and tags.
        user: Object id of a person or group that is given the roles; None: nobody.
    """
    return (*_of_workspace(workspace), *_rights(workspace), *(_for(workspace, user) if user else ()))


def _of_workspace(workspace: Workspace) -> tuple[Part, ...]:
    digest = hashlib.sha256(workspace.id.lower().encode()).hexdigest()  # these names are unique in all of Azure
    common = {"location": Here.REGION, "tags": workspace.tag_map()}
    return (
        Part(
            "logs", "log workspace", "Microsoft.OperationalInsights/workspaces", "2023-09-01",
            f"{workspace.name}-logs", {**common, "properties": {"sku": {"name": "PerGB2018"}, "retentionInDays": 30}},
            "keeps the logs of endpoints for 30 days",
        ),
        Part(
            "insights", "Application Insights", "Microsoft.Insights/components", "2020-02-02",
            f"{workspace.name}-insights",
            {
                **common, "kind": "web",
                "properties": {"Application_Type": "web", "WorkspaceResourceId": Of("logs")},
            },
            "the workspace asks for it",
        ),
        Part(
            "storage", "storage account", "Microsoft.Storage/storageAccounts", "2023-05-01", f"medimg{digest[:12]}",
            {
                **common, "kind": "StorageV2", "sku": {"name": "Standard_LRS"},
                "properties": {
                    "accessTier": "Hot", "allowBlobPublicAccess": False, "allowCrossTenantReplication": False,
                    # The workspace's own datastore signs with the account's key, which the workspace hands out.
                    "allowSharedKeyAccess": True,
                    "minimumTlsVersion": "TLS1_2", "supportsHttpsTrafficOnly": True,
                },
            },
            "keeps packed images, code, results and models; nothing in it can be made public",
        ),
        Part(
            "vault", "key vault", "Microsoft.KeyVault/vaults", "2023-07-01", f"medimg-{digest[:12]}",
            {
                **common,
                "properties": {
                    "tenantId": Here.TENANT, "sku": {"family": "A", "name": "standard"}, "accessPolicies": [],
                    "enableRbacAuthorization": True, "enableSoftDelete": True, "softDeleteRetentionInDays": 7,
                },
            },
            "where the workspace keeps the keys of its storage and endpoints",
        ),
        Part(
            "workspace", "workspace", "Microsoft.MachineLearningServices/workspaces", "2024-10-01", workspace.name,
            {
                **common, "identity": {"type": "SystemAssigned"},
                "properties": {
                    "friendlyName": workspace.name, "storageAccount": Of("storage"), "keyVault": Of("vault"),
                    "applicationInsights": Of("insights"),
                    # Microsoft then gathers less for its own diagnosis, and encrypts the disks of clusters.
                    "hbiWorkspace": True,
                    "publicNetworkAccess": "Enabled",
                },
            },
            "where jobs, models and endpoints are",
        ),
    )  # fmt: skip


def _rights(workspace: Workspace) -> tuple[Part, ...]:
    return (
        Part(
            "ender", "identity", "Microsoft.ManagedIdentity/userAssignedIdentities", "2023-01-31", ENDER,
            {"location": Here.REGION, "tags": workspace.tag_map()}, "what deletes endpoints when their time is up",
        ),
        _role("enderRole", ENDER_ROLE, workspace, "what that identity may do"),
        Part(
            "enderAssignment", "role assignment", "Microsoft.Authorization/roleAssignments", "2022-04-01",
            _guid(workspace, ENDER, ENDER_ROLE.name),
            {
                "properties": {
                    "roleDefinitionId": Of("enderRole"), "principalId": Of("ender", "properties.principalId"),
                    "principalType": "ServicePrincipal",
                }
            },
            f"gives that role to {ENDER}, in this resource group only",
        ),
        _role("userRole", USER_ROLE, workspace, f"what people need beside {DATA_SCIENTIST.name}"),
    )  # fmt: skip


def _role(key: str, role: Role, workspace: Workspace, why: str) -> Part:
    digest = hashlib.sha256(workspace.group_id.lower().encode()).hexdigest()[:6]
    return Part(
        key, "role", "Microsoft.Authorization/roleDefinitions", "2022-04-01", _guid(workspace, role.name),
        {
            "properties": {
                "roleName": f"{role.name} ({workspace.resource_group} {digest})", "type": "CustomRole",
                "description": role.description,
                "permissions": [
                    {"actions": list(role.actions), "notActions": [], "dataActions": [], "notDataActions": []}
                ],
                "assignableScopes": [Here.GROUP],
            }
        },
        why,
    )  # fmt: skip


def _for(workspace: Workspace, user: str) -> tuple[Part, ...]:
    def given(key: str, role: Any, name: str, why: str, on: str = "") -> Part:
        return Part(
            key, "role assignment", "Microsoft.Authorization/roleAssignments", "2022-04-01",
            _guid(workspace, user, name), {"properties": {"roleDefinitionId": role, "principalId": user}}, why, on,
        )  # fmt: skip

    return (
        given("userAssignment", Of("userRole"), USER_ROLE.name, f"gives {USER_ROLE.name} to {user}"),
        given(
            "scientistAssignment", BuiltIn(DATA_SCIENTIST.id), f"{DATA_SCIENTIST.name} {workspace.name}",
            f"gives {DATA_SCIENTIST.name} to {user}, in the workspace", on="workspace",
        ),
    )  # fmt: skip


def _guid(workspace: Workspace, *words: str) -> str:
    """Returns the name of a role or an assignment: a UUID that is the same every time."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join((workspace.group_id.lower(), *words))))
