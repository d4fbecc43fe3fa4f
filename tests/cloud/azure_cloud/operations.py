"""Long-running operations: begun by a request, asked about until they have ended."""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from .calls import Answer, AzureError, Request
from .kinds import ML, Address, Operation, now

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["Operations"]


class Operations:
    """All operations.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._known: dict[str, dict[str, Any]] = {}

    def begin(self, request: Request, address: Address, operation: Operation) -> dict[str, str]:
        """Begins an operation, and returns the headers that tell where to ask about it.

        Args:
            request: That begins it.
            address: What it is about.
            operation: What is done.
        """
        id = f"{uuid.uuid4()}"
        self._known[id] = {"id": id, "name": id, "status": "InProgress", "startTime": now()}
        threading.Thread(target=self._work, args=(id, operation), daemon=True).start()
        workspace = self._cloud.arm.find(address.workspace) if address.workspace else None
        region = workspace["location"] if workspace else "westeurope"
        place = f"/subscriptions/{address.subscription}/providers/{ML}/locations/{region}/{operation.kind}/{id}"
        url = f"https://management.azure.com{place}?api-version={request.api}"
        return {"Azure-AsyncOperation": url, "Location": url, "x-ms-async-operation-timeout": "PT30M", **self._pause()}

    def _pause(self) -> dict[str, str]:
        return {"retry-after-ms": f"{self._cloud.settings.poll_seconds * 1000:.0f}"}

    def _work(self, id: str, operation: Operation) -> None:
        time.sleep(self._cloud.settings.operation_seconds)
        try:
            operation.work()
        except Exception as error:
            if not isinstance(error, AzureError):
                logging.exception("an operation broke down")
                error = AzureError("InternalServerError", f"{type(error).__name__}: {error}", 500)
            if operation.failed is not None:
                operation.failed(error)
            self._known[id] |= {"error": error.content, "endTime": now(), "status": "Failed"}
        else:
            self._known[id] |= {"endTime": now(), "status": "Succeeded"}

    def await_end(self, answer: Answer) -> None:
        """Returns when the operation that an answer names, if any, has ended; raises when it failed."""
        found = re.search(r"OperationsStatus/([^?]+)", answer.headers.get("Azure-AsyncOperation", ""))
        while found is not None and self._known[found[1]]["status"] == "InProgress":
            time.sleep(0.01)
        if found is not None and self._known[found[1]]["status"] == "Failed":
            error = self._known[found[1]]["error"]
            raise AzureError(error["code"], error["message"])

    def status(self, request: Request, path: re.Match[str]) -> Answer:
        """Answers how an operation stands; of one that failed, with status 200, too."""
        if path[1] not in self._known:
            raise AzureError("NotFound", f"The operation '{path[1]}' was not found.", 404)
        content = dict(self._known[path[1]])
        return Answer(content, 200, self._pause() if content["status"] == "InProgress" else {})
