"""Managed online endpoints: made, asked, changed and ended, and what is left when any of it goes wrong."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import quick_azureml
from azure_cloud.handle import AzureEmulator

from medimg.artifact import ModelFolder
from medimg.backends.azureml.backend import AzureMLBackend
from medimg.backends.azureml.claims import Claim
from medimg.config import ServeConfig
from medimg.errors import (
    AccessError,
    AlreadyExistsError,
    BackendError,
    ConfigError,
    EndpointError,
    ImageRejected,
    NotFoundError,
)
from medimg.inference.request_lines import read

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("subscription")]

WORKSPACE = "endpoints"
DENIED = {"status": 403, "code": "AuthorizationFailed", "message": "does not have authorization to perform action"}


@pytest.fixture
def backend() -> AzureMLBackend:
    """The backend."""
    return quick_azureml.backend()


@pytest.fixture
def other(trained: ModelFolder, tmp_path: Path) -> ModelFolder:
    """The same network at another threshold."""
    shutil.copytree(trained.path, tmp_path / "other")
    thresholds = dict.fromkeys(trained.record.thresholds, 0.02)
    return ModelFolder.seal(tmp_path / "other", trained.record.model_copy(update={"thresholds": thresholds}))


@pytest.fixture
def drifting(trained: ModelFolder, tmp_path: Path) -> ModelFolder:
    """A model that does not answer as it was trained to: its golden inputs were recorded with other probabilities."""
    shutil.copytree(trained.path, tmp_path / "drifting")
    path = tmp_path / "drifting" / "golden" / "golden.json"
    golden = {name: [1.0 - value for value in values] for name, values in json.loads(path.read_text()).items()}
    path.unlink()
    path.write_text(json.dumps(golden))
    return ModelFolder.seal(tmp_path / "drifting", trained.record)


@pytest.fixture
def image(phantoms: Path) -> bytes:
    """One encoded test image."""
    return min(phantoms.glob("test/NODULE/*")).read_bytes()


def left(azure: AzureEmulator) -> dict[str, list[str]]:
    """Returns what there is of endpoints, beside the code and environment that the next one takes again."""
    state = azure.state(WORKSPACE)
    kinds = ("endpoints", "deployments", "workflows", "autoscale", "models")
    found = {kind: state[kind] for kind in kinds if state.get(kind)}
    stored = quick_azureml.backend().workspace.storage.list()
    blobs = [key for key in stored if not key.startswith(("code/", "serving/"))]
    return found | ({"blobs": blobs} if blobs else {})


def details_of(model: ModelFolder, config: ServeConfig | None = None) -> dict[str, Any]:
    """Returns what a backend is told of a model that it shall serve."""
    return {"digest": model.digest, "config": (config or ServeConfig()).model_dump(mode="json")}


@contextmanager
def asked_all_the_time(backend: AzureMLBackend, name: str, image: bytes) -> Iterator[list[str]]:
    """Asks an endpoint without a pause, and gives the digests that answered; what fails is raised at the end."""
    digests: list[str] = []
    failures: list[BaseException] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            try:
                digests.append(str(backend._invoke(name, image)["digest"]))
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield digests
    finally:
        end.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


# -- life -------------------------------------------------------------------------------------------------------------


def test_an_endpoint_answers_as_the_local_model_and_leaves_nothing(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, image: bytes
) -> None:
    """From deploy to delete: by handle, by its address with its key alone, and seen from another process."""
    with backend.deploy(trained, name="chest") as endpoint:
        own = trained.predict(image)
        assert endpoint.status == "ready"
        found = endpoint.predict(image)
        assert (found.label, dict(found.probabilities)) == (own.label, pytest.approx(dict(own.probabilities), abs=1e-6))

        details = quick_azureml.backend().endpoint("chest")._resource.details
        assert details["digest"] == trained.digest
        assert "--name chest" in details["key_command"]
        workspace = backend.workspace
        key = workspace.ml.online_endpoints.get_keys("chest").primary_key
        request = urllib.request.Request(details["url"], image, {"Authorization": f"Bearer {key}"})  # noqa: S310 - https
        # An opener of its own: the module's keeps the proxies of whoever opened an address first.
        with urllib.request.build_opener().open(request) as response:
            assert json.loads(response.read())["label"] == own.label

        endpoint.predict_many([image] * 8)
        assert any("golden inputs agree" in line for line in endpoint.logs())
        deadline = time.monotonic() + 30  # the line of the other process may be on its way
        while len(ids := {line["id"] for line in read(endpoint.logs()) if line["medimg"] == "request"}) < 2:
            assert time.monotonic() < deadline, ids
            time.sleep(0.2)
        assert len(ids) == 2, "the file, and what predict sends of it, count once each, whichever process answered"
        lines, position = backend._log("endpoint", "chest", 0)
        assert backend._log("endpoint", "chest", position - 1)[0][0] == lines[-1]
        assert [each.name for each in backend.endpoints()] == ["chest"]
        assert backend.deploy(trained, name="chest").name == "chest"
        with pytest.raises(AlreadyExistsError, match="other settings"):
            backend.deploy(trained, ServeConfig(ttl_hours=3), name="chest")
    assert left(subscription) == {}
    with pytest.raises(NotFoundError, match="no endpoint 'chest'"):
        backend.endpoint("chest")
    endpoint.delete()


def test_what_the_server_refuses_is_refused_with_its_reason(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """Azure makes 424 of it; what is too large is not sent at all."""
    with backend.deploy(trained, name="chest"):
        with pytest.raises(ImageRejected) as refused:
            backend._invoke("chest", b"hello")
        assert refused.value.code == "not-an-image"
        subscription.mark()
        with pytest.raises(EndpointError, match=r"10\.5 MB as it is sent"):
            backend._invoke("chest", bytes(11 * 10**6))
        assert subscription.calls(path=r"inference\.ml\.azure\.com") == []


def test_requests_survive_throttling_lost_connections_and_a_new_key(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, image: bytes
) -> None:
    """A prediction may be computed twice."""
    with backend.deploy(trained, name="chest") as endpoint:
        endpoint.predict(image)
        for status in (429, 503, 0):
            subscription.fault(path=r"inference\.ml\.azure\.com", status=status, times=2)
            assert endpoint.predict(image).label
        subscription.clear_faults()
        id = f"{backend.workspace.id}/onlineEndpoints/chest/regenerateKeys"
        backend.workspace.arm("POST", id, "2024-10-01", {"keyType": "Primary"}, wait=True)
        subscription.mark()
        assert endpoint.predict(image).label
        answers = [call["status"] for call in subscription.calls(path=r"inference\.ml\.azure\.com")]
        assert answers == [401, 200]


def test_an_endpoint_is_asked_with_a_login_where_it_has_no_key(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, image: bytes
) -> None:
    """Who asks decides how, by what the endpoint takes; another backend's setting does not matter."""
    with quick_azureml.backend(auth="entra").deploy(trained, name="chest"):
        resource = backend._describe("endpoint", "chest")
        assert resource.details["key_command"] == ""
        assert backend._invoke("chest", image)["digest"] == trained.digest
        subscription.fault(path=r"inference\.ml\.azure\.com", status=403, code="access_denied", times=None)
        with pytest.raises(AccessError, match="AzureML Data Scientist"):
            backend._invoke("chest", image)


