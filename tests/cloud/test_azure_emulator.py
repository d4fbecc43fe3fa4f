"""The stand-in for Azure: Microsoft's unchanged clients work with it, and it refuses what Azure refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("azure.ai.ml", reason="the AzureML backend is not installed")

import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute, Data, Environment, Model
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import ClientSecretCredential, DefaultAzureCredential
from azure.storage.blob import BlobServiceClient, ContainerClient

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

NAME = "emulator"
API = "2024-10-01"
ML = "Microsoft.MachineLearningServices"
ROLES = "Microsoft.Authorization"
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"


@pytest.fixture
def cloud(azure: AzureEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureEmulator]:
    """The emulator with an empty workspace of this module's own."""
    azure.apply(monkeypatch)
    azure.make_workspace(NAME)
    azure.mark()
    yield azure
    azure.clear_faults()
    azure.settings(page_size=30, enforce_roles=0)
    azure.reset_workspace(NAME)


@pytest.fixture
def client(cloud: AzureEmulator) -> Iterator[MLClient]:
    """The SDK's client, as anyone has it."""
    yield _client(cloud)


def _client(cloud: AzureEmulator, credential: Any = None) -> MLClient:
    return MLClient(
        credential or DefaultAzureCredential(exclude_interactive_browser_credential=True), cloud.subscription,
        cloud.resource_group, NAME, enable_telemetry=False, show_progress=False,
    )  # fmt: skip


class Rest:
    """Azure Resource Manager without the SDK."""

    def __init__(self, cloud: AzureEmulator) -> None:
        credential = DefaultAzureCredential(exclude_interactive_browser_credential=True)
        self.token = credential.get_token("https://management.azure.com/.default").token
        self.group = f"/subscriptions/{cloud.subscription}/resourceGroups/{cloud.resource_group}"
        self.workspace = f"{self.group}/providers/{ML}/workspaces/{NAME}"

    def ask(self, method: str, path: str, body: Any = None, *, api: str = API, token: str | None = None) -> Any:
        """Returns the response."""
        return requests.request(
            method, f"https://management.azure.com{path}", params={"api-version": api}, json=body, timeout=60,
            headers={"Authorization": f"Bearer {token or self.token}"},
        )  # fmt: skip


@pytest.fixture
def rest(cloud: AzureEmulator) -> Rest:
    """Azure Resource Manager without the SDK."""
    return Rest(cloud)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a little in it."""
    made = tmp_path / "content"
    made.mkdir()
    (made / "note.txt").write_text("Lungs clear.")
    return made


def _data(client: MLClient, folder: Path, version: str = "1", **more: Any) -> Data:
    made: Data = client.data.create_or_update(
        Data(name="images", version=version, path=str(folder), type="uri_folder", **more)
    )
    return made


# -- Microsoft's clients ----------------------------------------------------------------------------------------------


def test_the_sdk_finds_the_workspace_with_its_storage(cloud: AzureEmulator, client: MLClient) -> None:
    """With a token of the directory, over TLS, at the real host names."""
    found = client.workspaces.get(NAME)
    assert found.location == "westeurope"
    assert found.storage_account.endswith(f"/storageAccounts/st{NAME}")
    assert found.discovery_url == "https://westeurope.api.azureml.ms/discovery"
    assert client.datastores.get_default().name == "workspaceblobstore"
    hosts = {call["host"] for call in cloud.calls()}
    assert hosts == {"login.microsoftonline.com", "management.azure.com"}


def test_a_workspace_that_is_not_there_is_missing(cloud: AzureEmulator, client: MLClient) -> None:
    """In Azure's words."""
    with pytest.raises(ResourceNotFoundError) as error:
        client.workspaces.get("nowhere")
    assert error.value.error is not None
    assert error.value.error.code == "ResourceNotFound"


def test_the_sdk_registers_data_and_finds_it_again(client: MLClient, folder: Path) -> None:
    """Its files are in the workspace's container, under the address that the service writes in full."""
    made = _data(client, folder)
    found = client.data.get("images", "1")
    assert found.path == made.path
    assert re.fullmatch(r"azureml://subscriptions/.*/datastores/workspaceblobstore/paths/LocalUpload/.*", made.path)
    assert client.data.get("images", label="latest").version == "1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in the SDK itself
