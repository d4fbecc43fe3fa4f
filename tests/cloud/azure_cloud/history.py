"""Run history: how a job stands, where its logs are, and what it put out."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from .azurite import Place
from .calls import Answer, AzureError, Request
from .cloud import Cloud
from .job_run import JobRun
from .jobs import Jobs
from .kinds import Record

__all__ = ["History"]

_RUN = re.compile(r"/history/v1\.0(?P<workspace>/subscriptions/.+?/workspaces/[^/]+)/(?P<rest>.+)", re.IGNORECASE)
# What the data plane calls the types of outputs.
_TYPES = {"uri_folder": "UriFolder", "uri_file": "UriFile", "mltable": "MLTable", "custom_model": "CustomModel"}
_LOGS = ("user_logs", "azureml-logs", "logs")


class History:
    """Answers for the run history of all workspaces.

    Args:
        cloud: The emulator.
        jobs: Whose.
    """

    def __init__(self, cloud: Cloud, jobs: Jobs) -> None:
        self._cloud = cloud
        self._jobs = jobs
        cloud.serve_host("*.api.azureml.ms", self._answer, path="/history/")
        for word in ("data", "dataset", "modelregistry"):
            cloud.serve_host("*.api.azureml.ms", self._resolve, path=f"/{word}/")

    def _answer(self, request: Request) -> Answer:
        found = _RUN.fullmatch(unquote(request.path))
        if found is None:
            raise AzureError("NotFound", f"There is no {request.path}", 404)
        workspace, rest = found["workspace"], found["rest"]
        if rest == "rundata" and request.method == "POST":
            run = self._jobs.run(workspace, request.json["runId"])
            return Answer({"runMetadata": self._metadata(workspace, run), "runDefinition": {}, "jobSpecification": {}})
        asked = re.fullmatch(r"(?:experiments/[^/]+/)?runs/([^/]+)(/details)?", rest)
        if asked is None or request.method != "GET":
            raise AzureError("NotFound", f"There is no {request.method} {request.path}", 404)
        run = self._jobs.run(workspace, asked[1])
        told = self._metadata(workspace, run)
        return Answer({**told, "logFiles": self._logs(run)} if asked[2] else told)

    def _metadata(self, workspace: str, run: JobRun) -> dict[str, Any]:
        given: Record = run.record["properties"]
        instance = given["resources"].get("instanceType")
        return {
            "runId": run.name, "rootRunId": run.name, "experimentName": given["experimentName"],
            "displayName": given["displayName"], "status": run.status, "createdUtc": run.created,
            "startTimeUtc": run.started or None, "endTimeUtc": run.ended or None, "error": run.error, "warnings": None,
            "tags": given["tags"], "properties": given["properties"], "parameters": {},
            "target": (given.get("computeId") or "").rpartition("/")[2] or "serverless",
            "compute": {"target": "serverless", "vmSize": instance, "instanceCount": 1},
            "runType": "azureml.scriptrun", "inputs": {},
            "outputs": {
                name: {"assetId": _asset_id(workspace, run, name), "type": _TYPES[about["jobOutputType"]]}
                for name, about in given["outputs"].items()
                if name != "default" and run.status == "Completed"
            },
        }  # fmt: skip

    def _logs(self, run: JobRun) -> dict[str, str]:
        base, azurite = run.artifacts, self._cloud.azurite
        return {
            path.removeprefix(f"{base.path}/"): azurite.signed(Place(base.account, base.container, path))
            for folder in _LOGS
            for path in azurite.paths(base / folder)
        }

    def _resolve(self, request: Request) -> Answer:
        """Tells where outputs are, by their assets' ids."""
        workspace = re.search(r"/subscriptions/.+?/workspaces/[^/]+", unquote(request.path))
        values = {}
        for id in request.json.get("values") or ():
            found = re.search(r"/azureml_(.+)_output_data_(\w+)/versions/", id)
            if workspace is None or found is None:
                raise AzureError("NotFound", f"There is no {id}", 404)
            words = workspace[0].strip("/").split("/")
            place = self._jobs.run(workspace[0], found[1]).outputs[found[2]]
            uri = (
                f"azureml://subscriptions/{words[1]}/resourcegroups/{words[3]}/workspaces/{words[7]}/datastores/"
                f"workspaceblobstore/paths/{place.path.rstrip('/')}/"
            )
            values[id] = {"uri": uri, "type": "uri_folder"}
        return Answer({"values": values})


def _asset_id(workspace: str, run: JobRun, output: str) -> str:
    return (
        f"azureml://workspaces/{workspace.rpartition('/')[2]}/data/azureml_{run.name}_output_data_{output}/versions/1"
    )
