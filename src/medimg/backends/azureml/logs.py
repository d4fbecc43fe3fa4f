"""What a workspace's run history tells of a job: when it ran, why it failed, and its log while it still writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.resource import Status
from medimg.errors import MissingExtraError

try:
    from azure.core.rest import HttpRequest
except ImportError as error:
    raise MissingExtraError("the AzureML backend", "azureml") from error

__all__ = ["ENDED", "RunHistory"]

_API = "v1.0"
_SCOPE = "https://ml.azure.com/.default"
_LOG = "user_logs/std_log.txt"  # standard output and standard error of the job's command
# How a job has ended. One that does not respond has not, as far as one can know: its machine is billed.
ENDED: Mapping[str, Status] = {"Completed": "completed", "Failed": "failed", "Canceled": "cancelled"}


class RunHistory:
    """The run history of a workspace, a service of its region beside Azure Resource Manager.

    azure-ai-ml's own `jobs.stream` signs requests for logs wrongly and prints the refusal.

    Args:
        workspace: Whose.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @cached_property
    def _client(self) -> Any:
        return self._workspace.pipeline(_SCOPE)

    def details(self, id: str) -> Mapping[str, Any]:
        """Returns what it knows of a job: `status`, `startTimeUtc`, `endTimeUtc`, `error`, `logFiles`, `tags` and more.

        Raises:
            NotFoundError: It does not know the job.
        """
        workspace = self._workspace
        address = f"{workspace.api}/history/{_API}{workspace.id}/runs/{id}/details"
        with translated(f"looking for the run of the job {id!r}"):
            response = self._client.send_request(HttpRequest("GET", address, params={"api-version": _API}))
            response.raise_for_status()
            told: Mapping[str, Any] = response.json()
        return told

    def log(self, id: str, after: int) -> tuple[list[str], int]:
        """Returns the whole lines of a job's log after a position, and the position after them.

        Args:
            id: Of the job.
            after: Bytes of the log that were read already.

        Raises:
            NotFoundError: It does not know the job.
        """
        run = self.details(id)
        address = (run.get("logFiles") or {}).get(_LOG)
        if address is None:
            return [], after
        content = self._workspace.storage.read_from(address, after)
        if run["status"] not in ENDED:
            content = content[: content.rfind(b"\n") + 1]  # the rest of the last line is still to come
        lines = content.decode(errors="replace").split("\n")
        if lines[-1] == "":
            lines.pop()
        return [line.removesuffix("\r") for line in lines], after + len(content)
