"""The blueprint as a file for an administrator: Bicep, or a template of Azure Resource Manager in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medimg.backends.azureml.blueprint import PROVIDERS, BuiltIn, Here, Of, Part, blueprint
from medimg.backends.azureml.roles import DATA_SCIENTIST, USER_ROLE
from medimg.backends.azureml.workspace import Workspace

__all__ = ["bicep", "commands", "template"]

_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
_ROLES = "Microsoft.Authorization/roleDefinitions"
_WORDS = {Here.REGION: "location", Here.TENANT: "subscription().tenantId", Here.GROUP: "resourceGroup().id"}


def commands(workspace: Workspace, region: str, file: str) -> list[str]:
    """Returns what is typed to make what a file says.

    Args:
        workspace: For which it was written.
        region: Where; any word to be replaced.
        file: Its name.
    """
    registered = [f"az provider register --wait --namespace {provider}" for provider in PROVIDERS]
    group = workspace.resource_group
    return [
        f"az account set --subscription {workspace.subscription}",
        *registered,
        f"az group create --name {group} --location {region} --tags medimg={workspace.prefix}",
        f"az deployment group create --resource-group {group} --template-file {file}",
    ]


# -- Bicep ------------------------------------------------------------------------------------------------------------


def bicep(workspace: Workspace, user: str | None = None, region: str = "REGION", file: str = "medimg.bicep") -> str:
    """Returns the set-up as a Bicep file; arguments as for `blueprint` and `commands`."""
    parts = blueprint(workspace, user)
    lines = [
        "// medimg: where training and serving of medical images is kept, and who may do it.",
        "// Made by somebody who may assign roles in the resource group, such as its owner:",
        *(f"//   {command}" for command in commands(workspace, region, file)),
        *_people(workspace, user),
        "",
        "targetScope = 'resourceGroup'",
        "",
        "@description('Where everything is kept and computed.')",
        "param location string = resourceGroup().location",
    ]
    for part in parts:
        lines += ["", f"// {part.what}: {part.why}"]
        lines.append(f"resource {part.key} '{part.type}@{part.api_version}' = {{")
        lines.append(f"  name: {_text(part.name)}")
        if part.on:
            lines.append(f"  scope: {part.on}")
        lines += _members(part.body, "  ")
        lines.append("}")
    lines += ["", "output workspace string = workspace.id", "output userRole string = userRole.id"]
    return "\n".join(lines) + "\n"


def _people(workspace: Workspace, user: str | None) -> Iterator[str]:
    if user is None:
        yield "// Then, for each person (az ad user show --id NAME --query id --output tsv tells the OBJECT_ID):"
        yield "//   medimg azure bootstrap --user OBJECT_ID"
        yield f"// or in the portal: {DATA_SCIENTIST.name!r} on the workspace {workspace.name!r}, {USER_ROLE.name!r}"
        yield "// on the resource group."


def _members(content: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in content.items():
        word = name if re.fullmatch(r"[A-Za-z_]\w*", name) else _text(name)
        first, *rest = _value(value, indent)
        yield f"{indent}{word}: {first}"
        yield from rest


def _value(value: Any, indent: str) -> list[str]:
    if isinstance(value, Here):
        return [_WORDS[value]]
    if isinstance(value, Of):
        return [f"{value.key}.{value.path}"]
    if isinstance(value, BuiltIn):
        return [f"subscriptionResourceId('{_ROLES}', '{value.role}')"]
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, int):
        return [str(value)]
    if isinstance(value, str):
        return [_text(value)]
    deeper = f"{indent}  "
    if isinstance(value, Mapping):
        return ["{", *_members(value, deeper), f"{indent}}}"] if value else ["{}"]
    lines = []
    for each in value:
        first, *rest = _value(each, deeper)
        lines += [f"{deeper}{first}", *rest]
    return ["[", *lines, f"{indent}]"] if lines else ["[]"]


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${").replace("\n", "\\n")
    return f"'{escaped}'"


# -- JSON -------------------------------------------------------------------------------------------------------------


def template(workspace: Workspace, user: str | None = None) -> str:
    """Returns the same as a JSON template, for where there is no Bicep; arguments as for `blueprint`."""
    parts = blueprint(workspace, user)
    known = {part.key: part for part in parts}
    resources = []
    for part in parts:
        made: dict[str, Any] = {"type": part.type, "apiVersion": part.api_version, "name": part.name}
        if part.on:
            made["scope"] = f"{known[part.on].type}/{known[part.on].name}"
        needed = sorted({*_needed(part.body), *([part.on] if part.on else [])})
        if needed:
            made["dependsOn"] = [f"[{_id(known[key])}]" for key in needed]
        resources.append(made | _filled(part.body, known))
    content = {
        "$schema": _SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": {"location": {"type": "string", "defaultValue": "[resourceGroup().location]"}},
        "resources": resources,
        "outputs": {
            key: {"type": "string", "value": f"[{_id(known[key])}]"} for key in ("workspace", "userRole")
        },
    }  # fmt: skip
    return json.dumps(content, indent=2) + "\n"


def _id(part: Part) -> str:
    return f"resourceId('{part.type}', '{part.name}')"


def _filled(value: Any, known: Mapping[str, Part]) -> Any:
    if isinstance(value, Here):
        return "[parameters('location')]" if value is Here.REGION else f"[{_WORDS[value]}]"
    if isinstance(value, Of):
        part = known[value.key]
        if value.path == "id":
            return f"[{_id(part)}]"
        return f"[reference({_id(part)}, '{part.api_version}').{value.path.removeprefix('properties.')}]"
    if isinstance(value, BuiltIn):
        return f"[subscriptionResourceId('{_ROLES}', '{value.role}')]"
    if isinstance(value, Mapping):
        return {key: _filled(each, known) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_filled(each, known) for each in value]
    # A text that begins with a bracket is read as an expression.
    return f"[{value}" if isinstance(value, str) and value.startswith("[") else value


def _needed(value: Any) -> Iterator[str]:
    if isinstance(value, Of):
        yield value.key
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _needed(each)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from _needed(each)
