"""Endpoints that are a Lambda function behind an HTTP API: nothing runs, and nothing is billed, between requests."""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import shutil
import tempfile
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medimg.artifact import ModelFolder
from medimg.backends.bundle import bundle
from medimg.backends.identity import NAME
from medimg.backends.resource import Resource, Status
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.http_api import Address, HttpApis
from medimg.backends.sagemaker.logs import Logs
from medimg.backends.sagemaker.schedules import Schedules
from medimg.backends.wheel import wheel
from medimg.config import ServeConfig
from medimg.errors import (
    AccessError,
    AlreadyExistsError,
    BackendError,
    ConfigError,
    EndpointError,
    MedimgError,
    NotFoundError,
    UnreachableError,
)
from medimg.home import atomic_copy, home, make_folder, storage_errors
from medimg.inference.answers import read_answer
from medimg.progress import Display, heartbeat

__all__ = ["LIMIT_BYTES", "MEMORY_MB", "Functions"]

LIMIT_BYTES = 250 * 1024 * 1024  # of Lambda: code and libraries, unzipped
MAX_BODY = 6 * 1024 * 1024  # of Lambda: a request, its image as base64
_PACKAGES = ("ai-edge-litert", "numpy", "pillow", "pydantic")
MEMORY_MB = 2048  # where the user leaves it open
_RELAY_MEMORY_MB = 512
_START_SECONDS = 900.0  # after which a deploy that is not complete was cut off
_FIRST_SECONDS = 120.0  # until a new address answers
_MOST_MEMORY_MB = 10_240
_MOST_SETTINGS = 3000  # characters; all of a function's variables have 4 KB
_ENTRY = 1980, 1, 1, 0, 0, 0


