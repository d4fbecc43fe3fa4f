"""Training and prediction jobs: both are AzureML command jobs, in which launch runs `medimg.train` or `medimg.predict`.

What is known of a job is in its own properties at AzureML, so that any process with the credentials finds it, also with
an empty `MEDIMG_HOME`.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from medimg.backends.azureml.assets import discard, ensure
from medimg.backends.azureml.compute import Machine, delete_clusters, machine
from medimg.backends.azureml.environments import Environments
from medimg.backends.azureml.errors import explain_failure, translated
from medimg.backends.azureml.logs import ENDED, RunHistory
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.job_files import JOB_ID, described, details, input_files, orphans, spec_file
from medimg.backends.resource import Resource, Status
from medimg.backends.wheel import wheel
from medimg.config import JobSpec
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, MedimgError, NotFoundError
from medimg.progress import Display, Event, Report, Stopwatch, heartbeat, silent

__all__ = ["Jobs"]

_API = "2024-10-01"
_AT_ONCE = 8
_STOP_SECONDS = 600.0
_CLAIM_SECONDS = 120.0  # after which nobody is about to submit a job that was claimed

_RUNNING = {"Running", "Finalizing", "CancelRequested", "NotResponding", "Unknown"}

# The wheel is unpacked, since Python reads no style sheet out of an archive. `exec` makes Python the process that gets
# SIGTERM.
_COMMAND = (
    'folder=$(mktemp -d) && python -m zipfile -e "${{inputs.code}}" "$folder" && export PYTHONPATH="$folder" && '
    'exec python -m medimg.backends.azureml.launch MODULE --spec "${{inputs.spec}}" --data "${{inputs.pack}}" '
    '--inputs "INPUTS" --out "${{outputs.out}}" --checkpoints "${{outputs.checkpoints}}"'
)


class Jobs:
    """The jobs of a workspace.

    Attributes:
        poll_seconds: Between two questions about a job that is being stopped.

    Args:
        workspace: Whose.
        environments: What they run in.
        compute: Name of the compute cluster that they run on; None: serverless compute.
    """

    poll_seconds = 2.0

    def __init__(self, workspace: Workspace, environments: Environments, *, compute: str | None) -> None:
        self._workspace = workspace
        self._environments = environments
        self._compute = compute
        self._runs = RunHistory(workspace)
        self._ended: dict[str, Resource] = {}  # what has ended does not change

    def _id(self, id: str) -> str:
        return f"{self._workspace.id}/jobs/{id}"

    # -- submitting ---------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        """Uploads what is not there yet and creates the command job."""
        resources = spec.resources
        if resources.count != 1:
            raise ConfigError(
                f"Resources(count={resources.count}): a job runs on one machine. For more GPUs take an instance with "
                "several, such as instance='Standard_NC64as_T4_v3'"
            )
        watch = Stopwatch(report)
        watch(Event("stage", "uploading"))
        with _not_the_job():
            where = machine(self._workspace, self._compute, resources)

            def prepare(report: Report) -> dict[str, Any]:
                environment = self._environments.training(where.instance)
                given = self._upload(spec, pack, inputs, report)
                return self._body(spec, where, environment, given, watch.timings)

            body = prepare(watch)
            report(Event("stage", "queueing"))
            # What another process deletes as unused before this job is there to name it is sent again: at once where
            # Azure finds it missing, else as soon as the job is there.
            try:
                made = self._create(spec.id, body)
            except NotFoundError:
                made = self._create(spec.id, prepare(silent))
        if not made:
            raise AlreadyExistsError(f"the job {spec.id!r} exists, or is being submitted by another process")
        try:
            prepare(silent)
        except MedimgError as error:  # the job is there, and is billed
            report(Event("warning", message=f"it is not sure that the job {spec.id!r} finds all its files: {error}"))

    def _upload(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> dict[str, dict[str, str]]:
        """Uploads what is missing of all that a job is given, and returns its inputs in Azure's words."""
        storage, built = self._workspace.storage, wheel()
        code = f"code/{hashlib.sha256(built.read_bytes()).hexdigest()[:16]}/medimg.whl"
        files, folders = {code: built}, {}
        if spec.inputs:
            folder, sources = input_files(spec, inputs)
            files |= sources
            folders["inputs"] = storage.uri(folder)
        storage.upload_files(files, report)
        folders["pack"] = self._dataset(spec.pack, storage.upload_pack(pack, spec.samples, report))
        told, content = spec_file(spec)
        storage.claim(told, content)
        given = {"code": _file(storage.uri(code)), "spec": _file(storage.uri(told))}
        return given | {name: _folder(uri) for name, uri in folders.items()}

    def _dataset(self, pack: str, uri: str) -> str:
        """Returns the address of the data asset that a pack is, made if it is not there; its content has its name."""
        name = self._data_name(pack)

        def make(version: str) -> str:
            from azure.ai.ml.entities import Data

            tags = self._workspace.tag_map()
            asset = Data(name=name, version=version, type="uri_folder", path=uri, tags=tags)
            with translated(f"making the data asset {name!r}"):
                return str(self._workspace.ml.data.create_or_update(asset).id)

        return f"azureml:{ensure(self._workspace, f'data/{name}', make)}"

    def _data_name(self, pack: str) -> str:
        return f"{self._workspace.prefix}-pack-{pack}"

    def _body(
        self,
        spec: JobSpec,
        where: Machine,
        environment: str,
        given: Mapping[str, Mapping[str, str]],
        timings: Mapping[str, float],
    ) -> dict[str, Any]:
        # Not azure-ai-ml's `command`: it adds the address and branch of the repository that the notebook lies in.
        storage = self._workspace.storage
        seconds = max(1, math.ceil(spec.resources.max_hours * 3600))
        command = _COMMAND.replace("MODULE", spec.module)
        properties: dict[str, Any] = {
            "jobType": "Command",
            "displayName": spec.id,
            "experimentName": self._workspace.prefix,
            "command": command.replace("INPUTS", "${{inputs.inputs}}" if spec.inputs else "none"),
            "environmentId": environment,
            "environmentVariables": {"PYTHONUNBUFFERED": "1"},
            "inputs": given,
            "outputs": {
                "out": {
                    "jobOutputType": "uri_folder", "mode": "Upload", "uri": storage.uri(f"jobs/{spec.id}/out/"),
                },
                "checkpoints": {
                    "jobOutputType": "uri_folder", "mode": "ReadWriteMount",
                    "uri": storage.uri(f"checkpoints/{spec.checkpoints}/"),
                },
            },
            "limits": {"jobLimitsType": "Command", "timeout": f"PT{seconds}S"},
            "resources": {"instanceCount": 1},
            "tags": self._workspace.tag_map(job=spec.id),
            "properties": {
                **described(spec, timings), "medimg-instance": where.instance, "medimg-spot": json.dumps(where.spot),
                "medimg-seconds": str(seconds), "medimg-token": secrets.token_hex(8),
            },
        }  # fmt: skip
        if where.cluster:
            properties["computeId"] = where.cluster
        else:
            # Without a compute it is serverless, in the workspace's own region since no other is named.
            properties["resources"]["instanceType"] = where.instance
            properties["queueSettings"] = {"jobTier": "Spot" if where.spot else "Standard"}
        return {"properties": properties}

    def _create(self, id: str, body: Mapping[str, Any]) -> bool:
        """Creates a job, once, and tells whether it was this call that did: Azure's PUT would make it or change it."""
        told = body["properties"]["properties"]
        if not self._claim(id, json.dumps({"time": time.time(), "properties": told}).encode()):
            if self._find(id) is None and not self._workspace.storage.exists(_claim_key(id)):
                raise BackendError(
                    f"the job {id!r} was not submitted: Azure does not let {_claim_key(id)} be written, or another "
                    "process has just given it up. Submit it again"
                )
            return False
        try:
            found = self._find(id)
            if found is None:
                with translated(f"submitting the job {id!r}"):
                    self._workspace.arm("PUT", self._id(id), _API, body)
                return True
        except BackendError:
            # An answer may have been lost on its way, and the second request met the first one's job.
            found = self._find(id)
            if found is None:
                self._workspace.storage.delete_prefix(f"jobs/{id}/")
                raise
        return bool(_told(found).get("medimg-token") == told["medimg-token"])

    def _claim(self, id: str, content: bytes) -> bool:
        """Tells whether it is for this call to create a job, of all that try."""
        storage, key = self._workspace.storage, _claim_key(id)
        if storage.claim(key, content):
            return True
        try:
            claim, etag = storage.get_with_etag(key)
        except NotFoundError:  # given up a moment ago
            return storage.claim(key, content)
        # After a while whoever claimed it has ended before the job was there.
        stale = time.time() > json.loads(claim)["time"] + _CLAIM_SECONDS
        return stale and self._find(id) is None and storage.replace(key, content, etag)

    # -- reading ------------------------------------------------------------------------------------------------------

    def describe(self, id: str) -> Resource:
        """Returns a job as it is now."""
        unknown = f"AzureML has no job {id!r} in the workspace {self._workspace.name!r}. See backend.jobs()"
        if not JOB_ID.fullmatch(id):
            raise NotFoundError(unknown)
        found = self._find(id)
        if found is None:
            return self._claimed(id, unknown)
        if not self._workspace.owns(found["properties"].get("tags")):
            raise NotFoundError(f"{id!r} is no job of medimg. See backend.jobs()")
        return self._resource(found)

    def _find(self, id: str) -> dict[str, Any] | None:
        """Returns what Azure tells of a job, None where there is none."""
        try:
            with translated(f"looking for the job {id!r}"):
                return self._workspace.arm("GET", self._id(id), _API)
        except NotFoundError:
            return None

    def _claimed(self, id: str, unknown: str) -> Resource:
        """Returns a job that another process is about to submit."""
        try:
            claim = json.loads(self._workspace.storage.get(_claim_key(id)))
        except NotFoundError as error:
            raise NotFoundError(unknown) from error
        if time.time() > claim["time"] + _CLAIM_SECONDS:
            raise NotFoundError(f"{unknown}; the process that was to submit it ended. Submit it again")
        return Resource("job", id, "queued", claim["time"], _details(claim["properties"]))

    def _resource(self, found: Mapping[str, Any]) -> Resource:
        id, about = found["name"], found["properties"]
        created = _time(found["systemData"]["createdAt"]) or 0.0
        told = _details(about["properties"])
        studio = (about.get("services") or {}).get("Studio") or {}
        told["url"] = studio.get("endpoint") or self._workspace.page(f"runs/{id}")
        status: Status | None = ENDED.get(about["status"])
        if status is None:
            return Resource("job", id, "running" if about["status"] in _RUNNING else "queued", created, told)
        known = self._ended.get(id)
        # A deleted job's name may have been given to the same work again, by another process.
        if known is not None and known.created == created:
            return known
        run = self._runs.details(id)
        began, ended = _time(run.get("startTimeUtc")), _time(run.get("endTimeUtc"))
        if began is not None:
            told["timings"]["provisioning"] = round(max(0.0, began - created), 3)
        if began is not None and ended is not None:
            # Azure bills the time that the machine is there; of a job that was interrupted the wait is counted, too.
            told["training_seconds"] = told["billable_seconds"] = round(max(0.0, ended - began), 3)
        if status == "failed":
            told["reason"] = explain_failure(_reason(run))
        elif status == "cancelled" and (told["training_seconds"] or 0.0) >= float(_told(found)["medimg-seconds"]):
            status, told["reason"] = "failed", "it ran longer than Resources(max_hours=…)"
        resource = Resource("job", id, status, created, told)
        if ended is not None:  # Azure may tell when a job ended a moment after it has
            self._ended[id] = resource
        return resource

    def all(self) -> list[Resource]:
        """Returns all jobs of ours."""
        with translated("listing the jobs"):
            found = [
                job
                for job in self._workspace.arm_list(
                    f"{self._workspace.id}/jobs", _API, tag="medimg", listViewType="All"
                )
                if JOB_ID.fullmatch(job["name"]) and self._workspace.owns(job["properties"].get("tags"))
            ]

        def one(job: Mapping[str, Any]) -> Resource | None:
            try:
                return self._resource(job)
            except NotFoundError:  # deleted meanwhile
                return None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [resource for resource in pool.map(one, found) if resource is not None]

    def log(self, id: str, after: int) -> tuple[list[str], int]:
        """Returns the lines after a position, and the position after them."""
        self.describe(id)
        try:
            return self._runs.log(id, after)
        except NotFoundError:  # it is about to be submitted, or has no log yet
            return [], after

    def fetch(self, id: str, target: Path, report: Report) -> None:
        """Downloads what the job wrote."""
        resource = self.describe(id)
        if resource.status != "completed":
            raise NotFoundError(f"the job {id!r} has no result")
        self._workspace.storage.download_folder(f"jobs/{id}/out/", target, report)

    # -- ending -------------------------------------------------------------------------------------------------------

    def stop(self, id: str) -> None:
        """Asks a job to end; its process gets SIGTERM first, to save its state."""
        if self.describe(id).status not in ("queued", "running"):
            return
        try:
            with translated(f"stopping the job {id!r}"):
                self._workspace.arm("POST", f"{self._id(id)}/cancel", _API)
        except BackendError:
            # It may have ended a moment ago, or is stopping already.
            found = self._find(id)
            if found is None or found["properties"]["status"] not in {*ENDED, "CancelRequested"}:
                raise

    def delete(self, id: str) -> None:
        """Deletes a job, its results, and the pack, inputs and checkpoints that no other job names."""
        gone = self.describe(id)
        if gone.status in ("queued", "running"):
            self.stop(id)
            with Display(id) as display, heartbeat("stopping", display):
                deadline = time.monotonic() + _STOP_SECONDS
                while self.describe(id).status in ("queued", "running"):
                    if time.monotonic() > deadline:
                        raise BackendError(f"the job {id!r} is still stopping. Delete it again in a few minutes")
                    time.sleep(self.poll_seconds)
        # First, or it would seem to be about to be submitted when it is gone.
        self._workspace.storage.delete_prefix(_claim_key(id))
        # Where the first answer was lost, the second says that there is nothing to delete.
        with suppress(NotFoundError), translated(f"deleting the job {id!r}"):
            self._workspace.arm("DELETE", self._id(id), _API, wait=True)
        # Azure makes data assets of what a job writes.
        for output in ("out", "checkpoints"):
            discard(self._workspace, f"data/azureml_{id}_output_data_{output}", tagged=False)
        self._ended.pop(id, None)
        self._workspace.storage.delete_prefix(f"jobs/{id}/")
        for folder in orphans(gone.details, [other.details for other in self.all()]):
            self._workspace.storage.delete_prefix(folder)
            if folder.startswith("packs/"):
                discard(self._workspace, f"data/{self._data_name(gone.details['pack'])}")

    def delete_leftovers(self) -> None:
        """Deletes what no job needs any more, when there is none: files, data assets and the clusters made for jobs."""
        if self.all():
            return
        for folder in ("packs/", "inputs/", "code/", "checkpoints/", "jobs/"):
            self._workspace.storage.delete_prefix(folder)
        with translated("listing the data assets"):
            names = [asset["name"] for asset in self._workspace.arm_list(f"{self._workspace.id}/data", _API)]
        for name in names:
            if name.startswith(self._data_name("")):
                discard(self._workspace, f"data/{name}")
        delete_clusters(self._workspace)


