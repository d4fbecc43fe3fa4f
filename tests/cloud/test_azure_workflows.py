"""The emulator of Azure runs workflows by its clock, with the rights that their identity has."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("azure.ai.ml", reason="needs Azure's SDK: pip install 'medimg[azureml]'")

import requests
from azure_workspace import ARM, Workspace

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

WORKSPACE = "workflows"


@pytest.fixture
def workspace(subscription: AzureEmulator, tmp_path: Path) -> Workspace:
    """A workspace with nothing in it."""
    return Workspace(subscription, WORKSPACE, tmp_path)


def ending(workspace: Workspace, name: str, *, hours: float = 1.0) -> dict[str, Any]:
    """Returns a workflow that deletes an endpoint after some time, and then itself."""
    ender = f"{workspace.group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/medimg-ender"

    def http(method: str, id: str, api: str) -> dict[str, Any]:
        return {
            "type": "Http", "runAfter": {}, "operationOptions": "DisableAsyncPattern",
            "inputs": {
                "method": method, "uri": f"{ARM}{id}?api-version={api}",
                "authentication": {"type": "ManagedServiceIdentity", "identity": ender, "audience": f"{ARM}/"},
            },
        }  # fmt: skip

    endpoint = f"{workspace.id}/onlineEndpoints/{name}"
    start = datetime.now(UTC) + timedelta(hours=hours)
    return {
        "location": "westeurope",
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {ender: {}}},
        "properties": {
            "definition": {
                "$schema": "https://schema.management.azure.com/providers/Microsoft.Logic/schemas/2016-06-01/"
                "workflowdefinition.json#",
                "contentVersion": "1.0.0.0",
                "triggers": {
                    "due": {
                        "type": "Recurrence",
                        "recurrence": {
                            "frequency": "Minute", "interval": 15, "startTime": f"{start:%Y-%m-%dT%H:%M:%SZ}",
                        },
                    }
                },
                "actions": {
                    "look": http("GET", endpoint, "2024-10-01"),
                    "end": {
                        "type": "If",
                        "runAfter": {"look": ["Succeeded"]},
                        "expression": {"and": [{"equals": ["@body('look')?['tags']?['token']", "mine"]}]},
                        "actions": {"delete": http("DELETE", endpoint, "2024-10-01")},
                    },
                    "finish": {
                        "type": "If",
                        "runAfter": {"look": ["Failed"]},
                        "expression": {"and": [{"equals": ["@outputs('look')?['statusCode']", 404]}]},
                        "actions": {"forget": http("DELETE", workflow(workspace, name), "2019-05-01")},
                    },
                },
            }
        },
    }  # fmt: skip


def workflow(workspace: Workspace, name: str) -> str:
    """Returns the id of a workflow."""
    return f"{workspace.group}/providers/Microsoft.Logic/workflows/{name}"


def set_end(workspace: Workspace, name: str, body: dict[str, Any]) -> requests.Response:
    """Makes a workflow."""
    return workspace.arm("PUT", workflow(workspace, name), body, "2019-05-01")


def test_a_workflow_deletes_an_endpoint_when_its_time_has_come_and_then_itself(workspace: Workspace) -> None:
    """Not before, and no other's."""
    for name, token in (("to-be-ended", "mine"), ("of-another", "not mine")):
        workspace.serve(name, token=token)
        assert set_end(workspace, name, ending(workspace, name)).status_code == 201
    workspace.azure.advance(3500)
    assert workspace.azure.state(WORKSPACE)["endpoints"] == ["of-another", "to-be-ended"]
    workspace.azure.advance(200)
    assert workspace.azure.state(WORKSPACE)["endpoints"] == ["of-another"]
    workspace.azure.advance(900)
    assert workspace.azure.state(WORKSPACE)["workflows"] == ["of-another"]


def test_a_workflow_whose_identity_lacks_the_role_is_refused_and_tries_again(workspace: Workspace) -> None:
    """The refusal is Azure's; with the role the next time works."""
    workspace.serve("kept-alive", token="mine")
    set_end(workspace, "kept-alive", ending(workspace, "kept-alive"))
    roles = f"{workspace.group}/providers/Microsoft.Authorization/roleAssignments"
    for record in workspace.arm("GET", roles, api="2022-04-01").json()["value"]:
        workspace.arm("DELETE", record["id"], api="2022-04-01")
    workspace.azure.mark()
    workspace.azure.advance(3700)
    assert {call["status"] for call in workspace.azure.calls("GET", "onlineEndpoints/kept-alive")} == {403}
    assert workspace.azure.state(WORKSPACE)["endpoints"] == ["kept-alive"]
    workspace.azure.make_ender()
    workspace.azure.advance(900)
    assert "endpoints" not in workspace.azure.state(WORKSPACE)


@pytest.mark.parametrize("change", [
    ("@body('look')?['tags']", "@toLower('A')"),
    ("@body('look')?['tags']", "@body('delete')?['tags']"),
    ("@body('look')", "@body('look'"),
    ('"equals"', '"startsWith"'),
    ('"If"', '"Switch"'),
    ('["Failed"]', '["Broken"]'),
    ("medimg-ender", "nobody"),
    ('"Minute"', '"Fortnight"'),
    ("DisableAsyncPattern", "Other"),
], ids=lambda change: change[1])  # fmt: skip
def test_a_workflow_with_what_is_not_known_is_refused(workspace: Workspace, change: tuple[str, str]) -> None:
    """Never is something left out that decides what is deleted."""
    text = json.dumps(ending(workspace, "refused"))
    assert change[0] in text
    answer = set_end(workspace, "refused", json.loads(text.replace(*change)))
    assert answer.status_code == 400, answer.text