class Functions:
    """The Lambda endpoints of an account, and the relays in front of its SageMaker endpoints.

    Args:
        account: Whose.
        logs: Where they log.
        schedules: What ends them.
        python: Version of Lambda's Python.
    """

    def __init__(self, account: Account, logs: Logs, schedules: Schedules, *, python: str) -> None:
        self._account = account
        self._logs = logs
        self._schedules = schedules
        self._python = python
        self.apis = HttpApis(account, logs)
        self._known: dict[str, tuple[ServeConfig, str]] = {}  # settings and address of endpoints that were seen

    # -- making -------------------------------------------------------------------------------------------------------

    def deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        """Uploads the model as a zip and makes function, HTTP API and key; when it returns, the endpoint answers."""
        _check(config)
        if config.ttl_hours is not None:
            self._schedules.require_role()
        if self._variables(name) is not None:
            raise AlreadyExistsError(f"an endpoint {name!r} exists")
        token = secrets.token_hex(4)
        with Display(name) as display:
            with heartbeat("zipping", display):
                key = self._upload_model(folder, str(details["digest"]))
            with heartbeat("starting", display), self._closed_on_error(name, token) as address:
                deletions = self.apis.deletions(name, address)
                if config.ttl_hours is not None:
                    # Before the function: from its first second on it has an end.
                    self._schedules.at(name, token, config.ttl_hours, deletions)
                environment = {
                    **self._environment(token, address),
                    "MEDIMG_DIGEST": str(details["digest"]),
                    "MEDIMG_VERSION": str(details.get("version", "")),
                    "MEDIMG_LOG_SALT": secrets.token_hex(16),
                    "MEDIMG_CONFIG": json.dumps(details["config"], separators=(",", ":")),
                }
                self.apis.open(
                    name, address, config, key=key, handler="medimg.serving.clouds.aws_lambda.handler",
                    runtime=f"python{self._python}", memory_mb=config.memory_mb or MEMORY_MB, environment=environment,
                )  # fmt: skip
                # The name is ours now; an older endpoint's schedules would end this one.
                self._schedules.delete(name, keep=token)
                if config.ttl_hours is not None:
                    self._schedules.at(name, token, config.ttl_hours, deletions)
                self._first_request(name, address, config, str(details["digest"]))
                self._complete(name)

    def relay(self, name: str, token: str, config: ServeConfig) -> Address:
        """Makes an HTTP API in front of a SageMaker endpoint; the function signs what it passes on."""
        found = self._variables(name)
        if found is not None:
            if "MEDIMG_DIGEST" in found or time.time() - float(found["MEDIMG_CREATED"]) < _START_SECONDS:
                raise BackendError(
                    f"another process is deploying an endpoint {name!r}, or was cut off less than "
                    f"{_START_SECONDS / 60:.0f} minutes ago. Wait, or pass another name="
                )
            self.apis.close(name)  # what a deploy that was cut off has left
        key = self._upload_relay()
        with self._closed_on_error(name, token) as address:
            self.apis.open(
                name, address, config, key=key, handler="medimg.serving.clouds.aws_relay.handler",
                runtime=f"python{self._python}", memory_mb=_RELAY_MEMORY_MB,
                environment={**self._environment(token, address), "MEDIMG_ENDPOINT": name},
            )  # fmt: skip
            self._first_request(name, address, config, None)
        return address

    def _environment(self, token: str, address: Address) -> dict[str, str]:
        return {
            "MEDIMG_PREFIX": self._account.prefix,
            "MEDIMG_TOKEN": token,
            "MEDIMG_URL": address.url,
            "MEDIMG_CREATED": f"{time.time():.3f}",
        }

    @contextmanager
    def _closed_on_error(self, name: str, token: str) -> Iterator[Address]:
        """Yields a new HTTP API; where the block fails, it is deleted with what was made under the token."""
        address = self.apis.reserve(name)
        try:
            yield address
        except BaseException:
            with suppress(MedimgError):
                self.apis.forget(address)
                self._schedules.delete(name, only=token)
                if (self._variables(name) or {}).get("MEDIMG_TOKEN") == token:
                    self.apis.close(name)
            raise

    def close_relay(self, name: str, token: str | None = None) -> None:
        """Deletes what is in front of a SageMaker endpoint, if it was made under the token; None: under any."""
        found = self._variables(name) or {}
        if "MEDIMG_ENDPOINT" in found and token in (None, found.get("MEDIMG_TOKEN")):
            self.apis.close(name)

    def address(self, name: str) -> Address | None:
        """Returns the HTTP API in front of a SageMaker endpoint; None where it has none."""
        found = self._variables(name) or {}
        ids = [id for id, owner in self.apis.apis() if owner == name]
        return Address(ids[0], found["MEDIMG_URL"]) if ids and "MEDIMG_URL" in found else None

    def _upload_model(self, folder: Path, digest: str) -> str:
        model = ModelFolder.load(folder, digest=digest)
        library, built = bundle(_PACKAGES, python=self._python), wheel()
        members = {f"model/{name}": model.path / name for name in model.serving_files("litert")}
        size = sum(path.stat().st_size for path in [*library.rglob("*"), *members.values()] if path.is_file())
        if size > LIMIT_BYTES:
            raise ConfigError(
                f"the function would have {size / 2**20:.0f} MB unzipped and Lambda takes 250 MB: the network "
                f"{model.record.config.model!r} is too large for kind='lambda'. Take kind='serverless'"
            )
        name = hashlib.sha256(f"{digest} {library.name} {built.name}".encode()).hexdigest()[:16]
        return self._upload_zip(name, library, built, members)

    def _upload_relay(self) -> str:
        built = wheel()
        return self._upload_zip(hashlib.sha256(f"relay {built.name}".encode()).hexdigest()[:16], None, built, {})

    def _upload_zip(self, name: str, library: Path | None, built: Path, members: Mapping[str, Path]) -> str:
        key = f"functions/{name}.zip"
        if self._account.storage.exists(key):
            return key
        scratch = home() / "scratch"
        make_folder(scratch)
        with tempfile.NamedTemporaryFile(dir=scratch, suffix=".zip") as file, storage_errors(scratch):
            if library is not None:
                shutil.copyfile(_zipped(library, scratch), file.name)
            with zipfile.ZipFile(file.name, "a") as archive:
                with zipfile.ZipFile(built) as ours:
                    for entry in ours.namelist():
                        _add(archive, entry, ours.read(entry))
                for entry, path in sorted(members.items()):
                    # Weights hardly compress: 30 ms a megabyte, for a fourteenth of it.
                    _add(archive, entry, path.read_bytes(), zipfile.ZIP_STORED)
            self._account.writable.upload_file(Path(file.name), key)
        return key

    def _first_request(self, name: str, address: Address, config: ServeConfig, digest: str | None) -> None:
        """Starts the function, which checks its model against the golden inputs, and asks whether it is ready."""
        deadline = time.monotonic() + _FIRST_SECONDS
        while True:
            try:
                status, body = self._request(name, f"{address.url}/ping", config, None)
            except UnreachableError:
                status, body = 0, b""
            if status == 200 and (digest is None or json.loads(body).get("digest") == digest):
                return
            lines, _ = self._logs.read(f"/aws/lambda/{self.apis.function(name)}", "", 0)
            # A new address takes some seconds until it is known everywhere; a function that fails goes on failing.
            if time.monotonic() > deadline or any(line.startswith(("error:", "[ERROR]")) for line in lines):
                text = "\n".join(f"  {line}" for line in lines[-15:])
                raise EndpointError(
                    f"the function of {name!r} does not answer as it should (status {status}: {body[:300]!r})\n"
                    f"Last lines of its log:\n{text}"
                )
            time.sleep(self.apis.poll_seconds)

    def _complete(self, name: str) -> None:
        client = self._account.client("lambda")
        with translated(f"finishing {name!r}"):
            arn = client.get_function_configuration(FunctionName=self.apis.function(name))["FunctionArn"]
            client.tag_resource(Resource=arn, Tags={"medimg:complete": "yes"})

    # -- reading ------------------------------------------------------------------------------------------------------

    def _answer(self, name: str) -> Mapping[str, Any] | None:
        if not NAME.fullmatch(name):
            return None
        try:
            with translated(f"looking for the function of {name!r}"):
                answer: Mapping[str, Any] = self._account.client("lambda").get_function(
                    FunctionName=self.apis.function(name)
                )
        except NotFoundError:
            return None
        return answer

    def _variables(self, name: str) -> Mapping[str, str] | None:
        """Returns the environment of an endpoint's function, a Lambda endpoint or a relay; None: there is none."""
        answer = self._answer(name)
        return None if answer is None else answer["Configuration"].get("Environment", {}).get("Variables", {})

    def has(self, name: str) -> bool:
        """Tells whether a Lambda endpoint of ours has that name."""
        found = self._variables(name) or {}
        return "MEDIMG_DIGEST" in found and found.get("MEDIMG_PREFIX") == self._account.prefix

    def describe(self, name: str) -> Resource:
        """Returns a Lambda endpoint as it is now."""
        answer = self._answer(name) or {}
        told = answer.get("Configuration", {}).get("Environment", {}).get("Variables", {})
        if "MEDIMG_DIGEST" not in told or told.get("MEDIMG_PREFIX") != self._account.prefix:
            raise NotFoundError(f"Lambda has no endpoint {name!r} in {self._account.region}. See backend.endpoints()")
        if "Tags" not in answer:
            raise AccessError(f"the endpoint {name!r}: these credentials may not do lambda:ListTags. Ask for it")
        created, config = float(told["MEDIMG_CREATED"]), json.loads(told["MEDIMG_CONFIG"])
        details = {
            "digest": told["MEDIMG_DIGEST"],
            "config": config,
            "url": f"{told['MEDIMG_URL']}/predict",
            "key_command": self.apis.key_command(name, str(config["auth"])),
        }
        status: Status = "ready"
        if "medimg:complete" not in answer["Tags"]:
            status = "starting"
            if time.time() - created > _START_SECONDS:
                status, details["reason"] = "failed", "its deployment was cut off"
        self._known[name] = ServeConfig.model_validate(config), details["url"]
        return Resource("endpoint", name, status, created, details)

    def all(self) -> list[Resource]:
        """Returns all Lambda endpoints of ours."""
        found = []
        with translated("listing the functions"):
            pages = self._account.client("lambda").get_paginator("list_functions").paginate()
            names = [each["FunctionName"] for page in pages for each in page["Functions"]]
        for name in names:
            if name.startswith("medimg-"):
                with suppress(NotFoundError):
                    found.append(self.describe(name.removeprefix("medimg-")))
        return found

    def log(self, name: str, after: int) -> tuple[list[str], int]:
        """Returns the lines after a position, and the position after them."""
        self.describe(name)
        return self._logs.read(f"/aws/lambda/{self.apis.function(name)}", "", after)

    def invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        """Sends an encoded image through the HTTP API and returns the answer."""
        if len(body) * 4 / 3 > MAX_BODY:
            raise EndpointError(
                f"the image has {len(body) / 1e6:.1f} MB as it is sent, and Lambda takes about 4.5 MB: make it smaller "
                "before, or deploy with ServeConfig(kind='realtime')",
                status=413,
            )
        known = name in self._known
        status, content = self._ask(name, body)
        if known and status in (0, 401, 404):
            # Another process may have deployed it anew, or deleted it: `describe` says so.
            self._known.pop(name)
            self.apis.forget_key(name)
            status, content = self._ask(name, body)
        if status == 0:
            raise UnreachableError(content.decode())
        return read_answer(status, content, endpoint=name)

    def http_request(self, name: str, body: bytes) -> tuple[str, dict[str, str]]:
        """Returns where an image is sent, and with what headers."""
        found = self.describe(name)
        if found.status not in ("ready", "updating"):
            raise EndpointError(f"the endpoint {name!r} is {found.status}")
        config, url = self._known[name]
        return url, self._headers(name, config)

    def _ask(self, name: str, body: bytes) -> tuple[int, bytes]:
        """Returns status and content of an answer; 0 and why there is none."""
        if name not in self._known:
            self.describe(name)
        config, url = self._known[name]
        try:
            return self._request(name, url, config, body)
        except UnreachableError as error:
            return 0, str(error).encode()

    def _headers(self, name: str, config: ServeConfig) -> dict[str, str]:
        headers = {"Content-Type": "application/octet-stream"}
        if config.auth == "key":
            headers["x-api-key"] = self.apis.key(name)
        return headers

    def _request(self, name: str, url: str, config: ServeConfig, body: bytes | None) -> tuple[int, bytes]:
        headers = self._headers(name, config)
        parts = urllib.parse.urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(parts.hostname), parts.port, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", parts.path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"the endpoint {name!r} did not answer: {error}") from error
        finally:
            connection.close()

    # -- ending -------------------------------------------------------------------------------------------------------

    def update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        """Refuses: code and configuration of a function do not change at the same moment."""
        raise BackendError(
            f"the Lambda endpoint {name!r} cannot be updated in place. Deploy the new model under another name, let "
            f"your callers move, and delete this one: backend.endpoint({name!r}).delete()"
        )

    def settle(self, name: str) -> None:
        """Does nothing: when a Lambda endpoint is ready all is done."""

    def delete_leftovers(self, serves: Callable[[str], bool]) -> None:
        """Deletes what belongs to no endpoint: a deploy was cut off, or its time was up.

        Args:
            serves: Tells whether SageMaker has an endpoint of a name.
        """
        for name in {name for _, name in self.apis.apis()} | self._schedules.owners():
            if not self.has(name) and not serves(name):
                found = self._variables(name)
                if found is None or found.get("MEDIMG_PREFIX") == self._account.prefix:
                    self.apis.close(name)
                    self._schedules.delete(name)

    def delete(self, name: str) -> None:
        """Deletes a Lambda endpoint with all that belongs to it."""
        self.describe(name)
        self.apis.close(name)
        self._schedules.delete(name)
        self._known.pop(name, None)


