"""Each thing that may be missing at Azure turns its check red, with the command that mends it, and no other."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("azure.identity", reason="the AzureML backend is not installed")

import medimg
from medimg.backends.azureml.bootstrap import bootstrap
from medimg.backends.azureml.doctor import checks, examine
from medimg.backends.azureml.roles import DATA_SCIENTIST, ENDER_ROLE, USER_ROLE
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.doctor import Check
from medimg.cli import app
from medimg.config import Resources

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

_REGION = "westeurope"
_T4 = "Standard NCASv3_T4 Family"
_GROUPS = (f"doctor-{number}" for number in itertools.count())


@pytest.fixture
def ready(azure: AzureEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace after bootstrap; the login is that of somebody who has the roles and no more."""
    from azure_cloud.login import PRINCIPAL

    azure.apply(monkeypatch)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", next(_GROUPS))
    workspace = Workspace()
    bootstrap(workspace, region=_REGION, user=PRINCIPAL)
    azure.settings(enforce_roles=True)
    yield workspace
    azure.settings(enforce_roles=False)
    azure.clear_faults()


@pytest.fixture
def owner(azure: AzureEmulator, ready: Workspace) -> Workspace:
    """The same place, where the login may do everything."""
    azure.settings(enforce_roles=False)
    return ready


def _look(resources: Resources | None = None, image: str | None = None) -> list[Check]:
    return checks(Workspace(), resources or Resources(), image)


def _failed(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found if check.ok is False}


def _named(found: list[Check], name: str) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


def _only_red(found: list[Check]) -> Check:
    (check,) = _failed(found).values()
    assert check.found and check.fix
    return check


# -- all is well ------------------------------------------------------------------------------------------------------


def test_after_bootstrap_everything_is_green_within_five_seconds(azure: AzureEmulator, ready: Workspace) -> None:
    """With the roles that bootstrap gives, every check could be made; what was written to try is gone."""
    before, began = azure.state(), time.monotonic()
    found = _look()
    assert time.monotonic() - began < 5
    assert {check.name: check.found for check in found if check.ok is not True} == {}
    assert len(found) >= 14 and all(check.found and not check.fix for check in found)
    assert azure.state() == before
    assert ready.storage.list() == []


def test_the_backend_shows_its_checks(ready: Workspace) -> None:
    """`backend.doctor()` is the same, as a table in a notebook and as text elsewhere."""
    found = medimg.backend("azureml").doctor()
    assert found.ok
    assert "medimg, westeurope" in repr(found)
    assert found._repr_html_().count("<tr>") == len(found) + 1


# -- one thing is missing ---------------------------------------------------------------------------------------------


def test_without_a_subscription_only_that_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to ask anywhere."""
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    (check,) = examine()
    assert (check.name, check.ok) == ("subscription", False)
    assert check.fix == "export AZURE_SUBSCRIPTION_ID=$(az account show --query id --output tsv)"


def test_an_option_that_cannot_be_is_red() -> None:
    """And not called a missing subscription."""
    (check,) = examine(subscription="0-0", prefix="Not/This")
    assert (check.name, check.ok, check.fix) == ("options", False, "medimg azure doctor --help")


def test_without_a_login_only_that_is_red(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be asked without one is not known, and not called wrong."""
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong")
    found = _look()
    check = _only_red(found)
    assert (check.name, check.fix) == ("login", "az login")
    assert _named(found, "workspace").ok is None


def test_another_subscription_is_red(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that lists those there are."""
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "7e0a1b52-0000-4000-8000-999999999999")
    check = _only_red(_look())
    assert (check.name, check.fix) == ("subscription", "az account list --output table")


def test_a_service_that_is_off_is_red(owner: Workspace) -> None:
    """The fix switches it on, and nothing else."""
    path = f"/subscriptions/{owner.subscription}/providers/Microsoft.Logic"
    owner.arm("POST", f"{path}/unregister", "2021-04-01")
    try:
        check = _only_red(_look())
        assert (check.name, check.fix) == ("services", "az provider register --wait --namespace Microsoft.Logic")
        assert "workflows that end endpoints" in check.found
    finally:
        owner.arm("POST", f"{path}/register", "2021-04-01")


def test_a_missing_group_is_red_and_what_would_be_in_it_is_too(
    azure: AzureEmulator, owner: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fix makes all of it."""
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "not-there")
    found = _look()
    assert set(_failed(found)) == {"resource group", "workspace", "identity for ttl_hours"}
    fix = "medimg azure bootstrap --resource-group not-there"
    assert _named(found, "resource group").fix == f"{fix} --region westeurope"
    assert {_named(found, name).fix for name in ("workspace", "identity for ttl_hours")} == {fix}
    assert {_named(found, name).ok for name in ("storage is closed", "quota of jobs", "image of jobs")} == {None}


