"""Registered models and served ones: numbers are given once, and files kept as long as something needs them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from medimg.artifact import ModelFolder
from medimg.config import ServeConfig
from medimg.errors import AccessError, AlreadyExistsError, BackendError, NotFoundError
from medimg.progress import silent

pytest.importorskip("azure.ai.ml")

import quick_azureml

from medimg.backends.azureml import models as models_module
from medimg.backends.azureml.models import Models
from medimg.backends.azureml.workspace import Workspace

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

WORKSPACE = "ws-models"
API = "2024-10-01"


@pytest.fixture
def workspace(subscription: AzureEmulator) -> Workspace:
    """This module's own workspace, with nothing in it."""
    return Workspace()


@pytest.fixture
def models(workspace: Workspace) -> Models:
    """The models of an empty workspace."""
    return Models(workspace)


@pytest.fixture
def unforgiving(subscription: AzureEmulator) -> Iterator[AzureEmulator]:
    """An Azure that never makes a version again that was deleted."""
    subscription.settings(recreates_deleted=0)
    yield subscription
    subscription.settings(recreates_deleted=1)


def sealed(folder: Path, text: str = "weights") -> tuple[Path, dict[str, Any]]:
    """Returns a model folder and what is told of it; beside the sealed files one lies there that is not."""
    files = {"medimg.json": b"{}", "model.keras": text.encode(), "golden/images/0.png": b"png", "empty": b""}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "digest.json").write_text(json.dumps({"digest": digest, "files": dict.fromkeys(files, "")}))
    (folder / "looks.json").write_text("[]")
    return folder, {"digest": digest, "job": "chest-0123456789-1", "metrics": {"auroc": 0.93, "ece": None}}


def content(folder: Path) -> dict[str, bytes]:
    """Returns every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def left(azure: AzureEmulator) -> dict[str, list[str]]:
    """Returns the models and blobs that there are."""
    return {kind: names for kind, names in azure.state(WORKSPACE).items() if kind in ("models", "blobs")}


# -- registered models ------------------------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was_registered(models: Models, workspace: Workspace, tmp_path: Path) -> None:
    """With what is known of it, in another process too; what does not belong to it stays here."""
    folder, details = sealed(tmp_path / "model")
    assert models.register("chest", folder, details) == "1"
    (found,) = Models(Workspace()).all()
    assert (found.kind, found.id, found.status) == ("model", "chest/1", "registered")
    assert found == models.describe("chest/1")
    assert found.created > 1.7e9
    assert found.details == {
        **details, "approval": "", "url": f"https://ml.azure.com/model/chest:1/details?wsid={workspace.id}"
    }  # fmt: skip
    models.fetch("chest/1", tmp_path / "back", silent)
    (folder / "looks.json").unlink()
    assert content(tmp_path / "back") == content(folder)


def test_a_second_version_of_the_same_content_sends_no_file(
    azure: AzureEmulator, models: Models, workspace: Workspace, tmp_path: Path
) -> None:
    """The files are there once; a number is a new blob of a few bytes."""
    folder, details = sealed(tmp_path / "model")
    models.register("chest", folder, details)
    files = workspace.storage.list("models/")
    azure.mark()
    assert models.register("chest", folder, details) == "2"
    assert models.register("lung", folder, details) == "1"
    assert workspace.storage.list("models/") == files
    written = [str(call["path"]).partition("/medimg/")[2] for call in azure.calls("PUT", r"\.blob\.")]
    assert written == ["versions/chest/2", "versions/lung/1"]


def test_twenty_registrations_at_once_are_twenty_versions(models: Models, tmp_path: Path) -> None:
    """Each with its own number, and all are listed."""
    folders = [sealed(tmp_path / str(number), f"weights {number % 3}") for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda given: models.register("crowd", *given), folders))
    assert sorted(map(int, made)) == list(range(1, 21))
    listed = {resource.id: resource.details["digest"] for resource in models.all()}
    assert listed == {
        f"crowd/{version}": details["digest"] for version, (_, details) in zip(made, folders, strict=True)
    }


def test_a_deleted_number_is_never_given_again(models: Models, workspace: Workspace, tmp_path: Path) -> None:
    """Also when it was the highest, the only one, and by another process."""
    folder, details = sealed(tmp_path / "model")
    for expected in ("1", "2"):
        assert models.register("chest", folder, details) == expected
    models.delete("chest/2")
    assert [resource.id for resource in models.all()] == ["chest/1"]
    models.delete("chest/1")
    models.delete_unused(set)
    assert models.all() == []
    assert Models(Workspace()).register("chest", folder, details) == "3"
    models.fetch("chest/3", tmp_path / "back", silent)
    for gone in ("chest/1", "chest/2", "lung/1", "chest", "chest/0", "../chest/1", "chest/latest"):
        with pytest.raises(NotFoundError, match=r"chest|lung"):
            models.describe(gone)
        with pytest.raises(NotFoundError):
            models.delete(gone)


def test_files_are_kept_as_long_as_a_version_or_an_endpoint_needs_them(
    azure: AzureEmulator, models: Models, workspace: Workspace, tmp_path: Path
) -> None:
    """And other models' files whatever happens."""
    storage = workspace.storage
    folder, details = sealed(tmp_path / "model")
    other, others = sealed(tmp_path / "other", "other weights")
    key = f"models/{details['digest'][:16]}/digest.json"
    models.register("chest", folder, details)
    models.register("lung", folder, details)
    models.register("skin", other, others)
    models.delete("chest/1")
    assert storage.exists(key)
    served = models.serve(folder, details["digest"])
    models.delete("lung/1")
    assert storage.exists(key)
    models.delete_unused(lambda: {details["digest"]})
    assert storage.exists(key)
    assert models._assets.get(*served.split("/")[-3::2]).id == served
    models.delete_unused(set)
    assert storage.list(f"models/{details['digest'][:16]}/") == []
    assert [resource.id for resource in models.all()] == ["skin/1"]
    models.fetch("skin/1", tmp_path / "back", silent)
    models.delete("skin/1")
    assert workspace.storage.list("models/") == []
    models.delete_empty()
    assert left(azure) == {}


