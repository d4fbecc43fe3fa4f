"""Managed online endpoints and their deployments: what Azure Resource Manager says of them and does with them."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterable
from typing import Any

from .calls import Answer, AzureError, Request, user_error
from .deployment import Lines, Server, seconds
from .kinds import ML, Address, Change, Kind, Operation, Record
from .machine import Machine
from .quotas import FAMILIES, cores
from .scoring import Scoring

__all__ = ["Deployments", "Endpoints", "add_endpoints"]

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
_TERMINAL = {"Succeeded", "Failed", "Canceled"}
_MODES = {"Key": "Key", "AMLToken": "AMLToken", "AADToken": "AADToken"}
_LONGEST_REQUEST_SECONDS = 180
_RESERVE = 1.2  # of machines, for their updates


def _busy(record: Record) -> bool:
    return record["properties"].get("provisioningState") not in _TERMINAL


class Endpoints(Kind):
    """The endpoints of all workspaces.

    Args:
        machine: What they run on.
    """

    type = f"{ML}/workspaces/onlineEndpoints"
    shown = "endpoints"

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.cloud)
        self._machine = machine
        self._keys: dict[str, dict[str, str]] = {}
        self.actions |= {"listkeys": self._list_keys, "regeneratekeys": self._regenerate, "token": self._token}

    def missing(self, address: Address) -> AzureError:
        """Returns the service's words."""
        return user_error(f"Could not find endpoint: {address.name}", "NotFoundError", 404)

    def named(self, name: str, region: str) -> Record | None:
        """Returns the endpoint of a name in a region, of whatever workspace; None where there is none."""
        with self.cloud.lock:
            for record in self.records.values():
                if (record["name"].lower(), record["location"]) == (name.lower(), region):
                    return record
        return None

    def keys(self, record: Record) -> dict[str, str]:
        """Returns the two keys of an endpoint."""
        return self._keys[record["id"].lower()]

    def deployments(self) -> Deployments:
        """Returns the deployments of all endpoints."""
        found = self.cloud.arm.kind(Deployments.type)
        assert isinstance(found, Deployments)
        return found

    def refuse_if_busy(self, record: Record) -> None:
        """Refuses a second operation on an endpoint or one of its deployments while there is one."""
        for one in [record, *self.deployments().within(record["id"])]:
            if _busy(one):
                raise AzureError(
                    "Conflict",
                    f"Request is conflicting with another operation on {one['id']}, which is "
                    f"{one['properties']['provisioningState']}. Please try again once that has finished.",
                    409,
                )

    # -- making -------------------------------------------------------------------------------------------------------

    def check(self, change: Change) -> None:
        """Refuses names that are taken, traffic to what is not there, and what comes too early."""
        record, given = change.record, change.properties
        region = self._machine.region(change.address.workspace)
        if change.old is None and not _NAME.fullmatch(record["name"]):
            raise user_error(
                f"The endpoint name {record['name']!r} is invalid: 3 to 32 letters, digits and '-', beginning with a "
                "letter and ending with a letter or digit.", "InvalidEndpointName",
            )  # fmt: skip
        if record["location"].lower().replace(" ", "") != region:
            raise user_error(f"The location {record['location']!r} is not the workspace's: {region}", "InvalidLocation")
        record["location"] = region
        taken = self.named(record["name"], region)
        if change.old is None and taken is not None:
            raise user_error(
                "There is already an endpoint with this name, and endpoint names must be unique within a region. "
                "Please try a different name.", "EndpointNameNotUnique",
            )  # fmt: skip
        if given.get("authMode") not in _MODES:
            raise user_error(f"The auth mode {given.get('authMode')} is not supported.")
        given["traffic"] = given.get("traffic") or {}
        there = {one["name"] for one in self.deployments().within(record["id"])}
        if unknown := [name for name in given["traffic"] if name not in there]:
            raise user_error(
                f"The traffic rule refers to deployments that do not exist: {', '.join(unknown)}", "InvalidTraffic"
            )
        if sum(given["traffic"].values()) not in (0, 100):
            raise user_error("The sum of the traffic percentages must be 0 or 100.", "InvalidTraffic")
        if change.old is not None:
            if given["authMode"] != change.old["properties"]["authMode"]:
                raise user_error("The auth mode of an endpoint cannot be changed.")
            self.refuse_if_busy(change.old)

    def put(self, change: Change) -> Operation:
        """Makes it, or sends its traffic elsewhere."""
        record, given = change.record, change.properties
        old = (change.old or {}).get("properties", {})
        self._keys.setdefault(change.address.key, _new_keys())
        record["kind"] = "Managed"
        record.setdefault("tags", {})
        given.setdefault("properties", {})
        given["mirrorTraffic"] = given.get("mirrorTraffic") or {}
        given["publicNetworkAccess"] = given.get("publicNetworkAccess") or "Enabled"
        given["scoringUri"], given["swaggerUri"] = old.get("scoringUri"), old.get("swaggerUri")
        given["provisioningState"] = "Updating" if old else "Creating"
        # What is asked until then is answered by what answered before.
        wanted, given["traffic"] = given["traffic"], old.get("traffic", {})
        host = f"https://{record['name'].lower()}.{record['location']}.inference.ml.azure.com"

        def work() -> None:
            with self.cloud.lock:
                given.update(
                    provisioningState="Succeeded", traffic=wanted, scoringUri=f"{host}/score",
                    swaggerUri=f"{host}/swagger.json",
                )  # fmt: skip

        return Operation(work)

    # -- ending -------------------------------------------------------------------------------------------------------

    def delete(self, request: Request, record: Record) -> Operation:
        """Deletes it with its deployments."""
        self.refuse_if_busy(record)
        record["properties"]["provisioningState"] = "Deleting"
        inside = [one["id"] for one in self.deployments().within(record["id"])]

        def work() -> None:
            self.deployments().end(inside)
            with self.cloud.lock:
                self.forget(record["id"])
                self._keys.pop(record["id"].lower(), None)

        return Operation(work)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _list_keys(self, request: Request, address: Address, record: Record) -> Answer:
        if record["properties"]["authMode"] != "Key":
            raise user_error("Keys are only available for endpoints of the auth mode Key.")
        return Answer(self.keys(record))

    def _regenerate(self, request: Request, address: Address, record: Record) -> Answer:
        which = "primaryKey" if request.json.get("keyType", "").lower() == "primary" else "secondaryKey"

        def work() -> None:
            self.keys(record)[which] = request.json.get("keyValue") or secrets.token_urlsafe(24)

        return Answer(None, 202, self.cloud.operations.begin(request, address, Operation(work)))

    def _token(self, request: Request, address: Address, record: Record) -> Answer:
        if record["properties"]["authMode"] == "Key":
            raise user_error("Tokens are not available for endpoints of the auth mode Key.")
        token = self.cloud.login.token(request.caller, "https://ml.azure.com")
        return Answer({"accessToken": token, "expiryTimeUtc": 0, "refreshAfterTimeUtc": 0, "tokenType": "Bearer"})


