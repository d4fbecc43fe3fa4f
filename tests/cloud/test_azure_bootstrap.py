"""Setting up at Azure and taking it down, against the emulator of Azure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("azure.identity", reason="the AzureML backend is not installed")

from medimg.backends.azureml import bootstrap as setting_up
from medimg.backends.azureml.blueprint import blueprint
from medimg.backends.azureml.bootstrap import bootstrap
from medimg.backends.azureml.deadlines import Deadlines
from medimg.backends.azureml.roles import ENDER_ROLE, USER_ROLE
from medimg.backends.azureml.status import running, status
from medimg.backends.azureml.teardown import teardown
from medimg.backends.azureml.workspace import Workspace
from medimg.cli import app
from medimg.errors import AccessError, BackendError, ConfigError

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

_REGION = "westeurope"
_USER = "7e0a1b52-0000-4000-8000-00000000eeee"
_KEYS = [part.key for part in blueprint(Workspace(subscription="s", credential="nobody"), _USER)]
_DATA = ["logs", "insights", "storage", "vault", "workspace"]
_GROUPS = (f"setup-{number}" for number in itertools.count())


def _medimg(*arguments: object, typed: str | None = None) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


# -- making it --------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace that is not there yet, in a resource group that is not there either."""
    azure.apply(monkeypatch)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", next(_GROUPS))
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(setting_up, "_POLL_SECONDS", 0.01)
    azure.mark()
    yield Workspace()
    azure.clear_faults()


def _in_group(azure: AzureEmulator, workspace: Workspace) -> dict[str, Any]:
    """Returns what there is of a workspace's resource group, by id."""
    try:
        found = list(workspace.arm_list(f"{workspace.group_id}/resources", "2021-04-01"))
    except Exception:
        return {}
    return {each["id"]: each for each in found}


def _outcomes(steps: Any) -> dict[str, str]:
    return {f"{step.what} {step.name}": step.outcome for step in steps}


def test_bootstrap_makes_everything_from_nothing(azure: AzureEmulator, place: Workspace) -> None:
    """Group, workspace with what it needs, identity, roles; each says what it is."""
    steps = bootstrap(place, region=_REGION, user=_USER)
    assert {step.outcome for step in steps} == {"made"}
    assert len(steps) == len(_KEYS) + 1
    assert {each["type"] for each in _in_group(azure, place).values()} == {
        part.type for part in blueprint(place) if "Authorization" not in part.type
    }
    assert place.location == _REGION
    assert status(place).is_complete
    account = place.arm("GET", _id(place, "storage"), "2023-05-01")["properties"]
    assert account["allowBlobPublicAccess"] is False and account["minimumTlsVersion"] == "TLS1_2"


def _id(workspace: Workspace, key: str) -> str:
    parts = blueprint(workspace, _USER)
    (part,) = [part for part in parts if part.key == key]
    return setting_up.id_of(workspace, part, parts)


def test_the_ender_may_delete_endpoints_and_workflows_and_nothing_else(place: Workspace) -> None:
    """In its resource group only."""
    bootstrap(place, region=_REGION)
    principal = place.arm("GET", place.ender_id, "2023-01-31")["properties"]["principalId"]
    path = f"{place.group_id}/providers/Microsoft.Authorization/roleAssignments"
    held = [
        each["properties"]
        for each in place.arm_list(path, "2022-04-01")
        if each["properties"]["principalId"] == principal
    ]
    assert [each["scope"] for each in held] == [place.group_id]
    role = place.arm("GET", held[0]["roleDefinitionId"], "2022-04-01")["properties"]
    assert role["permissions"][0]["actions"] == list(ENDER_ROLE.actions)
    assert role["assignableScopes"] == [place.group_id]


def test_bootstrap_twice_changes_nothing(azure: AzureEmulator, place: Workspace) -> None:
    """Whoever is not sure runs it again."""
    bootstrap(place, region=_REGION, user=_USER)
    before = _in_group(azure, place)
    azure.mark()
    again = bootstrap(place, user=_USER)
    assert {step.outcome for step in again} == {"there"}
    assert not azure.calls(method="PUT")
    assert _in_group(azure, place) == before