def test_a_name_that_somebody_else_has_is_refused(models: Models, workspace: Workspace, tmp_path: Path) -> None:
    """Their models are neither listed, nor changed, nor deleted."""
    folder, details = sealed(tmp_path / "model")
    id = f"{workspace.id}/models/theirs"
    workspace.arm("PUT", id, API, {"properties": {"tags": {"owner": "radiology"}}})
    with pytest.raises(AlreadyExistsError, match=r"'theirs' is a model that medimg did not make. Pass another name="):
        models.register("theirs", folder, details)
    with pytest.raises(AlreadyExistsError):
        Models(Workspace(prefix="medimg-2")).register("theirs", folder, details)
    models.delete_unused(set)
    models.delete_empty()
    assert workspace.arm("GET", id, API)["properties"]["tags"] == {"owner": "radiology"}
    assert models.all() == []


def test_two_prefixes_in_a_workspace_are_kept_apart(models: Models, workspace: Workspace, tmp_path: Path) -> None:
    """They may serve the same model; a registered name belongs to one of them."""
    folder, details = sealed(tmp_path / "model")
    others = Models(Workspace(prefix="medimg-2"))
    models.register("chest", folder, details)
    assert others.register("lung", folder, details) == "1"
    with pytest.raises(AlreadyExistsError):
        others.register("chest", folder, details)
    assert models.serve(folder, details["digest"]) != others.serve(folder, details["digest"])
    models.delete("chest/1")
    models.delete_unused(set)
    models.delete_empty()
    assert [resource.id for resource in others.all()] == ["lung/1"]
    others.fetch("lung/1", tmp_path / "back", silent)


def test_a_version_with_a_forged_digest_is_none_of_ours(models: Models, workspace: Workspace, tmp_path: Path) -> None:
    """A digest becomes the name of a folder."""
    folder, details = sealed(tmp_path / "model")
    models.register("chest", folder, details)
    body = workspace.arm("GET", f"{workspace.id}/models/chest/versions/1", API)["properties"]
    for number, digest in (("7", "../../jobs"), ("8", "")):
        changed = {
            "modelType": "custom_model", "modelUri": body["modelUri"], "tags": body["tags"],
            "properties": {"medimg-digest": digest},
        }  # fmt: skip
        workspace.arm("PUT", f"{workspace.id}/models/chest/versions/{number}", API, {"properties": changed})
    assert [resource.id for resource in models.all()] == ["chest/1"]
    with pytest.raises(NotFoundError, match="no registered model"):
        models.fetch("chest/7", tmp_path / "back", silent)
    assert models.register("chest", folder, details) == "9", "their numbers are taken all the same"


