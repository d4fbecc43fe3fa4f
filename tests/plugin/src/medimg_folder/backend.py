"""The ten primitives over folders: ROOT/job/ID, ROOT/model/NAME/VERSION, ROOT/endpoint/NAME, ROOT/checkpoints/NAME."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from medimg import Backend, ServeConfig
from medimg.backends.resource import Kind, Resource, Status
from medimg.config import JobSpec
from medimg.errors import AlreadyExistsError, ConfigError, EndpointError, ImageRejected, NotFoundError
from medimg.inference.request_lines import lines_of
from medimg.progress import Event, Report

__all__ = ["FolderBackend"]


class FolderBackend(Backend):
    """Runs jobs, a registry and endpoints in folders.

    Args:
        root: Where they are kept; another process that is given the same root sees the same things.
    """

    name: ClassVar[str] = "folder"
    endpoint_poll_seconds: ClassVar[float] = 0.1

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root).resolve()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        report(Event("stage", "uploading"))
        place = self._root / "job" / spec.id
        checkpoints = self._root / "checkpoints" / spec.checkpoints
        told = {"task": spec.kind, "checkpoints": spec.checkpoints, "timings": spec.timings}
        told["workload"] = spec.workload
        with self._making(place, told) as (draft, lock):
            shutil.copytree(pack, draft / "pack")
            (draft / "inputs").mkdir()
            for name in spec.inputs.values():
                copy: Callable[..., Any] = shutil.copytree if (inputs / name).is_dir() else shutil.copy
                copy(inputs / name, draft / "inputs" / name)
            (draft / "spec.json").write_text(spec.model_dump_json())
            command = [
                "-m", self._module(spec), "--spec", place / "spec.json", "--data", place / "pack",
                "--inputs", place / "inputs", "--out", place / "out", "--checkpoints", checkpoints,
            ]  # fmt: skip
            self._plan(draft, command, spec.resources.max_hours, temporary=False)
            self._publish(draft, place)
            self._start(place, lock)

    def _module(self, spec: JobSpec) -> str:
        return spec.module

    def _stop(self, id: str) -> None:
        self._existing("job", id).joinpath("stop").touch()

    # -- what there is ------------------------------------------------------------------------------------------------

    def _describe(self, kind: Kind, id: str) -> Resource:
        place = self._existing(kind, id)
        try:
            details = json.loads((place / "record.json").read_text())
            status, reason = self._status(kind, place)
        except FileNotFoundError:
            raise NotFoundError(f"the {kind} {id!r} has just been deleted") from None
        if reason:
            details["reason"] = reason
        if kind == "endpoint":
            with suppress(FileNotFoundError):
                details["url"] = "http://{host}:{port}/predict".format(
                    **json.loads((place / "address.json").read_text())
                )
                served = json.loads((place / "served.json").read_text())
                details["digest"] = served["digest"]
                if served["error"]:
                    details["reason"] = served["error"]
        return Resource(kind, id, status, details.pop("created"), details)

    def _status(self, kind: Kind, place: Path) -> tuple[Status, str]:
        if kind == "model":
            return "registered", ""
        if _is_held(place / "alive"):
            if kind == "job":
                return ("running" if (place / "log").exists() else "queued"), ""
            if not (place / "address.json").exists():
                return "starting", ""
            asked, wanted = (json.loads((place / f"{name}.json").read_text()) for name in ("served", "wanted"))
            return ("ready" if asked["asked"] == wanted["digest"] else "updating"), ""
        # Nobody holds the lock, so this is final.
        try:
            end = json.loads((place / "end.json").read_text())
        except FileNotFoundError:
            return "failed", "its machine was switched off"
        if kind == "endpoint":
            return "failed", f"the server ended with {end['code']}"
        if end["code"] == 0:
            return "completed", ""
        if end["why"] == "stopped":
            return "cancelled", ""
        return "failed", "longer than max_hours" if end["why"] == "late" else f"exit status {end['code']}"

    def _list(self, kind: Kind) -> list[Resource]:
        found = []
        for place in self._root.glob("model/*/*" if kind == "model" else f"{kind}/*"):
            with suppress(NotFoundError):
                found.append(self._describe(kind, place.relative_to(self._root / kind).as_posix()))
        return found

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        place = self._existing(kind, id)
        try:
            content = (place / "log").read_bytes()[after:]
        except FileNotFoundError:
            return [], after
        end = content.rfind(b"\n") + 1
        # Not splitlines: an event may hold characters that are ends of lines to it.
        return content[:end].decode(errors="replace").split("\n")[:-1], after + end

    def _request_log(self, name: str) -> Iterator[str]:
        return lines_of(self._existing("endpoint", name))

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        report(Event("stage", "downloading"))
        place = self._existing(kind, id)
        shutil.copytree(place / ("model" if kind == "model" else "out"), target, dirs_exist_ok=True)

    # -- models -------------------------------------------------------------------------------------------------------

    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        shelf = self._root / "model" / name
        first = 1 + max((int(place.name) for place in shelf.glob("[0-9]*")), default=0)
        for version in map(str, itertools.count(first)):
            with suppress(AlreadyExistsError), self._making(shelf / version, details) as (draft, _):
                shutil.copytree(folder, draft / "model")
                self._publish(draft, shelf / version)
                break
        return version

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        if config.kind != "realtime":
            raise ConfigError(f"the folder backend serves kind='realtime' only, not {config.kind!r}")
        place = self._root / "endpoint" / name
        with self._making(place, {**details, "url": ""}) as (draft, lock):
            self._want(draft, place, folder, str(details["digest"]))
            command = ["-m", "medimg.serving", "--model-file", place / "wanted.json"]
            command += ["--served-file", place / "served.json", "--address-file", place / "address.json"]
            command += ["--log-folder", place]
            if config.auth == "key":
                key = secrets.token_urlsafe()
                (draft / "key").touch(mode=0o600)
                (draft / "key").write_text(key)
                (draft / "key-hash").write_text(hashlib.sha256(key.encode()).hexdigest())
                command += ["--key-hash-file", place / "key-hash"]
            self._plan(draft, command, config.ttl_hours, temporary=True)
            self._publish(draft, place)
            self._start(place, lock)

    def _update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        place = self._existing("endpoint", name)
        self._want(place, place, folder, str(details["digest"]))
        (place / "change").touch()

    def _want(self, now: Path, later: Path, folder: Path, digest: str) -> None:
        """Copies a model and names it as the one to serve; `later` is what the folder `now` will be called."""
        shutil.copytree(folder, now / "models" / digest, dirs_exist_ok=True)
        (now / "wanted.part").write_text(json.dumps({"model": str(later / "models" / digest), "digest": digest}))
        (now / "wanted.part").rename(now / "wanted.json")

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        place, resource = self._existing("endpoint", name), self._describe("endpoint", name)
        if resource.status not in ("ready", "updating"):
            raise EndpointError(f"the endpoint {name!r} is {resource.status}")
        key = (place / "key").read_text() if (place / "key").exists() else ""
        headers = {"Content-Type": "application/octet-stream", "Authorization": f"Bearer {key}"}
        with closing(http.client.HTTPConnection(urlsplit(resource.details["url"]).netloc, timeout=60)) as connection:
            try:
                connection.request("POST", "/predict", body, headers)
                response = connection.getresponse()
                answer: dict[str, Any] = json.load(response)
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise EndpointError(f"the endpoint {name!r} did not answer: {error}") from error
        if "code" in answer:
            raise ImageRejected(answer["code"], "image", answer["error"])
        if response.status != 200:
            raise EndpointError(f"the endpoint {name!r} refused: {answer}")
        return answer

    # -- deleting -----------------------------------------------------------------------------------------------------

    def _delete(self, kind: Kind, id: str) -> None:
        place = self._existing(kind, id)
        checkpoints = json.loads((place / "record.json").read_text()).get("checkpoints")
        (place / "stop").touch()
        while _is_held(place / "alive"):
            time.sleep(0.05)
        # What has no record is not there, so this one step deletes it.
        (place / "record.json").unlink(missing_ok=True)
        # A deleted version's folder stays: its number is not given again.
        shutil.rmtree(place / "model" if kind == "model" else place, ignore_errors=True)
        if checkpoints and all(job.details["checkpoints"] != checkpoints for job in self._list("job")):
            shutil.rmtree(self._root / "checkpoints" / checkpoints, ignore_errors=True)

    # -- folders ------------------------------------------------------------------------------------------------------

    def _existing(self, kind: Kind, id: str) -> Path:
        place = self._root / kind / id
        parts = id.split("/")
        if len(parts) != 1 + (kind == "model") or {"", ".", ".."} & set(parts) or not (place / "record.json").exists():
            raise NotFoundError(f"the folder backend has no {kind} {id!r} in {self._root}")
        return place

    @contextmanager
    def _making(self, place: Path, details: Mapping[str, Any]) -> Iterator[tuple[Path, int]]:
        """Yields a draft of a folder and a lock on its `alive`, which whoever inherits it goes on holding."""
        draft = self._root / "drafts" / secrets.token_hex(8)
        draft.mkdir(parents=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        (draft / "record.json").write_text(json.dumps({"created": time.time(), **details}))
        lock = os.open(draft / "alive", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield draft, lock
        finally:
            os.close(lock)
            shutil.rmtree(draft, ignore_errors=True)

    def _publish(self, draft: Path, place: Path) -> None:
        try:
            draft.rename(place)  # refused by the file system where something is: of two at once, one
        except OSError as error:
            raise AlreadyExistsError(f"{place.name!r} exists in {place.parent}") from error

    def _plan(self, draft: Path, command: list[Any], hours: float | None, *, temporary: bool) -> None:
        deadline = 1e12 if hours is None else time.time() + hours * 3600
        plan = {"command": [sys.executable, *map(str, command)], "deadline": deadline, "temporary": temporary}
        (draft / "plan.json").write_text(json.dumps(plan))

    def _start(self, place: Path, lock: int) -> None:
        # The shell ends at once, so the keeper is nobody's child and outlives this process.
        keeper = [sys.executable, str(Path(__file__).with_name("keeper.py")), str(place)]
        subprocess.run(
            ["/bin/sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *keeper],
            check=True, start_new_session=True, pass_fds=[lock], env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip


def _is_held(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