@pytest.mark.parametrize("key", ["group", *_KEYS])
def test_what_is_refused_stops_it_with_a_fix_and_the_next_run_completes_it(
    azure: AzureEmulator, place: Workspace, key: str
) -> None:
    """Nothing that was made is made again."""
    id = place.group_id if key == "group" else _id(place, key)
    said = "The client 'x' does not have authorization to perform action 'Microsoft.X/y/write' over scope '/'"
    azure.fault(method="PUT", path=f"{re.escape(id)}$", status=403, code="AuthorizationFailed", message=said)
    with pytest.raises(AccessError, match=r"may not do Microsoft.X/y/write.*go on with the same command") as refused:
        bootstrap(place, region=_REGION, user=_USER)
    made = _KEYS[: _KEYS.index(key)] if key in _KEYS else []
    so_far = [f"{part.what} {part.label}" for part in blueprint(place, _USER) if part.key in made]
    told = f"Made so far: {', '.join([f'resource group {place.resource_group}', *so_far])}. Who owns"
    assert ("Nothing was made. Who owns" if key == "group" else told) in str(refused.value)
    steps = bootstrap(place, region=_REGION, user=_USER)[1:]
    assert {step.outcome for step in steps[: len(made)]} <= {"there"}
    assert {step.outcome for step in steps[len(made) :]} == {"made"}
    assert status(place).is_complete


@pytest.mark.parametrize("status_code", [0, 429, 503])
def test_lost_answers_and_a_busy_azure_do_not_stop_it(azure: AzureEmulator, place: Workspace, status_code: int) -> None:
    """Every PUT may be sent twice."""
    azure.fault(
        method="PUT", path=re.escape(place.resource_group), status=status_code, code="ServerBusy", times=5,
        probability=0.5, after=True, headers={"retry-after-ms": "1"},
    )  # fmt: skip
    bootstrap(place, region=_REGION, user=_USER)
    azure.clear_faults()
    assert {step.outcome for step in bootstrap(place, user=_USER)} == {"there"}


def test_a_service_that_is_off_is_switched_on(place: Workspace) -> None:
    """A new subscription has none of them."""
    off = "Microsoft.Logic"
    place.arm("POST", f"/subscriptions/{place.subscription}/providers/{off}/unregister", "2021-04-01")
    steps = bootstrap(place, region=_REGION)
    assert _outcomes(steps)[f"service {off}"] == "made"
    assert "service" not in {step.what for step in bootstrap(place)}


def test_what_was_opened_is_closed_again(place: Workspace) -> None:
    """Somebody has made the storage account public; bootstrap says that it changed it."""
    bootstrap(place, region=_REGION)
    storage = _id(place, "storage")
    place.arm("PATCH", storage, "2023-05-01", {"properties": {"allowBlobPublicAccess": True}})
    outcomes = _outcomes(bootstrap(place))
    assert outcomes[f"storage account {storage.rpartition('/')[2]}"] == "changed"
    assert list(outcomes.values()).count("there") == len(outcomes) - 1
    assert place.arm("GET", storage, "2023-05-01")["properties"]["allowBlobPublicAccess"] is False


def test_a_vault_that_was_deleted_is_had_back(azure: AzureEmulator, place: Workspace) -> None:
    """Its name is taken for a week after a deletion."""
    vault = _id(place, "vault")
    said = "A vault with the same name already exists in deleted state. You need to either recover or purge it."
    azure.fault(method="PUT", path=f"{vault}$", status=400, code="ConflictError", message=said)
    bootstrap(place, region=_REGION)
    assert place.arm("GET", vault, "2023-07-01")["properties"]["createMode"] == "recover"


def test_an_identity_that_azure_does_not_know_everywhere_yet_is_waited_for(
    azure: AzureEmulator, place: Workspace
) -> None:
    """The directory needs a moment."""
    said = "Principal does not exist in the directory."
    path = f"{_id(place, 'enderAssignment')}$"
    azure.fault(method="PUT", path=path, status=400, code="PrincipalNotFound", message=said, times=3)
    assert {step.outcome for step in bootstrap(place, region=_REGION)} == {"made"}