def test_the_sdk_registers_a_model_and_downloads_it(client: MLClient, folder: Path, tmp_path: Path) -> None:
    """The versions count upwards."""
    first = client.models.create_or_update(Model(name="chest", path=str(folder), type="custom_model"))
    (folder / "more.txt").write_text("Heart normal.")
    second = client.models.create_or_update(Model(name="chest", path=str(folder), type="custom_model"))
    assert (first.version, second.version) == ("1", "2")
    client.models.download("chest", "2", download_path=str(tmp_path / "down"))
    assert {path.name for path in (tmp_path / "down").rglob("*.txt")} == {"note.txt", "more.txt"}


def test_the_sdk_registers_an_environment_and_makes_a_cluster(cloud: AzureEmulator, client: MLClient) -> None:
    """A cluster takes a while; it is there when that operation has ended."""
    client.environments.create_or_update(Environment(name="train", version="1", image=IMAGE))
    wanted = AmlCompute(name="gpus", size="Standard_NC4as_T4_v3", min_instances=0, max_instances=2)
    made = client.compute.begin_create_or_update(wanted).result()
    assert made.provisioning_state == "Succeeded"
    assert [cluster.name for cluster in client.compute.list()] == ["gpus"]
    assert {"computes": ["gpus"], "environments": ["train:1"]}.items() <= cloud.state(NAME).items()
    client.compute.begin_delete("gpus").result()
    with pytest.raises(ResourceNotFoundError):
        client.compute.get("gpus")


def test_a_cluster_beyond_the_quota_is_refused(cloud: AzureEmulator, client: MLClient) -> None:
    """By the quota of its family, or by the one of all low-priority machines."""
    cloud.quota("Standard NCASv3_T4 Family", 4)
    for tier, nodes in (("dedicated", 1), ("low_priority", 2)):
        wanted = AmlCompute(name=f"cluster{nodes}", size="Standard_NC4as_T4_v3", max_instances=nodes, tier=tier)
        client.compute.begin_create_or_update(wanted).result()
    with pytest.raises(HttpResponseError) as error:
        client.compute.begin_create_or_update(AmlCompute(name="cluster3", size="Standard_NC4as_T4_v3", max_instances=2))
    assert error.value.error is not None
    assert error.value.error.code == "ClusterCoreQuotaReached"


# -- blobs ------------------------------------------------------------------------------------------------------------


def _container(rest: Rest, credential: Any) -> ContainerClient:
    told = rest.ask("GET", f"{rest.workspace}/datastores/workspaceblobstore").json()["properties"]
    service = BlobServiceClient(f"https://{told['accountName']}.blob.core.windows.net", credential=credential)
    return service.get_container_client(told["containerName"])


@pytest.mark.parametrize("kind", ["Sas", "AccountKey", "token"])
def test_blobs_are_reached_with_what_the_datastore_gives_and_with_a_token(rest: Rest, kind: str) -> None:
    """Whole, in blocks, under a condition, and a range of them."""
    told = rest.ask(
        "POST", f"{rest.workspace}/datastores/workspaceblobstore/listSecrets", {"expirableSecret": kind == "Sas"}
    ).json()
    credential = DefaultAzureCredential() if kind == "token" else told.get("sasToken") or told["key"]
    with _container(rest, credential) as container:
        content = os.urandom(3_000_000)
        container.upload_blob("folder/scan é.bin", content, max_concurrency=2)
        assert container.download_blob("folder/scan é.bin").readall() == content
        assert container.download_blob("folder/scan é.bin", offset=10, length=5).readall() == content[10:15]
        with pytest.raises(ResourceExistsError):
            container.upload_blob("folder/scan é.bin", b"again")
        assert [blob.name for blob in container.list_blobs(name_starts_with="folder/")] == ["folder/scan é.bin"]
        with pytest.raises(ResourceNotFoundError):
            container.download_blob("nothing")