class Deployments(Kind):
    """The deployments of all endpoints.

    Args:
        machine: What they run on.
        endpoints: Whose.
    """

    type = f"{ML}/workspaces/onlineEndpoints/deployments"
    shown = "deployments"

    def __init__(self, machine: Machine, endpoints: Endpoints) -> None:
        super().__init__(machine.cloud)
        self._machine = machine
        self._endpoints = endpoints
        self._servers: dict[str, Server] = {}
        self._lines: dict[str, Lines] = {}
        self.actions["getlogs"] = self._get_logs

    def missing(self, address: Address) -> AzureError:
        """Returns the service's words."""
        return user_error(f"Could not find deployment: {address.name}", "NotFoundError", 404)

    def server(self, endpoint: str, name: str) -> Server | None:
        """Returns what serves as a deployment of an endpoint, by its ARM id; None: nothing yet, or no more."""
        return self._servers.get(f"{endpoint}/deployments/{name}".lower())

    def close(self, workspace: str | None) -> None:
        """Ends all of a workspace, or all."""
        for key in [key for key in self._lines if workspace is None or key.startswith(f"{workspace}/")]:
            self._lines.pop(key)
            if (server := self._servers.pop(key, None)) is not None:
                server.kill()

    def end(self, ids: Iterable[str]) -> None:
        """Ends what serves, after it has answered what it was asked."""
        for id in ids:
            with self.cloud.lock:
                server = self._servers.pop(id.lower(), None)
                self._lines.pop(id.lower(), None)
            if server is not None:
                server.close()

    # -- making -------------------------------------------------------------------------------------------------------

    def check(self, change: Change) -> None:
        """Refuses what the service would refuse at once."""
        given, workspace = change.properties, change.address.workspace
        if change.old is None and not _NAME.fullmatch(change.record["name"]):
            raise user_error(f"The deployment name {change.record['name']!r} is invalid.", "InvalidDeploymentName")
        if given.get("endpointComputeType") != "Managed":
            raise user_error("This emulator has managed endpoints only")
        if not re.fullmatch(r"Standard_[A-Z]+\d+[\w-]*", given.get("instanceType") or ""):
            raise user_error(f"Instance type {given.get('instanceType')} is not supported.", "InvalidInstanceType")
        self._machine.asset(workspace, given["environmentId"], "environments")
        self._machine.asset(workspace, given["model"], "models")
        self._machine.asset(workspace, given["codeConfiguration"]["codeId"], "codes")
        settings = given.get("requestSettings") or {}
        if seconds(settings.get("requestTimeout"), 5.0) > _LONGEST_REQUEST_SECONDS:
            raise user_error("The request timeout must be at most 180000 ms.", "InvalidRequestSettings")
        self._endpoints.refuse_if_busy(self._endpoint(change.record["id"]))

    def put(self, change: Change) -> Operation | None:
        """Makes it; one that is there serves on until the new one is alive."""
        record, given, key = change.record, change.properties, change.address.key
        record["kind"], record["sku"] = "Managed", record.get("sku") or {"name": "Default", "capacity": 1}
        given.setdefault("scaleSettings", {"scaleType": "Default"})
        given.setdefault("egressPublicNetworkAccess", "Enabled")
        given["environmentVariables"] = given.get("environmentVariables") or {}
        given["properties"] = given.get("properties") or {}
        if change.old is not None and _content(change.old) == _content(record):
            given["provisioningState"] = "Succeeded"  # more or fewer machines, and no others
            return None
        given["provisioningState"] = "Creating" if change.old is None else "Updating"
        lines = self._lines[key] = Lines()

        def work() -> None:
            self._check_cores(record)
            server = Server(self._machine, change.address.workspace, record, lines)
            try:
                server.start()
            except BaseException:
                server.kill()
                raise
            with self.cloud.lock:
                gone = key not in self.records
                old = self._servers.pop(key, None)
                if not gone:
                    self._servers[key] = server
                    given["provisioningState"] = "Succeeded"
            for ended in (old, server if gone else None):
                if ended is not None:
                    ended.close()

        def failed(_: AzureError) -> None:
            given["provisioningState"] = "Failed"

        return Operation(work, failed)

    def began(self, record: Record, address: str) -> None:
        """Notes where to ask about the operation, as the service does."""
        record["properties"]["properties"]["AzureAsyncOperationUri"] = address

    def _check_cores(self, record: Record) -> None:
        instance, count = record["properties"]["instanceType"], record["sku"]["capacity"]
        family = FAMILIES.get(instance, instance)
        needed = cores(instance) * math.ceil(count * _RESERVE)  # whole machines
        if needed > self.cloud.cores(family):
            raise AzureError(
                "OutOfQuota",
                f"Not enough quota available for {instance} in SubscriptionId {record['id'].split('/')[2]}. Current "
                f"usage/limit: 0/{self.cloud.cores(family)}. Additional needed: {needed}. Please "
                "see troubleshooting guide, available here: https://aka.ms/oe-tsg#error-outofquota",
            )

    def _endpoint(self, deployment: str) -> Record:
        record = self._endpoints.find(deployment.rsplit("/", 2)[0])
        assert record is not None
        return record

    # -- ending -------------------------------------------------------------------------------------------------------

    def delete(self, request: Request, record: Record) -> Operation:
        """Deletes it, unless it has traffic."""
        endpoint = self._endpoint(record["id"])
        self._endpoints.refuse_if_busy(endpoint)
        if endpoint["properties"]["traffic"].get(record["name"]):
            raise user_error(
                f"Deployment {record['name']} has traffic and cannot be deleted. Please send its traffic to another "
                "deployment first.", "DeploymentHasTraffic",
            )  # fmt: skip
        record["properties"]["provisioningState"] = "Deleting"

        def work() -> None:
            self.end([record["id"]])
            with self.cloud.lock:
                endpoint["properties"]["traffic"].pop(record["name"], None)
                self.forget(record["id"])

        return Operation(work)

    def _get_logs(self, request: Request, address: Address, record: Record) -> Answer:
        given = request.json
        if given.get("containerType") == "StorageInitializer":
            return Answer({"content": ""})
        return Answer({"content": self._lines[address.key].last(given.get("tail"))})


def _content(record: Record) -> dict[str, Any]:
    """Returns what a deployment must be made anew for."""
    words = ("model", "environmentId", "codeConfiguration", "instanceType", "environmentVariables", "requestSettings")
    return {word: record["properties"].get(word) for word in words}


def _new_keys() -> dict[str, str]:
    return {"primaryKey": secrets.token_urlsafe(24), "secondaryKey": secrets.token_urlsafe(24)}


def add_endpoints(machine: Machine) -> None:
    """Serves endpoints, their deployments, and the addresses that they answer at."""
    endpoints = Endpoints(machine)
    deployments = Deployments(machine, endpoints)
    machine.cloud.arm.serve(endpoints)
    machine.cloud.arm.serve(deployments)
    Scoring(machine.cloud, endpoints, deployments)
