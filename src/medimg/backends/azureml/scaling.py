"""More machines for an endpoint under load, and fewer when it is over: autoscale settings of Azure Monitor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.workspace import Workspace
from medimg.config import ServeConfig
from medimg.errors import AccessError, NotFoundError

__all__ = ["Scaling"]

_TYPE = "Microsoft.Insights/autoscalesettings"
_API = "2022-10-01"
_METRIC = "CpuUtilizationPercentage"
_BUSY_PERCENT = 70
_IDLE_PERCENT = 25


class Scaling:
    """The autoscale settings of a workspace's endpoints; there is one for each deployment that has a range.

    Args:
        workspace: Whose.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def set(self, name: str, slot: str, config: ServeConfig) -> None:
        """Lets a deployment have between `min_instances` and `max_instances` machines.

        Args:
            name: The endpoint's.
            slot: The deployment's.
            config: Where both are equal there is nothing to scale, and no setting.
        """
        if config.max_instances <= config.min_instances:
            self.delete(name, slot)
            return
        workspace, least = self._workspace, str(config.min_instances)
        deployment = f"{workspace.id}/onlineEndpoints/{name}/deployments/{slot}"
        body = {
            "location": workspace.location,
            "tags": workspace.tag_map(workspace=workspace.name, endpoint=name),
            "properties": {
                "name": self._name(name, slot),
                "enabled": True,
                "targetResourceUri": deployment,
                "profiles": [
                    {
                        "name": "load",
                        "capacity": {"minimum": least, "maximum": str(config.max_instances), "default": least},
                        "rules": [
                            _rule(deployment, "GreaterThan", _BUSY_PERCENT, "Increase"),
                            _rule(deployment, "LessThan", _IDLE_PERCENT, "Decrease"),
                        ],
                    }
                ],
            },
        }
        with translated(f"setting the scaling of {name!r}"):
            workspace.arm("PUT", self._id(self._name(name, slot)), _API, body)

    def delete(self, name: str, slot: str) -> None:
        """Ends the scaling of a deployment; where there is none that is no error."""
        # Nor is it one where this may not be asked, or the subscription has not switched it on: it costs nothing.
        with suppress(NotFoundError, AccessError), translated(f"ending the scaling of {name!r}"):
            self._workspace.arm("DELETE", self._id(self._name(name, slot)), _API)

    def all(self) -> Iterator[tuple[str, str]]:
        """Yields endpoint and deployment of each setting of ours."""
        with translated("listing the autoscale settings"):
            for setting, tags in self._workspace.in_group(_TYPE, _API):
                yield tags.get("medimg-endpoint", ""), setting.rpartition("-")[2]

    def _name(self, name: str, slot: str) -> str:
        return f"medimg-{self._workspace.name}-{name}-{slot}"

    def _id(self, setting: str) -> str:
        return f"{self._workspace.group_id}/providers/{_TYPE}/{setting}"


def _rule(deployment: str, operator: str, percent: int, direction: str) -> dict[str, Any]:
    return {
        "metricTrigger": {
            "metricName": _METRIC,
            "metricResourceUri": deployment,
            "timeGrain": "PT1M",
            "statistic": "Average",
            "timeWindow": "PT5M",
            "timeAggregation": "Average",
            "operator": operator,
            "threshold": percent,
        },
        "scaleAction": {"direction": direction, "type": "ChangeCount", "value": "1", "cooldown": "PT5M"},
    }
