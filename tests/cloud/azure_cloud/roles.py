"""Roles, who has them where, and what they permit."""

from __future__ import annotations

import re

from .calls import AzureError, Request
from .kinds import ML, Address, Change, Kind, Record
from .login import PRINCIPAL

__all__ = ["RoleAssignments", "RoleDefinitions"]


class RoleDefinitions(Kind):
    """The roles: Azure's own, and custom ones."""

    type = "Microsoft.Authorization/roleDefinitions"
    shown = "roles"

    def check(self, change: Change) -> None:
        """Needs a name of its own, actions and scopes."""
        told = change.properties
        change.record["properties"] = {"type": "CustomRole", **told}
        if not told.get("roleName") or not told.get("assignableScopes"):
            raise AzureError("InvalidRoleDefinition", "A role definition needs roleName and assignableScopes.")
        for record in self.records.values():
            same = record["properties"]["roleName"] == told["roleName"]
            if same and record["name"].lower() != change.record["name"].lower():
                raise AzureError(
                    "RoleDefinitionWithSameNameExists",
                    f"A custom role with the same name already exists in this directory. Use a different name: "
                    f"{told['roleName']}",
                    409,
                )

    def delete(self, request: Request, record: Record) -> None:
        """Refuses while it is assigned."""
        role = record["name"].lower()
        assigned = self.cloud.arm.kind(RoleAssignments.type).records.values()
        if any(one["properties"]["roleDefinitionId"].lower().endswith(role) for one in assigned):
            raise AzureError(
                "RoleDefinitionHasAssignments", "There are existing role assignments referencing role.", 409
            )

    def listed(self, request: Request, address: Address, records: list[Record]) -> list[Record]:
        """Returns those of the name that a filter gives, Azure's own too."""
        found = re.fullmatch(r"roleName eq '(.*)'", request.parameter("$filter"), re.IGNORECASE)
        everywhere = [*_built_in(address.scope), *self.records.values()]
        return [one for one in everywhere if found is None or one["properties"]["roleName"] == found[1]]

    def actions_of(self, id: str) -> dict[str, list[str]]:
        """Returns the permissions of a role by its id; {} where there is none."""
        name = id.rpartition("/")[2].lower()
        everywhere = [*_built_in(""), *self.records.values()]
        role = next((one for one in everywhere if one["name"].lower() == name), None)
        return role["properties"]["permissions"][0] if role else {}


_OWNER = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
_BUILT_IN: dict[str, tuple[str, dict[str, list[str]]]] = {
    _OWNER: ("Owner", {"actions": ["*"], "dataActions": []}),
    "b24988ac-6180-42a0-ab88-20f7382dd24c": (
        "Contributor",
        {"actions": ["*"], "notActions": ["Microsoft.Authorization/*/write", "Microsoft.Authorization/*/delete"]},
    ),
    "acdd72a7-3385-48ef-bd42-f606fba81ae7": ("Reader", {"actions": ["*/read"]}),
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": (
        "Storage Blob Data Contributor",
        {
            "actions": ["Microsoft.Storage/storageAccounts/blobServices/containers/*"],
            "dataActions": ["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/*"],
        },
    ),
    "f6c7c914-8db3-469d-8ca1-694a8f32e121": (
        "AzureML Data Scientist",
        {
            "actions": [
                f"{ML}/workspaces/*/read", f"{ML}/workspaces/*/action", f"{ML}/workspaces/*/delete",
                f"{ML}/workspaces/*/write",
            ],
            "notActions": [f"{ML}/workspaces/delete", f"{ML}/workspaces/write", f"{ML}/workspaces/computes/*/write"],
        },
    ),
}  # fmt: skip


def _built_in(scope: str) -> list[Record]:
    return [
        {
            "id": f"{scope}/providers/Microsoft.Authorization/roleDefinitions/{id}", "name": id,
            "type": RoleDefinitions.type,
            "properties": {
                "roleName": name, "type": "BuiltInRole", "permissions": [permissions], "assignableScopes": ["/"],
            },
        }
        for id, (name, permissions) in _BUILT_IN.items()
    ]  # fmt: skip


class RoleAssignments(Kind):
    """Who has which role where."""

    type = "Microsoft.Authorization/roleAssignments"
    shown = "role_assignments"

    def check(self, change: Change) -> None:
        """Needs a role that there is, and refuses the same assignment under another name."""
        told = change.properties
        if not RoleDefinitions.actions_of(self._roles, told.get("roleDefinitionId", "")):
            raise AzureError(
                "RoleDefinitionDoesNotExist",
                f"The specified role definition with ID '{told.get('roleDefinitionId')}' does not exist.",
            )
        told["scope"] = change.address.scope
        for record in self.records.values():
            if record["name"].lower() != change.address.name.lower() and _same(record["properties"], told):
                raise AzureError("RoleAssignmentExists", "The role assignment already exists.", 409)

    def listed(self, request: Request, address: Address, records: list[Record]) -> list[Record]:
        """Returns those at a scope, or those of a principal that hold there."""
        found = re.search(r"(?:principalId eq|assignedTo\()\s*'([^']*)'", request.parameter("$filter"))
        scope = f"{address.scope}/".lower()
        return [
            one
            for one in self.records.values()
            if (found is None or one["properties"]["principalId"] == found[1])
            and (
                scope.startswith(f"{one['properties']['scope']}/".lower())
                or f"{one['properties']['scope']}/".lower().startswith(scope)
            )
        ]

    def allows(self, principal: str, action: str, scope: str) -> bool:
        """Tells whether a principal may do an action, or a data action, to what has an ARM id."""
        if principal == PRINCIPAL and not self.cloud.settings.enforce_roles:
            return True
        return any(
            record["properties"]["principalId"] == principal
            and f"{scope}/".lower().startswith(f"{record['properties']['scope']}/".lower())
            and _permits(self._roles.actions_of(record["properties"]["roleDefinitionId"]), action)
            for record in list(self.records.values())
        )

    @property
    def _roles(self) -> RoleDefinitions:
        roles = self.cloud.arm.kind(RoleDefinitions.type)
        assert isinstance(roles, RoleDefinitions)
        return roles


def _same(one: Record, other: Record) -> bool:
    return all(one[name].lower() == other[name].lower() for name in ("principalId", "roleDefinitionId", "scope"))


def _matches(pattern: str, action: str) -> bool:
    # As Azure's own roles use them, "workspaces/*/write" is also "workspaces/write".
    expression = re.escape(pattern).replace(r"/\*/", "/(.*/)?").replace(r"\*", ".*")
    return re.fullmatch(expression, action, re.IGNORECASE) is not None


def _permits(role: dict[str, list[str]], action: str) -> bool:
    def fits(kind: str) -> bool:
        return any(_matches(pattern, action) for pattern in role.get(kind, ()))

    return (fits("actions") and not fits("notActions")) or (fits("dataActions") and not fits("notDataActions"))
