"""Two processes at one endpoint, or Azure between two steps of one: nobody takes away what another has made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import quick_azureml
from azure_cloud.handle import AzureEmulator

from medimg.artifact import ModelFolder
from medimg.backends.azureml import endpoints as module
from medimg.backends.azureml.backend import AzureMLBackend
from medimg.backends.azureml.claims import Claim
from medimg.backends.azureml.deployments import Deployment
from medimg.backends.azureml.endpoints import Endpoints
from medimg.config import ServeConfig
from medimg.errors import AccessError, BackendError, ConfigError, EndpointError, NotFoundError
from medimg.progress import silent

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("subscription")]

WORKSPACE = "races"
API = "2024-10-01"
GATEWAY = r"inference\.ml\.azure\.com"


@pytest.fixture
def backend() -> AzureMLBackend:
    """The backend."""
    return quick_azureml.backend()


@pytest.fixture
def endpoints(backend: AzureMLBackend) -> Endpoints:
    """Its endpoints."""
    return backend._endpoints


@pytest.fixture
def other(trained: ModelFolder, tmp_path: Path) -> ModelFolder:
    """The same network at another threshold."""
    shutil.copytree(trained.path, tmp_path / "other")
    thresholds = dict.fromkeys(trained.record.thresholds, 0.02)
    return ModelFolder.seal(tmp_path / "other", trained.record.model_copy(update={"thresholds": thresholds}))


@pytest.fixture
def slow(subscription: AzureEmulator) -> Iterator[AzureEmulator]:
    """The emulator, where an operation takes a while."""
    subscription.settings(operation_seconds=2.0)
    yield subscription
    subscription.settings(operation_seconds=0.05)


def start(backend: AzureMLBackend, model: ModelFolder, config: ServeConfig | None = None) -> None:
    """Begins a deploy of "chest"."""
    config = config or ServeConfig()
    details = {"digest": model.digest, "config": config.model_dump(mode="json")}
    backend._deploy("chest", model.path, config, details)


def theirs(backend: AzureMLBackend) -> None:
    """Makes an endpoint "chest" as somebody else would."""
    body = {
        "location": backend.workspace.location,
        "tags": {"theirs": "yes"},
        "identity": {"type": "SystemAssigned"},
        "properties": {"authMode": "Key"},
    }
    backend.workspace.arm("PUT", f"{backend.workspace.id}/onlineEndpoints/chest", API, body, wait=True)


def claim_of(token: str, digest: str = "d" * 64) -> Claim:
    """Returns the claim of a deploy that goes on."""
    return Claim(token, digest, ServeConfig(ttl_hours=1).model_dump(mode="json"), owner=token)


# -- what the ender may do --------------------------------------------------------------------------------------------


def test_an_end_needs_an_identity_that_may_delete_endpoints(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """Whoever may not assign roles gets the identity from bootstrap, and nothing that it may do."""
    workspace = backend.workspace
    identity = workspace.arm("GET", workspace.ender_id, "2023-01-31")["properties"]["principalId"]
    scope = f"{workspace.group_id}/providers/Microsoft.Authorization/roleAssignments"
    for each in workspace.arm_list(scope, "2022-04-01", **{"$filter": f"principalId eq '{identity}'"}):
        workspace.arm("DELETE", each["id"], "2022-04-01")
    subscription.mark()
    try:
        with pytest.raises(ConfigError, match=r"onlineEndpoints/delete.*nothing was deployed.*medimg azure bootstrap"):
            start(backend, trained, ServeConfig(ttl_hours=2))
        assert subscription.calls(method="PUT") == []
    finally:
        subscription.make_ender()


# -- cleanup beside a deploy ------------------------------------------------------------------------------------------


def test_a_deploy_that_begins_while_leftovers_are_looked_for_keeps_its_end(
    subscription: AzureEmulator, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim and its workflow came after the claims were read."""
    found = endpoints._claims.all

    def all_but_the_last() -> dict[str, Claim]:
        claims = found()
        if "late" not in claims:
            endpoints._claims.write("late", claim_of("0000aaaa"), "")
            endpoints._deadlines.at("late", "0000aaaa", 1)
        return claims

    monkeypatch.setattr(endpoints._claims, "all", all_but_the_last)
    endpoints.delete_leftovers()
    assert subscription.state(WORKSPACE)["workflows"] == ["late-0000aaaa"]
    assert endpoints._claims.read("late")[0] is not None


