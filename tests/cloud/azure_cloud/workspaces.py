"""Workspaces of Azure Machine Learning, their datastores, and where the addresses of data lead."""

from __future__ import annotations

import re
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .azurite import KEY, Place
from .calls import Answer, AzureError, NoAnswerError, Request, user_error
from .kinds import ML, Address, Change, Kind, Operation, Record
from .login import TENANT

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["API", "Datastores", "Workspaces", "add_workspaces", "artifacts", "place", "workspace_of"]

API = "api.azureml.ms"
_STORES = {"workspaceblobstore": "azureml-blobstore-{id}", "workspaceartifactstore": "azureml"}
_ADDRESS = re.compile(
    r"azureml://(?:subscriptions/[^/]+/resource[gG]roups/[^/]+/(?:providers/[^/]+/)?workspaces/(?P<workspace>[^/]+)/)?"
    r"datastores/(?P<store>[^/]+)/(?:paths/)?(?P<path>.*)"
)
_BLOB = re.compile(
    r"(?:https|wasbs)://(?P<account>[^./]+)\.blob\.core\.windows\.net/(?P<container>[^/?]+)/?(?P<path>[^?]*)"
)


def place(cloud: Cloud, workspace: str, address: str) -> Place:
    """Returns where data lie.

    Args:
        cloud: The emulator.
        workspace: The ARM id of the workspace in which the address is used.
        address: azureml://…datastores/{name}/paths/{path}, or https://{account}.blob.core.windows.net/….

    Raises:
        AzureError: It leads nowhere.
    """
    if found := _BLOB.fullmatch(address):
        return Place(found["account"], found["container"], unquote(found["path"]))
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise user_error(f"The uri '{address}' is not supported.", "InvalidUri")
    store = cloud.arm.find(f"{workspace}/datastores/{found['store']}")
    if store is None:
        raise user_error(f"Could not find datastore: {found['store']}", "NotFoundError", 404)
    told = store["properties"]
    return Place(told["accountName"], told["containerName"], found["path"])


def artifacts(cloud: Cloud, workspace: str) -> Place:
    """Returns where a workspace's artifact store begins: what runs log and put out lies in it."""
    return place(cloud, workspace, "azureml://datastores/workspaceartifactstore/paths/")


def workspace_of(cloud: Cloud, path: str) -> Record:
    """Returns the workspace whose ARM id stands in a path of {region}.api.azureml.ms, or raises."""
    id = rf"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/{re.escape(ML)}/workspaces/[^/?]+"
    found = re.search(id, unquote(path), re.IGNORECASE)
    record = cloud.arm.find(found[0]) if found else None
    if record is None:
        raise AzureError("UserError", "Workspace not found", 404)
    return record


class Workspaces(Kind):
    """The workspaces, each with its own storage account."""

    type = f"{ML}/workspaces"
    shown = "workspaces"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self._soft_deleted: set[str] = set()  # ids in small letters; the service keeps the names for two weeks

    def check(self, change: Change) -> None:
        """Needs a storage account, a key vault and Application Insights that exist, and a name that is free."""
        if change.address.key in self._soft_deleted:
            raise AzureError(
                "Conflict", "Soft-deleted workspace exists. Please purge or recover it. https://aka.ms/wsoftdelete", 409
            )
        for name in ("storageAccount", "keyVault", "applicationInsights"):
            id = change.properties.get(name)
            if id is None and name == "applicationInsights":
                continue
            if id is None or self.cloud.arm.find(id) is None:
                raise AzureError("ValidationError", f"Missing dependent resources in workspace json: {name} '{id}'")

    def put(self, change: Change) -> Operation | None:
        """Makes it with its datastores."""
        record, told = change.record, change.properties
        if change.old is not None:
            told.update({name: change.old["properties"][name] for name in _KEPT if name in change.old["properties"]})
            record["identity"] = change.old["identity"]
            record.setdefault("location", change.old["location"])
            told["provisioningState"] = "Succeeded"
            return None
        api = f"{record['location']}.{API}"
        principal = str(uuid.uuid4())
        record.setdefault("kind", "Default")
        record.setdefault("sku", {"name": "Basic", "tier": "Basic"})
        identity = {"type": "SystemAssigned", "principalId": principal, "tenantId": TENANT}
        record["identity"] = identity | record.get("identity", {})
        told.update(
            workspaceId=str(uuid.uuid4()), discoveryUrl=f"https://{api}/discovery", provisioningState="Creating",
            mlFlowTrackingUri=f"azureml://{api}/mlflow/v1.0{record['id']}",
        )  # fmt: skip
        for name, value in _DEFAULTS.items():
            told.setdefault(name, value)
        told.setdefault("friendlyName", record["name"])
        return Operation(partial(self._make, record), kind="workspaceOperationsStatus")

    def _make(self, record: Record) -> None:
        account = record["properties"]["storageAccount"].rpartition("/")[2]
        stores = self.cloud.arm.kind(Datastores.type)
        for name, container in _STORES.items():
            container = container.format(id=record["properties"]["workspaceId"])
            self.cloud.azurite.make_container(account, container)
            id = f"{record['id']}/datastores/{name}"
            with self.cloud.lock:
                stores.records[id.lower()] = {
                    "id": id, "name": name, "type": stores.type, "systemData": record["systemData"],
                    "properties": {
                        "description": None, "tags": None, "properties": None,
                        "isDefault": name == "workspaceblobstore", "credentials": {"credentialsType": "AccountKey"},
                        "datastoreType": "AzureBlob", "accountName": account, "containerName": container,
                        "endpoint": "core.windows.net", "protocol": "https",
                        "serviceDataAccessAuthIdentity": "WorkspaceSystemAssignedIdentity",
                    },
                }  # fmt: skip
        record["properties"]["provisioningState"] = "Succeeded"

    def delete(self, request: Request, record: Record) -> Operation:
        """Ends and forgets all that is in it; its name stays taken unless it is deleted for good."""

        def work() -> None:
            self.cloud.close_workspace(record["id"])
            self.forget(record["id"])
            if request.parameter("forceToPurge").lower() != "true":
                self._soft_deleted.add(record["id"].lower())

        return Operation(work, kind="workspaceOperationsStatus")


