"""Jobs: what Azure Resource Manager says of them. What they do is in `job_run`."""

from __future__ import annotations

import re
import threading
import time

from .calls import Answer, AzureError, Request, user_error
from .job_run import TERMINAL, JobRun
from .kinds import ML, Address, Change, Kind, Operation, Record
from .machine import Machine
from .quotas import FAMILIES, LOW_PRIORITY, cores
from .tracking import Tracking

__all__ = ["Jobs"]

_MAY_CHANGE = {"tags", "displayName", "description", "properties", "isArchived"}
_TIERS = {"Null", "Spot", "Basic", "Standard", "Premium"}
_NAMED = re.compile(r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}")
_DEFAULT_INSTANCE = "Standard_DS3_v2"


class Jobs(Kind):
    """The jobs of all workspaces.

    Args:
        machine: What they run on.
        tracking: Their metrics.
    """

    type = f"{ML}/workspaces/jobs"
    shown = "jobs"

    def __init__(self, machine: Machine, tracking: Tracking) -> None:
        super().__init__(machine.cloud)
        self._machine = machine
        self._tracking = tracking
        self._runs: dict[str, JobRun] = {}
        self._sent: dict[str, Record] = {}  # what a job was created with, before the service added to it
        self.actions["cancel"] = self._cancel
        self.cloud.verbs["preempt"] = lambda given: self._named(given["job"]).preempt()

    def run(self, workspace: str, name: str) -> JobRun:
        """Returns what a job does, or raises what the service says when there is none.

        Args:
            workspace: The ARM id of its workspace.
            name: The job's.
        """
        address = self.cloud.arm.address(f"{workspace}/jobs/{name}")
        self.get(address)
        return self._runs[address.key]

    def _named(self, name: str) -> JobRun:
        return next(run for run in self._runs.values() if run.name == name)

    def missing(self, address: Address) -> AzureError:
        """Returns the service's words."""
        return user_error(f"Run {address.name} was not found", "NotFoundError", 404)

    def close(self, workspace: str | None) -> None:
        """Ends and forgets all of a workspace, or of all."""
        for key in [key for key in self._runs if workspace is None or key.startswith(f"{workspace}/")]:
            self._runs.pop(key).abandon()
            self._sent.pop(key)
            self._tracking.forget(key.rpartition("/")[2])

    # -- making -------------------------------------------------------------------------------------------------------

    def check(self, change: Change) -> None:
        """Refuses what the service would refuse at once."""
        if change.old is not None:
            self._check_update(change)
            return
        given, workspace = change.properties, change.address.workspace
        if given.get("jobType") != "Command":
            raise user_error(f"This emulator runs command jobs only, not {given.get('jobType')}")
        if not re.fullmatch(r"[a-zA-Z0-9][\w-]{0,254}", change.address.name):
            raise user_error(f"The job name {change.address.name!r} is invalid.", "InvalidJobName")
        self._machine.asset(workspace, given["environmentId"], "environments")
        if given.get("codeId"):
            self._machine.asset(workspace, given["codeId"], "codes")
        for about in (given.get("inputs") or {}).values():
            if about["jobInputType"] != "literal":
                self._machine.place(workspace, about["uri"])
        for kind, name in _NAMED.findall(given["command"]):
            if name not in (given.get(kind) or {}):
                raise user_error(f"The command refers to {kind}.{name}, which is not defined.", "InvalidCommand")
        self._check_machine(given, workspace)

    def _check_update(self, change: Change) -> None:
        """Says what the service says of a job of the same name that is another."""
        sent = self._sent[change.address.key]
        for name in sorted({*sent, *change.body.get("properties", {})} - _MAY_CHANGE):
            if change.request.method == "PUT" and change.body["properties"].get(name) != sent.get(name):
                raise user_error(
                    "A job with this name already exists. If you are trying to create a new job, use a different "
                    f"name. If you are trying to update an existing job, the existing job's {name} cannot be changed. "
                    "Only description, tags, displayName, properties, and isArchived can be updated."
                )
        assert change.old is not None
        changed = {name: value for name, value in change.properties.items() if name in _MAY_CHANGE}
        change.record["properties"] = {**change.old["properties"], **changed}

    def _check_machine(self, given: Record, workspace: str) -> None:
        resources, tier = given.get("resources") or {}, (given.get("queueSettings") or {}).get("jobTier") or "Null"
        if resources.get("instanceCount", 1) != 1:
            raise user_error("This emulator runs jobs of one instance only")
        instance = resources.get("instanceType") or _DEFAULT_INSTANCE
        if not re.fullmatch(r"Standard_[A-Z]+\d+[\w-]*", instance):
            raise user_error(f"The specified VM size {instance} is not supported.", "InvalidInstanceType")
        if tier not in _TIERS:
            raise user_error(f"The job tier {tier} is not supported.", "InvalidJobTier")
        if given.get("computeId") and self._compute(given, workspace) is None:
            raise user_error(f"Unknown compute target '{given['computeId'].rpartition('/')[2]}'.", "NotFoundError", 404)

    def _compute(self, given: Record, workspace: str) -> Record | None:
        id = given["computeId"]
        return self.cloud.arm.find(id if id.startswith("/") else f"{workspace}/computes/{id}")

    def put(self, change: Change) -> None:
        """Adds what the service adds, and begins the job."""
        if change.old is not None:
            return
        given, workspace, name = change.properties, change.address.workspace, change.address.name
        key = change.address.key
        self._sent[key] = dict(change.body["properties"])
        service = f"{self._machine.region(workspace)}.api.azureml.ms"
        given["status"] = "Starting"
        given["experimentName"] = given.get("experimentName") or "Default"
        given["properties"], given["tags"] = given.get("properties") or {}, given.get("tags") or {}
        given["displayName"] = given.get("displayName") or name
        given["parentJobName"] = None
        given["queueSettings"] = given.get("queueSettings") or {"jobTier": "Null"}
        given["resources"] = {"instanceCount": 1, "shmSize": "2g", **(given.get("resources") or {})}
        given["inputs"] = given.get("inputs") or {}
        given["outputs"] = {
            **(given.get("outputs") or {}),
            "default": {
                "description": None, "assetName": None, "mode": "ReadWriteMount", "jobOutputType": "uri_folder",
                "uri": f"azureml://datastores/workspaceartifactstore/ExperimentRun/dcid.{name}",
            },
        }  # fmt: skip
        given["services"] = {
            "Tracking": {"jobServiceType": "Tracking", "endpoint": f"azureml://{service}/mlflow/v1.0{workspace}?"},
            "Studio": {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{name}?wsid={workspace}"},
        }
        spot, short = self._cores(given, workspace)
        run = self._runs[key] = JobRun(self._machine, workspace, change.record, spot=spot, short=short)
        threading.Thread(target=run.do, name=f"job {name}", daemon=True).start()

    def _cores(self, given: Record, workspace: str) -> tuple[bool, str]:
        """Returns whether the machine may be taken away, and why there are no cores for it, "" where there are.

        A cluster is refused when it is made, and its jobs have what it has. Serverless compute is made only after the
        job was taken, so that there the job fails.
        """
        if given.get("computeId"):
            cluster = self._compute(given, workspace)
            assert cluster is not None
            return cluster["properties"]["properties"].get("vmPriority") == "LowPriority", ""
        instance = given["resources"].get("instanceType") or _DEFAULT_INSTANCE
        spot = given["queueSettings"].get("jobTier") == "Spot"
        family = LOW_PRIORITY if spot else FAMILIES.get(instance, instance)
        needed, there = cores(instance), self.cloud.cores(family)
        return spot, "" if needed <= there else (
            f"ClusterCoreQuotaReached: Operation results in exceeding quota limits of Core. Maximum allowed: {there}, "
            f"Current in use: 0, Additional requested: {needed}. VM family: {family}."
        )

    # -- reading and ending -------------------------------------------------------------------------------------------

    def listed(self, request: Request, address: Address, records: list[Record]) -> list[Record]:
        """Returns those that have a tag, by its key, and are not archived; the newest first."""
        tag, view = request.parameter("tag"), request.parameter("listViewType") or "ActiveOnly"
        shown = {"ActiveOnly": (False,), "ArchivedOnly": (True,)}.get(view, (False, True))
        return [
            record
            for record in reversed(records)
            if (not tag or tag in record["properties"]["tags"])
            and bool(record["properties"].get("isArchived")) in shown
        ]

    def delete(self, request: Request, record: Record) -> Operation:
        """Forgets a job that has ended, with its logs and metrics; named outputs stay."""
        if record["properties"]["status"] not in TERMINAL:
            raise user_error(f"Run {record['name']} is not in a terminal state and cannot be deleted.")
        run = self._runs[record["id"].lower()]

        def work() -> None:
            self.cloud.azurite.delete_folder(run.artifacts)
            self._tracking.forget(record["name"])
            self.forget(record["id"])
            self._runs.pop(record["id"].lower(), None)
            self._sent.pop(record["id"].lower(), None)

        return Operation(work)

    def _cancel(self, request: Request, address: Address, record: Record) -> Answer:
        run = self._runs[address.key]
        if run.status in TERMINAL:
            raise user_error(f"Run {run.name} is in a terminal state ({run.status}) and cannot be canceled.")
        run.cancel()
        ends = time.monotonic() + self.cloud.settings.grace_seconds + 10

        def work() -> None:
            while run.status not in TERMINAL and time.monotonic() < ends:
                time.sleep(0.02)

        return Answer(None, 202, self.cloud.operations.begin(request, address, Operation(work)))
