"""Endpoints as Azure and our claims describe them, and what that means for who asks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from medimg.backends.azureml.claims import Claim, Claims
from medimg.backends.azureml.deadlines import ENDPOINT_API, MARK
from medimg.backends.azureml.deployments import Deployment, Deployments, created
from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.identity import NAME
from medimg.backends.resource import Resource, Status
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, ConfigError, NotFoundError

__all__ = ["Records", "Seen", "state_of", "token_of"]

_BUSY = ("Creating", "Updating", "Deleting")
_CONFIG = "medimg-config"  # the tag that holds the settings
_AT_ONCE = 8

Told = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """An endpoint of ours, as it was when it was looked at.

    Attributes:
        told: Azure's record.
        deployments: Those that are not being deleted, oldest first.
        claim: Ours; None: it is lost.
    """

    told: Told
    deployments: tuple[Deployment, ...]
    claim: Claim | None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.told["name"])

    @property
    def busy(self) -> bool:
        """Whether Azure is doing something to it, and refuses everything else."""
        return state_of(self.told) in _BUSY

    @property
    def serving(self) -> Deployment | None:
        """The deployment that the requests go to; None: none answers yet."""
        traffic = self.told["properties"].get("traffic") or {}
        return next((each for each in self.deployments if traffic.get(each.slot)), None)

    @property
    def newest(self) -> Deployment | None:
        """The deployment that was made last."""
        return self.deployments[-1] if self.deployments else None

    @property
    def waiting(self) -> Deployment | None:
        """The newest deployment, if it answers and the requests only have to be sent there."""
        newest = self.newest
        return newest if newest is not None and newest.state == "Succeeded" and newest != self.serving else None

    @property
    def config(self) -> ServeConfig:
        """Its settings."""
        told = (self.told.get("tags") or {}).get(_CONFIG)
        return ServeConfig.model_validate_json(told) if told else ServeConfig()


class Records:
    """What is known of the endpoints of a workspace.

    Args:
        workspace: Whose.
        deployments: Theirs.
        claims: Theirs.
    """

    def __init__(self, workspace: Workspace, deployments: Deployments, claims: Claims) -> None:
        self._workspace = workspace
        self._deployments = deployments
        self._claims = claims

    def id(self, name: str) -> str:
        """Returns the ARM id of an endpoint."""
        return f"{self._workspace.id}/onlineEndpoints/{name}"

    def tags(self, token: str, config: Mapping[str, Any]) -> dict[str, str]:
        """Returns the tags of an endpoint."""
        return self._workspace.tag_map(token=token, config=json.dumps(config, separators=(",", ":")))

    def told(self, name: str) -> dict[str, Any] | None:
        """Returns Azure's record of an endpoint, whosever, also while it is being deleted; None: there is none."""
        if not NAME.fullmatch(name):
            return None
        try:
            with translated(f"looking for the endpoint {name!r}"):
                return self._workspace.arm("GET", self.id(name), ENDPOINT_API)
        except NotFoundError:
            return None

    def is_going(self, name: str) -> bool:
        """Tells whether an endpoint, whosever, is being deleted."""
        told = self.told(name)
        return told is not None and not _stays(told)

    def require_free(self, name: str) -> None:
        """Makes sure that there is no endpoint of a name.

        Raises:
            AlreadyExistsError: There is one of ours.
            ConfigError: There is one of somebody else's.
        """
        told = self.told(name)
        if told is None:
            return
        if self._workspace.owns(told.get("tags")):
            raise AlreadyExistsError(f"an endpoint {name!r} exists")
        raise ConfigError(
            f"the name {name!r} is taken by an endpoint without the tag medimg={self._workspace.prefix}. Pass another "
            "name="
        )

    def seen(self, name: str) -> Seen | None:
        """Returns an endpoint of ours as it is; None where there is none, or not for long."""
        told = self.told(name)
        if told is None or not _stays(told) or not self._workspace.owns(told.get("tags")):
            return None
        return self._with_deployments(told)

    def _with_deployments(self, told: Told) -> Seen:
        name = str(told["name"])
        deployments = tuple(each for each in self._deployments.of(name) if each.state != "Deleting")
        return Seen(told, deployments, self._claims.read(name)[0])

    def ours(self) -> list[dict[str, Any]]:
        """Returns Azure's records of all endpoints of ours, also of those that are being deleted."""
        with translated("listing the endpoints"):
            found = list(self._workspace.arm_list(self.id("").rstrip("/"), ENDPOINT_API))
        return [told for told in found if self._workspace.owns(told.get("tags"))]

    def all(self) -> list[Seen]:
        """Returns all endpoints of ours."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._with_deployments, filter(_stays, self.ours())))

    def digests(self) -> set[str]:
        """Returns the digests of the models that endpoints serve, or are about to."""
        found = {claim.digest for claim in self._claims.all().values()}
        for told in self.ours():
            found |= {each.digest for each in self._deployments.of(str(told["name"]))}
        return found

    # -- what it means ------------------------------------------------------------------------------------------------

    def missing(self, name: str) -> NotFoundError:
        """Returns the error that there is no such endpoint."""
        return NotFoundError(
            f"there is no endpoint {name!r} of medimg's in the workspace {self._workspace.name!r}. See "
            "backend.endpoints()"
        )

    def being_made(self, name: str) -> Resource:
        """Returns an endpoint that somebody is making, before Azure knows of it.

        Raises:
            NotFoundError: Nobody is.
        """
        claim = self._claims.read(name)[0] if NAME.fullmatch(name) and self.told(name) is None else None
        if claim is None or not claim.alive:
            raise self.missing(name)
        details = {"digest": claim.digest, "config": dict(claim.config), "url": ""}
        return Resource("endpoint", name, "starting", claim.since, details)

    def resource(self, seen: Seen, reason: str = "") -> Resource:
        """Returns an endpoint as a backend describes it.

        Args:
            seen: The endpoint.
            reason: Why the requests could not be sent to its newest deployment.
        """
        properties, shown = seen.told["properties"], seen.serving or seen.newest
        status, why = self._status(seen)
        if reason:
            status, why = "ready", reason
        details: dict[str, Any] = {
            "digest": shown.digest if shown is not None else seen.claim.digest if seen.claim is not None else "",
            "config": seen.config.model_dump(mode="json"),
            "url": str(properties.get("scoringUri") or ""),
            "key_command": self._key_command(seen.name) if properties["authMode"].lower() == "key" else "",
        }
        if why:
            details["reason"] = why
        return Resource("endpoint", seen.name, status, created(seen.told), details)

    def _status(self, seen: Seen) -> tuple[Status, str]:
        """Returns what an endpoint is doing, and why it, or its last update, failed."""
        newest, serving = seen.newest, seen.serving
        if newest is None:
            if seen.claim is not None and seen.claim.alive and state_of(seen.told) != "Failed":
                return "starting", ""
            return "failed", "its deploy was cut off before anything was served"
        if serving is None:
            return ("failed", self._deployments.reason(seen.name, newest)) if newest.failed else ("starting", "")
        if newest.failed and newest != serving:
            return "ready", self._deployments.reason(seen.name, newest)
        if newest != serving or seen.busy:
            return "updating", ""
        return "ready", seen.claim.failure if seen.claim is not None else ""

    def _key_command(self, name: str) -> str:
        workspace = self._workspace
        return (
            f"az ml online-endpoint get-credentials --name {name} --resource-group {workspace.resource_group} "
            f"--workspace-name {workspace.name} --subscription {workspace.subscription} --query primaryKey "
            "--output tsv"
        )


def _stays(told: Told) -> bool:
    return state_of(told) != "Deleting"


def state_of(told: Told) -> str:
    """Returns what Azure says of an endpoint, such as "Succeeded"."""
    return str(told["properties"].get("provisioningState") or "Succeeded")


def token_of(told: Told) -> str:
    """Returns the token of the deploy that made an endpoint."""
    return str((told.get("tags") or {}).get(MARK, ""))
