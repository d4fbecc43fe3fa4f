"""What a deployment does: Microsoft's own inference server runs the scoring script over the mounted model."""

from __future__ import annotations

import threading
from pathlib import PurePosixPath

import isodate
from machines.serving import Serving

from .calls import AzureError
from .images import ImageBuildError
from .kinds import Record
from .machine import Machine

__all__ = ["Lines", "Server", "seconds"]

_KEPT_LINES = 20_000
_CRASHED = (
    "User container has crashed or terminated. Please see troubleshooting guide, available here: "
    "https://aka.ms/oe-tsg#error-resourcenotready"
)


class Server(Serving):
    """One container that serves what a deployment was made of.

    Args:
        machine: What it runs on.
        workspace: The ARM id of its workspace.
        record: The deployment's.
        lines: Gets what it writes.

    Raises:
        AzureError: It cannot be made.
    """

    def __init__(self, machine: Machine, workspace: str, record: Record, lines: Lines) -> None:
        self._machine = machine
        self._workspace = workspace
        self._given = record["properties"]
        self._lines = lines
        try:
            image = machine.build(workspace, self._given["environmentId"])
        except ImageBuildError as error:
            lines.add(str(error).splitlines())
            raise AzureError("ImageBuildFailure", f"Image build failed: {str(error).splitlines()[0]}") from None
        super().__init__(machine.containers, machine.containers.make(image, record["name"]))

    def start(self) -> None:
        """Starts it, and returns once it is alive.

        Raises:
            AzureError: It does not come to that; its log tells why.
        """
        given, container, azurite = self._given, self.container, self._machine.cloud.azurite
        root = container.files / "azureml-app"
        script = root / "code" / given["codeConfiguration"]["scoringScript"]
        self._machine.bring_code(self._workspace, given["codeConfiguration"]["codeId"], root / "code")
        model = self._machine.asset(self._workspace, given["model"], "models")
        mounted = root / "azureml-models" / model["id"].split("/")[-3] / model["name"]
        place = self._machine.place(self._workspace, model["id"])
        # A model that is a folder is found in AZUREML_MODEL_DIR under its own name.
        target = mounted / PurePosixPath(place.path).name if azurite.paths(place) else mounted
        if not azurite.download(place, target):
            raise AzureError("ResourceNotFound", f"The model {model['id']} has no files.")
        if not script.is_file():
            raise AzureError("BadArgument", f"The scoring script {script.name} is not in the code.")
        environment = {
            "AML_APP_ROOT": str(root), "AZUREML_APP_ROOT": str(root), "AZUREML_MODEL_DIR": str(mounted),
            "AZUREML_ENTRY_SCRIPT": str(script),
            **(given.get("environmentVariables") or {}),
        }  # fmt: skip
        command = [str(container.python), "-m", "azureml_inference_server_http", "--port", str(self.port),
                   "--entry_script", str(script), "--model_dir", str(mounted)]  # fmt: skip
        container.start(command, environment, self._lines.add)
        probe = given.get("livenessProbe") or {}
        patience = seconds(probe.get("initialDelay"), 10) + seconds(probe.get("period"), 10) * (
            probe.get("failureThreshold") or 30
        )
        if not self.answers("/", patience, timeout_seconds=seconds(probe.get("timeout"), 2)):
            raise AzureError("ResourceNotReady", _CRASHED)


class Lines:
    """The log of a deployment, whose containers may change."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def add(self, lines: list[str]) -> None:
        """Adds lines."""
        with self._lock:
            self._lines = [*self._lines, *lines][-_KEPT_LINES:]

    def last(self, count: int | None) -> str:
        """Returns the last lines."""
        with self._lock:
            lines = self._lines if count is None else self._lines[-count:] if count else []
        return "".join(f"{line}\n" for line in lines)


def seconds(duration: str | None, otherwise: float) -> float:
    """Returns the seconds of an ISO 8601 duration."""
    return float(isodate.parse_duration(duration).total_seconds()) if duration else otherwise