def _check(config: ServeConfig) -> None:
    if config.runtime != "litert":
        raise ConfigError(
            f"runtime={config.runtime!r}: the local backend serves it; a cloud serves the float32 network"
        )
    if config.instance is not None:
        raise ConfigError("a Lambda function has no instance=; its size is memory_mb=")
    if not 128 <= (config.memory_mb or MEMORY_MB) <= _MOST_MEMORY_MB:
        raise ConfigError(f"memory_mb={config.memory_mb}: a Lambda function has 128 to 10240")
    if len(config.model_dump_json()) + len(",".join(config.url_hosts)) > _MOST_SETTINGS:
        raise ConfigError(f"url_hosts: {len(config.url_hosts)} hosts are too many for a function. List fewer")


def _zipped(library: Path, scratch: Path) -> Path:
    """Returns a bundle as a zip, kept beside it: packing takes seconds, and it is the same for every model."""
    kept = library.with_suffix(".zip")
    if not kept.exists():
        with tempfile.NamedTemporaryFile(dir=scratch, suffix=".zip") as file:
            with zipfile.ZipFile(file.name, "w") as archive:
                for path in filter(Path.is_file, sorted(library.rglob("*"))):
                    _add(archive, path.relative_to(library).as_posix(), path.read_bytes())
            atomic_copy(Path(file.name), kept)
    return kept


def _add(archive: zipfile.ZipFile, name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
    entry = zipfile.ZipInfo(name, _ENTRY)
    entry.compress_type = method
    entry.external_attr = 0o100755 << 16 if ".so" in name else 0o100644 << 16
    archive.writestr(entry, content)