def test_a_role_that_was_given_by_hand_is_not_given_twice(azure: AzureEmulator, place: Workspace) -> None:
    """Azure refuses the same assignment under another name."""
    bootstrap(place, region=_REGION)
    body = {"properties": {"roleDefinitionId": _id(place, "userRole"), "principalId": _USER}}
    path = f"{place.group_id}/providers/Microsoft.Authorization/roleAssignments"
    place.arm("PUT", f"{path}/00000000-0000-0000-0000-000000000001", "2022-04-01", body)
    outcomes = {step.name: step.outcome for step in bootstrap(place, user=_USER)}
    assert outcomes[f"gives {USER_ROLE.name} to {_USER}"] == "there"
    assert outcomes[f"gives AzureML Data Scientist to {_USER}, in the workspace"] == "made"


def test_without_a_region_it_asks_for_one_and_in_another_it_is_refused(place: Workspace) -> None:
    """Where patients' images are kept is for a person to say."""
    with pytest.raises(
        ConfigError, match=f"medimg azure bootstrap --resource-group {place.resource_group} --region westeurope"
    ):
        bootstrap(place)
    bootstrap(place, region="West Europe")
    with pytest.raises(ConfigError, match="is in westeurope, and cannot be moved to eastus"):
        bootstrap(Workspace(), region="eastus")


def test_a_workspace_that_somebody_else_made_keeps_its_own_storage(azure: AzureEmulator, place: Workspace) -> None:
    """What is not ours is neither changed nor made a second time, and does not go."""
    bootstrap(place, region=_REGION)
    theirs = [_id(place, key) for key in _DATA]
    for id, found in _in_group(azure, place).items():
        if id in theirs:
            place.arm("PATCH", id, "2024-10-01", {"tags": {"owner": "ward 7"}})
            assert found["tags"] == {"medimg": "medimg"}
    place.arm("DELETE", _id(place, "storage"), "2023-05-01")
    before = _in_group(azure, place)
    outcomes = {step.what: step.outcome for step in bootstrap(place, region=_REGION)}
    assert outcomes["workspace"] == "not ours" and outcomes["identity"] == "there"
    assert not {"storage account", "key vault", "log workspace"} & set(outcomes)
    assert _in_group(azure, place) == before
    gone = {step.what: step.outcome for step in teardown(place, delete_data=True)}
    assert gone["workspace"] == "not ours" and gone["identity"] == "deleted"
    assert set(_in_group(azure, place)) == {id for id in before if "medimg-ender" not in id}


# -- taking it down ---------------------------------------------------------------------------------------------------


def test_teardown_takes_the_rights_and_leaves_the_data(azure: AzureEmulator, place: Workspace) -> None:
    """Images and models go only where that is said."""
    bootstrap(place, region=_REGION, user=_USER)
    place.storage.put("probe", b"1")
    assert {step.outcome for step in teardown(place)} == {"deleted"}
    found = status(place)
    left = {step.what for step in found.steps if step.outcome == "there"}
    assert left == {
        "resource group",
        "log workspace",
        "Application Insights",
        "storage account",
        "key vault",
        "workspace",
    }
    assert found.objects == 1
    path = f"{place.group_id}/providers/Microsoft.Authorization/roleAssignments"
    assert [each["properties"]["scope"] for each in place.arm_list(path, "2022-04-01")] == [place.id]
    assert {step.outcome for step in bootstrap(place, user=_USER)} == {"there", "made"}


def test_teardown_with_data_leaves_nothing(azure: AzureEmulator, place: Workspace) -> None:
    """Not the group, not an assignment; and the second time there is nothing to do."""
    before = azure.state()
    bootstrap(place, region=_REGION, user=_USER)
    assert {step.outcome for step in teardown(place, delete_data=True)} == {"deleted"}
    assert azure.state() == before
    assert {step.outcome for step in teardown(Workspace(), delete_data=True)} == {"none"}
    purged = azure.calls(method="DELETE", path=f"{place.id}$")
    assert [call["query"].get("forceToPurge") for call in purged] == ["true"]