# -- changing ---------------------------------------------------------------------------------------------------------


def test_requests_are_answered_while_the_model_changes(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, other: ModelFolder, image: bytes
) -> None:
    """By one model or the other, without a gap, there and back again."""
    endpoint = backend.deploy(trained, name="chest")
    subscription.mark()
    with asked_all_the_time(quick_azureml.backend(), "chest", image) as digests:
        endpoint.update(other)
        endpoint.update(trained)
    assert {call["status"] for call in subscription.calls(path=r"inference\.ml\.azure\.com")} == {200}
    assert set(digests) == {trained.digest, other.digest}
    assert digests[-1] == trained.digest
    state = left(subscription)
    assert len(state["deployments"]) == 1
    assert len(state["models"]) == 1


def test_a_model_that_does_not_become_ready_changes_nothing(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, drifting: ModelFolder, image: bytes
) -> None:
    """The old one answers on, the new one is deleted, and its log is in the error."""
    endpoint = backend.deploy(trained, name="chest")
    before = left(subscription)
    with (
        asked_all_the_time(backend, "chest", image) as digests,
        pytest.raises(EndpointError, match=r"litert gives .* \(ResourceNotReady: User container has crashed"),
    ):
        endpoint.update(drifting)
    assert set(digests) == {trained.digest}
    assert left(subscription) == before
    found = quick_azureml.backend().endpoint("chest")._resource
    assert (found.status, found.details["digest"]) == ("ready", trained.digest)
    assert found.details["reason"].startswith("litert gives")
    assert any("error: litert gives" in line for line in backend.endpoint("chest").logs())


