"""MLflow as Azure Machine Learning has it: a job is a run, which takes parameters, metrics and tags, and no models."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .calls import Answer, AzureError, Request
from .cloud import Cloud

__all__ = ["Tracking"]

_PATH = re.compile(r"/mlflow/v[\d.]+(?P<workspace>/subscriptions/.+?/workspaces/[^/]+)/api/2\.0/mlflow/(?P<verb>.+)")
# What there is of Azure, which azureml-mlflow asks for before anything else.
_CLOUDS = [
    {
        "name": "AzureCloud", "portal": "https://portal.azure.com", "graph": "https://graph.windows.net/",
        "graphAudience": "https://graph.windows.net/", "resourceManager": "https://management.azure.com/",
        "gallery": "https://gallery.azure.com/", "batch": "https://batch.core.windows.net/",
        "authentication": {
            "loginEndpoint": "https://login.microsoftonline.com/", "identityProvider": "AAD", "tenant": "common",
            "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
        },
        "suffixes": {
            "storage": "core.windows.net", "keyVaultDns": "vault.azure.net", "acrLoginServer": "azurecr.io",
            "sqlServerHostname": "database.windows.net",
        },
    }
]  # fmt: skip


@dataclass
class _Run:
    """What one run was told.

    Attributes:
        metrics: By name, each value with its step and time, in the order that they came.
        parameters: By name.
        tags: By name.
    """

    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Tracking:
    """What all runs were told; a job's run has its name.

    Args:
        cloud: The emulator.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()
        cloud.serve_host("*.api.azureml.ms", self._answer, path="/mlflow/")
        cloud.serve_host("management.azure.com", lambda _: Answer(_CLOUDS), path="/metadata/endpoints", token=False)
        cloud.verbs["metrics"] = lambda given: self._of(given["job"]).metrics
        cloud.verbs["parameters"] = lambda given: self._of(given["job"]).parameters

    def forget(self, run: str) -> None:
        """Forgets what a run was told."""
        self._runs.pop(run, None)

    def _of(self, run: str) -> _Run:
        return self._runs.setdefault(run, _Run())

    def _answer(self, request: Request) -> Answer:
        found = _PATH.fullmatch(request.path)
        if found is None:
            raise AzureError("NotFound", f"There is no {request.path}", 404)
        verbs = {
            "experiments/get-by-name": self._experiment, "experiments/get": self._experiment,
            "runs/get": self._get, "runs/update": self._update, "runs/log-metric": self._metric,
            "runs/log-parameter": self._parameter, "runs/log-batch": self._batch, "runs/set-tag": self._tag,
        }  # fmt: skip
        verb = verbs.get(found["verb"])
        if verb is None:  # as for logged-models, which Azure Machine Learning does not have
            raise AzureError("NotFound", f"No HTTP resource was found for {request.path}", 404)
        given = {**request.query, **(request.json if request.body else {})}
        with self._lock:
            return Answer(verb(found["workspace"], given))

    def _experiment(self, workspace: str, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("experiment_name") or given.get("experiment_id")
        return {
            "experiment": {"experiment_id": name, "name": name, "artifact_location": "", "lifecycle_stage": "active"}
        }

    def _job(self, workspace: str, given: dict[str, Any]) -> tuple[str, _Run]:
        name = str(given.get("run_id") or given.get("run_uuid"))
        if self._cloud.arm.find(f"{workspace}/jobs/{name}") is None:
            raise AzureError("RESOURCE_DOES_NOT_EXIST", f"Run with id {name} was not found", 404)
        return name, self._of(name)

    def _get(self, workspace: str, given: dict[str, Any]) -> dict[str, Any]:
        name, run = self._job(workspace, given)
        record = self._cloud.arm.find(f"{workspace}/jobs/{name}")
        assert record is not None
        experiment = record["properties"]["experimentName"]
        info = {
            "run_id": name, "run_uuid": name, "run_name": record["properties"]["displayName"], "status": "RUNNING",
            "experiment_id": experiment, "lifecycle_stage": "active", "artifact_uri": "", "start_time": 0,
        }  # fmt: skip
        data = {
            "metrics": [{"key": name, **values[-1]} for name, values in run.metrics.items()],
            "params": [{"key": name, "value": value} for name, value in run.parameters.items()],
            "tags": [{"key": name, "value": value} for name, value in run.tags.items()],
        }
        return {"run": {"info": info, "data": data}}

    def _update(self, workspace: str, given: dict[str, Any]) -> dict[str, Any]:
        # Only the service ends a job's run.
        return {"run_info": self._get(workspace, given)["run"]["info"]}

    def _metric(self, workspace: str, given: dict[str, Any]) -> dict[str, Any]:
        self._note(self._job(workspace, given)[1], given)
        return {}

    def _parameter(self, workspace: str, given: dict[str, Any]) -> dict[str, Any]:
        self._set(self._job(workspace, given)[1], given)
        return {}

    def _tag(self, workspace: str, given: dict[str, Any]) -> dict[str, Any]:
        self._job(workspace, given)[1].tags[given["key"]] = given["value"]
        return {}

    def _batch(self, workspace: str, given: dict[str, Any]) -> dict[str, Any]:
        run = self._job(workspace, given)[1]
        for metric in given.get("metrics", ()):
            self._note(run, metric)
        for parameter in given.get("params", ()):
            self._set(run, parameter)
        run.tags |= {tag["key"]: tag["value"] for tag in given.get("tags", ())}
        return {}

    @staticmethod
    def _note(run: _Run, given: dict[str, Any]) -> None:
        value = {
            "value": float(given["value"]), "step": int(given.get("step") or 0),
            "timestamp": int(given.get("timestamp") or time.time() * 1000),
        }  # fmt: skip
        run.metrics.setdefault(given["key"], []).append(value)

    @staticmethod
    def _set(run: _Run, given: dict[str, Any]) -> None:
        """Notes a parameter, which keeps its first value."""
        if run.parameters.setdefault(given["key"], given["value"]) != given["value"]:
            raise AzureError(
                "INVALID_PARAMETER_VALUE",
                f"Changing param values is not allowed. Param with key='{given['key']}' was already logged with "
                f"value='{run.parameters[given['key']]}'. Attempted logging new value '{given['value']}'.",
            )
