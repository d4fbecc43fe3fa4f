"""The roles at Azure: what they say, that the documentation says the same, that they are enough and not too much."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("azure.identity", reason="the AzureML backend is not installed")

import medimg
from medimg.artifact import ModelFolder
from medimg.backends.azureml.bootstrap import bootstrap
from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.roles import DATA_SCIENTIST, ENDER_ROLE, IN_WORKSPACE, USER_ROLE, Grant, allows
from medimg.backends.azureml.teardown import teardown
from medimg.backends.azureml.workspace import Workspace
from medimg.data.dataset import Dataset
from medimg.errors import AccessError

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

    from medimg.backends.azureml.backend import AzureMLBackend

_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "azure-roles.md"
_ALL = {
    f"{DATA_SCIENTIST.name}, in the workspace: what medimg uses of it": IN_WORKSPACE,
    f"`{USER_ROLE.name}`, in the resource group: people": USER_ROLE.grants,
    f"`{ENDER_ROLE.name}`, in the resource group: the identity `medimg-ender`": ENDER_ROLE.grants,
}
_GRANTS = [pytest.param(grant, id=grant.why) for grants in _ALL.values() for grant in grants]


@pytest.mark.parametrize("grant", _GRANTS)
def test_a_grant_allows_named_actions_for_a_reason(grant: Grant) -> None:
    """No pattern of actions."""
    assert grant.actions and grant.verbs and grant.why
    assert list(grant.actions) == sorted(grant.actions)
    assert all("*" not in action and action.rpartition("/")[2] in _WORDS for action in grant.actions)


_WORDS = ("read", "write", "delete", "action")


def test_no_action_is_granted_twice() -> None:
    """What Microsoft's role allows is not in ours, and each action has one reason."""
    for grants in _ALL.values():
        actions = [action for grant in grants for action in grant.actions]
        assert len(set(actions)) == len(actions)
    for action in USER_ROLE.actions:
        assert not allows(DATA_SCIENTIST.actions, DATA_SCIENTIST.not_actions, action)


def test_microsofts_role_allows_all_that_is_used_in_the_workspace() -> None:
    """Else it would belong into ours."""
    for grant in IN_WORKSPACE:
        for action in grant.actions:
            assert allows(DATA_SCIENTIST.actions, DATA_SCIENTIST.not_actions, action), action


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("Microsoft.MachineLearningServices/workspaces/jobs/write", True),
        ("microsoft.machinelearningservices/workspaces/read", True),
        ("Microsoft.MachineLearningServices/workspaces/write", False),
        ("Microsoft.MachineLearningServices/workspaces/computes/write", False),
        ("Microsoft.MachineLearningServices/workspaces/computes/read", True),
        ("Microsoft.Storage/storageAccounts/read", False),
    ],
)
def test_patterns_are_read_as_azure_reads_them(action: str, allowed: bool) -> None:
    """In any case of letters; "a/*/b" is also "a/b"."""
    assert allows(DATA_SCIENTIST.actions, DATA_SCIENTIST.not_actions, action) is allowed


def test_the_page_of_roles_says_what_the_roles_say() -> None:
    """Between its marks the page is this table; where this fails, put the table there."""
    page = _PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- roles: begin -->\n", "<!-- roles: end -->\n"
    assert page.partition(begin)[2].partition(end)[0] == _table()


def _table() -> str:
    lines = []
    for heading, grants in _ALL.items():
        lines += [f"## {heading}", "", "| actions | why | without it fails |", "|---|---|---|"]
        for grant in grants:
            actions = ", ".join(f"`{action}`" for action in grant.actions)
            lines.append(f"| {actions} | {grant.why} | {', '.join(f'`{verb}`' for verb in grant.verbs)} |")
        lines.append("")
    return "\n".join(lines)


# -- what the verbs ask -----------------------------------------------------------------------------------------------

