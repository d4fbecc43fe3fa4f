"""Everything of ours in the workspace's Blob Storage: what jobs are given, what they leave, and what is served.

Azure Resource Manager's PUT is "make or change"; a blob can be written on the condition that there is none yet. So what
must happen once (a job, an endpoint, a version's number) is claimed by a small blob.
"""

from __future__ import annotations

import io
import math
import secrets
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from medimg.archive import RESULT, leads_elsewhere
from medimg.backends.azureml.blobs import after, options, ranges, send
from medimg.backends.azureml.errors import translated
from medimg.backends.transfer import ATTEMPTS, Meter, Told, at_once, send_files, send_pack
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, MissingExtraError, NotFoundError
from medimg.home import storage_errors
from medimg.progress import Report, silent

try:
    from azure.core import MatchConditions
    from azure.core.credentials import AzureSasCredential
    from azure.core.exceptions import ResourceModifiedError
    from azure.storage.blob import BlobClient, ContainerClient
except ImportError as error:
    raise MissingExtraError("the AzureML backend", "azureml") from error

if TYPE_CHECKING:
    from medimg.backends.azureml.workspace import Workspace

__all__ = ["DATASTORE", "Storage"]

DATASTORE = "workspaceblobstore"  # every workspace has it
_API = "2024-10-01"
_AT_ONCE = 8