def test_teardown_keeps_a_group_that_holds_something_else(azure: AzureEmulator, place: Workspace) -> None:
    """And says what."""
    bootstrap(place, region=_REGION)
    other = f"{place.group_id}/providers/Microsoft.Storage/storageAccounts/hospitalarchive"
    place.arm("PUT", other, "2023-05-01", {"location": _REGION, "kind": "StorageV2", "sku": {"name": "Standard_LRS"}})
    last = teardown(place, delete_data=True)[-1]
    assert (last.what, last.outcome, last.note) == (
        "resource group", "there", "it still holds storageAccounts hospitalarchive",
    )  # fmt: skip
    assert list(_in_group(azure, place)) == [other]


def test_teardown_keeps_a_group_that_somebody_else_made(azure: AzureEmulator, place: Workspace) -> None:
    """Empty or not."""
    place.arm("PUT", place.group_id, "2021-04-01", {"location": _REGION})
    assert bootstrap(place)[0].outcome == "not ours"
    assert teardown(place, delete_data=True)[-1].outcome == "not ours"
    assert place.arm("GET", place.group_id, "2021-04-01")["location"] == _REGION


def test_teardown_refuses_while_another_workspace_has_the_same_roles(azure: AzureEmulator, place: Workspace) -> None:
    """Its people would lose them."""
    bootstrap(place, region=_REGION)
    second = Workspace(workspace="second")
    bootstrap(second)
    with pytest.raises(BackendError, match="medimg azure teardown --workspace second"):
        teardown(place)
    with pytest.raises(BackendError, match="medimg azure teardown --workspace medimg"):
        teardown(second)


def _endpoint(workspace: Workspace, name: str, tags: dict[str, str]) -> None:
    """Makes an endpoint without deployments."""
    body = {"location": _REGION, "tags": tags, "properties": {"authMode": "Key"}}
    workspace.arm("PUT", f"{workspace.id}/onlineEndpoints/{name}", "2024-10-01", body, wait=True)


@pytest.mark.parametrize("delete_data", [False, True])
@pytest.mark.parametrize(
    ("tags", "fix"),
    [
        ({"medimg": "medimg"}, "medimg rm teardown-refused --backend azureml"),
        ({}, "az ml online-endpoint delete --name teardown-refused"),
    ],
)
def test_teardown_refuses_while_there_is_an_endpoint(
    azure: AzureEmulator, place: Workspace, tags: dict[str, str], fix: str, delete_data: bool
) -> None:
    """Whoever made it: it would lose its workspace, or what is to end it."""
    bootstrap(place, region=_REGION)
    _endpoint(place, "teardown-refused", tags)
    before = _in_group(azure, place)
    with pytest.raises(BackendError, match=fix):
        teardown(place, delete_data=delete_data)
    assert _in_group(azure, place) == before
    place.arm("DELETE", f"{place.id}/onlineEndpoints/teardown-refused", "2024-10-01", wait=True)
    teardown(place, delete_data=delete_data)


def test_teardown_refuses_while_a_workflow_is_to_end_an_endpoint(azure: AzureEmulator, place: Workspace) -> None:
    """Without the identity it would try for ever."""
    bootstrap(place, region=_REGION)
    Deadlines(place).at("some-endpoint", "0123", 1.0)
    with pytest.raises(BackendError, match=f"az logic workflow delete --resource-group {place.resource_group} --name"):
        teardown(place)
    Deadlines(place).delete("some-endpoint", "0123")
    teardown(place, delete_data=True)


def test_teardown_needs_no_workflows_to_be_switched_on(azure: AzureEmulator, place: Workspace) -> None:
    """Where they are not, there are none."""
    bootstrap(place, region=_REGION)
    azure.fault(
        method="GET", path="Microsoft.Logic/workflows$", status=409, code="MissingSubscriptionRegistration", times=None
    )
    assert {step.outcome for step in teardown(place)} == {"deleted"}


