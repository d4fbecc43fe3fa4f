"""The files that an administrator is given: Bicep and JSON, compared with what bootstrap makes at Azure."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("azure.identity", reason="the AzureML backend is not installed")

from medimg.backends.azureml.bicep import bicep, commands, template
from medimg.backends.azureml.blueprint import PROVIDERS, BuiltIn, Here, Of, blueprint
from medimg.backends.azureml.workspace import Workspace
from medimg.cli import app

_REGION = "westeurope"
_USER = "7e0a1b52-0000-4000-8000-00000000eeee"


def _offline(**options: Any) -> Workspace:
    return Workspace(**{"subscription": "0-0", "credential": "nobody", **options})


def _medimg(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class _Bicep:
    """Reads back the part of Bicep that is written: resources, objects, lists, texts, numbers and expressions."""

    def __init__(self, text: str) -> None:
        pattern = r"//[^\n]*|'(?:\\.|[^'\\])*'|[A-Za-z_][\w.]*(?:\([^()]*\))?(?:\.\w+)*|\d+|[{}\[\]:=@]|\n"
        found = list(re.finditer(pattern, text))
        left = re.sub(pattern, "", text).strip(" ,()\n")
        assert not left, f"not Bicep as we write it: {left!r}"
        self._tokens = [match[0] for match in found if match[0] != "\n" and not match[0].startswith("//")]
        self._at = 0
        self.resources: dict[str, dict[str, Any]] = {}
        while self._at < len(self._tokens):
            if self._next() == "resource":
                key, kind = self._next(), self._next()
                assert self._next() == "="
                self.resources[key] = {"": kind.strip("'"), **self._value()}

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _value(self) -> Any:
        token = self._next()
        if token == "{":
            content = {}
            while (name := self._next()) != "}":
                assert self._next() == ":"
                content[name.strip("'")] = self._value()
            return content
        if token == "[":
            items = []
            while self._tokens[self._at] != "]":
                items.append(self._value())
            self._at += 1
            return items
        if token.startswith("'"):
            return re.sub(r"\\(.)", r"\1", token[1:-1])
        return {"true": True, "false": False}.get(token, int(token) if token.isdigit() else f"={token}")


def _as_written(value: Any) -> Any:
    """Returns a body of the blueprint as `_Bicep` reads it."""
    if isinstance(value, Here):
        return {
            Here.REGION: "=location", Here.TENANT: "=subscription().tenantId", Here.GROUP: "=resourceGroup().id",
        }[value]  # fmt: skip
    if isinstance(value, Of):
        return f"={value.key}.{value.path}"
    if isinstance(value, BuiltIn):
        return f"=subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '{value.role}')"
    if isinstance(value, dict):
        return {key: _as_written(each) for key, each in value.items()}
    return [_as_written(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("user", [None, _USER])
def test_the_bicep_file_says_exactly_what_bootstrap_makes(user: str | None) -> None:
    """Read back, it is the blueprint; every name that it refers to is in it."""
    workspace = _offline(tags={"cost-centre": "radiology's \\ ${x}"})
    found = _Bicep(bicep(workspace, user)).resources
    wanted = {
        part.key: {
            "": f"{part.type}@{part.api_version}",
            "name": part.name,
            **({"scope": f"={part.on}"} if part.on else {}),
            **_as_written(dict(part.body)),
        }
        for part in blueprint(workspace, user)
    }
    assert found == wanted
    references = set(re.findall(r"'=(\w+)\.(?:id|properties)", repr(found)))
    assert references <= set(found) and references


def test_the_bicep_file_says_how_it_is_made() -> None:
    """The services to switch on, the group, the command; the file's own name and the region where they are known."""
    text = bicep(_offline(resource_group="ward-7"), None, "swedencentral", "ward.bicep")
    assert text.splitlines()[0].startswith("// medimg")
    for provider in PROVIDERS:
        assert f"//   az provider register --wait --namespace {provider}\n" in text
    assert "//   az group create --name ward-7 --location swedencentral --tags medimg=medimg\n" in text
    assert "//   az deployment group create --resource-group ward-7 --template-file ward.bicep\n" in text
    assert "targetScope = 'resourceGroup'" in text


