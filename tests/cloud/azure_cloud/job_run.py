"""What a job does: a machine comes, code and data with it, the command runs, what it wrote is kept."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import isodate
from machines.containers import Container

from .azurite import Place
from .calls import AzureError
from .images import ImageBuildError
from .kinds import Record, now
from .machine import Machine
from .mounts import Mount
from .workspaces import artifacts

__all__ = ["TERMINAL", "JobFailedError", "JobRun"]

TERMINAL = frozenset({"Completed", "Failed", "Canceled"})

_LOG = "user_logs/std_log.txt"
_BUILD_LOG = "azureml-logs/20_image_build_log.txt"
_TOKEN_SECONDS = 14 * 86_400
_NAMED = re.compile(r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)


class JobFailedError(Exception):
    """What the service writes into the run's error.

    Attributes:
        code: "UserError", or "SystemError" where it is the service's fault.
        message: Its words.
    """

    def __init__(self, message: str, code: str = "UserError") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class JobRun:
    """One job from its creation to its end.

    Args:
        machine: What it runs on.
        workspace: The ARM id of its workspace.
        record: The job's; its status changes as it goes on.
        spot: Whether its machine may be taken away.
        short: Why there are no cores for it; "": there are.

    Attributes:
        created: When it was created.
        started: When its command was first started; "": not yet.
        ended: When it ended; "": not yet.
        error: What run history tells of its failure; None: it has not failed.
        outputs: Where what it writes is kept, by the outputs' names.
        artifacts: Where its logs are kept.
    """

    def __init__(self, machine: Machine, workspace: str, record: Record, *, spot: bool, short: str) -> None:
        self.created, self.started, self.ended = now(), "", ""
        self.error: Record | None = None
        self.artifacts = artifacts(machine.cloud, workspace) / f"ExperimentRun/dcid.{record['name']}"
        self._machine = machine
        self._cloud = machine.cloud
        self._workspace = workspace
        self._record = record
        self._spot = spot
        self._short = short
        self._container: Container | None = None
        self._why = ""  # "canceled" by a user, "timeout", or "preempted"
        self._abandoned = False
        self._tail = ""
        self._lock = threading.Lock()
        self.outputs: dict[str, Place] = {
            name: self._output_place(name, about)
            for name, about in self._properties.get("outputs", {}).items()
            if name != "default"
        }

    @property
    def _properties(self) -> dict[str, Any]:
        found: dict[str, Any] = self._record["properties"]
        return found

    @property
    def name(self) -> str:
        """The job's."""
        return str(self._record["name"])

    @property
    def record(self) -> Record:
        """The job's record."""
        return self._record

    @property
    def status(self) -> str:
        """Such as "Running"."""
        return str(self._properties["status"])

    def _output_place(self, name: str, about: Mapping[str, Any] | None) -> Place:
        own = f"azureml://datastores/workspaceblobstore/paths/azureml/{self.name}/{name}"
        return self._machine.place(self._workspace, (about or {}).get("uri") or own)

    # -- from outside -------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ends the job as a user does."""
        self._move("CancelRequested")
        self._end("canceled")

    def preempt(self) -> None:
        """Takes the machine away; the job waits for another and begins anew on that."""
        if not self._spot:
            raise ValueError(f"{self.name} does not run on a machine that may be taken away")
        self._end("preempted")

    def abandon(self) -> None:
        """Ends the job without a trace."""
        self._abandoned = True
        self._end("canceled")
        if self._container is not None:
            self._container.kill()

    # -- inside -------------------------------------------------------------------------------------------------------

    def do(self) -> None:
        """Does the job, to its end."""
        timer: threading.Timer | None = None
        if timeout := (self._properties.get("limits") or {}).get("timeout"):
            # "The max run duration in ISO 8601 format, after which the job will be cancelled": no word of an error.
            timer = threading.Timer(isodate.parse_duration(timeout).total_seconds(), self._end, ("timeout",))
            timer.daemon = True
        try:
            while True:
                self._attempt(timer)
                with self._lock:
                    if self._why != "preempted":
                        break
                    self._why = ""
            final = "Canceled" if self._why else "Completed"
        except JobFailedError as failure:
            final = "Failed"
            self.error = _told(failure)
        except AzureError as error:
            final = "Failed"
            self.error = _told(JobFailedError(error.message))
        except Exception as error:
            final = "Failed"
            self.error = _told(JobFailedError(f"{type(error).__name__}: {error}", "SystemError"))
        finally:
            if timer is not None:
                timer.cancel()
        self.ended = now()
        self._move(final)

    def _attempt(self, timer: threading.Timer | None) -> None:
        """Runs on one machine until the command ends, or is ended."""
        self._move("Queued")
        if self._short:
            raise JobFailedError(self._short)
        self._move("Preparing")
        image = self._build()
        if self._why:
            return
        container = self._machine.containers.make(image, self.name)
        mounts: list[Mount] = []
        status = None
        try:
            command, environment, read_only = self._prepare(container, mounts)
            with self._lock:
                if self._why:
                    return
                self._begin(container, command, environment, read_only)
            if timer is not None and not timer.is_alive():
                timer.start()
            status = container.wait()
        finally:
            with self._lock:
                self._container = None
            for mount in mounts:
                mount.end(closed=status is not None and status >= 0 and not self._abandoned)
            if status is not None and not self._abandoned:
                self._finish(container, status)
            self._machine.containers.remove(container)
        if not self._why and status:
            raise JobFailedError(
                f"Execution failed. User process 'bash' exited with status code {status}. Please check log file "
                f"'{_LOG}' for error details. Error: {self._tail}"
            )

    def _build(self) -> str:
        """Returns the image of the environment."""
        try:
            return self._machine.build(self._workspace, self._properties["environmentId"])
        except ImageBuildError as error:
            self._cloud.azurite.append(self.artifacts / _BUILD_LOG, f"{error}\n".encode())
            raise JobFailedError(
                f"ImageBuildFailure: Image build failed. For more details, check log file {_BUILD_LOG}."
            ) from None

    def _prepare(self, container: Container, mounts: list[Mount]) -> tuple[list[str], dict[str, str], list[Path]]:
        """Puts into place what the command finds; returns it, its environment and what it may only read."""
        given = self._properties
        work = container.files / "wd"
        work.mkdir()
        if given.get("codeId"):
            self._machine.bring_code(self._workspace, given["codeId"], work)
        read_only: list[Path] = []
        values = {
            "inputs": {
                name: self._bring(container.files / "inputs" / name, name, about, read_only)
                for name, about in (given.get("inputs") or {}).items()
            },
            "outputs": {name: self._open(container.files / "outputs" / name, name, mounts) for name in self.outputs},
        }
        for name in ("outputs", "logs"):
            (work / name).mkdir(exist_ok=True)
        command = _NAMED.sub(lambda found: values[found[1]][found[2]], _OPTIONAL.sub(_kept(values), given["command"]))
        environment = {
            **self._cloud.environment(),
            **self._told(work),
            **{f"AZURE_ML_INPUT_{name}": value for name, value in values["inputs"].items()},
            **{f"AZURE_ML_OUTPUT_{name}": value for name, value in values["outputs"].items()},
            **(given.get("environmentVariables") or {}),
        }
        return ["bash", "-c", command], environment, read_only

    def _bring(self, folder: Path, name: str, about: Mapping[str, Any], read_only: list[Path]) -> str:
        """Returns what an input is to the command: a path, or the value itself."""
        if about["jobInputType"] == "literal":
            return str(about["value"])
        if about.get("mode") == "Direct":
            return str(about["uri"])
        folder.mkdir(parents=True)
        there = self._cloud.azurite.download(self._machine.place(self._workspace, about["uri"]), folder)
        if not there:
            raise JobFailedError(
                f"Data-capability job failed: the input {name!r} could not be resolved. DataAccessError(NotFound): no "
                f"files at {about['uri']}"
            )
        if about.get("mode") != "Download":
            read_only.append(folder)
        return str(folder / there[0] if about["jobInputType"] in ("uri_file", "mltable") else folder)

    def _open(self, folder: Path, name: str, mounts: list[Mount]) -> str:
        """Returns the folder that an output is to the command."""
        mode = (self._properties["outputs"][name] or {}).get("mode") or "ReadWriteMount"
        if mode == "ReadWriteMount":
            mounts.append(Mount(self._cloud.azurite, self.outputs[name], folder))
        else:
            folder.mkdir(parents=True)
        return str(folder)

    def _told(self, work: Path) -> dict[str, str]:
        """Returns what the service tells a job of itself."""
        words = self._workspace.strip("/").split("/")
        service = f"{self._machine.region(self._workspace)}.api.azureml.ms"
        token = self._cloud.login.token(audience="https://ml.azure.com", seconds=_TOKEN_SECONDS)
        experiment = self._properties["experimentName"]
        return {
            "AZUREML_RUN_ID": self.name, "AZUREML_ROOT_RUN_ID": self.name, "AZUREML_RUN_TOKEN": token,
            "AZUREML_RUN_TOKEN_EXPIRY": str(int(time.time()) + _TOKEN_SECONDS),
            "AZUREML_EXPERIMENT_NAME": experiment, "AZUREML_EXPERIMENT_ID": experiment,
            "AZUREML_ARM_SUBSCRIPTION": words[1], "AZUREML_ARM_RESOURCEGROUP": words[3],
            "AZUREML_ARM_WORKSPACE_NAME": words[7], "AZUREML_ARM_PROJECT_NAME": experiment,
            "AZUREML_SERVICE_ENDPOINT": f"https://{service}", "AZUREML_WORKSPACE_SCOPE": self._workspace,
            "AZUREML_RUN_HISTORY_SERVICE_ENDPOINT": f"https://{service}",
            "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"https://{service}/discovery",
            "AZUREML_CR_EXECUTION_WORKING_DIR_PATH": str(work),
            "MLFLOW_TRACKING_URI": f"azureml://{service}/mlflow/v1.0{self._workspace}",
            "MLFLOW_TRACKING_TOKEN": token, "MLFLOW_RUN_ID": self.name,
            "MLFLOW_EXPERIMENT_ID": experiment, "MLFLOW_EXPERIMENT_NAME": experiment,
            "AZ_BATCHAI_NUM_GPUS": "0", "NODE_RANK": "0", "WORLD_SIZE": "1",
        }  # fmt: skip

    def _begin(
        self, container: Container, command: list[str], environment: dict[str, str], read_only: list[Path]
    ) -> None:
        """Starts the command. Of what ends it, only bash is told: a command that must know begins with exec."""
        self._container = container
        self.started = self.started or now()
        self._move("Running")
        container.start(command, environment, self._log, folder=container.files / "wd", read_only=read_only)

    def _log(self, lines: list[str]) -> None:
        if self._abandoned:
            return
        self._tail = next((line for line in reversed(lines) if line.strip()), self._tail)[:500]
        self._cloud.azurite.append(self.artifacts / _LOG, "".join(f"{line}\n" for line in lines).encode())

    def _finish(self, container: Container, status: int) -> None:
        """Keeps what the job wrote; of one that did not complete only its logs and mounts, on which one can rely."""
        if self._why != "preempted":
            self._move("Finalizing")
        if not self._why and status == 0:
            for name, place in self.outputs.items():
                if (self._properties["outputs"][name] or {}).get("mode") == "Upload":
                    self._cloud.azurite.upload(container.files / "outputs" / name, place)
        for name in ("outputs", "logs"):
            folder = container.files / "wd" / name
            if folder.is_dir():
                self._cloud.azurite.upload(folder, self.artifacts / name)

    def _end(self, why: str) -> None:
        with self._lock:
            if self._why not in ("", "preempted") or self._why == why:
                return
            self._why = why
            container = self._container
        if container is not None:
            container.stop(self._cloud.settings.grace_seconds)

    def _move(self, status: str) -> None:
        with self._cloud.lock:
            if self.status in TERMINAL or (self.status == "CancelRequested" and status not in TERMINAL):
                return
            self._properties["status"] = status


def _told(failure: JobFailedError) -> Record:
    """Returns a failure in the form of run history."""
    return {
        "error": {
            "code": failure.code,
            "message": failure.message,
            "messageParameters": {},
            "details": [],
        },
        "time": now(),
        "componentName": "CommonRuntime",
    }


def _kept(values: Mapping[str, Mapping[str, str]]) -> Any:
    """Returns what decides whether a part of a command that is optional stays: when what it names is given."""

    def choose(found: re.Match[str]) -> str:
        return found[1] if all(name in values[kind] for kind, name in _NAMED.findall(found[1])) else ""

    return choose
