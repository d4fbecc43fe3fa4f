"""Real-time and serverless endpoints: a model, an endpoint configuration and an endpoint, made and deleted together.

The model and the configuration share a name, `ENDPOINT-xxxxxxxx`, so that the endpoint's configuration leads to what it
serves. What is known of it is in the model's environment. They cost nothing; the endpoint does, so it comes last when
it is made and first when it is deleted.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medimg.backends.resource import Resource, Status
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.archives import DEFAULT_INSTANCE, Archives
from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.functions import MEMORY_MB, Functions
from medimg.backends.sagemaker.http_api import Address
from medimg.backends.sagemaker.logs import Logs
from medimg.backends.sagemaker.schedules import Deletion, Schedules
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, EndpointError, MedimgError, NotFoundError
from medimg.inference.answers import read_answer
from medimg.progress import Display, heartbeat

__all__ = ["Endpoints"]

_NAME = re.compile(r"[a-z][a-z0-9-]{1,30}[a-z0-9]")
_VARIANT = "AllTraffic"
_CONCURRENCY = 5  # requests at once of a serverless endpoint
_STATUS: dict[str, Status] = {
    "Creating": "starting", "InService": "ready", "Updating": "updating", "SystemUpdating": "updating",
    "RollingBack": "updating", "Failed": "failed", "OutOfService": "failed", "UpdateRollbackFailed": "failed",
}  # fmt: skip
_AT_ONCE = 8
_BUSY_SECONDS = 1800.0
_REQUESTS_A_MINUTE = 300  # a machine's, from which another is added


class Endpoints:
    """The endpoints of an account.

    Attributes:
        poll_seconds: Between two questions about an endpoint that cannot be deleted yet.

    Args:
        account: Whose.
        archives: Where their models are.
        logs: Where their logs are.
        schedules: What ends them.
        functions: What puts an HTTP address in front of them.
    """

    poll_seconds = 2.0

    def __init__(
        self, account: Account, archives: Archives, logs: Logs, schedules: Schedules, functions: Functions
    ) -> None:
        self._account = account
        self._archives = archives
        self._logs = logs
        self._schedules = schedules
        self._functions = functions
        self._told: dict[str, Mapping[str, Any]] = {}  # of models, which never change

    @property
    def _client(self) -> Any:
        return self._account.client("sagemaker")

    # -- making -------------------------------------------------------------------------------------------------------

    def deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        """Uploads the model and starts the endpoint."""
        _check(config)
        if config.ttl_hours is not None:
            self._schedules.require_role()
        if self._status(name) is not None:
            raise AlreadyExistsError(f"an endpoint {name!r} exists")
        with self._undone_on_error(name) as version:
            address = self._functions.relay(name, config) if config.http_api else None
            self._make_version(version, folder, config, details, address)
            if config.ttl_hours is not None:
                # Before the endpoint: from its first second on it has an end.
                self._schedules.delete(name)
                self._schedules.at(name, config.ttl_hours, self._deletions(name, version, address))
            try:
                with translated(f"deploying {name!r}"):
                    self._client.create_endpoint(
                        EndpointName=name, EndpointConfigName=version, Tags=self._account.tag_list()
                    )
            except AlreadyExistsError:
                # An answer may have been lost on its way, and the second request met the first one's endpoint.
                if self._version(name) != version:
                    raise

    def update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        """Starts to serve another model; SageMaker switches over when that is healthy, and else goes back."""
        with self._undone_on_error(name) as version:
            config, before = ServeConfig.model_validate(details["config"]), self.describe(name)
            address = next((Address(id, "") for id, owner in self._functions.apis.apis() if owner == name), None)
            if address is not None:
                address = Address(address.id, str(before.details["url"]).removesuffix("/predict"))
            self._make_version(version, folder, config, details, address)
            if config.ttl_hours is not None:
                # The time it has goes on; the new version ends with it.
                left = config.ttl_hours - (time.time() - before.created) / 3600
                self._schedules.delete(name)
                self._schedules.at(name, max(left, 1 / 60), self._deletions(name, version, address))
            with translated(f"updating {name!r}"):
                self._client.update_endpoint(EndpointName=name, EndpointConfigName=version)

    @contextmanager
    def _undone_on_error(self, name: str) -> Iterator[str]:
        """Yields the name of a new version; where the block fails, what it made is deleted."""
        version = f"{name}-{secrets.token_hex(4)}"
        try:
            yield version
        except BaseException:
            # An error here must not hide the first one; what is left is found by its tag: see `leftovers`.
            with suppress(MedimgError):
                if self._version(name) != version:
                    self._delete_version(version)
                if self._status(name) is None:
                    self._schedules.delete(name)
                    self._functions.apis.close(name)
            raise

    def _make_version(
        self, version: str, folder: Path, config: ServeConfig, details: Mapping[str, Any], address: Address | None
    ) -> None:
        with Display(version.rpartition("-")[0]) as display:
            uri = self._archives.upload(folder, str(details["digest"]), display)
        container = self._archives.container(uri, details, config.instance)
        container["Environment"] |= {"MEDIMG_CONFIG": json.dumps(details["config"], separators=(",", ":"))}
        if address is not None:
            container["Environment"] |= {"MEDIMG_URL": address.url}
        tags = self._account.tag_list()
        variant: dict[str, Any] = {"VariantName": _VARIANT, "ModelName": version}
        if config.kind == "serverless":
            variant["ServerlessConfig"] = {
                "MemorySizeInMB": config.memory_mb or MEMORY_MB,
                "MaxConcurrency": max(_CONCURRENCY, config.max_instances),
            }
        else:
            variant |= {
                "InstanceType": config.instance or DEFAULT_INSTANCE, "InitialInstanceCount": config.min_instances,
            }  # fmt: skip
        encryption = {}
        if self._account.kms_key is not None and config.kind == "realtime":
            encryption = {"KmsKeyId": self._account.kms_key}
        # Nobody else has this name: what exists was made by a first request whose answer was lost.
        with suppress(AlreadyExistsError), translated(f"making the model {version!r}"):
            self._client.create_model(
                ModelName=version, PrimaryContainer=container, ExecutionRoleArn=self._account.role_arn, Tags=tags
            )
        with suppress(AlreadyExistsError), translated(f"making the endpoint configuration {version!r}"):
            self._client.create_endpoint_config(
                EndpointConfigName=version, ProductionVariants=[variant], Tags=tags, **encryption
            )

    def _deletions(self, name: str, version: str, address: Address | None) -> list[Deletion]:
        return [
            ("sagemaker", "deleteEndpoint", {"EndpointName": name}),
            ("sagemaker", "deleteEndpointConfig", {"EndpointConfigName": version}),
            ("sagemaker", "deleteModel", {"ModelName": version}),
            *(self._functions.apis.deletions(name, address) if address is not None else ()),
        ]

    def settle(self, name: str) -> None:
        """Deletes the versions that an endpoint has left behind, and sets its scaling."""
        current = self._version(name)
        for version in self._versions(name):
            if version != current:
                self._delete_version(version)
        config = ServeConfig.model_validate(self.describe(name).details["config"])
        if config.kind != "realtime" or config.max_instances <= config.min_instances:
            return
        scaling, target = self._account.client("application-autoscaling"), _scaled(name)
        with translated(f"setting the scaling of {name!r}"):
            scaling.register_scalable_target(
                **target, MinCapacity=config.min_instances, MaxCapacity=config.max_instances
            )
            scaling.put_scaling_policy(
                **target,
                PolicyName=f"medimg-{name}",
                PolicyType="TargetTrackingScaling",
                TargetTrackingScalingPolicyConfiguration={
                    "TargetValue": float(_REQUESTS_A_MINUTE),
                    "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
                },
            )

    # -- reading ------------------------------------------------------------------------------------------------------

    def _raw(self, name: str) -> Mapping[str, Any] | None:
        if not _NAME.fullmatch(name):
            return None
        try:
            with translated(f"looking for the endpoint {name!r}"):
                answer: Mapping[str, Any] = self._client.describe_endpoint(EndpointName=name)
        except NotFoundError:
            return None
        return answer

    def _endpoint(self, name: str) -> Mapping[str, Any] | None:
        """Returns what SageMaker says of an endpoint; None where there is none, or not for long."""
        answer = self._raw(name)
        return None if answer is None or answer["EndpointStatus"] == "Deleting" else answer

    def _raw_status(self, name: str) -> str | None:
        answer = self._raw(name)
        return None if answer is None else str(answer["EndpointStatus"])

    def _status(self, name: str) -> str | None:
        found = self._endpoint(name)
        return None if found is None else str(found["EndpointStatus"])

    def _version(self, name: str) -> str | None:
        found = self._endpoint(name)
        return None if found is None else str(found["EndpointConfigName"])

    def describe(self, name: str) -> Resource:
        """Returns an endpoint as it is now."""
        answer = self._endpoint(name)
        if answer is None:
            raise NotFoundError(
                f"SageMaker has no endpoint {name!r} in {self._account.region}. See backend.endpoints()"
            )
        version = answer["EndpointConfigName"]
        if version not in self._told:
            with translated(f"looking for the model {version!r}"):
                model = self._client.describe_model(ModelName=version)
            self._told[version] = model["PrimaryContainer"].get("Environment", {})
        told = self._told[version]
        if "MEDIMG_CONFIG" not in told:
            raise NotFoundError(f"the endpoint {name!r} was not made by medimg. See backend.endpoints()")
        region = self._account.region
        details: dict[str, Any] = {
            "digest": told["MEDIMG_DIGEST"],
            "config": json.loads(told["MEDIMG_CONFIG"]),
            "url": f"https://runtime.sagemaker.{region}.amazonaws.com/endpoints/{name}/invocations",
        }
        if "MEDIMG_URL" in told:
            details["url"] = f"{told['MEDIMG_URL']}/predict"
            details["key_command"] = self._functions.apis.key_command(name, str(details["config"]["auth"]))
        if reason := answer.get("FailureReason"):
            details["reason"] = reason
        status = _STATUS.get(answer["EndpointStatus"], "failed")
        return Resource("endpoint", name, status, answer["CreationTime"].timestamp(), details)

    def all(self) -> list[Resource]:
        """Returns all endpoints of ours."""
        with translated("listing the endpoints"):
            pages = self._client.get_paginator("list_endpoints").paginate()
            names = [summary["EndpointName"] for page in pages for summary in page["Endpoints"]]

        def one(name: str) -> Resource | None:
            if not self._account.owns(self._account.arn("endpoint", name)):
                return None
            try:
                return self.describe(name)
            except NotFoundError:
                return None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [resource for resource in pool.map(one, names) if resource is not None]

    def log(self, name: str, after: int) -> tuple[list[str], int]:
        """Returns the lines after a position, and the position after them."""
        self.describe(name)
        return self._logs.read(f"/aws/sagemaker/Endpoints/{name}", "", after)

    def invoke(self, name: str, body: bytes) -> Mapping[str, Any]:
        """Sends an encoded image and returns the answer."""
        try:
            with translated(f"asking the endpoint {name!r}"):
                answer = self._account.client("sagemaker-runtime").invoke_endpoint(
                    EndpointName=name, ContentType="application/octet-stream", Accept="application/json", Body=body
                )
                status, content = 200, answer["Body"].read()
        except NotFoundError:
            found = self.describe(name)  # raises where it does not exist
            raise EndpointError(f"the endpoint {name!r} is {found.status}") from None
        except BackendError as error:
            response = getattr(error.__cause__, "response", {})
            if response.get("Error", {}).get("Code") != "ModelError":
                if self.describe(name).status not in ("ready", "updating"):
                    raise EndpointError(f"the endpoint {name!r} is {self.describe(name).status}") from error
                raise
            status = int(response.get("OriginalStatusCode", 500))
            content = str(response.get("OriginalMessage", "")).encode()
        return read_answer(status, content)

    # -- ending -------------------------------------------------------------------------------------------------------

    def delete(self, name: str) -> None:
        """Deletes an endpoint with its versions, schedules, scaling and log."""
        found = self.describe(name)
        self._delete_endpoint(name)
        for version in self._versions(name):
            self._delete_version(version)
        self._schedules.delete(name)
        if found.details["config"]["http_api"]:
            self._functions.apis.close(name)
        self._logs.delete(f"/aws/sagemaker/Endpoints/{name}")

    def _delete_endpoint(self, name: str) -> None:
        target = _scaled(name)
        with suppress(NotFoundError), translated(f"ending the scaling of {name!r}"):
            self._account.client("application-autoscaling").deregister_scalable_target(**target)
        deadline = time.monotonic() + _BUSY_SECONDS
        with Display(name) as display, heartbeat("deleting", display):
            while (status := self._raw_status(name)) is not None:
                # SageMaker refuses to delete what is on its way up.
                if status not in ("Creating", "Updating", "RollingBack", "SystemUpdating", "Deleting"):
                    with suppress(NotFoundError), translated(f"deleting the endpoint {name!r}"):
                        self._client.delete_endpoint(EndpointName=name)
                elif time.monotonic() > deadline:
                    raise BackendError(f"the endpoint {name!r} is still {status}. Delete it again in a few minutes")
                else:
                    time.sleep(self.poll_seconds)

    def _versions(self, name: str) -> list[str]:
        """Returns the names of all models and configurations that were made for an endpoint."""
        ours = re.compile(rf"{re.escape(name)}-[0-9a-f]{{8}}")
        return sorted({version for version in self._all_versions(name) if ours.fullmatch(version)})

    def _all_versions(self, contains: str = "-") -> set[str]:
        found = set()
        with translated("listing the models"):
            for page in self._client.get_paginator("list_models").paginate(NameContains=contains):
                found |= {model["ModelName"] for model in page["Models"]}
        with translated("listing the endpoint configurations"):
            for page in self._client.get_paginator("list_endpoint_configs").paginate(NameContains=contains):
                found |= {config["EndpointConfigName"] for config in page["EndpointConfigs"]}
        return {version for version in found if re.fullmatch(r".+-[0-9a-f]{8}", version)}

    def _delete_version(self, version: str) -> None:
        # Asked for first: where deleting is allowed by tag, what does not exist has none and would be denied.
        with suppress(NotFoundError), translated(f"deleting the endpoint configuration {version!r}"):
            self._client.describe_endpoint_config(EndpointConfigName=version)
            self._client.delete_endpoint_config(EndpointConfigName=version)
        with suppress(NotFoundError), translated(f"deleting the model {version!r}"):
            self._client.describe_model(ModelName=version)
            self._client.delete_model(ModelName=version)
        self._told.pop(version, None)

    def delete_leftovers(self) -> None:
        """Deletes versions and schedules whose endpoint does not exist: a deploy was cut off, or its time was up."""
        for version in self._all_versions():
            name = version.rpartition("-")[0]
            arns = [self._account.arn(kind, version) for kind in ("model", "endpoint-config")]
            if any(map(self._account.owns, arns)) and self._status(name) is None:
                self._delete_version(version)
                self._schedules.delete(name)

    def archives_in_use(self) -> set[str]:
        """Returns the addresses of the archives that endpoints are served from, and would grow from."""
        used = set()
        for version in self._all_versions():
            with suppress(NotFoundError), translated(f"looking for the model {version!r}"):
                used.add(self._client.describe_model(ModelName=version)["PrimaryContainer"].get("ModelDataUrl", ""))
        return used


def _scaled(name: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{_VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def _check(config: ServeConfig) -> None:
    if config.kind == "serverless":
        memory = config.memory_mb or MEMORY_MB
        if memory % 1024 or not 1024 <= memory <= 6144:
            raise ConfigError(f"memory_mb={memory}: a serverless endpoint has 1024, 2048, 3072, 4096, 5120 or 6144")
        if config.instance is not None:
            raise ConfigError("a serverless endpoint has no instance=; its size is memory_mb=")
    elif config.min_instances < 1:
        raise ConfigError("min_instances=0: a real-time endpoint keeps a machine. kind='serverless' costs nothing idle")
    if config.max_instances < config.min_instances:
        raise ConfigError(f"max_instances={config.max_instances} is less than min_instances={config.min_instances}")
    if config.auth == "none" and not config.http_api:
        raise ConfigError("auth='none': a SageMaker endpoint is always asked with AWS credentials. Leave auth out")
