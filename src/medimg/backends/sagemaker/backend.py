"""The SageMaker backend: the ten primitives, each a line or two over the part that does it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from medimg.backends.base import Backend
from medimg.backends.doctor import Check
from medimg.backends.rates import Rate
from medimg.backends.resource import Kind, Resource
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.archives import DEFAULT_INSTANCE as SERVING_INSTANCE
from medimg.backends.sagemaker.archives import Archives
from medimg.backends.sagemaker.doctor import checks
from medimg.backends.sagemaker.endpoints import Endpoints
from medimg.backends.sagemaker.functions import MEMORY_MB, Functions
from medimg.backends.sagemaker.jobs import DEFAULT_INSTANCE as JOB_INSTANCE
from medimg.backends.sagemaker.jobs import Jobs
from medimg.backends.sagemaker.logs import Logs
from medimg.backends.sagemaker.prices import rates
from medimg.backends.sagemaker.registry import Registry
from medimg.backends.sagemaker.schedules import Schedules
from medimg.config import JobSpec, Resources, ServeConfig
from medimg.errors import AlreadyExistsError, NotFoundError
from medimg.progress import Report

__all__ = ["SageMakerBackend"]

_LAMBDA_PYTHON = "3.12"

T = TypeVar("T")


class SageMakerBackend(Backend):
    """Trains, registers and serves on Amazon SageMaker, through boto3.

    `medimg aws bootstrap` makes the bucket and roles; `doctor()` tells what is missing. No name, no path and no header
    of an image goes to AWS: pixels, labels and salted ids do.

    Args:
        role: Name or ARN of the role that jobs and endpoints run as; None: medimg-execution.
        region: Such as "eu-central-1"; None: that of the environment or profile.
        bucket: Where everything is kept; None: medimg-ACCOUNT-REGION.
        profile: Of the AWS configuration; None: the default credentials.
        kms_key: ARN of the key that encrypts objects, disks and secrets; None: the services' own keys.
        image: The image that jobs run in; None: AWS's TensorFlow training image for the region and instance.
        serving_image: The image that endpoints run in; None: AWS's TensorFlow Serving image.
        serving_python: Version of that image's Python; None: that of AWS's.
        lambda_python: Version of Python that Lambda functions run on.
        prefix: What the key of every object begins with; two projects in one bucket are kept apart by it.
        create_bucket: Whether to make the bucket, with public access blocked, where it does not exist.
        tracking_uri: An MLflow server that jobs can reach and report to; None: none.
        tags: Put on everything that is made, such as {"cost-centre": "radiology"}.

    Raises:
        ConfigError: No region, or no such profile.
        MissingExtraError: boto3 is not installed.
    """

    name: ClassVar[str] = "sagemaker"
    job_poll_seconds: ClassVar[float] = 2.0
    endpoint_poll_seconds: ClassVar[float] = 2.0
    log_delay_seconds: ClassVar[float] = 15.0
    keys_advice: ClassVar[str] = (
        "for another one deploy it again. Who may ask without is said by IAM: sagemaker:InvokeEndpoint"
    )

    def __init__(
        self,
        role: str | None = None,
        region: str | None = None,
        bucket: str | None = None,
        profile: str | None = None,
        kms_key: str | None = None,
        image: str | None = None,
        serving_image: str | None = None,
        serving_python: str | None = None,
        lambda_python: str = _LAMBDA_PYTHON,
        prefix: str = "medimg",
        create_bucket: bool = False,
        tracking_uri: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        account = Account(
            role=role, region=region, bucket=bucket, profile=profile, kms_key=kms_key, prefix=prefix,
            create_bucket=create_bucket, tags=tags,
        )  # fmt: skip
        logs, schedules = Logs(account), Schedules(account)
        self.account = account
        self._archives = Archives(account, image=serving_image, python=serving_python)
        self._jobs = Jobs(account, logs, image=image, tracking_uri=tracking_uri)
        self._models = Registry(account, self._archives)
        self._functions = Functions(account, logs, schedules, python=lambda_python)
        self._endpoints = Endpoints(account, self._archives, logs, schedules, self._functions)
        self._servers: dict[str, Endpoints | Functions] = {}  # of endpoints that were seen

    def _place(self) -> str:
        return f"sagemaker-{self.account.id}-{self.account.region}-{self.account.prefix.replace('/', '-')}"

    def _served(self, name: str, ask: Callable[[Endpoints | Functions], T]) -> T:
        """Asks who serves an endpoint; where nobody does, the answer is a NotFoundError."""
        known = self._servers.get(name)
        try:
            return ask(known or self._server(name))
        except NotFoundError:
            self._servers.pop(name, None)
            if known is None:
                raise
        # Another process may have deleted it and deployed the other kind.
        return ask(self._server(name))

    def _server(self, name: str) -> Endpoints | Functions:
        found: Endpoints | Functions = self._functions if self._functions.has(name) else self._endpoints
        self._servers[name] = found
        return found

    # -- primitives ---------------------------------------------------------------------------------------------------

    def _submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        self._jobs.submit(spec, pack, inputs, report)

    def _describe(self, kind: Kind, id: str) -> Resource:
        if kind == "job":
            return self._jobs.describe(id)
        return self._models.describe(id) if kind == "model" else self._served(id, lambda by: by.describe(id))

    def _list(self, kind: Kind) -> list[Resource]:
        if kind == "job":
            return self._jobs.all()
        return self._models.all() if kind == "model" else [*self._endpoints.all(), *self._functions.all()]

    def _log(self, kind: Kind, id: str, after: int) -> tuple[list[str], int]:
        return self._jobs.log(id, after) if kind == "job" else self._served(id, lambda by: by.log(id, after))

    def _fetch(self, kind: Kind, id: str, target: Path, report: Report) -> None:
        (self._jobs if kind == "job" else self._models).fetch(id, target, report)

    def _stop(self, id: str) -> None:
        self._jobs.stop(id)

    def _register(self, name: str, folder: Path, details: Mapping[str, Any]) -> str:
        return self._models.register(name, folder, details)

    def _deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        self._servers.pop(name, None)
        mine, others = self._endpoints.deploy, self._functions.has
        if config.kind == "lambda":
            mine, others = self._functions.deploy, self._endpoints.has
        if others(name):
            raise AlreadyExistsError(f"an endpoint {name!r} of another kind exists")
        mine(name, folder, config, details)

    def _invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        return self._served(name, lambda by: by.invoke(name, body))

    def _delete(self, kind: Kind, id: str) -> None:
        if kind == "job":
            self._jobs.delete(id)
        elif kind == "model":
            self._models.delete(id)
        else:
            self._served(id, lambda by: by.delete(id))
            self._servers.pop(id, None)

    # -- what it adds -------------------------------------------------------------------------------------------------

    def _update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        self._served(name, lambda by: by.update(name, folder, details))

    def _http_request(self, name: str, body: bytes) -> tuple[str, Mapping[str, str]]:
        return self._served(name, lambda by: by.http_request(name, body))

    def _settle(self, name: str) -> None:
        self._served(name, lambda by: by.settle(name))

    def _with_defaults(self, resources: Resources, serve: ServeConfig | None) -> tuple[Resources, ServeConfig | None]:
        if resources.instance is None:
            resources = resources.model_copy(update={"instance": JOB_INSTANCE})
        if serve is not None and serve.kind == "realtime" and serve.instance is None:
            serve = serve.model_copy(update={"instance": SERVING_INSTANCE})
        if serve is not None and serve.kind != "realtime" and serve.memory_mb is None:
            serve = serve.model_copy(update={"memory_mb": MEMORY_MB})
        return resources, serve

    def _rates(
        self, resources: Resources, serve: ServeConfig | None, given: Mapping[str, float] | None
    ) -> Mapping[str, Rate]:
        return rates(self.account, resources, serve, given=given)

    def _checks(self, resources: Resources) -> Sequence[Check]:
        return checks(self.account, resources, self._jobs.image)

    def _tidy(self, kinds: Collection[Kind]) -> None:
        if "endpoint" in kinds:
            self._endpoints.delete_leftovers()
            self._functions.delete_leftovers(self._endpoints.has)
        if "model" in kinds:
            self._models.delete_empty_groups()
        with suppress(NotFoundError):  # without a bucket there are no objects
            if "job" in kinds and not self._jobs.all():
                for folder in ("packs/", "inputs/", "code/", "checkpoints/", "jobs/"):
                    self.account.storage.delete_prefix(folder)
            if "endpoint" in kinds or "model" in kinds:
                used = {str(model.details["archive"]) for model in self._models.all()}
                self._archives.delete_unused(used | self._endpoints.versions.archives())
            if "endpoint" in kinds and not self._functions.all():
                self.account.storage.delete_prefix("functions/")