@pytest.mark.parametrize(("state", "runs"), [("NotResponding", True), ("Paused", True), ("Failed", False)])
def test_what_has_not_ended_runs(place: Workspace, monkeypatch: pytest.MonkeyPatch, state: str, runs: bool) -> None:
    """The machine of a job that does not respond is billed as any other's."""
    monkeypatch.setattr(place, "arm_list", lambda path, *_, **__: (
        [{"name": "j", "properties": {"status": state, "tags": {"medimg": "medimg"}}}] if path.endswith("jobs") else []
    ))  # fmt: skip
    assert [each.kind for each in running(place)] == ["job"] * runs


def test_status_shows_what_runs_and_what_it_costs(azure: AzureEmulator, place: Workspace) -> None:
    """A cluster that keeps a machine costs, one that does not costs nothing."""
    bootstrap(place, region=_REGION)
    for name, least in (("idle", 0), ("busy", 2)):
        scale = {"minNodeCount": least, "maxNodeCount": 3, "nodeIdleTimeBeforeScaleDown": "PT5M"}
        body = {
            "location": _REGION,
            "properties": {
                "computeType": "AmlCompute",
                "properties": {"vmSize": "Standard_NC4as_T4_v3", "scaleSettings": scale, "osType": "Linux"},
            },
        }
        place.arm("PUT", f"{place.id}/computes/{name}", "2024-10-01", body, wait=True)
    _endpoint(place, "status-shown", {"medimg": "medimg"})
    place.storage.put("probe", b"0" * 1000)
    found = status(place)
    assert {(each.kind, each.name, each.count, each.ours) for each in found.running} == {
        ("compute", "idle", 0, False), ("compute", "busy", 2, False), ("endpoint", "status-shown", 0, True),
    }  # fmt: skip
    assert {instance: rate.amount for instance, rate in found.hourly.items()} == {"Standard_NC4as_T4_v3": 0.61}
    assert (found.objects, found.size_bytes) == (1, 1000) and found.storage and found.storage.amount == 0.022
    shown = _medimg("azure", "status").output
    assert "1.220 USD" in shown and "nothing while idle" in shown and "storage: 1 blobs" in shown
    place.arm("DELETE", f"{place.id}/onlineEndpoints/status-shown", "2024-10-01", wait=True)
    with pytest.raises(BackendError, match=r"compute idle .*az ml compute delete --name idle"):
        teardown(place, delete_data=True)
    teardown(place)


def test_a_deletion_that_was_refused_goes_on_the_next_time(azure: AzureEmulator, place: Workspace) -> None:
    """Whatever was deleted by then."""
    before = azure.state()
    bootstrap(place, region=_REGION, user=_USER)
    azure.fault(method="DELETE", path=f"{_id(place, 'vault')}$", status=403, code="AuthorizationFailed")
    with pytest.raises(AccessError):
        teardown(place, delete_data=True)
    teardown(Workspace(), delete_data=True)
    assert azure.state() == before


# -- commands ---------------------------------------------------------------------------------------------------------


def test_the_commands_set_up_show_and_take_down(azure: AzureEmulator, place: Workspace) -> None:
    """As a person types them."""
    again = f"medimg azure bootstrap --resource-group {place.resource_group}"
    missing = _medimg("azure", "status")
    assert missing.exit_code == 0 and f"To make what is missing: {again}" in missing.output
    made = _medimg("azure", "bootstrap", "--region", _REGION)
    assert made.exit_code == 0, made.output
    assert "medimg-ender" in made.output and f"{again} --user OBJECT_ID" in made.output
    shown = _medimg("azure", "status")
    assert shown.exit_code == 0 and "storage: 0 blobs" in shown.output and "To make" not in shown.output
    kept = _medimg("azure", "teardown", typed="n\n")
    assert kept.exit_code == 1 and status(place).is_complete
    assert _medimg("azure", "teardown", "--delete-data", "--yes").exit_code == 0
    assert "none" in _medimg("azure", "status").output
