"""The emulator as tests see it: started, told what to do wrong, and asked what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pytest
from process import EmulatorProcess, start_process

from .login import CLIENT, SECRET, TENANT
from .setup import GROUP, SUBSCRIPTION

__all__ = ["AzureEmulator"]

_AZURITE = Path(sys.prefix) / "azurite" / "node_modules"
_IMAGES = Path(sys.prefix) / "images"
_SCHEMAS = Path(__file__).resolve().parents[4] / "shared" / "azure-schemas" / "schemas.zip"
_OURS = re.compile(
    r"AZURE|MSI_|IDENTITY_|.*_PROXY$|REQUESTS_CA_BUNDLE|SSL_CERT_FILE|CURL_CA_BUNDLE|MLFLOW", re.IGNORECASE
)


class AzureEmulator(EmulatorProcess):
    """A running emulator; use `AzureEmulator.start`.

    Attributes:
        url: Of its proxy and of its side door.
        root: Its folder.
    """

    subscription = SUBSCRIPTION
    resource_group = GROUP

    @staticmethod
    def missing() -> str | None:
        """Returns what is not installed that the emulator needs, with the fix; None where all is there."""
        for folder in (_AZURITE / "azurite", _IMAGES / "inference-server", _IMAGES / "mlflow"):
            if not folder.is_dir():
                return f"the emulator of Azure needs {folder}: run make test, which installs it"
        return None

    @classmethod
    def start(cls, root: Path, *, azurite: Path | None = None, images: Path | None = None) -> Self:
        """Starts an emulator of its own process, which ends with this one.

        Args:
            root: A folder for what it writes.
            azurite: The `node_modules` that have Azurite; None: where `make test` installs them.
            images: The packages that images of jobs and endpoints have; None: where `make test` installs them.
        """
        environment = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        program = Path(__file__).with_name("__main__.py")
        folders = ["--azurite", str(azurite or _AZURITE), "--images", str(images or _IMAGES)]
        return cls(*start_process(program, root, [*folders, "--schemas", str(_SCHEMAS)], environment))

    def __init__(self, url: str, root: Path, process: subprocess.Popen[bytes]) -> None:
        super().__init__(url, root, process)
        self._reached: dict[str, str] = self.tell("environment")

    # -- clients ------------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs in its environment, so that it reaches nothing else."""
        return {
            **self._reached, "AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET,
            "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION, "AZURE_RESOURCE_GROUP": GROUP,
        }  # fmt: skip

    def apply(self, patch: pytest.MonkeyPatch, workspace: str | None = None) -> None:
        """Sets the environment, for the test that `patch` belongs to."""
        for name in [name for name in os.environ if _OURS.match(name)]:
            patch.delenv(name)
        for name, value in self.environment.items():
            patch.setenv(name, value)
        if workspace is not None:
            patch.setenv("AZUREML_WORKSPACE_NAME", workspace)

    # -- what there is to work with -----------------------------------------------------------------------------------

    def make_workspace(self, name: str, region: str = "westeurope") -> None:
        """Makes a workspace with its storage account, where there is none of that name."""
        self.tell("make_workspace", name=name, region=region)

    def reset_workspace(self, name: str) -> None:
        """Ends and forgets everything in a workspace, its blobs too; the workspace itself stays."""
        self.tell("reset_workspace", name=name)

    def make_ender(self) -> None:
        """Makes the identity that bootstrap makes, with its role, where there is none."""
        self.tell("make_ender")

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def fault(
        self,
        *,
        method: str = "",
        path: str = "",
        status: int = 500,
        code: str = "InternalServerError",
        message: str = "",
        times: int | None = 1,
        probability: float = 1.0,
        after: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Makes requests fail, until `clear_faults`; of several that fit, the first is met.

        Args:
            method: Of HTTP; "" any.
            path: A pattern found in the host and path, whatever the case.
            status: Of the answer; 0: the connection is closed without one.
            code: Azure's word.
            message: Azure's words.
            times: How often, from now on; None: always.
            probability: Of each request that fits.
            after: Whether the request is performed before it is answered so.
            headers: Of the answer, such as Retry-After.
        """
        self.tell(
            "fault", method=method, path=path, status=status, code=code, message=message, times=times,
            probability=probability, after=after, headers=headers or {},
        )  # fmt: skip

    def clear_faults(self) -> None:
        """Takes back all faults and quotas."""
        self.tell("clear_faults")

    def quota(self, family: str, cores: int) -> None:
        """Sets how many cores of a family may be used, such as "Standard NCASv3_T4 Family"."""
        self.tell("quota", family=family, cores=cores)

    def settings(self, **values: float) -> None:
        """Changes `cloud.Settings`."""
        self.tell("settings", **values)

    def preempt(self, job: str) -> None:
        """Takes the machine of a job away that runs on spot or low-priority nodes."""
        self.tell("preempt", job=job)

    def advance(self, seconds: float) -> None:
        """Moves the clock of the workflows on; what is due by then is done when this returns.

        It stays ahead, and deadlines made later come too early: `reset_clock` takes it back.
        """
        self.tell("advance", seconds=seconds)

    def reset_clock(self) -> None:
        """Makes the clock of the workflows show the real time again."""
        self.tell("reset_clock")

    # -- what there is ------------------------------------------------------------------------------------------------

    def calls(self, method: str | None = None, path: str | None = None) -> list[dict[str, Any]]:
        """Returns the requests since the start or the last mark, oldest first: see `journal.Entry`.

        Args:
            method: Of HTTP; None: any.
            path: A pattern found in the host and path, whatever the case; None: any.
        """
        entries: list[dict[str, Any]] = self.tell("calls", mark=self._mark)
        return [
            entry
            for entry in entries
            if method in (None, entry["method"])
            and re.search(path or "", entry["host"] + entry["path"], re.IGNORECASE) is not None
        ]

    def state(self, workspace: str | None = None) -> dict[str, list[str]]:
        """Returns the names of all that exists by kind: jobs, models, data, endpoints, blobs, workflows and so on."""
        found: dict[str, list[str]] = self.tell("state", workspace=workspace)
        return found

    def everything(self, workspace: str) -> dict[str, str]:
        """Returns all that is kept of a workspace as text, each byte a character: what a leak would be found in."""
        found: dict[str, str] = self.tell("everything", workspace=workspace)
        return found

    def metrics(self, job: str) -> Any:
        """Returns the metrics that a job wrote with MLflow."""
        return self.tell("metrics", job=job)

    def schema_report(self) -> dict[str, Any]:
        """Returns what was checked against Microsoft's schemas: see `Schemas.report`."""
        report: dict[str, Any] = self.tell("schema_report")
        return report
