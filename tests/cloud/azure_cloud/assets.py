"""The registries of a workspace: data, models, environments and code, each a name with versions that do not change."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from .calls import Answer, AzureError, Request, user_error
from .kinds import ML, Address, Change, Kind, Record, now
from .workspaces import place

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["Containers", "Versions", "add_assets", "asset"]

_MAY_CHANGE = {"description", "tags", "properties", "isArchived", "isAnonymous", "stage", "autoDeleteSetting"}


def asset(cloud: Cloud, id: str) -> Record:
    """Returns the version of an asset that an id names, with or without "azureml:" before it.

    Raises:
        AzureError: There is none.
    """
    path = id.removeprefix("azureml:")
    record = cloud.arm.find(path)
    if record is None:
        names = re.search(r"/(data|models|environments|codes)/([^/]+)/versions/([^/]+)$", path, re.IGNORECASE)
        told = f"{names[2]}:{names[3]}" if names else id
        raise user_error(f"The specified resource was not found: {told} ({id})", "NotFoundError", 404)
    return record


class Containers(Kind):
    """The names that versions are of; made with the first version."""

    implied = True

    def __init__(self, cloud: Cloud, word: str) -> None:
        super().__init__(cloud)
        self.type = f"{ML}/workspaces/{word}"  # type: ignore[misc]

    def check(self, change: Change) -> None:
        """Adds what the service adds."""
        change.properties.setdefault("isArchived", False)
        change.properties.setdefault("tags", {})

    def missing(self, address: Address) -> AzureError:
        """Returns the service's words."""
        return _not_found(address)

    def shows(self, request: Request, record: Record) -> Record:
        """Adds the latest version and the next."""
        versions = self.cloud.arm.kind(f"{self.type}/versions").within(record["id"])
        latest = versions[-1]["name"] if versions else None
        following = str(max((int(one["name"]) for one in versions if one["name"].isdigit()), default=0) + 1)
        return {**record, "properties": {**record["properties"], "latestVersion": latest, "nextVersion": following}}


