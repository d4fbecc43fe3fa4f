"""Blob Storage: Azurite, for every storage account there is, and what the emulator itself reads and writes there."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlencode

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
)

from .calls import Answer, NoAnswerError, Request

__all__ = ["KEY", "Azurite", "Place"]

KEY = "a2V5IG9mIGV2ZXJ5IHN0b3JhZ2UgYWNjb3VudCBvZiB0aGUgZW11bGF0b3IgMDEyMzQ1Njc4OWFiY2RlZg=="
_START_SECONDS = 30.0
_NOT_PASSED_ON = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Place:
    """A blob or a folder of blobs.

    Attributes:
        account: The storage account.
        container: In it.
        path: In it; "" is all of it.
    """

    account: str
    container: str
    path: str = ""

    def __truediv__(self, name: str) -> Place:
        return Place(self.account, self.container, f"{self.path.rstrip('/')}/{name}".lstrip("/"))

    @property
    def url(self) -> str:
        """Its public address."""
        return f"https://{self.account}.blob.core.windows.net/{self.container}/{quote(self.path)}"


class Azurite:
    """Azurite as a child process that ends with this one.

    Args:
        root: A folder for what it writes.
        modules: The folder of `node_modules` that has it.
    """

    def __init__(self, root: Path, modules: Path) -> None:
        self._port = _free_port()
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        node = shutil.which("node", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{sys.prefix}/bin")
        if node is None:
            raise RuntimeError("Azurite needs Node.js: run make test, or install node")
        program = [node, "--require", str(Path(__file__).with_name("azurite.cjs")),
                   str(modules / "azurite/dist/src/blob/main.js")]  # fmt: skip
        with (root / "azurite.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*program, "--blobHost", "127.0.0.1", "--blobPort", str(self._port), "--inMemoryPersistence",
                 "--silent", "--disableTelemetry", "--skipApiVersionCheck"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=root,
                env={"PATH": os.environ.get("PATH", os.defpath), "EMULATOR_KEY": KEY, "EMULATOR_MODULES": str(modules)},
            )  # fmt: skip
        self._local = threading.local()
        self._started = False
        self._starting = threading.Lock()
        self._client = cache(self._make_client)

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # ends it even where `node` is only a script that started it
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # -- what the emulator itself does with blobs ---------------------------------------------------------------------

    def make_container(self, account: str, name: str) -> None:
        """Makes a container where there is none."""
        with contextlib.suppress(ResourceExistsError):
            self._service(account).create_container(name)

    def containers(self, account: str) -> list[str]:
        """Returns the names of an account's containers."""
        return [str(container.name) for container in self._service(account).list_containers()]

    def delete_container(self, account: str, name: str) -> None:
        """Deletes a container with all that is in it."""
        with contextlib.suppress(ResourceNotFoundError):
            self._service(account).delete_container(name)

    def paths(self, place: Place) -> list[str]:
        """Returns the paths of the blobs in a folder, with the folder's own; [] where there are none."""
        start = f"{place.path.rstrip('/')}/" if place.path else None
        return [str(blob.name) for blob in self._container(place).list_blobs(name_starts_with=start)]

    def exists(self, place: Place) -> bool:
        """Tells whether a blob, or a folder with something in it, is there."""
        return self._container(place).get_blob_client(place.path).exists() or bool(self.paths(place))

    def read(self, place: Place) -> bytes:
        """Returns a blob's content; KeyError where there is none."""
        try:
            return bytes(self._container(place).download_blob(place.path).readall())
        except ResourceNotFoundError:
            raise KeyError(place) from None

    def write(self, place: Place, content: bytes) -> None:
        """Writes a blob, in place of what is there."""
        self._container(place).upload_blob(place.path, content, overwrite=True)

    def append(self, place: Place, content: bytes) -> None:
        """Adds to an append blob, which is made where there is none: logs are such."""
        blob = self._container(place).get_blob_client(place.path)
        if not blob.exists():
            blob.create_append_blob()
        blob.append_block(content)

    def delete(self, place: Place) -> None:
        """Deletes a blob if it is there."""
        with contextlib.suppress(ResourceNotFoundError):
            self._container(place).delete_blob(place.path)

    def delete_folder(self, place: Place) -> None:
        """Deletes all blobs in a folder."""
        for path in self.paths(place):
            self.delete(Place(place.account, place.container, path))

    def download(self, place: Place, target: Path) -> list[str]:
        """Writes a folder's blobs, or the one blob that the place is, under `target` as files.

        Returns:
            The relative paths of the files; [] where there is nothing.
        """
        paths = self.paths(place)
        base = place.path.rstrip("/")
        if not paths and place.path and self._container(place).get_blob_client(place.path).exists():
            paths, base = [place.path], str(PurePosixPath(place.path).parent).removeprefix(".")
        relative = [path[len(base) :].lstrip("/") for path in paths]
        for path, short in zip(paths, relative, strict=True):
            file = target / short
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                self._container(place).download_blob(path).readinto(stream)
        return relative

    def upload(self, source: Path, place: Place) -> None:
        """Writes a file's or a folder's content as blobs under a place."""
        files = [source] if source.is_file() else [path for path in sorted(source.rglob("*")) if path.is_file()]
        for file in files:
            name = place if source.is_file() else place / file.relative_to(source).as_posix()
            with file.open("rb") as stream:
                self._container(place).upload_blob(name.path, stream, overwrite=True)

    def signed(self, place: Place, permissions: str = "r", hours: float = 1.0) -> str:
        """Returns an address of a blob that works without a login, with a shared access signature."""
        signature = generate_blob_sas(
            place.account, place.container, place.path, account_key=KEY, expiry=_in(hours),
            permission=BlobSasPermissions.from_string(permissions),
        )  # fmt: skip
        return f"{place.url}?{signature}"

    @staticmethod
    def signature(account: str, hours: float = 1.0, permissions: str = "rwdlacu") -> str:
        """Returns a shared access signature for a whole account, without "?"."""
        whole = ResourceTypes(service=True, container=True, object=True)
        allowed = AccountSasPermissions.from_string(permissions)
        return str(generate_account_sas(account, KEY, whole, allowed, _in(hours)))

    def _service(self, account: str) -> BlobServiceClient:
        self._await_start()
        return self._client(account)

    def _make_client(self, account: str) -> BlobServiceClient:
        return BlobServiceClient(
            f"http://127.0.0.1:{self._port}/{account}", credential={"account_name": account, "account_key": KEY},
            retry_total=0,
        )  # fmt: skip

    def _container(self, place: Place) -> ContainerClient:
        return self._service(place.account).get_container_client(place.container)

    def _await_start(self) -> None:
        with self._starting:
            deadline = time.monotonic() + _START_SECONDS
            while not self._started:
                try:
                    socket.create_connection(("127.0.0.1", self._port)).close()
                    self._started = True
                except OSError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        log = (self._root / "azurite.log").read_text(errors="replace")[-2000:]
                        raise RuntimeError(f"Azurite did not start:\n{log}") from None
                    time.sleep(0.02)

    # -- what clients do with blobs -----------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """Lets Azurite answer a request to *.blob.core.windows.net; a bearer token is already checked."""
        self._await_start()
        query = urlencode(request.query, quote_via=quote)
        headers = {name: value for name, value in request.headers.items() if name not in _NOT_PASSED_ON}
        if request.caller:  # Azurite has no directory to check tokens with
            del headers["authorization"]
            query = "&".join(filter(None, (query, self.signature(request.host.partition(".")[0]))))
        path = f"{request.path}?{query}" if query else request.path
        try:
            return self._forward(request, path, headers)
        except (OSError, http.client.HTTPException):
            self._local.connection = None
            raise NoAnswerError from None

    def _forward(self, request: Request, path: str, headers: dict[str, str]) -> Answer:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.putrequest(request.method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)
        response = connection.getresponse()
        content = response.read()
        told = {name: value for name, value in response.getheaders() if name.lower() not in _NOT_PASSED_ON}
        if request.method == "HEAD":
            told["Content-Length"] = response.getheader("Content-Length") or "0"
        return Answer(content, response.status, told)

    def names(self, account: str) -> Iterator[str]:
        """Yields "container/path" of every blob of an account."""
        for container in self.containers(account):
            for path in self.paths(Place(account, container)):
                yield f"{container}/{path}"


def _in(hours: float) -> datetime:
    return datetime.now(UTC) + timedelta(hours=hours)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
