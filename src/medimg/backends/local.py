"""The local backend: processes on this machine that outlive the notebook, MLflow on SQLite, a server on 127.0.0.1."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from medimg.backends import supervisor
from medimg.backends.base import Backend
from medimg.backends.identity import link_tree
from medimg.backends.local_registry import Registry
from medimg.backends.resource import Kind, Resource, Status
from medimg.config import JobSpec, ServeConfig
from medimg.errors import AlreadyExistsError, ConfigError, EndpointError, ImageRejected, NotFoundError
from medimg.home import atomic_folder, atomic_write, home
from medimg.progress import Event, Report

__all__ = ["LocalBackend"]

_START_SECONDS = 30.0  # from the record of a job to its supervisor's lock


class LocalBackend(Backend):
    """Runs jobs, a registry and endpoints on this machine (Linux or macOS), under `MEDIMG_HOME`."""

    name: ClassVar[str] = "local"

    def __init__(self) -> None:
        self._home = home()
        self._registry = Registry(self._home)

    def _folder(self, kind: Kind, id: str) -> Path:
        folder = self._home / f"{kind}s" / id
        if "/" in id or not (folder / "record.json").exists():
            raise NotFoundError(f"the local backend has no {kind} {id!r}. See backend.{kind}s(), or `medimg ls`")
        return folder

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        report(Event("stage", "queueing"))
        folder = self._home / "jobs" / spec.id
        checkpoints = self._home / "checkpoints" / spec.checkpoints
        record = {"created": time.time(), "task": spec.kind, "checkpoints": spec.checkpoints}
        with self._new(folder) as draft:
            atomic_write(draft / "spec.json", spec.model_dump_json(indent=1))
            atomic_write(draft / "record.json", json.dumps(record))
        command = [sys.executable, "-m", spec.module]
        for name, path in (
            ("spec", folder / "spec.json"), ("data", pack), ("inputs", inputs), ("out", folder / "out"),
            ("checkpoints", checkpoints),
        ):  # fmt: skip
            command += [f"--{name}", str(path)]
        environment = {"MLFLOW_TRACKING_URI": self._registry.uri, "PYTHONUNBUFFERED": "1", **self._registry.quiet}
        seconds = spec.resources.max_hours * 3600
        supervisor.start(folder, command, max_seconds=seconds, remove=False, environment=environment)

    @contextlib.contextmanager
    def _new(self, folder: Path) -> Iterator[Path]:
        """Yields a draft of a folder that then appears whole; of two at once, one is refused."""
        if folder.exists():
            raise AlreadyExistsError(f"{folder.name!r} exists")
        token = secrets.token_hex(8)
        with atomic_folder(folder) as draft:
            yield draft
            atomic_write(draft / "owner", token)
        if (folder / "owner").read_text() != token:
            raise AlreadyExistsError(f"{folder.name!r} exists")

    def _stop(self, id: str) -> None:
        folder = self._folder("job", id)
        if (folder / "exit.json").exists():
            return
        (folder / "cancelled").touch()
        self._terminate(folder)

    @staticmethod
    def _terminate(folder: Path) -> None:
        """Ends a folder's process: politely, then for certain. Returns when it is gone."""
        deadline = time.monotonic() + supervisor.GRACE_SECONDS + 10
        asked = False
        while supervisor.is_alive(folder):
            try:
                pids = [int(pid) for pid in (folder / "pids").read_text().split()]
            except (FileNotFoundError, ValueError):
                pids = []  # it is just being started
            late = time.monotonic() > deadline
            if pids and (not asked or late):
                # The supervisor passes it on; where it was killed, the command itself must be told.
                for pid in pids if late or not _runs(pids[0]) else pids[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                asked = True
            time.sleep(0.05)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _describe(self, kind: Kind, id: str) -> Resource:
        if kind == "model":
            return self._registry.describe(id)
        folder = self._folder(kind, id)
        try:
            record = json.loads((folder / "record.json").read_text())
            status, reason = (self._job_status if kind == "job" else self._endpoint_status)(folder, record)
        except FileNotFoundError:
            raise NotFoundError(f"the {kind} {id!r} was deleted") from None
        details = {name: value for name, value in record.items() if name != "created"}
        if reason:
            details["reason"] = reason
        if kind == "endpoint":
            details["url"] = self._url(folder)
        return Resource(kind, id, status, record["created"], details)

    @staticmethod
    def _job_status(folder: Path, record: Mapping[str, Any]) -> tuple[Status, str]:
        # Alive is asked before the exit is read: a job that ends in between has then written its exit.
        alive = supervisor.is_alive(folder)
        try:
            ended = json.loads((folder / "exit.json").read_text())
        except FileNotFoundError:
            if alive:
                return ("running" if (folder / "pids").exists() else "queued"), ""
            if time.time() - record["created"] < _START_SECONDS and not (folder / "lock").exists():
                return "queued", ""
            if (folder / "cancelled").exists():
                return "cancelled", ""
            return "failed", "its process was killed, or the machine was restarted"
        if ended["code"] == 0:
            return "completed", ""
        if (folder / "cancelled").exists():
            return "cancelled", ""
        if ended["reason"] == "time is up":
            return "failed", "it ran longer than Resources(max_hours=…)"
        return "failed", f"exit code {ended['code']}"

    @staticmethod
    def _endpoint_status(folder: Path, record: Mapping[str, Any]) -> tuple[Status, str]:
        alive = supervisor.is_alive(folder)
        if alive:
            return ("ready" if (folder / "address.json").exists() else "starting"), ""
        if time.time() - record["created"] < _START_SECONDS and not (folder / "lock").exists():
            return "starting", ""
        return "failed", "its process ended"

    def _list(self, kind: Kind) -> list[Resource]:
        if kind == "model":
            return self._registry.versions()
        found = []
        root = self._home / f"{kind}s"
        for folder in sorted(root.iterdir()) if root.exists() else ():
            if not folder.name.startswith("."):
                with contextlib.suppress(NotFoundError):
                    found.append(self._describe(kind, folder.name))
        return found

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        folder = self._folder(kind, id)
        try:
            with (folder / "log").open("rb") as file:
                file.seek(after)
                content = file.read()
        except FileNotFoundError:
            return [], after
        whole = content[: content.rfind(b"\n") + 1]
        return whole.decode(errors="replace").splitlines(), after + len(whole)

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        link_tree(self._registry.folder(id) if kind == "model" else self._folder(kind, id) / "out", target)

    # -- registry -----------------------------------------------------------------------------------------------------

    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        return self._registry.register(name, folder, details)

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        if config.kind != "realtime":
            raise ConfigError(f"the local backend serves kind='realtime' only, not {config.kind!r}")
        target = self._home / "endpoints" / name
        key = secrets.token_urlsafe(32) if config.auth == "key" else ""
        record = {"created": time.time(), "ttl_hours": config.ttl_hours, "auth": config.auth, **details}
        with self._new(target) as draft:
            # Its own copy: the endpoint serves on when the job is deleted.
            link_tree(folder, draft / "model")
            if key:
                # The key is for the owner's processes; the server is given only its hash.
                atomic_write(draft / "key", key, private=True)
                atomic_write(draft / "key-hash", hashlib.sha256(key.encode()).hexdigest())
            atomic_write(draft / "record.json", json.dumps(record))
        command = [sys.executable, "-m", "medimg.serving", "--model", str(target / "model")]
        command += ["--address-file", str(target / "address.json")]
        if key:
            command += ["--key-hash-file", str(target / "key-hash")]
        seconds = None if config.ttl_hours is None else config.ttl_hours * 3600
        supervisor.start(target, command, max_seconds=seconds, remove=True, environment={"PYTHONUNBUFFERED": "1"})

    @staticmethod
    def _url(folder: Path) -> str:
        try:
            address = json.loads((folder / "address.json").read_text())
        except FileNotFoundError:
            return ""
        return f"http://{address['host']}:{address['port']}/predict"

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        folder = self._folder("endpoint", name)
        try:
            address = json.loads((folder / "address.json").read_text())
        except FileNotFoundError:
            raise EndpointError(f"the endpoint {name!r} is {self._describe('endpoint', name).status}") from None
        headers = {"Content-Type": "application/octet-stream"}
        if (folder / "key").exists():
            headers["Authorization"] = f"Bearer {(folder / 'key').read_text()}"
        connection = http.client.HTTPConnection(address["host"], address["port"], timeout=60)
        try:
            connection.request("POST", "/invocations", body, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            status = self._describe("endpoint", name).status
            raise EndpointError(f"the endpoint {name!r} ({status}) did not answer: {error}") from error
        finally:
            connection.close()
        if response.status == 200:
            result: Mapping[str, Any] = answer
            return result
        if "code" in answer:
            raise ImageRejected(answer["code"], "image", answer["error"])
        raise EndpointError(f"the endpoint {name!r} answered {response.status}: {answer.get('error', answer)}")

    # -- deleting -----------------------------------------------------------------------------------------------------

    def _delete(self, kind: Kind, id: str) -> None:
        if kind == "model":
            self._registry.delete(id)
            return
        folder = self._folder(kind, id)
        checkpoints = json.loads((folder / "record.json").read_text()).get("checkpoints")
        self._terminate(folder)
        # Renamed first, so that it is gone at once and whole for everybody else.
        grave = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        folder.rename(grave)
        shutil.rmtree(grave)
        if checkpoints and not any(r.details.get("checkpoints") == checkpoints for r in self._list("job")):
            shutil.rmtree(self._home / "checkpoints" / checkpoints, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