class Versions(Kind):
    """The versions of one kind of asset.

    Args:
        cloud: The emulator.
        word: Of the type: "data".
        content: The property that says where its content lies; "" where there is none.
    """

    early = ("startpendingupload",)
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "data": {"isArchived": False, "isAnonymous": False},
        "models": {"flavors": {}, "stage": "Development", "jobName": None, "isArchived": False, "isAnonymous": False},
        "environments": {
            "isArchived": False,
            "isAnonymous": False,
            "environmentType": "UserCreated",
            "osType": "Linux",
        },
        "codes": {"isArchived": False, "isAnonymous": False},
    }

    def __init__(self, cloud: Cloud, word: str, content: str) -> None:
        super().__init__(cloud)
        self.type = f"{ML}/workspaces/{word}/versions"  # type: ignore[misc]
        self.shown = word  # type: ignore[misc]
        self._word = word
        self._content = content
        self._deleted: dict[str, str] = {}  # when, by ids in small letters
        self.actions["startpendingupload"] = self._start_upload

    def check(self, change: Change) -> None:
        """Refuses another content for a version that there is, and content that is not there."""
        old, told = change.old, change.properties
        for name, value in self.defaults[self._word].items():
            if told.get(name) is None:
                told[name] = value
        told["tags"], told["properties"] = told.get("tags") or {}, told.get("properties") or {}
        told["provisioningState"] = "Succeeded"
        if old is not None:
            self._compare(change, old["properties"])
        else:
            self._refuse_deleted(change)
            if self._content:
                self._look(change)
        if old is None and self._word in ("models", "data"):
            self._complete(change)

    def _compare(self, change: Change, old: dict[str, Any]) -> None:
        """An asset's content stays as it is; what describes it may change, and properties may be added."""
        told = change.properties
        address = self._content
        if address and _normal(told.get(address)) not in (None, _normal(old[address])):
            raise user_error("Asset paths cannot be updated.", "ImmutableAssetError")
        for name, value in old["properties"].items():
            if name in told["properties"] and told["properties"][name] != value:
                raise user_error(
                    f"Value of property {name} for {change.address.names[-2]} cannot be replaced to "
                    f"{told['properties'][name]} without increasing the version.",
                    "ImmutableAssetError",
                )
            told["properties"][name] = value
        for name, value in old.items():
            if told.get(name) is None:
                told[name] = value
            elif name not in _MAY_CHANGE and name != address and _normal(told[name]) != _normal(value):
                raise user_error(
                    f"{change.address.names[-2]}:{change.address.name}: a version that exists cannot be changed: "
                    f"{name} is {value!r}, and {told[name]!r} was sent.",
                    "ImmutableAssetError", 409,
                )  # fmt: skip

    def _refuse_deleted(self, change: Change) -> None:
        moment = self._deleted.get(change.address.key)
        if moment is not None and not self.cloud.settings.recreates_deleted:
            raise user_error(
                f"Asset {change.address.id} was deleted at {moment}, it cannot be recreated. Please try again with a "
                "different version.",
                "DeletedAssetError",
            )

    def _look(self, change: Change) -> None:
        address = change.properties.get(self._content)
        if not address:
            raise user_error(f"{self._content} is missing", "RequestInvalid")
        if address.startswith("azureml://jobs/") or re.match(r"https?://(?!.*\.blob\.)", address):
            return
        where = place(self.cloud, change.address.workspace, address)
        if not self.cloud.azurite.exists(where):
            raise user_error(f"The asset's path does not exist or is empty: {address}", "DataPathNotFound", 404)

    def _complete(self, change: Change) -> None:
        """Writes addresses as the service writes them: in full."""
        address = change.properties.get(self._content, "")
        short = re.fullmatch(r"azureml://datastores/(.*)", address)
        if short is not None:
            words = change.address.workspace.strip("/").split("/")
            change.properties[self._content] = (
                f"azureml://subscriptions/{words[1]}/resourcegroups/{words[3]}/workspaces/{words[-1]}/datastores/{short[1]}"
            )

    def put(self, change: Change) -> None:
        """Makes the container with the first version."""
        kind = self.cloud.arm.kind(self.type.rpartition("/")[0])
        id = change.address.id.rsplit("/", 2)[0]
        if kind.find(id) is None:
            properties: dict[str, Any] = {"isArchived": False, "tags": {}, "properties": {}, "description": None}
            if self._word == "data":
                properties["dataType"] = change.properties["dataType"]
            kind.records[id.lower()] = {
                "id": id, "name": change.address.names[-2], "type": kind.type, "properties": properties,
                "systemData": dict(change.record["systemData"]),
            }  # fmt: skip

    def delete(self, request: Request, record: Record) -> None:
        """Removes it, and the container with the last version."""
        container = record["id"].rsplit("/", 2)[0]
        self._deleted[record["id"].lower()] = now()
        if len(self.within(container)) == 1:
            self.forget(container)

    def close(self, workspace: str | None) -> None:
        """Forgets what was deleted."""
        self._deleted = {id: moment for id, moment in self._deleted.items() if not id.startswith(f"{workspace}/")}

    def listed(self, request: Request, address: Address, records: list[Record]) -> list[Record]:
        """Returns those that the query asks for: of a hash, not archived, the newest first where that is asked."""
        wanted = request.parameter("hash")
        if wanted:
            records = [one for one in records if one["properties"]["properties"].get("hash_sha256") == wanted]
        elif not records and not any(self.within(address.id.rpartition("/")[0])):
            raise _not_found(address)
        view = request.parameter("listViewType") or "ActiveOnly"
        if view != "All":
            archived = view == "ArchivedOnly"
            records = [one for one in records if bool(one["properties"]["isArchived"]) == archived]
        order = request.parameter("$orderBy") or request.parameter("orderBy")
        return records[::-1] if "desc" in order.lower() or not order else records

    def missing(self, address: Address) -> AzureError:
        """Returns the service's words."""
        return _not_found(address)

    def _start_upload(self, request: Request, address: Address, record: Record) -> Answer:
        """Gives a container of its own to upload to."""
        workspace = self.cloud.arm.find(address.workspace)
        assert workspace is not None
        account = workspace["properties"]["storageAccount"].rpartition("/")[2]
        id = str(uuid.uuid4())
        self.cloud.azurite.make_container(account, id)
        url = f"https://{account}.blob.core.windows.net/{id}"
        return Answer(
            {
                "pendingUploadId": str(uuid.uuid4()), "pendingUploadType": "TemporaryBlobReference",
                "blobReferenceForConsumption": {
                    "blobUri": url, "storageAccountArmId": workspace["properties"]["storageAccount"],
                    "credential": {
                        "credentialType": "SAS", "sasUri": f"{url}?{self.cloud.azurite.signature(account)}",
                    },
                },
            }
        )  # fmt: skip


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        # The service takes short and long addresses of datastores for the same.
        return re.sub(r"^azureml://.*?datastores/", "azureml://datastores/", value).rstrip("/")
    if isinstance(value, dict):
        return {name: _normal(one) for name, one in value.items() if one is not None}
    return value


def _not_found(address: Address) -> AzureError:
    return user_error(
        f"The specified resource was not found: {'/'.join(address.names[1:])} ({address.type})", "NotFoundError", 404
    )


def add_assets(cloud: Cloud) -> None:
    """Serves data, models, environments and code."""
    for word, content in (("data", "dataUri"), ("models", "modelUri"), ("environments", ""), ("codes", "codeUri")):
        cloud.arm.serve(Containers(cloud, word))
        cloud.arm.serve(Versions(cloud, word, content))
