"""Registered models, and the models that endpoints serve: custom model assets over folders in Blob Storage.

models/{digest}/           the sealed files of a model, once for all assets that name it
versions/{name}/{number}   the digest of whoever has this number of a name; left empty when the version is deleted

What an endpoint serves is an asset of its own, so that a version can be deleted while it is served.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from medimg.backends.azureml.assets import ensure, make_one
from medimg.backends.azureml.claims import Claims
from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.identity import NAME
from medimg.backends.resource import Resource
from medimg.errors import AlreadyExistsError, MedimgError, NotFoundError
from medimg.progress import Display, Report, silent

__all__ = ["Models"]

_API = "2024-10-01"
_ID = re.compile(rf"({NAME.pattern})/([1-9]\d*)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_AT_ONCE = 8
_MOST_METRICS = 40
_MOST_DELETED = 100  # numbers that are tried one after the other, where Azure gives none a second time
_DEAD_SECONDS = 3600.0  # after which a registration that has not ended was killed


class Models:
    """The models of a workspace.

    Args:
        workspace: Whose.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    def _assets(self) -> Any:
        return self._workspace.ml.models

    # -- registered models --------------------------------------------------------------------------------------------

    def register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        """Uploads a model and makes a model asset of it; returns its version."""
        digest, storage = str(details["digest"]), self._workspace.storage
        self._ensure_container(name)
        metrics = dict(list(details["metrics"].items())[:_MOST_METRICS])
        properties = {"medimg-digest": digest, "medimg-metrics": json.dumps(metrics)}
        if details["job"]:
            properties["medimg-job"] = str(details["job"])
        about = f"medimg model {digest[:12]} of job {details['job'] or 'unknown'}"

        def make(number: str) -> str:
            try:
                with Display(name) as display:
                    self._upload(folder, digest, display)
                self._make(name, number, folder, digest, about, properties)
            except BaseException:
                with suppress(MedimgError):
                    storage.put(_claim(name, number), b"")
                raise
            return number

        return make_one((self._number(name, digest) for _ in range(_MOST_DELETED)), make)

    def _number(self, name: str, digest: str) -> str:
        """Returns a number for a version that nobody has had; from now on the digest is needed."""
        storage, folder = self._workspace.storage, _claim(name, "")
        claimed = [key.removeprefix(folder) for key in storage.list(folder)]
        taken = [version.version for version in self._versions(name)]
        number = max((int(text) for text in (*claimed, *taken) if text.isdecimal()), default=0) + 1
        while not storage.claim(_claim(name, str(number)), digest.encode()):
            number += 1
        return str(number)

    def describe(self, id: str) -> Resource:
        """Returns a registered version."""
        found = _ID.fullmatch(id)
        resource = None
        if found:
            with suppress(NotFoundError), translated(f"looking for the model {id!r}"):
                resource = self._resource(self._assets.get(found[1], found[2]))
        if resource is None:
            raise NotFoundError(f"AzureML has no registered model {id!r} of ours. See backend.models()")
        return resource

    def _resource(self, asset: Any) -> Resource | None:
        """Returns an asset as a registered version; None: it is none of ours."""
        told: Mapping[str, str] = asset.properties or {}
        digest = told.get("medimg-digest", "")
        if not self._workspace.owns(asset.tags) or not _DIGEST.fullmatch(digest):
            return None
        details: dict[str, Any] = {
            "digest": digest,
            "job": told.get("medimg-job", ""),
            "metrics": json.loads(told.get("medimg-metrics", "{}")),
            "approval": "",
            "url": self._workspace.page(f"model/{asset.name}:{asset.version}/details"),
        }
        created = asset.creation_context.created_at.timestamp()
        return Resource("model", f"{asset.name}/{asset.version}", "registered", created, details)

    def all(self) -> list[Resource]:
        """Returns all registered versions of ours."""
        return self._registered(name for name in self._containers() if NAME.fullmatch(name))

    def _registered(self, names: Iterable[str]) -> list[Resource]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = [asset for assets in pool.map(self._versions, names) for asset in assets]
        return [resource for resource in map(self._resource, found) if resource is not None]

    def fetch(self, id: str, target: Path, report: Report) -> None:
        """Downloads a registered model folder."""
        digest = str(self.describe(id).details["digest"])
        self._workspace.storage.download_folder(f"models/{digest[:16]}/", target, report)

    def delete(self, id: str) -> None:
        """Deletes a version, and its files where nothing else needs them; its number is never given again."""
        digest = str(self.describe(id).details["digest"])
        name, _, number = id.partition("/")
        self._drop(f"{name}/versions/{number}")
        self._workspace.storage.put(_claim(name, number), b"")
        containers = self._containers()
        needed = self._needed(self._registered(name for name in containers if NAME.fullmatch(name)))
        needed |= {claim.digest for claim in Claims(self._workspace).all().values()}
        if self._served(digest) not in containers and digest not in needed:
            self._forget(digest[:16])

    def delete_empty(self) -> None:
        """Deletes the names that have no versions; their numbers begin anew."""
        names = {name for name in self._containers() if NAME.fullmatch(name)}
        used = {resource.id.partition("/")[0] for resource in self._registered(names)} | self._begun().keys()
        for name in names - used:
            self._drop(name)
        for name in {key.split("/")[1] for key in self._workspace.storage.list("versions/")} - used:
            self._workspace.storage.delete_prefix(_claim(name, ""))

    def _begun(self) -> dict[str, set[str]]:
        """Returns the names that somebody may be registering a version of at this moment, and the models' digests."""
        storage, found = self._workspace.storage, dict[str, set[str]]()
        for key, written in storage.written("versions/").items():
            if time.time() - written < _DEAD_SECONDS:
                with suppress(NotFoundError):
                    if digest := storage.get(key).decode():
                        found.setdefault(key.split("/")[1], set()).add(digest)
        return found

    def _needed(self, registered: Iterable[Resource]) -> set[str]:
        """Returns the digests of registered versions, and of those that are being registered."""
        return {resource.details["digest"] for resource in registered}.union(*self._begun().values())

    # -- what endpoints serve -----------------------------------------------------------------------------------------

    def serve(self, folder: Path, digest: str, report: Report = silent) -> str:
        """Uploads a model for endpoints, unless it is there; returns the id of the asset that they mount."""
        name = self._served(digest)
        self._upload(folder, digest, report)
        self._ensure_container(name)
        about = "A model that endpoints serve"
        id = ensure(
            self._workspace, f"models/{name}",
            lambda version: self._make(name, version, folder, digest, about, {}),
        )  # fmt: skip
        self._upload(folder, digest)  # another may have deleted them as unused, before it was said what this is for
        return id

    def _served(self, digest: str) -> str:
        # With underscores, which no registered model's name has.
        return f"{self._workspace.prefix}_served_{digest[:16]}"

    def delete_unused(self, used: Callable[[], set[str]]) -> None:
        """Deletes what neither a registered version nor an endpoint needs.

        Args:
            used: Returns the digests of the models that endpoints serve, or are about to; asked when it is known what
                there is, so that nothing newer is lost.
        """
        containers = self._containers()
        folders = {key.split("/")[1] for key in self._workspace.storage.list("models/")}
        names, digests = {name for name in containers if NAME.fullmatch(name)}, used()
        serving = {self._served(digest) for digest in digests}
        for name in containers:
            if name not in names | serving:
                for version in self._versions(name):
                    self._drop(f"{name}/versions/{version.version}")
                self._drop(name)
        for folder in folders - {digest[:16] for digest in digests | self._needed(self._registered(names))}:
            self._forget(folder)

    # -- assets and their files ---------------------------------------------------------------------------------------

    def _containers(self) -> list[str]:
        """Returns the names of our assets, whether they have versions or not."""
        with translated("listing the models"):
            # Not by the SDK, which leaves the tags out.
            found = list(self._workspace.arm_list(f"{self._workspace.id}/models", _API, listViewType="All"))
        return [str(one["name"]) for one in found if self._workspace.owns(one["properties"].get("tags"))]

    def _versions(self, name: str) -> list[Any]:
        try:
            with translated(f"listing the versions of {name!r}"):
                return list(self._assets.list(name, list_view_type="All"))
        except NotFoundError:  # deleted meanwhile
            return []

    def _ensure_container(self, name: str, *, ours: bool = False) -> None:
        """Makes what versions of a name are kept in, with our tags, by which it is found.

        Args:
            name: Of the model.
            ours: Whether it is known that what is there is ours: Azure makes one without tags with the first version.

        Raises:
            AlreadyExistsError: Somebody else has it.
        """
        id = f"{self._workspace.id}/models/{name}"
        try:
            with translated(f"looking for the model {name!r}"):
                found = self._workspace.arm("GET", id, _API)
        except NotFoundError:
            found = None
        if found is not None and self._workspace.owns(found["properties"].get("tags")):
            return
        if found is not None and not ours:
            raise AlreadyExistsError(f"{name!r} is a model that medimg did not make. Pass another name=")
        with translated(f"making the model {name!r}"):
            properties = {"description": "A classifier of medical images", "tags": self._workspace.tag_map()}
            self._workspace.arm("PUT", id, _API, {"properties": properties})

    def _make(
        self, name: str, version: str, folder: Path, digest: str, about: str, properties: Mapping[str, str]
    ) -> str:
        """Makes an asset of files that are there; returns its id."""
        from azure.ai.ml.entities import Model

        asset = Model(
            name=name, version=version, type="custom_model", description=about, properties=dict(properties),
            path=self._workspace.storage.uri(f"models/{digest[:16]}"), tags=self._workspace.tag_map(),
        )  # fmt: skip
        with translated(f"registering {name!r}"):
            made = self._assets.create_or_update(asset)
        # Another process may have deleted both as unused, before this asset was there to need them.
        self._ensure_container(name, ours=True)
        self._upload(folder, digest)
        return str(made.id)

    def _drop(self, what: str) -> None:
        with suppress(NotFoundError), translated(f"deleting the model {what!r}"):
            self._workspace.arm("DELETE", f"{self._workspace.id}/models/{what}", _API)

    def _upload(self, folder: Path, digest: str, report: Report = silent) -> None:
        """Uploads a model's sealed files, unless they are there; what does not belong to it stays here."""
        storage, key = self._workspace.storage, f"models/{digest[:16]}/"
        if storage.exists(f"{key}digest.json"):
            return
        names = json.loads((folder / "digest.json").read_text())["files"]
        storage.upload_files({f"{key}{name}": folder / name for name in names}, report)
        # The last, so that where it is everything is.
        storage.upload_file(folder / "digest.json", f"{key}digest.json")

    def _forget(self, digest: str) -> None:
        # The first, so that nobody takes what is left for a whole model.
        self._workspace.storage.delete_prefix(f"models/{digest}/digest.json")
        self._workspace.storage.delete_prefix(f"models/{digest}/")


def _claim(name: str, number: str) -> str:
    return f"versions/{name}/{number}"