def _placed(value: Any) -> Any:
    """Returns a body with something in the place of what is only known at Azure."""
    if isinstance(value, (Here, Of, BuiltIn)):
        return _REGION if value is Here.REGION else "/subscriptions/0-0/resourceGroups/g/providers/X/y/z"
    if isinstance(value, dict):
        return {key: _placed(each) for key, each in value.items()}
    return value


def test_the_workspace_is_one_that_azure_takes() -> None:
    """By Microsoft's own schemas of its body."""
    from azure_cloud.handle import _SCHEMAS
    from azure_cloud.schemas import Schemas

    if not _SCHEMAS.exists():
        pytest.skip(f"without Microsoft's schemas in {_SCHEMAS.parent}")
    schemas = Schemas(_SCHEMAS)
    (part,) = [part for part in blueprint(_offline()) if part.key == "workspace"]
    schemas.check(part.type, part.api_version, part.name, _placed(dict(part.body)))
    assert schemas.report()["types"] == {f"{part.type}@{part.api_version}": ["bicep-types", "arm-schemas"]}


def test_the_json_template_is_the_same() -> None:
    """In the same order, each after what it needs, with expressions that Azure knows."""
    workspace = _offline()
    made = json.loads(template(workspace, _USER))
    resources = made["resources"]
    assert [each["name"] for each in resources] == [part.name for part in blueprint(workspace, _USER)]
    ids: set[str] = set()
    for each in resources:
        assert set(each.get("dependsOn", ())) <= ids
        ids.add(f"[resourceId('{each['type']}', '{each['name']}')]")
    by_type = {each["type"].rpartition("/")[2]: each for each in resources}
    vault = by_type["vaults"]["properties"]
    assert vault["tenantId"] == "[subscription().tenantId]"
    workspaces = [each for each in resources if each["type"] == "Microsoft.MachineLearningServices/workspaces"]
    assert workspaces[0]["properties"]["keyVault"] in ids
    (ender,) = [each for each in resources if each.get("properties", {}).get("principalType") == "ServicePrincipal"]
    assert re.fullmatch(r"\[reference\(resourceId\(.*\), '[\d-]+'\)\.principalId\]", ender["properties"]["principalId"])
    (scientist,) = [each for each in resources if "scope" in each]
    assert scientist["scope"] == f"Microsoft.MachineLearningServices/workspaces/{workspace.name}"


@pytest.mark.parametrize("name", ["medimg", "w" * 33, "A-very_long-workspace-name-of-ours"])
def test_names_are_within_azures_limits_and_differ_by_place(name: str) -> None:
    """Storage accounts and vaults have names that are unique in all of Azure."""
    parts = {part.key: part for part in blueprint(_offline(workspace=name))}
    assert re.fullmatch("[a-z0-9]{3,24}", parts["storage"].name)
    assert re.fullmatch("[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]", parts["vault"].name)
    assert re.fullmatch(r"[\w-]{4,63}", parts["logs"].name)
    for other in (_offline(workspace=name, resource_group="another"), _offline(workspace=name, subscription="1-1")):
        elsewhere = {part.key: part for part in blueprint(other)}
        assert all(elsewhere[key].name != parts[key].name for key in ("storage", "vault", "enderRole", "userRole"))
        assert elsewhere["userRole"].label != parts["userRole"].label


def test_a_dry_run_asks_nothing_of_azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a login and without a network."""
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_RESOURCE_GROUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    workspace = Workspace(subscription="0-0", resource_group="medimg", workspace="medimg")
    command = ("azure", "bootstrap", "--dry-run", "--subscription", "0-0", "--resource-group", "medimg")
    command = (*command, "--workspace", "medimg")
    printed = _medimg(*command)
    assert printed.exit_code == 0 and printed.output == bicep(workspace)
    file = tmp_path / "medimg.json"
    written = _medimg(*command, "--format", "json", "--output", file, "--region", _REGION, "--user", _USER)
    assert written.exit_code == 0 and file.read_text() == template(workspace, _USER)
    for line in commands(workspace, _REGION, str(file)):
        assert line in written.output


def test_options_of_a_dry_run_are_refused_without_it() -> None:
    """Who gives a file expects that nothing is made."""
    refused = _medimg("azure", "bootstrap", "--subscription", "0-0", "--output", "x.bicep")
    assert refused.exit_code == 2 and "--dry-run" in refused.output
