"""Taking down what bootstrap made: rights at once, images and models only where that is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medimg.backends.azureml.blueprint import GROUP_API, Part, blueprint
from medimg.backends.azureml.bootstrap import Step, find, id_of, is_ours
from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.status import ML_API, running
from medimg.backends.azureml.workspace import Workspace
from medimg.errors import BackendError
from medimg.progress import Display, heartbeat

__all__ = ["teardown"]

_WORKFLOW_API = "2019-05-01"
_REGISTRY_API = "2023-07-01"
_ASSIGNMENTS = "providers/Microsoft.Authorization/roleAssignments"
_ASSIGNMENT_API = "2022-04-01"
_AT_SCOPE: dict[str, Any] = {"$filter": "atScope()"}
_RIGHTS = ("enderAssignment", "enderRole", "ender", "userRole")
_DATA = ("workspace", "insights", "logs", "vault", "storage")
# What a deletion needs to be one; both are otherwise kept for two weeks, and their names with them.
_FOR_GOOD: Mapping[str, dict[str, Any]] = {"workspace": {"forceToPurge": "true"}, "logs": {"force": "true"}}
# Azure makes these beside Application Insights; they cost nothing and go with their group.
_FOLLOWERS = ("microsoft.insights/actiongroups", "microsoft.alertsmanagement/smartdetectoralertrules")


def teardown(workspace: Workspace, *, delete_data: bool = False) -> list[Step]:
    """Deletes identity, roles and assignments; where that is wanted, the workspace too, and the group if it is empty.

    What is not tagged as ours stays. A deleted key vault can be had back for a week: bootstrap does so.

    Args:
        workspace: Of the resource group.
        delete_data: Whether workspace, storage, vault and logs go too, with every image, model and result in them. They
            do not come back.

    Raises:
        BackendError: Something still runs, or another workspace uses the same roles.
    """
    group = find(workspace, workspace.group_id, GROUP_API, f"resource group {workspace.resource_group!r}")
    if group is None:
        return [Step("resource group", workspace.resource_group, "none")]
    made = find(workspace, workspace.id, ML_API, f"workspace {workspace.name!r}")
    _refuse_if_used(workspace, made, delete_data=delete_data)
    parts = {part.key: part for part in blueprint(workspace)}
    with Display("teardown") as display, heartbeat("deleting", display):
        steps = [_delete_right(workspace, parts[key]) for key in _RIGHTS]
        if delete_data:
            ours = made is not None and is_ours(made)
            if ours and made is not None:
                _delete_assignments(workspace, workspace.id)
            steps += [_delete(workspace, parts[key], id_of(workspace, parts[key], ())) for key in _DATA]
            if ours and made is not None:
                steps += _delete_registry(workspace, made)
            steps.append(_delete_group(workspace, group))
    return steps


def _refuse_if_used(workspace: Workspace, made: Mapping[str, Any] | None, *, delete_data: bool) -> None:
    """Raises where something would lose what it needs."""
    for other in _other_workspaces(workspace):
        raise BackendError(
            f"the workspace {other!r} uses the same roles. Take it down first: "
            f"medimg azure teardown --workspace {other}"
        )
    there = list(running(workspace)) if made is not None else []
    busy = [
        each
        for each in there
        if each.kind == "endpoint" or each.kind == "job" or (delete_data and (each.count or not each.ours))
    ]
    if busy:
        listed = ", ".join(f"{each.kind} {each.name} ({each.state})" for each in busy)
        ours = [each.name for each in busy if each.ours and each.kind != "compute"]
        fix = f"medimg rm {' '.join(ours)} --backend azureml" if ours else f"az ml {_command(busy[0].kind)} delete"
        if not ours:
            fix += (
                f" --name {busy[0].name} --resource-group {workspace.resource_group} --workspace-name {workspace.name}"
            )
        raise BackendError(f"there is still {listed}: end it first: {fix}")
    for name in _workflows(workspace):
        raise BackendError(
            f"there is still the workflow {name}, which ends an endpoint of another project or of an unfinished "
            "deletion, and needs the identity that would go. Delete it first: "
            f"az logic workflow delete --resource-group {workspace.resource_group} --name {name}"
        )


def _command(kind: str) -> str:
    return "online-endpoint" if kind == "endpoint" else kind


def _other_workspaces(workspace: Workspace) -> Iterator[str]:
    """Yields the other workspaces of the group that bootstrap has made."""
    path = f"{workspace.group_id}/providers/Microsoft.MachineLearningServices/workspaces"
    with translated("listing the workspaces"):
        for found in workspace.arm_list(path, ML_API):
            if is_ours(found) and str(found["name"]).lower() != workspace.name.lower():
                yield str(found["name"])


def _workflows(workspace: Workspace) -> Iterator[str]:
    with translated("listing the workflows"):
        for found in workspace.beside("Microsoft.Logic/workflows", _WORKFLOW_API):
            if is_ours(found):
                yield str(found["name"])


def _delete_right(workspace: Workspace, part: Part) -> Step:
    id = id_of(workspace, part, ())
    if part.type.endswith("/roleDefinitions"):
        # A role in use is not deleted: first it is taken from whom it was given to.
        _delete_assignments(workspace, workspace.group_id, role=part.name)
    return _delete(workspace, part, id)


def _delete_assignments(workspace: Workspace, scope: str, *, role: str | None = None) -> None:
    """Deletes the assignments at exactly this scope: those of a role, or all. Else a new workspace would have them."""
    with translated("listing the role assignments"):
        found = list(workspace.arm_list(f"{scope}/{_ASSIGNMENTS}", _ASSIGNMENT_API, **_AT_SCOPE))
    for each in found:
        told = each["properties"]
        if told["scope"].lower() != scope.lower():
            continue
        if role is None or told["roleDefinitionId"].lower().endswith(role.lower()):
            with translated(f"deleting the role assignment {each['name']}"):
                workspace.arm("DELETE", each["id"], _ASSIGNMENT_API)


def _delete(workspace: Workspace, part: Part, id: str) -> Step:
    found = find(workspace, id, part.api_version, f"{part.what} {part.label!r}")
    if found is None:
        return Step(part.what, part.label, "none")
    if "tags" in part.body and not is_ours(found):
        return Step(part.what, part.label, "not ours")
    with translated(f"deleting the {part.what} {part.label!r}"):
        workspace.arm("DELETE", id, part.api_version, wait=True, **_FOR_GOOD.get(part.key, {}))
    return Step(part.what, part.label, "deleted")


def _delete_registry(workspace: Workspace, made: Mapping[str, Any]) -> list[Step]:
    """Deletes the registry of images that Azure made for our workspace, where it lies in our group."""
    id = str(made["properties"].get("containerRegistry") or "")
    if not id.lower().startswith(f"{workspace.group_id}/".lower()):
        return []
    name = id.rpartition("/")[2]
    with translated(f"deleting the container registry {name!r}"):
        workspace.arm("DELETE", id, _REGISTRY_API, wait=True)
    return [Step("container registry", name, "deleted")]


def _delete_group(workspace: Workspace, group: Mapping[str, Any]) -> Step:
    name = workspace.resource_group
    if not is_ours(group):
        return Step("resource group", name, "not ours")
    with translated(f"listing what is in the resource group {name!r}"):
        left = [
            f"{each['type'].rpartition('/')[2]} {each['name']}"
            for each in workspace.arm_list(f"{workspace.group_id}/resources", GROUP_API)
            if each["type"].lower() not in _FOLLOWERS
        ]
    if left:
        return Step("resource group", name, "there", f"it still holds {', '.join(left)}")
    with translated(f"deleting the resource group {name!r}"):
        workspace.arm("DELETE", workspace.group_id, GROUP_API, wait=True)
    return Step("resource group", name, "deleted")