def test_an_endpoint_that_is_being_deleted_keeps_its_end(
    slow: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """Azure may not succeed."""
    start(backend, trained, ServeConfig(ttl_hours=2))
    backend.endpoint("chest").wait()
    backend.workspace.arm("DELETE", f"{backend.workspace.id}/onlineEndpoints/chest", API)
    backend._endpoints.delete_leftovers()
    assert backend._endpoints._records.is_going("chest")
    assert len(slow.state(WORKSPACE)["workflows"]) == 1
    assert backend._endpoints._claims.read("chest")[0] is not None


def test_a_model_that_is_put_there_while_unused_ones_are_looked_for_stays(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, other: ModelFolder
) -> None:
    """What is deleted was there before anybody was asked what is used."""
    models = backend._models
    models.serve(trained.path, trained.digest)

    def used() -> set[str]:
        models.serve(other.path, other.digest)
        return set()

    models.delete_unused(used)
    assert subscription.state(WORKSPACE)["models"] == [f"medimg_served_{other.digest[:16]}:1"]
    assert backend.workspace.storage.list("models/") == backend.workspace.storage.list(f"models/{other.digest[:16]}/")


def test_a_version_that_is_deleted_leaves_the_files_of_a_deploy_that_has_begun(
    backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """It has claimed its name, and found the files there."""
    version = backend.register(trained, name="chest")
    backend._endpoints._claims.write("chest", claim_of("0000aaaa", trained.digest), "")
    version.delete()
    assert backend.workspace.storage.exists(f"models/{trained.digest[:16]}/digest.json")


def test_what_an_endpoint_mounts_has_its_files_again_where_another_deleted_them(
    backend: AzureMLBackend, trained: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asset is there, so that nothing is made, and the files went between the two looks."""
    models, storage, key = backend._models, backend.workspace.storage, f"models/{trained.digest[:16]}/"
    models.serve(trained.path, trained.digest)
    looked = models._ensure_container

    def look(name: str, *, ours: bool = False) -> None:
        storage.delete_prefix(key)
        looked(name, ours=ours)

    monkeypatch.setattr(models, "_ensure_container", look)
    models.serve(trained.path, trained.digest)
    assert storage.exists(f"{key}digest.json")


def test_code_and_environment_stay_where_somebody_deploys(
    subscription: AzureEmulator, backend: AzureMLBackend, endpoints: Endpoints, trained: ModelFolder
) -> None:
    """There is a claim, and nothing else yet."""
    endpoints._deployments.prepare(trained.path, trained.digest, silent)
    before = subscription.state(WORKSPACE)
    endpoints._claims.write("chest", claim_of("0000aaaa", trained.digest), "")
    backend.cleanup()
    after = subscription.state(WORKSPACE)
    for kind in ("codes", "environments", "models"):
        assert after[kind] == before[kind] != []
    endpoints._claims.delete("chest", "0000aaaa")
    backend.cleanup()
    assert not {"codes", "environments", "models"} & {
        kind for kind, names in subscription.state(WORKSPACE).items() if names
    }


def test_code_that_azure_does_not_delete_is_sent_again(
    subscription: AzureEmulator, backend: AzureMLBackend, endpoints: Endpoints, trained: ModelFolder
) -> None:
    """Its files are gone, and its asset is there or archived: they are sent again."""
    first = endpoints._deployments.prepare(trained.path, trained.digest, silent).code
    backend.workspace.storage.delete_prefix("serving/")
    assert endpoints._deployments.prepare(trained.path, trained.digest, silent).code == first
    assert len(backend.workspace.storage.list("serving/")) == 2
    subscription.fault(method="DELETE", path="/codes/", status=405, code="MethodNotAllowed", times=None)
    endpoints._deployments.delete_code(lambda: False)
    subscription.clear_faults()
    assert backend.workspace.storage.list("serving/") == []
    assert backend.deploy(trained, name="chest").status == "ready"


# -- one name, two endpoints ------------------------------------------------------------------------------------------


def test_a_claim_is_only_forgotten_by_its_own_deploy(endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by that of the endpoint before, and not where it has changed since it was read."""
    claims = endpoints._claims
    claims.write("chest", claim_of("0000bbbb"), "")
    claims.delete("chest", "0000aaaa")
    assert claims.read("chest")[0] is not None
    before = claims.read("chest")
    claims.renew("chest", "0000bbbb")
    with monkeypatch.context() as patch:
        patch.setattr(claims, "read", lambda _: before)
        claims.delete("chest", "0000bbbb")
    assert claims.read("chest")[0] is not None
    claims.delete("chest", "0000bbbb")
    assert claims.read("chest")[0] is None
    claims.delete("chest", "0000bbbb")


def test_who_waits_for_a_name_does_not_delete_what_another_makes_of_it(
    subscription: AzureEmulator,
    backend: AzureMLBackend,
    endpoints: Endpoints,
    trained: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was being deleted when it was looked at first, and is another's at the second look."""
    theirs(backend)
    told = endpoints._records.told
    going: list[dict[str, Any]] = [{"properties": {"provisioningState": "Deleting"}, "tags": {"medimg": "medimg"}}]
    monkeypatch.setattr(endpoints._records, "told", lambda name: going.pop() if going else told(name))
    subscription.mark()
    with pytest.raises(ConfigError, match="without the tag medimg=medimg"):
        start(backend, trained)
    assert subscription.calls(method="DELETE") == []


def test_deleting_ends_with_the_endpoint_that_was_meant(
    subscription: AzureEmulator, backend: AzureMLBackend, endpoints: Endpoints, trained: ModelFolder
) -> None:
    """Another deploy has taken the name since."""
    start(backend, trained)
    backend.endpoint("chest").wait()
    endpoints._delete_endpoint("chest", "0000aaaa", silent)
    assert backend.endpoint("chest").status == "ready"


def test_an_endpoint_that_was_made_while_the_model_was_sent_is_left_alone(
    subscription: AzureEmulator,
    backend: AzureMLBackend,
    endpoints: Endpoints,
    trained: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Azure's PUT would change it."""
    prepare = endpoints._deployments.prepare

    def prepared(*given: Any) -> Any:
        theirs(backend)
        return prepare(*given)

    monkeypatch.setattr(endpoints._deployments, "prepare", prepared)
    with pytest.raises(ConfigError, match="is taken by an endpoint without the tag"):
        start(backend, trained, ServeConfig(ttl_hours=2))
    told = endpoints._records.told("chest")
    assert told is not None
    assert told["tags"] == {"theirs": "yes"}
    assert subscription.state(WORKSPACE).get("workflows", []) == []


def test_whoever_settles_leaves_a_newer_deployment_of_the_same_slot_alone(
    subscription: AzureEmulator, backend: AzureMLBackend, endpoints: Endpoints, trained: ModelFolder, other: ModelFolder
) -> None:
    """It saw an older one, which another process has replaced since."""
    backend.deploy(trained, name="chest").update(other)
    start_details = {"digest": trained.digest, "config": ServeConfig().model_dump(mode="json")}
    backend._update("chest", trained.path, start_details)
    seen = endpoints._records.seen("chest")
    assert seen is not None and seen.newest is not None and seen.serving is not None
    assert (seen.serving.slot, seen.newest.slot) == ("green", "blue")
    before: Deployment = replace(seen.newest, token="0000aaaa")
    subscription.mark()
    endpoints._delete_deployment("chest", before, silent)
    endpoints._switch("chest", before)
    assert subscription.calls(method="DELETE") == subscription.calls(method="PUT") == []
    assert backend.endpoint("chest").wait().status == "ready"


# -- what Azure says --------------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_read_hides_nothing(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, tmp_path: Path
) -> None:
    """What failed is listed, with Azure's reason, and what an update left is deleted: it is billed."""
    shutil.copytree(trained.path, tmp_path / "broken")
    path = tmp_path / "broken" / "golden" / "golden.json"
    path.write_text(path.read_text().replace("0.", "0.9"))
    broken = ModelFolder.seal(tmp_path / "broken", trained.record)
    endpoint = backend.deploy(trained, name="chest")
    subscription.fault(path="/getLogs", status=403, code="AuthorizationFailed", times=None)
    with pytest.raises(EndpointError, match="ResourceNotReady"):
        endpoint.update(broken)
    assert backend.endpoint("chest").status == "ready"
    assert len(subscription.state(WORKSPACE)["deployments"]) == 1
    endpoint.delete()
    start(backend, broken)
    with pytest.raises(EndpointError, match="ResourceNotReady"):
        backend.endpoint("chest").wait()
    assert [each.status for each in backend.endpoints()] == ["failed"]


def test_what_azure_refuses_for_long_is_said_with_its_words(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be something that waiting does not mend."""
    start(backend, trained)
    backend.endpoint("chest").wait()
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.0)
    words = "The endpoint is held by an audit."
    subscription.fault(
        method="DELETE", path="/onlineEndpoints/chest$", status=409, code="Conflict", message=words, times=None
    )
    with pytest.raises(BackendError, match=f"Try again later.*{words}"):
        backend.endpoint("chest").delete()


def test_a_deployment_waits_for_an_endpoint_that_is_being_changed(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """Azure has another status for it than 409."""
    words = "Cannot create a deployment at this time because the endpoint is in Updating provisioning state."
    subscription.fault(method="PUT", path="/deployments/blue$", status=400, code="BadRequest", message=words, times=2)
    assert backend.deploy(trained, name="chest").status == "ready"


def test_a_name_that_was_just_freed_may_take_azure_a_while(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """For some minutes it knows neither that the endpoint is there nor that it is not; later that is an error."""
    path = "/onlineEndpoints/chest$"
    subscription.fault(method="PUT", path=path, status=404, code="NotFound", message="Not Found")
    with pytest.raises(NotFoundError):
        start(backend, trained)
    with backend.deploy(trained, name="chest"):
        pass
    subscription.fault(method="PUT", path=path, status=404, code="NotFound", message="Not Found")
    words = "There is already an endpoint with this name, and endpoint names must be unique within a region."
    subscription.fault(method="PUT", path=path, status=400, code="BadRequest", message=words)
    assert backend.deploy(trained, name="chest").status == "ready"


def test_a_key_that_changed_while_the_endpoint_was_busy_is_asked_for_again(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, phantoms: Path
) -> None:
    """The first refusal of a key is not the first answer."""
    image = min(phantoms.glob("test/NODULE/*")).read_bytes()
    with backend.deploy(trained, name="chest"):
        subscription.fault(path=GATEWAY, status=503, code="ServerBusy")
        subscription.fault(path=GATEWAY, status=401, code="key_auth_bad_header")
        assert backend._invoke("chest", image)["digest"] == trained.digest
        subscription.fault(path=GATEWAY, status=401, code="key_auth_bad_header", times=None)
        with pytest.raises(AccessError, match="does not accept this login"):
            backend._invoke("chest", image)