def test_a_missing_workspace_is_red(owner: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix names it."""
    monkeypatch.setenv("AZUREML_WORKSPACE_NAME", "another")
    check = _only_red(_look())
    assert (check.name, check.fix) == (
        "workspace", f"medimg azure bootstrap --resource-group {owner.resource_group} --workspace another",
    )  # fmt: skip


def test_storage_that_could_be_public_is_red(owner: Workspace) -> None:
    """The fix is Azure's own command."""
    id = owner.arm("GET", owner.id, "2024-10-01")["properties"]["storageAccount"]
    owner.arm("PATCH", id, "2023-05-01", {"properties": {"allowBlobPublicAccess": True}})
    check = _only_red(_look())
    assert check.name == "storage is closed"
    assert check.fix == f"az storage account update --ids {id} --allow-blob-public-access false"


def test_storage_that_cannot_be_written_is_red(azure: AzureEmulator, ready: Workspace) -> None:
    """Found out by writing."""
    azure.fault(method="PUT", path=r"\.blob\.core", status=403, code="AuthorizationPermissionMismatch", times=None)
    check = _only_red(_look())
    assert check.name == "storage is writable"
    assert "medimg azure bootstrap" in check.fix and "--dry-run" in check.fix


def test_storage_without_a_key_names_the_role_that_bootstrap_does_not_give(
    azure: AzureEmulator, ready: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which Microsoft's role of data scientists does not allow either."""
    from azure_cloud.login import PRINCIPAL

    arm = Workspace.arm

    def without_key(self: Workspace, method: str, id: str, *rest: Any, **options: Any) -> dict[str, Any]:
        told = arm(self, method, id, *rest, **options)
        if id.endswith("/datastores/workspaceblobstore"):
            told["properties"]["credentials"] = {"credentialsType": "None"}
        return told

    monkeypatch.setattr(Workspace, "arm", without_key)
    found = _look()
    account = arm(ready, "GET", ready.id, "2024-10-01")["properties"]["storageAccount"]
    assert _named(found, "storage is writable").fix == (
        f"az role assignment create --role 'Storage Blob Data Contributor' --assignee {PRINCIPAL} --scope {account}"
    )


def _take(workspace: Workspace, role: str) -> None:
    """Takes a role from everybody."""
    path = f"{workspace.group_id}/providers/Microsoft.Authorization/roleAssignments"
    for each in list(workspace.arm_list(path, "2022-04-01")):
        if each["properties"]["roleDefinitionId"].endswith(role):
            workspace.arm("DELETE", each["id"], "2022-04-01")


def _role(workspace: Workspace, name: str) -> str:
    path = f"{workspace.group_id}/providers/Microsoft.Authorization/roleDefinitions"
    (found,) = [
        each["name"]
        for each in workspace.arm_list(path, "2022-04-01")
        if each["properties"]["roleName"].startswith(f"{name} ({workspace.resource_group} ")
    ]
    return str(found)


def test_somebody_without_microsofts_role_is_told_what_is_missing(azure: AzureEmulator, owner: Workspace) -> None:
    """And who is to be given it: two roles are needed, and one is easily forgotten."""
    from azure_cloud.login import PRINCIPAL

    _take(owner, DATA_SCIENTIST.id)
    azure.settings(enforce_roles=True)
    check = _named(_look(), "what you may do")
    assert check.ok is False
    assert "Microsoft.MachineLearningServices/workspaces/datastores/listSecrets/action" in check.found
    assert check.fix.endswith(f"--user {PRINCIPAL}")


def test_who_may_not_ask_for_permissions_is_not_called_wrong(azure: AzureEmulator, owner: Workspace) -> None:
    """Not known is not red."""
    azure.fault(path="Microsoft.Authorization", status=403, code="AuthorizationFailed", times=None)
    found = _look()
    assert not _failed(found)
    assert {_named(found, name).ok for name in ("what you may do", "what that identity may do")} == {None}


def test_a_role_that_somebody_cut_is_red(azure: AzureEmulator, owner: Workspace) -> None:
    """The missing actions are named."""
    role = f"{owner.group_id}/providers/Microsoft.Authorization/roleDefinitions/{_role(owner, USER_ROLE.name)}"
    found = owner.arm("GET", role, "2022-04-01")
    actions = [action for action in USER_ROLE.actions if not action.startswith("Microsoft.Logic/")]
    found["properties"]["permissions"][0]["actions"] = actions
    owner.arm("PUT", role, "2022-04-01", {"properties": found["properties"]})
    azure.settings(enforce_roles=True)
    check = _only_red(_look())
    assert check.name == "what you may do"
    assert re.findall(r"Microsoft\.Logic/workflows/\w+", check.found) == [
        f"Microsoft.Logic/workflows/{word}" for word in ("delete", "read", "write")
    ]


def test_without_the_ender_only_that_is_red(owner: Workspace) -> None:
    """What it may do is not known."""
    owner.arm("DELETE", owner.ender_id, "2023-01-31")
    found = _look()
    check = _only_red(found)
    assert (check.name, check.fix) == (
        "identity for ttl_hours", f"medimg azure bootstrap --resource-group {owner.resource_group}",
    )  # fmt: skip
    assert _named(found, "what that identity may do").ok is None


def test_an_ender_that_may_nothing_is_red(owner: Workspace) -> None:
    """Endpoints would not end, and nobody would know."""
    _take(owner, _role(owner, ENDER_ROLE.name))
    check = _only_red(_look())
    assert check.name == "what that identity may do"
    assert "onlineEndpoints/delete" in check.found


# -- quota ------------------------------------------------------------------------------------------------------------


def test_a_quota_of_zero_is_red_and_names_the_way_round(azure: AzureEmulator, ready: Workspace) -> None:
    """The fix asks for cores; interruptible machines have another quota."""
    azure.quota(_T4, 0)
    check = _only_red(_look())
    assert check.name == "quota of jobs"
    assert "0 of 0 cores free, and Standard_NC4as_T4_v3 needs 4" in check.found
    assert "With spot=True another quota counts, which is enough" in check.found
    assert check.fix == (
        "az quota update --resource-name standardNCASv3_T4Family --scope "
        f"/subscriptions/{ready.subscription}/providers/Microsoft.MachineLearningServices/locations/{_REGION} "
        "--limit-object value=4 --resource-type dedicated"
    )
    assert not _failed(_look(Resources(spot=True)))


def test_spot_is_not_suggested_where_it_has_no_cores_either(azure: AzureEmulator, ready: Workspace) -> None:
    """And asked for, it is red itself, with its own name."""
    azure.quota(_T4, 0)
    azure.quota("lowPriorityCores", 0)
    assert "spot" not in _only_red(_look()).found
    check = _only_red(_look(Resources(spot=True)))
    assert "Total Cluster Low Priority Regional vCPUs" in check.found and "TotalLowPriorityCores" in check.fix


def test_the_quota_is_that_of_all_machines_of_a_job(azure: AzureEmulator, ready: Workspace) -> None:
    """Two machines need twice as many cores; an endpoint a fifth more machines than it has, and no part of one."""
    azure.quota(_T4, 8)
    assert not _failed(_look(Resources(count=2)))
    assert "needs 12" in _only_red(_look(Resources(count=3))).found
    azure.quota("Standard DSv2 Family", 3)
    check = _only_red(_look())
    assert check.name == "quota of endpoints" and "needs 4 with the spare machine" in check.found
    azure.quota("Standard DSv2 Family", 4)
    assert not _failed(_look())


def test_an_instance_that_there_is_not_is_red(ready: Workspace) -> None:
    """With the command that lists those there are."""
    check = _only_red(_look(Resources(instance="Standard_NC99_v9")))
    assert check.found == "there is no Standard_NC99_v9 in westeurope"
    assert check.fix.startswith("az ml compute list-sizes --resource-group")


# -- images, and an Azure that does not answer ------------------------------------------------------------------------


def test_a_registry_that_is_gone_is_red(owner: Workspace) -> None:
    """Azure makes one with the first image, and somebody may have deleted it."""
    registry = f"{owner.group_id}/providers/Microsoft.ContainerRegistry/registries/images7"
    found = owner.arm("GET", owner.id, "2024-10-01")
    body = {"location": _REGION, "tags": found["tags"], "identity": {"type": "SystemAssigned"}}
    kept = ("storageAccount", "keyVault", "applicationInsights")
    properties = {name: found["properties"][name] for name in kept}
    owner.arm("PUT", owner.id, "2024-10-01", {**body, "properties": {**properties, "containerRegistry": registry}})
    assert "az acr create --name images7" in _only_red(_look()).fix
    owner.arm("PUT", registry, "2023-07-01", {"location": _REGION, "sku": {"name": "Basic"}})
    assert _named(_look(), "image of jobs").found == "Microsoft's, built into images7"
    assert _named(_look(image="mine:1"), "image of jobs").ok is None


@pytest.mark.parametrize("path", ["", r"management\.azure\.com", r"login\.microsoftonline"])
def test_an_azure_that_does_not_answer_is_not_known(azure: AzureEmulator, ready: Workspace, path: str) -> None:
    """Nothing is called wrong because of the network."""
    azure.fault(path=path, status=0, times=None)
    found = _look()
    assert not _failed(found)
    assert _named(found, "workspace").ok is None


def test_the_command_fails_where_a_check_fails(azure: AzureEmulator, ready: Workspace) -> None:
    """So that a script notices; and the fix can be copied from the output."""
    assert CliRunner().invoke(app, ["azure", "doctor"]).exit_code == 0
    azure.quota(_T4, 0)
    done: Any = CliRunner().invoke(app, ["azure", "doctor"])
    assert done.exit_code == 1
    assert "az quota update --resource-name standardNCASv3_T4Family" in done.output
    assert CliRunner().invoke(app, ["azure", "doctor", "--spot"]).exit_code == 0