def test_a_token_for_another_service_opens_no_blobs(rest: Rest, cloud: AzureEmulator) -> None:
    """Each service takes only tokens of its own."""
    with _container(rest, None) as container:
        answer = requests.get(
            f"{container.url}/x", timeout=60,
            headers={"Authorization": f"Bearer {rest.token}", "x-ms-version": "2024-11-04"},
        )  # fmt: skip
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (401, "InvalidAuthenticationTokenAudience")


def test_a_storage_account_that_is_not_there_does_not_resolve(cloud: AzureEmulator) -> None:
    """As a name that nobody has."""
    with pytest.raises(requests.ConnectionError):
        requests.get("https://nobodyhasthisaccount.blob.core.windows.net/x", timeout=60)


# -- who may ----------------------------------------------------------------------------------------------------------


def test_a_host_that_is_not_emulated_is_refused(cloud: AzureEmulator) -> None:
    """So that no test reaches the internet."""
    with pytest.raises(requests.exceptions.ProxyError, match="502"):
        requests.get("https://example.com/", timeout=60)
    assert requests.get("http://example.com/", timeout=60).status_code == 502


def test_a_wrong_secret_is_refused_as_the_directory_does(cloud: AzureEmulator) -> None:
    """With the number that people search for."""
    told = cloud.environment
    credential = ClientSecretCredential(told["AZURE_TENANT_ID"], told["AZURE_CLIENT_ID"], "wrong")
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        _client(cloud, credential).workspaces.get(NAME)
    other = ClientSecretCredential(told["AZURE_TENANT_ID"], told["AZURE_TENANT_ID"], told["AZURE_CLIENT_SECRET"])
    with pytest.raises(ClientAuthenticationError, match="AADSTS700016"):
        other.get_token("https://management.azure.com/.default")


def test_nothing_is_answered_without_a_token_or_with_a_forged_one(rest: Rest) -> None:
    """Nor with one that was changed."""
    assert requests.get(f"https://management.azure.com{rest.workspace}", timeout=60).status_code in (400, 401)
    forged = rest.token[:-3] + ("AAA" if not rest.token.endswith("AAA") else "BBB")
    answer = rest.ask("GET", rest.workspace, token=forged)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "InvalidAuthenticationToken")


def test_roles_decide_when_they_are_enforced(cloud: AzureEmulator, rest: Rest) -> None:
    """Only what an assigned role names, only where it is assigned; a role in use is not deleted."""
    role = f"{rest.group}/providers/{ROLES}/roleDefinitions/11111111-0000-4000-8000-000000000001"
    given = f"{rest.workspace}/providers/{ROLES}/roleAssignments/11111111-0000-4000-8000-000000000002"
    permissions = [{"actions": [f"{ML}/workspaces/*/read"], "notActions": [f"{ML}/workspaces/computes/read"]}]
    told = {"roleName": "reads", "permissions": permissions, "assignableScopes": [rest.group]}
    principal = "7e0a1b52-0000-4000-8000-00000000dddd"
    assignment = {"properties": {"roleDefinitionId": role, "principalId": principal}}
    assert rest.ask("PUT", given, assignment).json()["error"]["code"] == "RoleDefinitionDoesNotExist"
    assert rest.ask("PUT", role, {"properties": told}).status_code == 201
    assert rest.ask("PUT", given, assignment).status_code == 201
    assert rest.ask("PUT", f"{given}3", assignment).json()["error"]["code"] == "RoleAssignmentExists"
    cloud.settings(enforce_roles=1)
    allowed = {
        path: rest.ask("GET", f"{rest.workspace}{path}").status_code for path in ("", "/data", "/jobs", "/computes")
    }
    assert allowed == {"": 200, "/data": 200, "/jobs": 200, "/computes": 403}
    refused = rest.ask("DELETE", f"{rest.workspace}/models/x")
    assert refused.json()["error"]["code"] == "AuthorizationFailed"
    assert rest.ask("GET", rest.group).status_code == 403
    cloud.settings(enforce_roles=0)
    assert rest.ask("DELETE", role).json()["error"]["code"] == "RoleDefinitionHasAssignments"
    assert [rest.ask("DELETE", id).status_code for id in (given, role, role)] == [200, 200, 204]