# -- when something goes wrong ----------------------------------------------------------------------------------------


def test_an_answer_that_is_lost_makes_no_second_version(
    azure: AzureEmulator, models: Models, workspace: Workspace, tmp_path: Path
) -> None:
    """Of every call in turn: the asset, its name, its number, its files."""
    for number, path in enumerate(
        (r"/models/chest$", r"/models/chest/versions/", r"/medimg/versions/chest/", r"/medimg/models/.*digest\.json"), 1
    ):
        folder, details = sealed(tmp_path / str(number), f"weights {number}")
        azure.fault(method="PUT", path=path, status=503, code="ServerBusy", after=True)
        assert models.register("chest", folder, details) == str(number)
    assert sorted(resource.id for resource in models.all()) == ["chest/1", "chest/2", "chest/3", "chest/4"]


def test_a_registration_that_failed_leaves_what_cleanup_removes(
    azure: AzureEmulator, models: Models, tmp_path: Path
) -> None:
    """Refused at each call in turn; the next registration has a higher number."""
    folder, details = sealed(tmp_path / "model")
    for path in (r"/models/chest$", r"/medimg/versions/", r"/medimg/models/.*model\.keras", r"/models/chest/versions/"):
        azure.fault(method="PUT", path=path, status=403, code="AuthorizationFailed", times=None)
        with pytest.raises(AccessError):
            models.register("chest", folder, details)
        azure.clear_faults()
    assert models.all() == []
    models.delete_unused(set)
    models.delete_empty()
    assert left(azure) == {}
    assert models.register("chest", folder, details) == "1"


def test_an_upload_that_was_cut_is_no_whole_model(
    azure: AzureEmulator, models: Models, workspace: Workspace, tmp_path: Path
) -> None:
    """Its digest is sent last; the next registration sends what is missing."""
    folder, details = sealed(tmp_path / "model")
    azure.fault(method="PUT", path=r"model\.keras", status=403, code="AuthorizationFailed", times=None)
    with pytest.raises(AccessError):
        models.register("chest", folder, details)
    azure.clear_faults()
    assert not workspace.storage.exists(f"models/{details['digest'][:16]}/digest.json")
    assert models.register("chest", folder, details) == "2"
    models.fetch("chest/2", tmp_path / "back", silent)
    assert (tmp_path / "back/model.keras").read_bytes() == b"weights"