@contextmanager
def _not_the_job() -> Iterator[None]:
    """Raises as a mere failure that something else exists: of a submit it would be said of the job, which may not."""
    try:
        yield
    except AlreadyExistsError as error:
        raise BackendError(str(error)) from error


def _file(uri: str) -> dict[str, str]:
    return {"jobInputType": "uri_file", "mode": "Download", "uri": uri}


def _folder(uri: str) -> dict[str, str]:
    return {"jobInputType": "uri_folder", "mode": "Download", "uri": uri}


def _claim_key(id: str) -> str:
    return f"jobs/{id}/claim.json"


def _told(found: Mapping[str, Any]) -> Mapping[str, str]:
    told: Mapping[str, str] = found["properties"].get("properties") or {}
    return told


def _details(told: Mapping[str, str]) -> dict[str, Any]:
    """Returns a job's details as far as they are known before it ends."""
    return {
        **details(told), "instance": told["medimg-instance"], "count": 1, "spot": json.loads(told["medimg-spot"]),
        "training_seconds": None, "billable_seconds": None,
    }  # fmt: skip


def _time(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


def _reason(run: Mapping[str, Any]) -> str:
    """Returns why a job failed, in Azure's words."""
    error = (run.get("error") or {}).get("error") or {}
    code, said = error.get("code") or "", error.get("message") or "Azure gives no reason"
    # The two codes that say no more than whose fault it is.
    return said if code in ("", "UserError", "SystemError") else f"{code}: {said}"
