"""The local registry: MLflow's model registry on SQLite beside a store of model folders.

MLflow keeps names, versions and tags. It never loads a model: its flavours run code from files, ours are verified.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medimg.backends.identity import link_tree
from medimg.backends.resource import Resource
from medimg.errors import NotFoundError
from medimg.home import atomic_folder, locked, make_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Registry"]


class Registry:
    """The registry under a home folder.

    Args:
        home: The folder.
    """

    # No figures about the user's work leave the machine.
    quiet: Mapping[str, str] = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}

    def __init__(self, home: Path) -> None:
        self._root = home / "registry"
        self.uri = f"sqlite:///{home / 'mlflow.sqlite'}"

    @cached_property
    def _client(self) -> MlflowClient:
        for name, value in self.quiet.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        make_folder(self._root)
        # Two processes that make the database's tables at once would each fail half-way.
        with locked(self._root.parent / ".mlflow.lock"):
            client = MlflowClient(self.uri, self.uri)
            client.search_registered_models(max_results=1)
        return client

    def _exists(self) -> bool:
        return self._root.exists()

    def register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        """Stores a model folder and returns its new version."""
        from mlflow.exceptions import MlflowException

        client = self._client
        store = self._root / details["digest"]
        if not store.exists():
            with atomic_folder(store) as draft:
                link_tree(folder, draft)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {"digest": details["digest"], "job": details["job"], "metrics": json.dumps(details["metrics"])}
        return str(client.create_model_version(name, store.as_uri(), tags=tags).version)

    def versions(self) -> list[Resource]:
        """Returns every version of every registered model."""
        if not self._exists():
            return []
        found: list[Resource] = []
        token = None
        while True:
            page = self._client.search_model_versions(max_results=1000, page_token=token)
            found.extend(self._resource(version) for version in page)
            token = page.token
            if not token:
                return found

    def describe(self, id: str) -> Resource:
        """Returns one version, by "name/version"."""
        return self._resource(self._version(id))

    def folder(self, id: str) -> Path:
        """Returns the stored model folder of a version."""
        return self._root / str(self._version(id).tags["digest"])

    def delete(self, id: str) -> None:
        """Deletes a version, and its files if no other version has them.

        The model's name stays in the database, so that the number of a deleted version is not given again.
        """
        version = self._version(id)
        self._client.delete_model_version(version.name, version.version)
        left = self.versions()
        digest = version.tags["digest"]
        if not any(resource.details["digest"] == digest for resource in left):
            shutil.rmtree(self._root / digest, ignore_errors=True)

    def _version(self, id: str) -> Any:
        from mlflow.exceptions import MlflowException

        name, _, number = id.rpartition("/")
        try:
            if self._exists() and name and number.isdigit():
                return self._client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        raise NotFoundError(f"the local backend has no registered model {id!r}. See backend.models()")

    @staticmethod
    def _resource(version: Any) -> Resource:
        details = {
            "digest": version.tags["digest"],
            "job": version.tags.get("job", ""),
            "metrics": json.loads(version.tags.get("metrics", "{}")),
        }
        created = (version.creation_timestamp or time.time() * 1000) / 1000
        return Resource("model", f"{version.name}/{version.version}", "registered", created, details)