def test_an_update_whose_process_died_is_finished_by_whoever_looks(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, other: ModelFolder, image: bytes
) -> None:
    """Also by an update to what was served before."""
    backend.deploy(trained, name="chest")
    backend._update("chest", other.path, details_of(other))
    endpoint = quick_azureml.backend().endpoint("chest")
    assert endpoint.status == "updating"
    endpoint.update(trained)
    assert backend._invoke("chest", image)["digest"] == trained.digest
    assert len(left(subscription)["deployments"]) == 1


def test_of_two_updates_at_once_one_is_refused(
    subscription: AzureEmulator,
    backend: AzureMLBackend,
    trained: ModelFolder,
    other: ModelFolder,
    drifting: ModelFolder,
    image: bytes,
) -> None:
    """One model is served in the end, and one deployment is there."""
    backend.deploy(trained, name="chest")

    def update(model: ModelFolder) -> BaseException | None:
        try:
            quick_azureml.backend()._update("chest", model.path, details_of(model))
        except BackendError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(update, (other, drifting)))
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExistsError", "NoneType"]
    backend.endpoint("chest").wait()
    served = trained if isinstance(results[0], AlreadyExistsError) else other
    assert backend._invoke("chest", image)["digest"] == served.digest
    assert len(left(subscription)["deployments"]) == 1


@pytest.mark.parametrize("what", [r"/models/[^/]*/versions/1$", "/deployments/green$"])
def test_an_update_that_is_refused_leaves_the_endpoint_as_it_was(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, other: ModelFolder, what: str
) -> None:
    """And the next one succeeds."""
    endpoint = backend.deploy(trained, name="chest")
    before = left(subscription)
    subscription.fault(method="PUT", path=what, times=None, **DENIED)
    with pytest.raises(AccessError):
        endpoint.update(other)
    subscription.clear_faults()
    assert left(subscription) == before
    assert endpoint.status == "ready"
    endpoint.update(other)
    assert endpoint._resource.details["digest"] == other.digest


def test_the_range_of_machines_goes_with_the_model_that_answers(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, other: ModelFolder
) -> None:
    """There is one setting, of the deployment that answers, and none for an endpoint of a fixed size."""
    config = ServeConfig(max_instances=3)
    endpoint = backend.deploy(trained, config, name="chest")
    assert subscription.state(WORKSPACE)["autoscale"] == [f"medimg-{WORKSPACE}-chest-blue"]
    endpoint.update(other)
    assert subscription.state(WORKSPACE)["autoscale"] == [f"medimg-{WORKSPACE}-chest-green"]
    endpoint.delete()
    assert left(subscription) == {}


# -- time -------------------------------------------------------------------------------------------------------------


