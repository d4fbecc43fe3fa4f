"""The local backend: processes on this machine that outlive the notebook, MLflow on SQLite, a server on 127.0.0.1."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from medimg import framework
from medimg.artifact import ModelFolder
from medimg.backends import supervisor
from medimg.backends.base import Backend
from medimg.backends.doctor import Check, local_checks
from medimg.backends.identity import forget_shared, link_tree
from medimg.backends.local_registry import Registry
from medimg.backends.rates import Rate, own_machine_rates
from medimg.backends.resource import Kind, Resource, Status
from medimg.config import Framework, JobSpec, Resources, ServeConfig
from medimg.errors import AlreadyExistsError, ConfigError, EndpointError, NotFoundError
from medimg.home import atomic_folder, atomic_write, home
from medimg.inference.answers import read_answer
from medimg.inference.request_lines import lines_of
from medimg.key_file import KeyFile
from medimg.progress import Event, Report

__all__ = ["LocalBackend"]

_START_SECONDS = 30.0  # from the record of a job to its supervisor's lock


class LocalBackend(Backend):
    """Runs jobs, a registry and endpoints on this machine (Linux or macOS), under `MEDIMG_HOME`."""

    name: ClassVar[str] = "local"
    endpoint_poll_seconds: ClassVar[float] = 0.1

    def __init__(self) -> None:
        self._home = home()
        self._registry = Registry(self._home)

    def _folder(self, kind: Kind, id: str) -> Path:
        folder = self._home / f"{kind}s" / id
        if "/" in id or not (folder / "record.json").exists():
            raise NotFoundError(f"the local backend has no {kind} {id!r}. See backend.{kind}s(), or `medimg ls`")
        return folder

    @staticmethod
    @contextlib.contextmanager
    def _there(kind: Kind, id: str) -> Iterator[None]:
        """Says that a thing was deleted, by another process or its own deadline, while the block worked on it."""
        try:
            yield
        except FileNotFoundError:
            raise NotFoundError(f"the {kind} {id!r} was deleted") from None

    def _framework(self) -> Framework:
        return framework.found_here()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        report(Event("stage", "queueing"))
        folder = self._home / "jobs" / spec.id
        checkpoints = self._home / "checkpoints" / spec.checkpoints
        record = {
            "created": time.time(),
            "task": spec.kind,
            **spec.model_dump(include={"checkpoints", "pack", "inputs", "timings", "workload"}),
        }
        with self._new(folder) as draft:
            atomic_write(draft / "spec.json", spec.model_dump_json(indent=1))
            atomic_write(draft / "record.json", json.dumps(record))
        command = [sys.executable, "-m", spec.module]
        for name, path in (
            ("spec", folder / "spec.json"), ("data", pack), ("inputs", inputs), ("out", folder / "out"),
            ("checkpoints", checkpoints),
        ):  # fmt: skip
            command += [f"--{name}", str(path)]
        environment = {
            "MLFLOW_TRACKING_URI": self._registry.uri,
            "MEDIMG_FEATURES": str(self._home / "features"),
            "PYTHONUNBUFFERED": "1",
            **self._registry.quiet,
        }
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
        with self._there("job", id):
            _mark_cancelled(folder)
        self._terminate(folder)

    @staticmethod
    def _terminate(folder: Path) -> None:
        """Ends a folder's process: politely, then for certain. Returns when it is gone."""
        deadline = time.monotonic() + supervisor.GRACE_SECONDS + 10
        asked: list[Callable[[int, int], None]] = []
        while supervisor.is_alive(folder):
            try:
                leader = int((folder / "pids").read_text().split()[0])
            except (FileNotFoundError, ValueError, IndexError):
                leader = 0  # it is just being started
            late = time.monotonic() > deadline
            # The supervisor leads a group of its own, whose number is not given again while the lock is held. It passes
            # the signal on and keeps the time; where it was killed, the group itself must be told.
            tell = os.kill if leader and _runs(leader) else os.killpg
            if leader and (tell not in asked or late):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if late:
                        os.killpg(leader, signal.SIGKILL)
                    else:
                        tell(leader, signal.SIGTERM)
                asked.append(tell)
            time.sleep(0.05)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _describe(self, kind: Kind, id: str) -> Resource:
        if kind == "model":
            return self._registry.describe(id)
        folder = self._folder(kind, id)
        with self._there(kind, id):
            record = json.loads((folder / "record.json").read_text())
            status, reason = (self._job_status if kind == "job" else self._endpoint_status)(folder, record)
            details_of_kind = self._endpoint_details(folder) if kind == "endpoint" else {}
            # Asked last: what was removed meanwhile has no lock either, and would look as if it had died.
            (folder / "record.json").stat()
        details = {name: value for name, value in record.items() if name != "created"} | details_of_kind
        if reason:
            details["reason"] = reason
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
            # Who cancels before the supervisor has its lock has the supervisor not begin.
            if (folder / "cancelled").exists():
                return "cancelled", ""
            if time.time() - record["created"] < _START_SECONDS and not (folder / "lock").exists():
                return "queued", ""
            return "failed", "its process was killed, or the machine was restarted"
        if ended["code"] == 0:
            return "completed", ""
        if (folder / "cancelled").exists():
            return "cancelled", ""
        if ended["code"] is None:
            return "failed", ended["reason"]
        if ended["reason"] == "time is up":
            return "failed", "it ran longer than Resources(max_hours=…)"
        return "failed", f"exit code {ended['code']}"

    @staticmethod
    def _endpoint_status(folder: Path, record: Mapping[str, Any]) -> tuple[Status, str]:
        if supervisor.is_alive(folder):
            if not (folder / "address.json").exists():
                return "starting", ""
            try:
                # An earlier change that was still going on may have written of another model.
                asked = json.loads((folder / "served.json").read_text())["asked"]
            except FileNotFoundError:
                return "updating", ""
            wanted = json.loads((folder / "wanted.json").read_text())["digest"]
            return ("ready" if asked == wanted else "updating"), ""
        with contextlib.suppress(FileNotFoundError):
            ended = json.loads((folder / "exit.json").read_text())
            return "failed", ended["reason"] or f"its process ended with exit code {ended['code']}"
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
        # Alive is asked first: what is written in between is then whole, or read the next time.
        alive = supervisor.is_alive(folder)
        try:
            with (folder / "log").open("rb") as file:
                file.seek(after)
                content = file.read()
        except FileNotFoundError:
            return [], after
        # The last words of a process that was killed have no end of line.
        whole = content[: content.rfind(b"\n") + 1] if alive else content
        # Not splitlines, which would cut an event in two at U+2028 or U+0085.
        lines = whole.decode(errors="replace").removesuffix("\n").split("\n") if whole else []
        return lines, after + len(whole)

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        if kind == "model":
            link_tree(self._registry.folder(id), target)
            return
        folder = self._folder(kind, id)
        try:
            link_tree(folder / "out", target)
        except FileNotFoundError:
            self._folder(kind, id)  # says so where it was deleted meanwhile
            raise

    # -- registry -----------------------------------------------------------------------------------------------------

    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        return self._registry.register(name, folder, details)

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        if config.kind != "realtime":
            raise ConfigError(f"the local backend serves kind='realtime' only, not {config.kind!r}")
        if config.runtime == "int8":
            ModelFolder.load(folder).exported("int8")  # says what to do where it has none
        target = self._home / "endpoints" / name
        record = {"created": time.time(), **details}
        with self._new(target) as draft:
            # Its own copy: the endpoint serves on when the job is deleted.
            link_tree(folder, draft / "models" / str(details["digest"]))
            _want(draft, target, details)
            if config.auth == "key":
                # The key is for the owner's processes; the server is given only its hash.
                key, _ = KeyFile(draft / "keys.json").add("owner", limited=False)
                atomic_write(draft / "key", key, private=True)
            atomic_write(draft / "record.json", json.dumps(record))
        command = [sys.executable, "-m", "medimg.serving", "--model-file", str(target / "wanted.json")]
        command += ["--served-file", str(target / "served.json"), "--address-file", str(target / "address.json")]
        command += ["--log-folder", str(target)]
        for host in config.url_hosts:
            command += ["--url-host", host]
        if config.auth == "key":
            command += ["--keys", str(target / "keys.json"), "--session-secret", str(target / "session-secret")]
            command += ["--rate-limit", str(config.rate_limit or 0)]
        if config.runtime != "litert":
            command += ["--runtime", config.runtime]
        seconds = None if config.ttl_hours is None else config.ttl_hours * 3600
        supervisor.start(target, command, max_seconds=seconds, remove=True, environment={"PYTHONUNBUFFERED": "1"})

    def _update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        target = self._folder("endpoint", name)
        with self._there("endpoint", name):
            record = json.loads((target / "record.json").read_text())
            with contextlib.suppress(FileNotFoundError):
                # What answers while the server has said nothing of the change.
                served = json.loads((target / "served.json").read_text())
                record |= {"digest": served["digest"], "version": served.get("version", "")}
            atomic_write(target / "record.json", json.dumps(record), parents=False)
            place = target / "models" / str(details["digest"])
            if not place.exists():  # it may be another version of the model that answers now
                with atomic_folder(place) as draft:
                    link_tree(folder, draft)
            _want(target, target, details)
            (target / "served.json").unlink(missing_ok=True)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int((target / "pids").read_text().split()[1]), signal.SIGHUP)

    def _settle(self, name: str) -> None:
        folder = self._folder("endpoint", name)
        with self._there("endpoint", name):
            served = self._describe("endpoint", name).details["digest"]
            for other in (folder / "models").iterdir():
                if other.name != served:
                    shutil.rmtree(other, ignore_errors=True)

    def _keys(self, name: str) -> KeyFile:
        folder = self._folder("endpoint", name)
        if not (folder / "keys.json").exists():
            return super()._keys(name)
        return KeyFile(folder / "keys.json", own=folder / "key", of=f"the endpoint {name!r}")

    @staticmethod
    def _endpoint_details(folder: Path) -> dict[str, str]:
        key = folder / "key"
        details = {"url": "", "key_command": f"cat {shlex.quote(str(key))}" if key.exists() else ""}
        with contextlib.suppress(FileNotFoundError):
            address = json.loads((folder / "address.json").read_text())
            details["url"] = f"http://{address['host']}:{address['port']}/predict"
            served = json.loads((folder / "served.json").read_text())
            details |= {"digest": served["digest"], "version": served.get("version", "")}
            if served["error"]:
                details["reason"] = served["error"]
        return details

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        folder = self._folder("endpoint", name)
        # Its status first: another program may have got the port of a server that ended, and would get key and image.
        resource = self._describe("endpoint", name)
        if resource.status not in ("ready", "updating"):
            raise EndpointError(f"the endpoint {name!r} is {resource.status}")
        headers = {"Content-Type": "application/octet-stream"}
        with self._there("endpoint", name):
            address = json.loads((folder / "address.json").read_text())
            key = (folder / "key").read_text() if resource.details["key_command"] else ""
        if key:
            headers["Authorization"] = f"Bearer {key}"
        connection = http.client.HTTPConnection(address["host"], address["port"], timeout=60)
        try:
            connection.request("POST", "/invocations", body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            status = self._describe("endpoint", name).status
            raise EndpointError(f"the endpoint {name!r} ({status}) did not answer: {error}") from error
        finally:
            connection.close()
        if response.status == 401 and key:
            with self._there("endpoint", name):
                rotated = key != (folder / "key").read_text()
            if rotated:  # between the reading of the key and the server's look at it
                return self._invoke(name, body)
        waiting = response.headers.get("Retry-After")
        answer = read_answer(response.status, content, endpoint=name, retry_after=waiting)
        if not (folder / "models" / str(answer.get("digest"))).exists():
            raise EndpointError(f"what answers for the endpoint {name!r} serves another model. Delete and deploy it")
        return answer

    def _http_request(self, name: str, body: bytes) -> tuple[str, Mapping[str, str]]:
        resource = self._describe("endpoint", name)
        if resource.status not in ("ready", "updating"):
            raise EndpointError(f"the endpoint {name!r} is {resource.status}")
        headers = {"Content-Type": "application/octet-stream"}
        if resource.details["key_command"]:
            with self._there("endpoint", name):
                headers["Authorization"] = f"Bearer {(self._folder('endpoint', name) / 'key').read_text()}"
        return str(resource.details["url"]), headers

    def _request_log(self, name: str) -> Iterable[str]:
        with self._there("endpoint", name):
            return list(lines_of(self._folder("endpoint", name)))

    def _health(self, name: str) -> Mapping[str, Any]:
        url, headers = self._http_request(name, b"")
        address = urlsplit(url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
        try:
            connection.request("GET", "/health", headers=dict(headers))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            status = self._describe("endpoint", name).status
            raise EndpointError(f"the endpoint {name!r} ({status}) did not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise EndpointError(
                f"the endpoint {name!r} does not tell its health (HTTP {response.status}): another version of medimg "
                f"serves it. Deploy it again: backend.endpoint({name!r}).delete(), then backend.deploy(…)"
            )
        health: dict[str, Any] = json.loads(content)
        return health

    # -- what it adds -------------------------------------------------------------------------------------------------

    def _rates(
        self, resources: Resources, serve: ServeConfig | None, given: Mapping[str, float] | None
    ) -> Mapping[str, Rate]:
        return own_machine_rates(given)

    def _checks(self, resources: Resources) -> Sequence[Check]:
        return local_checks()

    # -- deleting -----------------------------------------------------------------------------------------------------

    def _delete(self, kind: Kind, id: str) -> None:
        if kind == "model":
            self._registry.delete(id)
            return
        folder = self._folder(kind, id)
        with self._there(kind, id):
            record = json.loads((folder / "record.json").read_text())
            if not (folder / "exit.json").exists():
                # What is just being started must not begin.
                _mark_cancelled(folder)
            self._terminate(folder)
            # Renamed first, so that it is gone at once and whole for everybody else.
            grave = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
            folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)
        if kind == "job":
            forget_shared(record, lambda: [resource.details for resource in self._list("job")])
            if not any(r.details.get("checkpoints") == record["checkpoints"] for r in self._list("job")):
                shutil.rmtree(self._home / "checkpoints" / record["checkpoints"], ignore_errors=True)


def _mark_cancelled(folder: Path) -> None:
    try:
        (folder / "cancelled").touch()
    except FileNotFoundError:
        raise
    except OSError:
        return  # on a full disk it must be possible to stop and delete things


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # or it is somebody else's, so not ours
        return False
    # Where nothing collects the dead, as in a container without an init, they keep their number.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _want(folder: Path, final: Path, details: Mapping[str, Any]) -> None:
    """Tells the server which model to serve; `final` is what the folder will be called."""
    digest = str(details["digest"])
    wanted = {"model": str(final / "models" / digest), "digest": digest, "version": details.get("version", "")}
    atomic_write(folder / "wanted.json", json.dumps(wanted))