def test_what_is_being_registered_is_not_taken_for_unused(
    models: Models, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process that ends an endpoint, deletes the same model, or cleans up: between files and asset."""
    folder, details = sealed(tmp_path / "model")
    models.register("chest", folder, details)
    make = Models._make

    def late(self: Models, *given: Any) -> str:
        others = Models(Workspace())
        others.delete("chest/1")
        others.delete_unused(set)
        others.delete_empty()
        return make(self, *given)

    monkeypatch.setattr(Models, "_make", late)
    assert models.register("chest", folder, details) == "2"
    assert [resource.id for resource in models.all()] == ["chest/2"]
    models.fetch("chest/2", tmp_path / "back", silent)
    assert (tmp_path / "back/model.keras").read_bytes() == b"weights"


def test_files_that_are_gone_all_the_same_are_sent_again(
    models: Models, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registration leaves no version without files behind."""
    folder, details = sealed(tmp_path / "model")
    ensure = Models._ensure_container

    def late(self: Models, name: str, *, ours: bool = False) -> None:
        ensure(self, name, ours=ours)
        if ours:
            workspace.storage.delete_prefix("models/")

    monkeypatch.setattr(Models, "_ensure_container", late)
    models.register("chest", folder, details)
    models.fetch("chest/1", tmp_path / "back", silent)
    assert (tmp_path / "back/model.keras").read_bytes() == b"weights"


def test_what_a_killed_registration_left_is_removed_an_hour_later(
    azure: AzureEmulator, models: Models, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it may go on."""
    folder, details = sealed(tmp_path / "model")
    workspace.storage.claim("versions/chest/1", details["digest"].encode())
    models._upload(folder, details["digest"])
    there = left(azure)
    models.delete_unused(set)
    models.delete_empty()
    assert left(azure) == there
    monkeypatch.setattr(models_module, "_DEAD_SECONDS", 0.0)
    models.delete_unused(set)
    models.delete_empty()
    assert left(azure) == {}


# -- what endpoints serve ---------------------------------------------------------------------------------------------


def test_what_an_endpoint_serves_is_an_asset_of_its_own_and_made_once(
    azure: AzureEmulator, models: Models, workspace: Workspace, tmp_path: Path
) -> None:
    """By any number at once; no user sees it among the models."""
    folder, details = sealed(tmp_path / "model")
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: models.serve(folder, details["digest"]), range(4)))
    (id,) = made
    assert id.startswith(f"{workspace.id}/models/medimg_served_")
    told = workspace.arm("GET", id, API)["properties"]
    assert told["modelUri"].endswith(f"/datastores/workspaceblobstore/paths/medimg/models/{details['digest'][:16]}")
    assert models.all() == []
    azure.mark()
    assert models.serve(folder, details["digest"]) == id
    assert azure.calls("PUT", r"\.blob\.") == []
    with pytest.raises(NotFoundError):
        models.describe(f"{id.split('/')[-3]}/1")


def test_a_large_model_is_told_of_while_it_is_sent(models: Models, tmp_path: Path) -> None:
    """And while it is fetched."""
    folder, details = sealed(tmp_path / "model")
    (folder / "model.keras").write_bytes(os.urandom(3_000_000))
    events: list[Any] = []
    models.serve(folder, details["digest"], events.append)
    models.register("chest", folder, details)
    models.fetch("chest/1", tmp_path / "back", events.append)
    assert {event.stage for event in events} == {"uploading", "downloading"}
    assert (events[-1].done, events[-1].total) == (4, 4)


# -- where no version is made twice -----------------------------------------------------------------------------------


def test_a_model_that_was_served_before_is_served_again(
    unforgiving: AzureEmulator, models: Models, workspace: Workspace, tmp_path: Path
) -> None:
    """Under another number each time; what is there is found by its name, and nothing is left of any."""
    folder, details = sealed(tmp_path / "model")
    seen = set()
    for _ in range(4):
        id = models.serve(folder, details["digest"])
        unforgiving.mark()
        assert Models(Workspace()).serve(folder, details["digest"]) == id
        assert unforgiving.calls("PUT") == []
        assert workspace.arm("GET", id, API)["properties"]["tags"] == {"medimg": "medimg"}
        seen.add(id)
        models.delete_unused(set)
        models.delete_empty()
        assert left(unforgiving) == {}
    assert len(seen) == 4


def test_a_name_that_was_cleaned_up_takes_the_next_number(
    unforgiving: AzureEmulator, models: Models, tmp_path: Path
) -> None:
    """Its numbers would begin anew."""
    folder, details = sealed(tmp_path / "model")
    for expected in ("1", "2", "3"):
        assert models.register("chest", folder, details) == expected
        models.delete(f"chest/{expected}")
        models.delete_empty()
        assert left(unforgiving) == {}
    assert models.register("chest", folder, details) == "4"
    models.fetch("chest/4", tmp_path / "back", silent)


def test_an_azure_that_refuses_every_number_is_not_asked_for_ever(
    azure: AzureEmulator, models: Models, tmp_path: Path
) -> None:
    """Its words are what is raised."""
    folder, details = sealed(tmp_path / "model")
    said = "Asset x was deleted at noon, it cannot be recreated. Please try again with a different version."
    azure.fault(method="PUT", path="/versions/[^/]+$", status=400, code="BadRequest", message=said, times=None)
    azure.mark()
    with pytest.raises(BackendError, match="deleted at noon"):
        models.serve(folder, details["digest"])
    assert len(azure.calls("PUT", r"/models/[^/]+/versions/")) == 6


@pytest.mark.slow
def test_the_same_model_is_deployed_again_after_everything_was_deleted(
    unforgiving: AzureEmulator, trained: ModelFolder
) -> None:
    """The model and the environment that the endpoint runs in have versions that were not there before."""
    backend = quick_azureml.backend()
    for _ in range(2):
        with backend.deploy(trained, ServeConfig(ttl_hours=1), name="again") as endpoint:
            assert endpoint.status == "ready"
            assert len(unforgiving.state(WORKSPACE)["environments"]) == 1
        backend.cleanup()
        state = unforgiving.state(WORKSPACE)
        assert not state.get("models") and not state.get("environments")