def test_an_endpoint_ends_when_its_time_is_up_though_nobody_is_there(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, other: ModelFolder
) -> None:
    """Not before, also after an update; and its workflow ends itself."""
    endpoint = backend.deploy(trained, ServeConfig(ttl_hours=2), name="chest")
    endpoint.update(other)
    assert len(left(subscription)["workflows"]) == 1
    subscription.advance(1.9 * 3600)
    assert endpoint.status == "ready"
    subscription.advance(0.2 * 3600)
    state = left(subscription)
    assert "endpoints" not in state
    assert "deployments" not in state
    assert quick_azureml.backend().endpoints() == ()
    subscription.advance(0.5 * 3600)
    assert "workflows" not in left(subscription)
    backend.cleanup()
    assert left(subscription) == {}


def test_an_end_that_azure_refuses_is_tried_again(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """Until it has worked."""
    backend.deploy(trained, ServeConfig(ttl_hours=2), name="chest")
    subscription.fault(method="DELETE", path="/onlineEndpoints/chest$", status=409, code="Conflict", times=2)
    subscription.advance(2.1 * 3600)
    assert left(subscription)["endpoints"] == ["chest"]
    subscription.advance(0.5 * 3600)
    subscription.advance(0.5 * 3600)
    assert "endpoints" not in left(subscription)


def test_the_end_of_a_dead_endpoint_does_not_end_the_next_of_its_name(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """It was deleted in the portal, and its workflow and claim stayed."""
    backend.deploy(trained, ServeConfig(ttl_hours=2), name="again")
    backend.workspace.ml.online_endpoints.begin_delete("again").result()
    assert len(left(subscription)["workflows"]) == 1
    backend.deploy(trained, name="again")
    subscription.advance(3 * 3600)
    assert backend.endpoint("again").status == "ready"
    assert "workflows" not in left(subscription)


def test_an_end_needs_the_identity_that_bootstrap_makes(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """What would not end is not deployed."""
    subscription.mark()
    subscription.fault(
        method="GET", path=r"userAssignedIdentities/medimg-ender$", status=404, code="ResourceNotFound", times=None
    )
    with pytest.raises(ConfigError, match="medimg azure bootstrap"):
        backend.deploy(trained, ServeConfig(ttl_hours=2), name="chest")
    assert subscription.calls(method="PUT") == []


# -- names ------------------------------------------------------------------------------------------------------------


def test_of_two_deploys_at_once_one_is_refused(
    subscription: AzureEmulator,
    trained: ModelFolder,
    other: ModelFolder,
    image: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a typed error, though both have seen that the name is free; the other's endpoint is whole."""
    both = threading.Barrier(2)

    def deploy(model: ModelFolder) -> BaseException | None:
        backend = quick_azureml.backend()
        told, waiting = backend._endpoints._records.told, [both]

        def told_to_both(name: str) -> Any:
            found = told(name)
            if waiting:
                waiting.pop().wait(60)
            return found

        monkeypatch.setattr(backend._endpoints._records, "told", told_to_both)
        try:
            backend.deploy(model, name="chest")
        except BackendError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(deploy, (trained, other)))
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExistsError", "NoneType"]
    assert "serves another model" in str(next(result for result in results if result is not None))
    served = other if results[1] is None else trained
    assert quick_azureml.backend()._invoke("chest", image)["digest"] == served.digest
    assert left(subscription)["deployments"] == ["chest:blue"]


def test_two_that_deploy_the_same_get_one_endpoint(subscription: AzureEmulator, trained: ModelFolder) -> None:
    """Whoever comes second waits for the first one's."""
    with ThreadPoolExecutor(2) as pool:
        deploys = [pool.submit(quick_azureml.backend().deploy, trained, name="chest") for _ in range(2)]
        assert [deploy.result().status for deploy in deploys] == ["ready", "ready"]
    assert left(subscription)["deployments"] == ["chest:blue"]


def test_a_name_that_another_has_is_refused(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """In this workspace, or in another of the region: nothing of it is touched, nothing of ours is left."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    subscription.make_workspace("another")
    elsewhere = quick_azureml.backend(workspace="another").workspace.ml.online_endpoints
    here = backend.workspace.ml.online_endpoints
    try:
        elsewhere.begin_create_or_update(ManagedOnlineEndpoint(name="theirs", auth_mode="key")).result()
        with pytest.raises(ConfigError, match="in westeurope there can be one endpoint of a name"):
            backend.deploy(trained, name="theirs")
        here.begin_create_or_update(ManagedOnlineEndpoint(name="beside", auth_mode="key")).result()
        with pytest.raises(ConfigError, match="without the tag medimg=medimg"):
            backend.deploy(trained, name="beside")
        with pytest.raises(NotFoundError):
            backend.endpoint("beside")
        backend.cleanup()
        assert left(subscription) == {"endpoints": ["beside"]}
        assert elsewhere.get("theirs").name == "theirs"
    finally:
        subscription.reset_workspace("another")


def test_a_name_whose_deploy_died_can_be_taken(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """When it is long dead; before, it is taken for alive."""
    claims = backend._endpoints._claims
    young = Claim("00000000", trained.digest, details_of(trained)["config"], owner="00000000")
    claims.write("chest", young, "")
    assert backend.endpoint("chest").status == "starting"
    with pytest.raises(AlreadyExistsError):
        backend._deploy("chest", trained.path, ServeConfig(), details_of(trained))
    claims.write("chest", replace(young, since=time.time() - 700), claims.read("chest")[1])
    with pytest.raises(NotFoundError):
        backend.endpoint("chest")
    assert backend.deploy(trained, name="chest").status == "ready"


def test_what_cannot_be_is_refused_before_anything_is_uploaded(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """Settings that Azure has not, each with what it has instead."""
    subscription.mark()
    wrong = {
        "kind='serverless'.*ttl_hours": ServeConfig(kind="serverless"),
        "kind='lambda'": ServeConfig(kind="lambda"),
        "http_api.*already is an HTTPS address": ServeConfig(http_api=True),
        "url_hosts": ServeConfig(url_hosts=("images.example",)),
        "auth='none'": ServeConfig(auth="none"),
        "memory_mb.*instance=": ServeConfig(memory_mb=2048),
        "min_instances=0": ServeConfig(min_instances=0),
        "max_instances=1": ServeConfig(min_instances=2),
    }
    for words, config in wrong.items():
        with pytest.raises(ConfigError, match=words):
            backend.deploy(trained, config, name="wrong")
    with pytest.raises(ConfigError, match="auth='password'"):
        quick_azureml.backend(auth="password")
    assert subscription.calls() == []


# -- faults -----------------------------------------------------------------------------------------------------------

CREATING = {
    "claim": r"blob\.core\.windows\.net/.*/endpoints/chest\.json$",
    "model's files": r"blob\.core\.windows\.net/.*/models/.*/digest\.json$",
    "model": r"/models/medimg_served_[^/]*$",
    "model's version": r"/models/medimg_served_[^/]*/versions/1$",
    "workflow": r"/Microsoft\.Logic/workflows/",
    "endpoint": r"/onlineEndpoints/chest$",
    "deployment": r"/deployments/blue$",
    "autoscale": r"/autoscalesettings/",
}


@pytest.mark.parametrize("what", CREATING)
def test_a_deploy_that_is_refused_leaves_nothing(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, what: str
) -> None:
    """Each call that makes something, refused in turn."""
    subscription.fault(method="PUT", path=CREATING[what], times=None, **DENIED)
    with pytest.raises(AccessError):
        backend.deploy(trained, ServeConfig(ttl_hours=2, max_instances=2), name="chest")
    subscription.clear_faults()
    assert left(subscription) == {}


def test_an_endpoint_whose_requests_cannot_be_sent_anywhere_is_deleted_again(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """The second change of the endpoint is refused: it would be billed, and answer nobody."""
    config = ServeConfig(ttl_hours=2)
    backend._deploy("chest", trained.path, config, details_of(trained, config))
    subscription.fault(method="PUT", path="/onlineEndpoints/chest$", times=None, **DENIED)
    with pytest.raises(AccessError):
        backend.endpoint("chest")._wait(undo=True)
    subscription.clear_faults()
    assert left(subscription) == {}


def test_a_deploy_whose_answers_are_lost_succeeds(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, image: bytes
) -> None:
    """Each thing is asked for twice, and made once."""
    for path in CREATING.values():
        subscription.fault(method="PUT", path=path, status=503, code="ServerBusy", after=True)
    endpoint = backend.deploy(trained, ServeConfig(ttl_hours=2, max_instances=2), name="chest")
    assert endpoint.predict(image).label
    state = left(subscription)
    assert [len(state[kind]) for kind in ("deployments", "workflows", "autoscale", "models")] == [1, 1, 1, 1]


def test_a_model_that_never_becomes_ready_fails_with_its_log(
    subscription: AzureEmulator, backend: AzureMLBackend, drifting: ModelFolder
) -> None:
    """What is billed is named, and can be deleted."""
    with pytest.raises(EndpointError, match=r"litert gives .* \(ResourceNotReady: User container has crashed"):
        backend.deploy(drifting, name="chest")
    assert backend.endpoint("chest").status == "failed"
    with pytest.raises(AlreadyExistsError, match="has failed"):
        backend.deploy(drifting, name="chest")
    backend.cleanup()
    assert left(subscription) == {}


def test_a_machine_without_quota_says_what_to_do(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """Azure tells it when the deployment has failed."""
    subscription.quota("Standard DSv2 Family", 0)
    with pytest.raises(EndpointError, match="too few cores left of this kind"):
        backend.deploy(trained, name="chest")


def test_what_a_killed_deploy_has_left_is_cleaned_up(
    subscription: AzureEmulator,
    backend: AzureMLBackend,
    trained: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was killed before each thing that it makes; nothing is undone, and all is long ago."""
    endpoints = backend._endpoints

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    steps: tuple[tuple[Any, str], ...] = (
        (endpoints._deployments, "prepare"),
        (endpoints._deadlines, "at"),
        (endpoints, "_make"),
        (endpoints._deployments, "make"),
        (endpoints._claims, "release"),
    )
    config = ServeConfig(ttl_hours=2)
    for owner, step in steps:
        with monkeypatch.context() as patch:
            patch.setattr(endpoints, "_undo_deploy", lambda *_, **__: None)
            patch.setattr(owner, step, killed)
            with pytest.raises(KeyboardInterrupt):
                backend._deploy("chest", trained.path, config, details_of(trained, config))
        claim, etag = endpoints._claims.read("chest")
        assert claim is not None
        endpoints._claims.write("chest", replace(claim, since=time.time() - 700), etag)
        quick_azureml.backend().cleanup()
        assert left(subscription) == {}, step


def test_who_needs_neither_an_end_nor_more_machines_needs_no_rights_for_them(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder, other: ModelFolder
) -> None:
    """Workflows and autoscale settings are of other providers, which a subscription may not even have switched on."""
    subscription.fault(path=r"/Microsoft\.(Logic|Insights)/", times=None, **DENIED)
    with backend.deploy(trained, name="chest") as endpoint:
        endpoint.update(other)
    assert left(subscription) == {}


def test_deleting_waits_for_what_azure_is_doing(
    subscription: AzureEmulator, backend: AzureMLBackend, trained: ModelFolder
) -> None:
    """An endpoint whose deployment is on its way cannot be deleted yet."""
    backend._deploy("chest", trained.path, ServeConfig(), details_of(trained))
    backend.endpoint("chest").delete()
    assert left(subscription) == {}
