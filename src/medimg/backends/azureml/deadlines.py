"""The end of an endpoint's time, kept by Azure: a workflow that deletes it though nobody is there.

There is one for each deploy that has `ttl_hours`, made before its endpoint and called NAME-TOKEN. From the deadline on
it looks every quarter of an hour: it deletes the endpoint, again until that has worked, and itself when it is no longer
needed. The token is also on the endpoint, so that none ever ends a later endpoint of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.roles import ENDER_ROLE, allows
from medimg.backends.azureml.workspace import ARM, ENDER, Workspace
from medimg.errors import ConfigError, NotFoundError

__all__ = ["ENDPOINT_API", "MARK", "Deadlines", "ender_lacks"]

ENDPOINT_API = "2024-10-01"
MARK = "medimg-token"  # the tag of an endpoint that names the deploy which made it

_TYPE = "Microsoft.Logic/workflows"
_API = "2019-05-01"
_IDENTITY_API = "2023-01-31"
_RIGHTS_API = "2022-04-01"
_LANGUAGE = "https://schema.management.azure.com/providers/Microsoft.Logic/schemas/2016-06-01/workflowdefinition.json#"
_EVERY_MINUTES = 15
_DEPLOY = timedelta(hours=1)  # that an endpoint may come after its workflow


def ender_lacks(workspace: Workspace, *, patient: bool = True) -> list[str]:
    """Returns the actions that the identity which deletes endpoints needs, and has not been allowed.

    Args:
        workspace: In whose resource group it is.
        patient: As for `Workspace.arm`.

    Raises:
        NotFoundError: There is no such identity.
    """
    with translated(f"looking for the identity {ENDER!r}"):
        identity = workspace.arm("GET", workspace.ender_id, _IDENTITY_API, patient=patient)
    assignments = f"{workspace.group_id}/providers/Microsoft.Authorization/roleAssignments"
    chosen: dict[str, Any] = {"$filter": f"principalId eq '{identity['properties']['principalId']}'"}
    granted: list[dict[str, Any]] = []
    with translated(f"asking what {ENDER!r} may do"):
        for each in workspace.arm_list(assignments, _RIGHTS_API, patient=patient, **chosen):
            role = workspace.arm("GET", each["properties"]["roleDefinitionId"], _RIGHTS_API, patient=patient)
            granted += role["properties"]["permissions"]
    return [
        action
        for action in ENDER_ROLE.actions
        if not any(allows(each.get("actions", ()), each.get("notActions", ()), action) for each in granted)
    ]


class Deadlines:
    """The workflows that end the endpoints of a workspace.

    Args:
        workspace: Whose.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def require_identity(self) -> None:
        """Makes sure that there is an identity which may delete endpoints.

        Raises:
            ConfigError: There is none, or it may not: what is deployed would not end.
        """
        needed = f"ttl_hours needs the identity {ENDER!r}, which deletes the endpoint when its time is up, and"
        try:
            missing = ender_lacks(self._workspace)
        except NotFoundError:
            raise ConfigError(
                f"{needed} the resource group {self._workspace.resource_group!r} has none: nothing was deployed. Make "
                "it: medimg azure bootstrap"
            ) from None
        if missing:
            raise ConfigError(
                f"{needed} it may not do {', '.join(missing)}: nothing was deployed. Have somebody who may assign "
                "roles run: medimg azure bootstrap"
            )

    def at(self, name: str, token: str, hours: float) -> None:
        """Has the endpoint deleted that a deploy makes, after `hours`.

        Args:
            name: The endpoint's.
            token: Of the deploy; its endpoint has it as the tag `medimg-token`.
            hours: From now.
        """
        workspace, now = self._workspace, datetime.now(UTC)
        body = {
            "location": workspace.location,
            "tags": workspace.tag_map(workspace=workspace.name, endpoint=name, token=token),
            "identity": {"type": "UserAssigned", "userAssignedIdentities": {workspace.ender_id: {}}},
            "properties": {
                "state": "Enabled",
                "definition": self._definition(name, token, due=now + timedelta(hours=hours), settled=now + _DEPLOY),
            },
        }
        with translated(f"setting the end of {name!r}"):
            workspace.arm("PUT", self._id(f"{name}-{token}"), _API, body)

    def _definition(self, name: str, token: str, *, due: datetime, settled: datetime) -> dict[str, Any]:
        endpoint = f"{self._workspace.id}/onlineEndpoints/{name}"
        found, tag = "@outputs('look')?['statusCode']", f"@body('look')?['tags']?['{MARK}']"
        known = {"or": [{"equals": [found, 200]}, {"equals": [found, 404]}]}
        ours = {"equals": [tag, token]}
        # Before that the endpoint may not be there because it is still being made.
        late = {"greater": ["@ticks(utcNow())", f"@ticks('{_time(settled)}')"]}
        return {
            "$schema": _LANGUAGE,
            "contentVersion": "1.0.0.0",
            "triggers": {
                "deadline": {
                    "type": "Recurrence",
                    "recurrence": {"frequency": "Minute", "interval": _EVERY_MINUTES, "startTime": _time(due)},
                }
            },
            "actions": {
                "look": self._http("GET", endpoint, ENDPOINT_API),
                "end": {
                    "type": "If",
                    "runAfter": {"look": ["Succeeded"]},
                    "expression": {"and": [ours]},
                    "actions": {"delete": self._http("DELETE", endpoint, ENDPOINT_API)},
                },
                "finish": {
                    "type": "If",
                    "runAfter": {"look": ["Succeeded", "Failed"]},
                    "expression": {"and": [known, {"not": ours}, late]},
                    "actions": {"forget": self._http("DELETE", self._id(f"{name}-{token}"), _API)},
                },
            },
            "outputs": {},
        }

    def _http(self, method: str, id: str, api_version: str) -> dict[str, Any]:
        return {
            "type": "Http",
            "runAfter": {},
            "inputs": {
                "method": method,
                "uri": f"{ARM}{id}?api-version={api_version}",
                "authentication": {
                    "type": "ManagedServiceIdentity",
                    "identity": self._workspace.ender_id,
                    "audience": f"{ARM}/",
                },
            },
            # The next look sees whether it is done.
            "operationOptions": "DisableAsyncPattern",
        }

    def _id(self, workflow: str) -> str:
        return f"{self._workspace.group_id}/providers/{_TYPE}/{workflow}"

    def all(self) -> Iterator[tuple[str, str]]:
        """Yields the endpoint's name and the token of each workflow of ours."""
        with translated("listing the workflows"):
            for _, tags in self._workspace.in_group(_TYPE, _API):
                yield tags.get("medimg-endpoint", ""), tags.get(MARK, "")

    def delete(self, name: str, token: str) -> None:
        """Deletes the workflow of a deploy; what is not there is no error."""
        with suppress(NotFoundError), translated(f"deleting the end of {name!r}"):
            self._workspace.arm("DELETE", self._id(f"{name}-{token}"), _API)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