class Storage:
    """A folder in the container of the workspace's own datastore. Keys are below it, without a slash first.

    Args:
        workspace: Whose.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.prefix = workspace.prefix
        self._lock = threading.RLock()
        self._closed = False

    def key(self, key: str) -> str:
        """Returns the name of a blob, our prefix included."""
        return f"{self.prefix}/{key}"

    def uri(self, key: str = "") -> str:
        """Returns the address of a blob, or of the folder where `key` ends with a slash, as AzureML knows it."""
        return f"azureml://datastores/{DATASTORE}/paths/{self.key(key)}"

    def web_address(self, key: str) -> str:
        """Returns the address of a blob or folder on the web, where AzureML takes no other; it needs a login."""
        return f"{self._container.primary_endpoint.partition('?')[0]}/{self.key(key)}"

    @cached_property
    def _container(self) -> Any:
        with translated("opening the workspace's Blob Storage"):
            id = f"{self._workspace.id}/datastores/{DATASTORE}"
            about = self._workspace.arm("GET", id, _API)["properties"]
            endpoint = about.get("endpoint") or "core.windows.net"
            account = f"{about.get('protocol') or 'https'}://{about['accountName']}.blob.{endpoint}"
            credential = self._workspace.credential
            if about.get("credentials", {}).get("credentialsType", "None") != "None":
                told = self._workspace.arm("POST", f"{id}/listSecrets", _API)
                signature = told.get("sasToken")
                credential = AzureSasCredential(signature.lstrip("?")) if signature else told["key"]
            return ContainerClient(account, about["containerName"], credential=credential, **options())

    @property
    def _writable(self) -> Any:
        """The container, when it is known to be closed to the public."""
        self.check_closed()
        return self._container

    def check_closed(self) -> None:
        """Returns when nobody can read the container without a login; asked once.

        Raises:
            ConfigError: Anybody on the internet could.
        """
        with self._lock:
            if self._closed:
                return
            container = self._container
            with translated(f"checking that the container {container.container_name!r} is closed to the public"):
                access = container.get_container_properties().public_access
            if access:
                raise ConfigError(
                    f"the container {container.container_name!r} of the storage account {container.account_name!r} is "
                    "open to the public, and patients' images are not put there. Run: az storage container "
                    f"set-permission --name {container.container_name} --account-name {container.account_name} "
                    "--public-access off"
                )
            self._closed = True

    # -- small things -------------------------------------------------------------------------------------------------

    def put(self, key: str, content: bytes) -> str:
        """Writes a blob and returns its address."""
        with translated(f"writing {self.uri(key)}"):
            self._writable.upload_blob(self.key(key), content, overwrite=True, validate_content=True)
        return self.uri(key)

    def claim(self, key: str, content: bytes) -> bool:
        """Writes a blob if there is none yet; of any number of callers one does.

        Returns:
            Whether it was this call that wrote it.
        """
        return self._put_if(key, content, {})

    def replace(self, key: str, content: bytes, etag: str) -> bool:
        """Writes a blob anew if it still is what had this ETag; of any number of callers one does.

        Returns:
            Whether it was this call that wrote it.
        """
        return self._put_if(key, content, {"etag": etag, "match_condition": MatchConditions.IfNotModified})

    def _put_if(self, key: str, content: bytes, condition: Mapping[str, Any]) -> bool:
        token = secrets.token_hex(8)
        try:
            with translated(f"writing {self.uri(key)}"):
                self._writable.upload_blob(
                    self.key(key), content, overwrite=bool(condition), validate_content=True,
                    metadata={"token": token}, **condition,
                )  # fmt: skip
        except (AlreadyExistsError, NotFoundError) as error:
            if isinstance(error, NotFoundError) and not condition:
                raise  # there is no container
            # An answer may have been lost on its way, and the second request met what the first one wrote.
            return self._metadata(key).get("token") == token
        return True

    def delete_if(self, key: str, etag: str) -> None:
        """Deletes a blob if it still is what had this ETag; else that is no error."""
        with suppress(AlreadyExistsError, NotFoundError), translated(f"deleting {self.uri(key)}"):
            self._container.delete_blob(self.key(key), etag=etag, match_condition=MatchConditions.IfNotModified)

    def get(self, key: str) -> bytes:
        """Returns a blob's content.

        Raises:
            NotFoundError: There is no such blob.
        """
        return self.get_with_etag(key)[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Returns a blob's content and its ETag, for `replace`.

        Raises:
            NotFoundError: There is no such blob.
        """
        with translated(f"reading {self.uri(key)}"):
            blob = self._container.get_blob_client(self.key(key))
            # In one request, or another process may write in between.
            stream = blob.download_blob()
            return bytes(stream.readall()), str(stream.properties.etag)

    def exists(self, key: str) -> bool:
        """Tells whether there is such a blob."""
        with translated(f"looking for {self.uri(key)}"):
            return bool(self._container.get_blob_client(self.key(key)).exists())

    def _metadata(self, key: str) -> Mapping[str, str]:
        """Returns what was written beside a blob's content; {} where there is none."""
        try:
            with translated(f"looking for {self.uri(key)}"):
                blob = self._container.get_blob_client(self.key(key))
                return dict(blob.get_blob_properties().metadata or {})
        except NotFoundError:
            return {}

    def list(self, folder: str = "") -> Sequence[str]:
        """Returns the keys that begin with `folder`, in order; a folder is named with its slash."""
        return list(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Returns the keys that begin with `folder` and how many bytes each blob has, in order."""
        return {blob.name[len(self.key("")) :]: int(blob.size) for blob in self._blobs(folder)}

    def written(self, folder: str) -> dict[str, float]:
        """Returns the keys that begin with `folder` and when each was written, in seconds since the epoch."""
        return {blob.name[len(self.key("")) :]: blob.last_modified.timestamp() for blob in self._blobs(folder)}

    def _blobs(self, folder: str) -> Sequence[Any]:
        with translated(f"listing {self.uri(folder)}"):
            found = self._container.list_blobs(name_starts_with=self.key(folder), include=["metadata"])
            return sorted(found, key=lambda blob: str(blob.name))

    def delete_prefix(self, folder: str) -> int:
        """Deletes the blobs whose key begins with `folder` and returns how many; a folder is named with its slash."""
        if not folder.strip("/"):
            raise ValueError("an empty prefix would delete everything of ours")

        def delete(blob: Any) -> None:
            try:
                with translated(f"deleting {self.uri(folder)}"):
                    self._container.delete_blob(blob.name, delete_snapshots="include")
            except NotFoundError:
                return  # by another process, or by a first request whose answer was lost

        # Backwards: a mounted folder leaves a blob of its own name, which may have to be empty first.
        found = self._blobs(folder)[::-1]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="storage") as pool:
            list(pool.map(delete, found))
        return len(found)

    # -- uploading ----------------------------------------------------------------------------------------------------

    def upload_pack(self, pack: Path, manifest: str, report: Report = silent) -> str:
        """Uploads what is missing of a pack with one of its manifests, and returns the address of its folder.

        What is there is not sent again, so an upload that was cut off goes on, and a second one sends nothing.

        Raises:
            DatasetError: The pack is damaged.
            UnreachableError: Azure does not answer; what was sent is kept.
        """
        folder = f"packs/{pack.name}/"
        there = {key.removeprefix(folder) for key in self.list(folder)}

        def one(name: str, content: bytes, told: Told) -> None:
            self._send(folder + name, io.BytesIO(content), len(content), {}, told)

        with translated("uploading the pack"):
            send_pack(pack, manifest, there, one, report)
        return self.uri(folder)

    def upload_file(self, path: Path, key: str, report: Report = silent) -> str:
        """Uploads a file, unless a blob of that key has its SHA-256, and returns its address."""
        self.upload_files({key: path}, report)
        return self.uri(key)

    def upload_files(self, files: Mapping[str, Path], report: Report = silent) -> None:
        """Uploads files under their keys, several at a time, except for those that are there with their SHA-256."""

        def one(key: str, stream: BinaryIO, sha256: str, told: Told) -> None:
            self._send(key, stream, files[key].stat().st_size, {"sha256": sha256}, told)

        with translated(f"uploading to {self.uri()}"):
            send_files(files, lambda key: self._metadata(key).get("sha256"), one, report)

    def _send(self, key: str, stream: BinaryIO, size: int, metadata: Mapping[str, str], told: Told) -> None:
        send(self._writable.get_blob_client(self.key(key)), stream, size, metadata, told)

    # -- downloading --------------------------------------------------------------------------------------------------

    def download_folder(self, folder: str, target: Path, report: Report = silent) -> None:
        """Downloads what lies in a folder into an empty folder, several files at a time.

        Args:
            folder: Named with its slash.
            target: Folder to write into; nothing is left there after a failure.
            report: Told of progress, in megabytes.

        Raises:
            NotFoundError: Nothing lies there.
            BackendError: It holds what no result does.
            StorageError: The disk is full.
        """
        blobs = self._safe(folder)
        size = sum(blob.size for blob in blobs.values())

        def fetch(name: str) -> None:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            about = blobs[name]
            blob = self._container.get_blob_client(about.name)
            with path.open("xb") as file:
                for attempt in range(ATTEMPTS):
                    try:
                        for part in ranges(blob, about.size, about.etag):
                            file.write(part)
                            meter.add(len(part), 1e-6)
                        return
                    except ResourceModifiedError:
                        # Written anew meanwhile, such as by another who registers the same model.
                        if attempt == ATTEMPTS - 1:
                            raise
                    meter.add(-file.tell(), 1e-6)
                    file.seek(0)
                    file.truncate()
                    about = blob.get_blob_properties()

        with storage_errors(target), translated(f"downloading {self.uri(folder)}"):
            target.mkdir(parents=True, exist_ok=True)
            try:
                with Meter(report, "downloading", math.ceil(size / 1e6)) as meter:
                    at_once(fetch, blobs, meter)
            except BaseException as error:
                for path in target.iterdir():
                    shutil.rmtree(path, ignore_errors=True)
                    path.unlink(missing_ok=True)
                if isinstance(error, (FileExistsError, NotADirectoryError)):
                    raise self._refused(folder, f"{error.filename} is in it twice") from error
                raise

    def _safe(self, folder: str) -> dict[str, Any]:
        """Returns the blobs of a folder by their names in it, if they may be written to a disk at all."""
        found = {
            blob.name.removeprefix(self.key(folder)): blob
            for blob in self._blobs(folder)
            if (blob.metadata or {}).get("hdi_isfolder") != "true"  # left by a mounted folder
        }
        if not found:
            raise NotFoundError(f"there is nothing at {self.uri(folder)}")
        size = sum(blob.size for blob in found.values())
        if len(found) > RESULT.files or size > RESULT.bytes:
            raise self._refused(folder, f"it has {len(found):,} files and {size:,} bytes")
        for name in found:
            if leads_elsewhere(name) or not PurePosixPath(name).parts or name.endswith("/"):
                raise self._refused(folder, f"{name!r} leads elsewhere")
        return found

    def _refused(self, folder: str, why: str) -> BackendError:
        return BackendError(
            f"{self.uri(folder)} is no result of a job, and was not used: {why}. Delete the job or model and make it "
            "again"
        )

    def read_from(self, key_or_url: str, position: int) -> bytes:
        """Returns what a blob that may still grow holds after a position; b"": nothing yet.

        Args:
            key_or_url: A key of ours, or an address that Azure has signed, such as that of a log.
            position: In bytes.

        Raises:
            NotFoundError: There is no such blob.
        """
        if key_or_url.startswith("https://"):
            blob, name = BlobClient.from_blob_url(key_or_url, **options()), key_or_url.partition("?")[0]
        else:
            blob, name = self._container.get_blob_client(self.key(key_or_url)), self.uri(key_or_url)
        with blob, translated(f"reading {name}"):
            return after(blob, position)