def test_the_ender_may_delete_endpoints_and_no_more(cloud: AzureEmulator, rest: Rest) -> None:
    """The identity that bootstrap makes, with its role."""
    cloud.make_ender()
    cloud.make_ender()
    found = rest.ask("GET", f"{rest.group}/providers/{ROLES}/roleAssignments", api="2022-04-01").json()["value"]
    identity = f"{rest.group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/medimg-ender"
    principal = rest.ask("GET", identity).json()["properties"]["principalId"]
    (mine,) = [one for one in found if one["properties"]["principalId"] == principal]
    role = rest.ask("GET", mine["properties"]["roleDefinitionId"], api="2022-04-01").json()
    (permissions,) = role["properties"]["permissions"]
    assert all(action.endswith(("/onlineEndpoints/read", "/delete")) for action in permissions["actions"])


# -- what Azure refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "properties", "words"),
    [
        ("data/x/versions/1", {"dataType": "uri_folder"}, "Required property 'dataUri' is missing"),
        ("environments/x/versions/1", {"image": IMAGE, "kernel": "6.8"}, "Could not find member 'kernel'"),
        ("models/x/versions/1", {"modelUri": ["a"]}, "expected a text"),
        ("computes/x", {"computeType": "Toaster"}, "'Toaster' is none of"),
    ],
)
def test_a_body_against_microsofts_schemas_is_refused(
    cloud: AzureEmulator, rest: Rest, path: str, properties: dict[str, Any], words: str
) -> None:
    """With what is wrong in it."""
    if not cloud.schema_report()["archive"]:
        pytest.skip("no schemas here")
    answer = rest.ask("PUT", f"{rest.workspace}/{path}", {"properties": properties})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert cloud.state(NAME).keys().isdisjoint({"data", "environments", "models", "computes"})


def test_every_body_that_the_sdk_sends_holds_by_both_sets_of_schemas(
    cloud: AzureEmulator, client: MLClient, folder: Path
) -> None:
    """Each of these types is described in both."""
    if not cloud.schema_report()["archive"]:
        pytest.skip("no schemas here")
    _data(client, folder)
    client.environments.create_or_update(Environment(name="train", version="1", image=IMAGE))
    report = cloud.schema_report()
    for kind in ("data/versions@2023-04-01-preview", "environments/versions@2023-04-01-preview"):
        assert report["types"][f"{ML}/workspaces/{kind}"] == ["bicep-types", "arm-schemas"]
    assert report["unknown"] == []


def test_a_version_keeps_its_content_and_may_be_described_anew(
    cloud: AzureEmulator, client: MLClient, folder: Path
) -> None:
    """Data and models are for good; tags and descriptions are not."""
    _data(client, folder, tags={"a": "b"})
    _data(client, folder, tags={"c": "d"}, description="Twelve radiographs")
    found = client.data.get("images", "1")
    assert (found.tags, found.description) == ({"c": "d"}, "Twelve radiographs")
    (folder / "note.txt").write_text("Something else.")
    with pytest.raises(HttpResponseError, match=re.escape("Asset paths cannot be updated.")):
        _data(client, folder)


def test_properties_of_a_version_may_be_added_and_not_replaced(client: MLClient, folder: Path) -> None:
    """As the service has it."""
    _data(client, folder, properties={"auroc": "0.91"})
    _data(client, folder, properties={"auroc": "0.91", "ece": "0.02"})
    assert client.data.get("images", "1").properties["ece"] == "0.02"
    with pytest.raises(HttpResponseError, match="cannot be replaced"):
        _data(client, folder, properties={"auroc": "0.99"})


def test_data_that_is_not_there_is_no_asset(rest: Rest) -> None:
    """The service looks."""
    properties = {"dataType": "uri_folder", "dataUri": "azureml://datastores/workspaceblobstore/paths/nothing"}
    answer = rest.ask("PUT", f"{rest.workspace}/data/images/versions/1", {"properties": properties})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "UserError")


