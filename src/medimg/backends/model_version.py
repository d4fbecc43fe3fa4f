"""`ModelVersion`: one version of a model in a backend's registry."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from medimg.artifact import ModelFolder
from medimg.backends.resource import Resource
from medimg.errors import ModelFolderError

if TYPE_CHECKING:
    from medimg.backends.base import Backend

__all__ = ["ModelVersion", "version_of"]


class ModelVersion:
    """One version of a registered model.

    Attributes:
        backend: Whose registry.
        name: Of the registered model.
        version: "1", "2", …
        digest: SHA-256 of the model folder.
        metrics: Headline figures.
        job: The job that trained it.
        approval: "pending", "approved" or "rejected" where the registry has it, else "".
        created: Seconds since the epoch.
    """

    def __init__(self, backend: Backend, resource: Resource) -> None:
        self.backend = backend
        self.name, _, self.version = resource.id.rpartition("/")
        self.digest: str = resource.details["digest"]
        self.metrics: Mapping[str, float | None] = resource.details.get("metrics", {})
        self.job: str = resource.details.get("job", "")
        self.approval: str = resource.details.get("approval", "")
        self.created = resource.created

    @property
    def id(self) -> str:
        """The name and the version, such as chest/2."""
        return f"{self.name}/{self.version}"

    def load(self) -> ModelFolder:
        """Fetches the model and verifies it against the registered digest."""
        folder = self.backend._fetched("model", self.id)
        try:
            return ModelFolder.load(folder, digest=self.digest)
        except ModelFolderError:
            # The local copy may be the damaged one: the next call fetches it anew.
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def delete(self) -> None:
        """Deletes this version from the registry."""
        self.backend._remove("model", self.id)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items() if value is not None)
        return f"ModelVersion({self.backend.name!r}, {self.id!r}, {figures})"


def version_of(model: object) -> str:
    """Returns the name and number of a registered version, which an endpoint's answers carry; "" of other models."""
    return model.id if isinstance(model, ModelVersion) else ""
