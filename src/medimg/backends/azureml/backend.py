"""The AzureML backend: the ten primitives, each a line or two over the part that does it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medimg.backends.azureml.doctor import checks
from medimg.backends.azureml.endpoints import Endpoints
from medimg.backends.azureml.environments import Environments
from medimg.backends.azureml.instances import JOB_INSTANCE, SERVING_INSTANCE
from medimg.backends.azureml.jobs import Jobs
from medimg.backends.azureml.models import Models
from medimg.backends.azureml.prices import rates
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.base import Backend
from medimg.backends.doctor import Check
from medimg.backends.rates import Rate
from medimg.backends.resource import Kind, Resource
from medimg.config import JobSpec, Resources, ServeConfig
from medimg.progress import Report

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

__all__ = ["AzureMLBackend"]


class AzureMLBackend(Backend):
    """Trains, registers and serves on Azure Machine Learning, through azure-ai-ml.

    `medimg azure bootstrap` makes the resource group and workspace; `doctor()` tells what is missing. No name, no path
    and no header of an image goes to Azure: pixels, labels and salted ids do.

    Args:
        subscription: Its id; None: AZURE_SUBSCRIPTION_ID.
        resource_group: None: AZURE_RESOURCE_GROUP, else "medimg".
        workspace: None: AZUREML_WORKSPACE_NAME, else "medimg".
        credential: Any credential of azure-identity; None: that of the environment, a managed identity or `az login`.
        compute: Name of a compute cluster; None: serverless compute, which is there only while a job runs. One that
            does not exist is made, with no machine while there is no job.
        image: The base image that jobs run in; None: Microsoft's.
        auth: How endpoints are asked: "key", or "entra" for a login.
        prefix: What the names of all blobs begin with; two projects in one workspace are kept apart by it.
        tags: Put on everything that is made, such as {"cost-centre": "radiology"}.

    Raises:
        ConfigError: No subscription, or a name or tag that Azure would refuse.
        MissingExtraError: azure-ai-ml is not installed.
    """

    name: ClassVar[str] = "azureml"
    job_poll_seconds: ClassVar[float] = 3.0
    endpoint_poll_seconds: ClassVar[float] = 3.0
    log_delay_seconds: ClassVar[float] = 15.0
    keys_advice: ClassVar[str] = "change it with: az ml online-endpoint regenerate-keys --name NAME --key-type primary"

    def __init__(
        self,
        subscription: str | None = None,
        resource_group: str | None = None,
        workspace: str | None = None,
        credential: TokenCredential | None = None,
        compute: str | None = None,
        image: str | None = None,
        auth: Literal["key", "entra"] = "key",
        prefix: str = "medimg",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.workspace = Workspace(
            subscription=subscription, resource_group=resource_group, workspace=workspace, credential=credential,
            prefix=prefix, tags=tags,
        )  # fmt: skip
        self._environments = Environments(self.workspace, image=image)
        self._jobs = Jobs(self.workspace, self._environments, compute=compute)
        self._models = Models(self.workspace)
        self._endpoints = Endpoints(self.workspace, self._models, self._environments, auth=auth)

    def _place(self) -> str:
        return self.workspace.place

    # -- primitives ---------------------------------------------------------------------------------------------------

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        self._jobs.submit(spec, pack, inputs, report)

    def _describe(self, kind: Kind, id: str) -> Resource:
        return self._of(kind).describe(id)

    def _list(self, kind: Kind) -> list[Resource]:
        return self._of(kind).all()

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        return (self._jobs if kind == "job" else self._endpoints).log(id, after)

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        (self._jobs if kind == "job" else self._models).fetch(id, target, report)

    def _stop(self, id: str) -> None:
        self._jobs.stop(id)

    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        return self._models.register(name, folder, details)

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        self._endpoints.deploy(name, folder, config, details)

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        return self._endpoints.invoke(name, body)

    def _delete(self, kind: Kind, id: str) -> None:
        self._of(kind).delete(id)

    def _of(self, kind: Kind) -> Jobs | Models | Endpoints:
        if kind == "job":
            return self._jobs
        return self._models if kind == "model" else self._endpoints

    # -- what it adds -------------------------------------------------------------------------------------------------

    def _http_request(self, name: str, body: bytes) -> tuple[str, Mapping[str, str]]:
        return self._endpoints.http_request(name)

    def _update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        self._endpoints.update(name, folder, details)

    def _settle(self, name: str) -> None:
        self._endpoints.settle(name)

    def _with_defaults(self, resources: Resources, serve: ServeConfig | None) -> tuple[Resources, ServeConfig | None]:
        if resources.instance is None:
            resources = resources.model_copy(update={"instance": JOB_INSTANCE})
        if serve is not None and serve.instance is None:
            serve = serve.model_copy(update={"instance": SERVING_INSTANCE})
        return resources, serve

    def _rates(
        self, resources: Resources, serve: ServeConfig | None, given: Mapping[str, float] | None
    ) -> Mapping[str, Rate]:
        return rates(self.workspace, resources, serve, given=given)

    def _checks(self, resources: Resources) -> Sequence[Check]:
        return checks(self.workspace, resources)

    def _tidy(self, kinds: Collection[Kind]) -> None:
        if "endpoint" in kinds:
            self._endpoints.delete_leftovers()
        if "endpoint" in kinds or "model" in kinds:
            self._models.delete_unused(self._endpoints.digests)
        if "model" in kinds:
            self._models.delete_empty()
        if "job" in kinds:
            self._jobs.delete_leftovers()
        if {"job", "endpoint"} <= set(kinds):
            self._environments.delete_all(lambda: self._endpoints.used() or bool(self._jobs.all()))