def test_versions_are_deleted_one_by_one_or_with_their_name(client: MLClient, rest: Rest, folder: Path) -> None:
    """With the last version the name is gone; what is not there is deleted without a word."""
    for version in ("1", "2", "3"):
        _data(client, folder, version)
    assert rest.ask("DELETE", f"{rest.workspace}/data/images/versions/2").status_code == 200
    assert {one.version for one in client.data.list("images")} == {"1", "3"}
    assert rest.ask("DELETE", f"{rest.workspace}/data/images").status_code == 200
    assert rest.ask("DELETE", f"{rest.workspace}/data/images").status_code == 204
    with pytest.raises(ResourceNotFoundError):
        client.data.get("images", "1")


def test_a_deleted_version_is_not_made_again_where_that_is_set(
    cloud: AzureEmulator, client: MLClient, rest: Rest, folder: Path
) -> None:
    """Azure's registries say so; of workspaces nothing is written."""
    _data(client, folder)
    cloud.settings(recreates_deleted=0)
    assert rest.ask("DELETE", f"{rest.workspace}/data/images/versions/1").status_code == 200
    with pytest.raises(HttpResponseError, match="it cannot be recreated"):
        _data(client, folder)
    cloud.settings(recreates_deleted=1)
    _data(client, folder)


def test_names_in_ids_are_the_same_in_any_case(rest: Rest) -> None:
    """And come back as they were written first."""
    shouted = rest.workspace.replace("resourceGroups", "RESOURCEGROUPS").replace("/workspaces/", "/WorkSpaces/").upper()
    answer = rest.ask("GET", f"/subscriptions{shouted.removeprefix('/SUBSCRIPTIONS')}")
    assert answer.json()["id"] == rest.workspace


def test_a_provider_that_is_not_registered_makes_nothing(rest: Rest) -> None:
    """Until it is."""
    provider = rest.group.partition("/resourceGroups")[0] + "/providers/Microsoft.KeyVault"
    vault = f"{rest.group}/providers/Microsoft.KeyVault/vaults/kv-register"
    body = {"location": "westeurope", "properties": {}}
    rest.ask("POST", f"{provider}/unregister")
    assert rest.ask("GET", provider).json()["registrationState"] == "NotRegistered"
    assert rest.ask("PUT", vault, body).json()["error"]["code"] == "MissingSubscriptionRegistration"
    rest.ask("POST", f"{provider}/register")
    assert rest.ask("PUT", vault, body).status_code == 201
    assert rest.ask("DELETE", vault).status_code == 200
    assert rest.ask("PUT", vault, body).json()["error"]["code"] == "ConflictError"
    recovered = rest.ask("PUT", vault, {**body, "properties": {"createMode": "recover"}})
    assert recovered.status_code == 201


def test_what_lies_in_nothing_is_refused(rest: Rest) -> None:
    """A group, a workspace, a subscription: each level says so itself."""
    group = rest.group.rpartition("/")[0] + "/nowhere"
    found = {
        path: rest.ask("GET", path).json()["error"]["code"]
        for path in (
            f"{group}/providers/{ML}/workspaces/{NAME}", f"{rest.workspace}s/data",
            "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups",
            f"{rest.group}/providers/Microsoft.Compute/virtualMachines/x",
        )
    }  # fmt: skip
    assert list(found.values()) == [
        "ResourceGroupNotFound", "ResourceNotFound", "SubscriptionNotFound", "InvalidResourceType",
    ]  # fmt: skip


def test_a_list_comes_in_pages(cloud: AzureEmulator, client: MLClient, rest: Rest, folder: Path) -> None:
    """The SDK follows them; each page names the next."""
    for version in range(7):
        _data(client, folder, str(version))
    cloud.settings(page_size=3)
    cloud.mark()
    assert len(list(client.data.list("images"))) == 7
    assert len(cloud.calls("GET", "/data/images/versions")) == 3
    first = rest.ask("GET", f"{rest.workspace}/data/images/versions").json()
    assert len(first["value"]) == 3
    assert first["nextLink"].startswith(f"https://management.azure.com{rest.workspace}/data/images/versions?")