_KEPT = ("workspaceId", "discoveryUrl", "mlFlowTrackingUri", "storageAccount", "keyVault", "applicationInsights")
_DEFAULTS: dict[str, Any] = {
    "hbiWorkspace": False, "publicNetworkAccess": "Enabled", "v1LegacyMode": False, "description": "",
    "systemDatastoresAuthMode": "accesskey", "allowPublicAccessWhenBehindVnet": False, "enableDataIsolation": False,
}  # fmt: skip


class Datastores(Kind):
    """The datastores; those of the workspace itself are made with it."""

    type = f"{ML}/workspaces/datastores"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.actions["listsecrets"] = self._secrets

    def missing(self, address: Address) -> AzureError:
        """Returns the service's words."""
        return user_error(f"Could not find datastore: {address.name}", "NotFoundError", 404)

    def listed(self, request: Request, address: Address, records: list[Record]) -> list[Record]:
        """Returns them all, or the default one where only that is asked for."""
        only = request.parameter("isDefault").lower() == "true"
        return [record for record in records if record["properties"]["isDefault"] or not only]

    def _secrets(self, request: Request, address: Address, record: Record) -> Answer:
        if request.json.get("expirableSecret"):
            hours = float(request.json.get("expireAfterHours") or 1)
            signature = self.cloud.azurite.signature(record["properties"]["accountName"], hours)
            return Answer({"secretsType": "Sas", "sasToken": f"?{signature}"})
        return Answer({"secretsType": "AccountKey", "key": KEY})


def add_workspaces(cloud: Cloud) -> None:
    """Serves workspaces, their datastores and their blobs, and the services' own addresses."""
    cloud.arm.serve(Workspaces(cloud))
    cloud.arm.serve(Datastores(cloud))
    cloud.serve_host(f"*.{API}", _discovery, path="/discovery", token=False)
    cloud.serve_host("*.blob.core.windows.net", partial(_blobs, cloud), token=False)


def _discovery(request: Request) -> Answer:
    names = ("api", "history", "experimentation", "modelmanagement", "artifacts", "metrics", "studio", "mlflow")
    return Answer(dict.fromkeys(names, f"https://{request.host}"))


def _blobs(cloud: Cloud, request: Request) -> Answer:
    account = request.host.partition(".")[0]
    accounts = cloud.arm.kind("Microsoft.Storage/storageAccounts").records.values()
    found = next((one for one in accounts if one["name"] == account), None)
    if found is None:
        raise NoAnswerError  # a name that does not resolve
    if request.headers.get("authorization", "").startswith("Bearer "):
        request.caller = cloud.login.caller(request)
        word = {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(request.method, "write")
        action = f"Microsoft.Storage/storageAccounts/blobServices/containers/blobs/{word}"
        if not cloud.allows(request.caller, action, found["id"]):
            raise AzureError(
                "AuthorizationPermissionMismatch",
                "This request is not authorized to perform this operation using this permission.",
                403,
            )
    return cloud.azurite.answer(request)
