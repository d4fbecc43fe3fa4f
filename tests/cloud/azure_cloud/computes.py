"""Compute clusters: only kept, for jobs run at once."""

from __future__ import annotations

from functools import partial

from .calls import AzureError, Request, user_error
from .cloud import Cloud
from .kinds import ML, Change, Kind, Operation, Record, now
from .quotas import FAMILIES, LOW_PRIORITY, cores

__all__ = ["Computes", "add_computes"]


class Computes(Kind):
    """The compute clusters of a workspace."""

    type = f"{ML}/workspaces/computes"
    shown = "computes"

    def check(self, change: Change) -> None:
        """Refuses a size that there is not, and more nodes at least than the quota has cores for."""
        told = change.properties.get("properties") or {}
        size = told.get("vmSize", "")
        family = next((family for name, family in FAMILIES.items() if name.lower() == size.lower()), None)
        if family is None:
            raise user_error(f"Invalid VM size: {size} is not available in this region.", "ClusterInvalidVmSize")
        low = told.get("vmPriority") == "LowPriority"
        kind = LOW_PRIORITY if low else family
        there = self.cloud.cores(kind)
        needed = cores(size) * max(1, int(told.get("scaleSettings", {}).get("maxNodeCount", 1)))
        if needed > there:
            raise AzureError(
                "ClusterCoreQuotaReached",
                f"Operation results in exceeding quota limits of Core. Maximum allowed: {there}, Current in use: 0, "
                f"Additional requested: {needed}. VM family: {kind}. Click here to view and manage your quota.",
            )

    def put(self, change: Change) -> Operation:
        """Makes it, with no nodes."""
        change.properties["provisioningState"] = "Creating" if change.old is None else "Updating"
        return Operation(partial(self._make, change.record), partial(_fail, change.record), "computeOperationsStatus")

    def _make(self, record: Record) -> None:
        inner = record["properties"]["properties"]
        nodes = inner.get("scaleSettings", {}).get("minNodeCount", 0)
        with self.cloud.lock:
            record["properties"].update(
                provisioningState="Succeeded", isAttachedCompute=False, createdOn=now(), modifiedOn=now()
            )
            inner.update(
                allocationState="Steady", currentNodeCount=nodes, targetNodeCount=nodes, errors=None,
                nodeStateCounts={f"{state}NodeCount": 0 for state in _STATES} | {"idleNodeCount": nodes},
            )  # fmt: skip

    def delete(self, request: Request, record: Record) -> Operation:
        """Forgets it; the client must say what becomes of the machines."""
        if request.parameter("underlyingResourceAction") not in ("Delete", "Detach"):
            raise AzureError("BadRequest", "underlyingResourceAction must be Delete or Detach.")
        record["properties"]["provisioningState"] = "Deleting"
        return Operation(lambda: self.forget(record["id"]), kind="computeOperationsStatus")


_STATES = ("idle", "running", "preparing", "unusable", "leaving", "preempted")


def _fail(record: Record, error: AzureError) -> None:
    record["properties"]["provisioningState"] = "Failed"
    record["properties"]["provisioningErrors"] = [{"error": error.content}]


def add_computes(cloud: Cloud) -> None:
    """Serves compute clusters."""
    cloud.arm.serve(Computes(cloud))