# -- what tests tell it -----------------------------------------------------------------------------------------------


def test_a_fault_is_met_so_often_and_only_where_it_is_meant(cloud: AzureEmulator, rest: Rest) -> None:
    """The SDK tries again what may be tried again."""
    cloud.fault(method="GET", path=f"/workspaces/{NAME}$", status=429, code="TooManyRequests", times=2)
    answers = [rest.ask("GET", rest.workspace).status_code for _ in range(3)]
    assert answers == [429, 429, 200]
    cloud.fault(path="/datastores", status=403, code="AuthorizationFailed", message="You may not.", times=None)
    refused = rest.ask("GET", f"{rest.workspace}/datastores")
    assert refused.json()["error"] == {"code": "AuthorizationFailed", "message": "You may not."}
    cloud.clear_faults()
    assert rest.ask("GET", f"{rest.workspace}/datastores").status_code == 200
    assert [call["fault"] for call in cloud.calls(path="/datastores")] == ["before", ""]


def test_a_fault_may_come_after_what_was_asked_was_done(cloud: AzureEmulator, rest: Rest) -> None:
    """The answer is lost, and the thing is there."""
    environment = f"{rest.workspace}/environments/train/versions/1"
    cloud.fault(method="PUT", path="/environments/", status=0, after=True)
    with pytest.raises(requests.ConnectionError):
        rest.ask("PUT", environment, {"properties": {"image": IMAGE}})
    assert rest.ask("GET", environment).status_code == 200
    assert [(call["status"], call["fault"]) for call in cloud.calls("PUT")] == [(0, "after")]


def test_a_fault_of_blobs_speaks_as_blob_storage_does(cloud: AzureEmulator, rest: Rest) -> None:
    """In XML, with its code in a header."""
    cloud.fault(path=r"\.blob\.", status=403, code="AuthorizationPermissionMismatch", times=None)
    with _container(rest, DefaultAzureCredential()) as container, pytest.raises(HttpResponseError) as error:
        container.upload_blob("x", b"y")
    assert error.value.status_code == 403
    assert getattr(error.value, "error_code", None) == "AuthorizationPermissionMismatch"


def test_a_reset_workspace_is_empty_and_still_works(
    cloud: AzureEmulator, client: MLClient, rest: Rest, folder: Path
) -> None:
    """Another workspace keeps what it has."""
    cloud.make_workspace("neighbour")
    _data(client, folder)
    neighbour = MLClient(DefaultAzureCredential(), cloud.subscription, cloud.resource_group, "neighbour")
    neighbour.environments.create_or_update(Environment(name="kept", version="1", image=IMAGE))
    assert {"data", "blobs"} <= cloud.state(NAME).keys()
    cloud.reset_workspace(NAME)
    assert cloud.state(NAME).keys().isdisjoint({"data", "blobs", "environments"})
    assert cloud.state("neighbour")["environments"] == ["kept:1"]
    _data(client, folder)
    assert cloud.state(NAME)["data"] == ["images:1"]


def test_a_second_emulator_is_another_world_and_ends_with_who_started_it(cloud: AzureEmulator, tmp_path: Path) -> None:
    """Also when that is killed: neither it nor Azurite stays behind."""
    script = (
        "import sys, pathlib, time; sys.path.insert(0, sys.argv[1])\n"
        "from azure_cloud.handle import AzureEmulator\n"
        "emulator = AzureEmulator.start(pathlib.Path(sys.argv[2]))\n"
        "emulator.make_workspace('other')\n"
        "print(emulator.pid, emulator.state()['workspaces'], flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "second")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, _, workspaces = starter.stdout.readline().partition(" ")
        assert workspaces.strip() == "['other']"
        family = [int(pid), *_children(int(pid))]
        assert len(family) >= 2
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{one}").exists() for one in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [one for one in family if Path(f"/proc/{one}").exists()]
    assert "other" not in cloud.state()["workspaces"]


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
