"""The local registry: MLflow's model registry on SQLite beside a store of model folders.

MLflow keeps names, versions and tags. It never loads a model: its flavours run code from files, ours are verified.
Looking a version up reads MLflow's tables without MLflow, whose import takes longer than the rest of `medimg predict`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from medimg.backends.identity import link_tree
from medimg.backends.resource import Resource
from medimg.errors import NotFoundError
from medimg.home import atomic_folder, locked, make_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Registry"]

_VERSIONS = """
    SELECT version.name, version.version, version.creation_time, tag.key, tag.value
    FROM model_versions AS version LEFT JOIN model_version_tags AS tag USING (name, version)
    WHERE version.current_stage <> 'Deleted_Internal'
    ORDER BY version.last_updated_time DESC, version.name, version.version DESC
"""


class Registry:
    """The registry under a home folder.

    Args:
        home: The folder.
    """

    # No figures about the user's work leave the machine.
    quiet: Mapping[str, str] = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}

    def __init__(self, home: Path) -> None:
        self._root = home / "registry"
        self._database = home / "mlflow.sqlite"
        self.uri = f"sqlite:///{self._database}"

    @cached_property
    def _client(self) -> MlflowClient:
        for name, value in self.quiet.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        make_folder(self._root.parent)
        # Two processes that make the database's tables at once would each fail half-way.
        with locked(self._root.parent / ".mlflow.lock"):
            client = MlflowClient(self.uri, self.uri)
            client.search_registered_models(max_results=1)
        make_folder(self._root)  # now that the tables are whole: where it is, `versions` reads them
        return client

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
        if not (self._root.exists() and self._database.exists()):
            return []
        # Read-only: whoever looks must not be the one who makes or changes a table.
        with closing(sqlite3.connect(f"file:{quote(str(self._database))}?mode=ro", uri=True)) as database:
            rows = database.execute(_VERSIONS).fetchall()
        created: dict[str, float] = {}
        tags: dict[str, dict[str, str]] = {}
        for name, version, milliseconds, tag, value in rows:
            id = f"{name}/{version}"
            created[id] = milliseconds / 1000
            tags.setdefault(id, {})[tag] = value
        return [_resource(id, created[id], tags[id]) for id in created]

    def describe(self, id: str) -> Resource:
        """Returns one version, by "name/version"."""
        for resource in self.versions():
            if resource.id == id:
                return resource
        raise NotFoundError(f"the local backend has no registered model {id!r}. See backend.models()")

    def folder(self, id: str) -> Path:
        """Returns the stored model folder of a version."""
        return self._root / str(self.describe(id).details["digest"])

    def delete(self, id: str) -> None:
        """Deletes a version, and its files if no other version has them.

        The model's name stays in the database, so that the number of a deleted version is not given again.
        """
        digest = self.describe(id).details["digest"]
        name, _, number = id.rpartition("/")
        self._client.delete_model_version(name, number)
        if not any(resource.details["digest"] == digest for resource in self.versions()):
            shutil.rmtree(self._root / digest, ignore_errors=True)


def _resource(id: str, created: float, tags: Mapping[str, str]) -> Resource:
    details = {"digest": tags["digest"], "job": tags.get("job", ""), "metrics": json.loads(tags.get("metrics", "{}"))}
    return Resource("model", id, "registered", created, details)
