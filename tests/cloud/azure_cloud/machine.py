"""What a job and a deployment run on: an image of their environment, their code, and files from Blob Storage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from machines.containers import Containers

from .assets import asset
from .azurite import Place
from .cloud import Cloud
from .images import Images, packages_of
from .kinds import Record
from .workspaces import place

__all__ = ["Machine"]

_SHORT = re.compile(r"azureml:([^/:]+):([^/:]+)")
_VERSION = re.compile(r"(?:azureml:)?/subscriptions/.+/(data|models|codes)/[^/]+/versions/[^/]+", re.IGNORECASE)
_CONTENT = {"data": "dataUri", "models": "modelUri", "codes": "codeUri"}


@dataclass(frozen=True)
class Machine:
    """What makes containers.

    Attributes:
        cloud: The emulator.
        images: What they run.
        containers: Those there are.
    """

    cloud: Cloud
    images: Images
    containers: Containers

    def region(self, workspace: str) -> str:
        """Returns a workspace's region, by its ARM id."""
        record = self.cloud.arm.find(workspace)
        return str(record["location"]) if record else ""

    def asset(self, workspace: str, id: str, kind: str) -> Record:
        """Returns a version of an asset; AzureError where there is none.

        Args:
            workspace: The ARM id of the workspace that asks.
            id: The version's ARM id, or "azureml:NAME:VERSION".
            kind: The word in ids, such as "environments".
        """
        short = _SHORT.fullmatch(id)
        return asset(self.cloud, f"{workspace}/{kind}/{short[1]}/versions/{short[2]}" if short else id)

    def place(self, workspace: str, uri: str, kind: str = "data") -> Place:
        """Returns where in Blob Storage something is; AzureError where there is no such thing.

        Args:
            workspace: The ARM id of the workspace that asks.
            uri: A version of an asset, or an address of a datastore or a blob.
            kind: What a short name is of.
        """
        found = _VERSION.fullmatch(uri)
        if found is None and not _SHORT.fullmatch(uri):
            return place(self.cloud, workspace, uri)
        kind = found[1].lower() if found else kind
        return self.place(workspace, self.asset(workspace, uri, kind)["properties"][_CONTENT[kind]])

    def build(self, workspace: str, environment: str) -> str:
        """Returns the image of an environment.

        Raises:
            ImageBuildError: Its packages cannot be installed.
            AzureError: There is no such environment.
        """
        record = self.asset(workspace, environment, "environments")
        return self.images.build(packages_of(record["properties"].get("condaFile")))

    def bring_code(self, workspace: str, code: str, target: Path) -> None:
        """Downloads a version of code."""
        target.mkdir(parents=True, exist_ok=True)
        self.cloud.azurite.download(self.place(workspace, code, "codes"), target)