_ML = "Microsoft.MachineLearningServices/workspaces"
# Allowed, and in no journal of an emulator.
_NEVER_SEEN = {
    f"{_ML}/onlineEndpoints/score/action": 'asked for by the endpoint itself, and only with auth="entra"',
    "Microsoft.ContainerRegistry/registries/read": "the emulator builds no images, so it has no registry",
    "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action": "asked for by Azure where an identity is named",
}
# What Azure lets anybody see who has a role somewhere in the subscription, and the progress of one's own operations.
_FREE = re.compile(r"/metadata/endpoints|/subscriptions(/[^/]+/providers/[^/]+(/locations/.*)?)?", re.IGNORECASE)


def _action(call: dict[str, Any]) -> str:
    """Returns the action that a call to Azure Resource Manager needs, in small letters; "": none."""
    path = call["path"].rstrip("/")
    if call["host"] != "management.azure.com" or _FREE.fullmatch(path):
        return ""
    scope, _, rest = path.rpartition("/providers/")
    words = rest.split("/") if scope else ["Microsoft.Resources", *path.strip("/").split("/")]
    kind, last = "/".join([words[0], *words[1::2]]), words[-1]
    if call["method"] == "POST":
        return (f"{kind}/action" if len(words) % 2 == 0 else f"{kind}/{last}/action").lower()
    return f"{kind}/{_METHODS[call['method']]}".lower()


_METHODS = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}


@pytest.fixture
def in_force(azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace in which the login has the two roles and nothing else."""
    import quick_azureml  # noqa: F401 - it makes the backend ask more often
    from azure_cloud.login import PRINCIPAL

    azure.apply(monkeypatch)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "roles-in-force")
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "home"))
    bootstrap(Workspace(), region="westeurope", user=PRINCIPAL)
    azure.settings(enforce_roles=True)
    azure.mark()
    yield Workspace()
    azure.settings(enforce_roles=False)
    medimg.backend("azureml").cleanup()
    teardown(Workspace(), delete_data=True)


@pytest.mark.slow
def test_a_login_with_the_two_roles_can_do_everything_and_no_action_in_ours_is_for_nothing(
    in_force: Workspace, azure: AzureEmulator, phantoms: Path, trained: ModelFolder
) -> None:
    """The life of a model, with roles enforced as the emulator understands them; and its journal."""
    import quick_azureml

    _live(quick_azureml.backend(), phantoms, trained)
    asked = {_action(call) for call in azure.calls()} - {""}
    named = {action for grants in (IN_WORKSPACE, USER_ROLE.grants) for grant in grants for action in grant.actions}
    allowed = {action.lower() for action in named}
    unused = allowed - asked - {action.lower() for action in _NEVER_SEEN}
    assert {"not named": sorted(asked - allowed), "for nothing": sorted(unused)} == {"not named": [], "for nothing": []}


def test_without_the_roles_nothing_can_be_done_and_the_message_says_who_can_help(
    in_force: Workspace, azure: AzureEmulator
) -> None:
    """Else nothing above would show anything; and a workspace is not deleted by who trains in it."""
    with (
        pytest.raises(AccessError, match=r"workspaces/delete.*medimg azure bootstrap --dry-run"),
        translated("deleting the workspace"),
    ):
        in_force.arm("DELETE", in_force.id, "2024-10-01")
    elsewhere = Workspace(resource_group=azure.resource_group)
    with pytest.raises(AccessError, match="may not do"):
        elsewhere.storage.list()


def _live(backend: AzureMLBackend, phantoms: Path, trained: ModelFolder) -> None:
    """Uses every verb of the contract."""
    import quick_azureml

    dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
    config = medimg.TrainConfig(model="small_cnn", weights=None, image_size=32, epochs=1, augment=False)
    backend.doctor()
    backend.estimate(dataset, config)
    long, machine = config.model_copy(update={"epochs": 500}), medimg.Resources(instance="Standard_DS3_v2")
    running = quick_azureml.backend(compute="roles").train(dataset, long, resources=machine, wait=False)
    running.cancel()
    job = backend.train(dataset, config)
    list(job.logs())
    backend.register(job)
    backend.models()
    sample = dataset.samples[0].path
    serve = medimg.ServeConfig(max_instances=2, ttl_hours=1)
    with backend.deploy(job, serve, name="with-everything") as endpoint:
        backend.endpoint("with-everything").predict(sample)
        list(endpoint.logs())
        endpoint.update(trained)
    running.delete()
    backend.inventory()
    backend.cleanup()
