"""Real-time and serverless endpoints.

An endpoint costs money, what it serves does not: it is made last and deleted first, and its end, if it has one, is
scheduled before it is there. Who fails takes away what it made itself, and nothing else.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimg.backends.identity import NAME
from medimg.backends.resource import Resource, Status
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.archives import Archives
from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.functions import MEMORY_MB, Functions
from medimg.backends.sagemaker.http_api import Address
from medimg.backends.sagemaker.logs import Logs
from medimg.backends.sagemaker.schedules import Deletion, Schedules
from medimg.backends.sagemaker.versions import VARIANT, Versions, settings
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, EndpointError, MedimgError, NotFoundError
from medimg.inference.answers import read_answer
from medimg.progress import Display, heartbeat

__all__ = ["Endpoints"]

_STATUS: dict[str, Status] = {
    "Creating": "starting", "InService": "ready", "Updating": "updating", "SystemUpdating": "updating",
    "RollingBack": "updating", "Failed": "failed", "OutOfService": "failed", "UpdateRollbackFailed": "failed",
}  # fmt: skip
_BUSY = ("Creating", "Updating", "RollingBack", "SystemUpdating", "Deleting")
_BUSY_SECONDS = 1800.0
_AT_ONCE = 8
_REQUESTS_A_MINUTE = 300  # a machine's, from which another is added
_LIMITS_MB = {"realtime": 6, "serverless": 4}  # of a request, by SageMaker
_MOST_SETTINGS = 1024  # characters of one variable of a container
# SageMaker refuses to delete what is on its way up or is being updated, and a schedule may be tried only once.
_END_SECONDS = (0.0, 1200.0, 3600.0, 21_600.0)


@dataclass(frozen=True)
class _Seen:
    """An endpoint as SageMaker describes it.

    Attributes:
        status: In SageMaker's words.
        current: The version that answers.
        pending: The version that is being rolled out, or "".
        created: Seconds since the epoch.
        changed: When it was last changed.
        reason: Why it, or its last update, failed; or "".
    """

    status: str
    current: str
    pending: str
    created: float
    changed: float
    reason: str


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
        self.versions = Versions(account)
        self._kinds: dict[str, str] = {}

    @property
    def _client(self) -> Any:
        return self._account.client("sagemaker")

    # -- making -------------------------------------------------------------------------------------------------------

    def deploy(self, name: str, folder: Path, config: ServeConfig, details: Mapping[str, Any]) -> None:
        """Uploads the model and starts the endpoint."""
        _check(config)
        if config.ttl_hours is not None:
            self._schedules.require_role()
        found = self._seen(name)
        if found is not None and found.status != "Deleting":
            raise AlreadyExistsError(f"an endpoint {name!r} exists")
        if found is not None:
            self._delete_endpoint(name)  # waits until it is gone
        token = secrets.token_hex(4)
        version = f"{name}-{token}"
        with Display(name) as display, self._undone_on_error(name, token):
            uri = self._archives.upload(folder, str(details["digest"]), display)
            with heartbeat("starting", display):
                address = self._functions.relay(name, token, config) if config.http_api else None
                self._make_version(version, uri, config, details, address)
                if config.ttl_hours is not None:
                    # Before the endpoint: from its first second on it has an end.
                    deletions = self._deletions(name, version, config, address)
                    self._schedules.at(name, token, config.ttl_hours, deletions)
                self._create(name, version)
                # The name is ours now: an older endpoint's schedules would end this one, and somebody's `cleanup`
                # may just have taken this one's away.
                self._schedules.delete(name, keep=token)
                if config.ttl_hours is not None:
                    self._schedules.at(name, token, config.ttl_hours, deletions)

    def _create(self, name: str, version: str) -> None:
        try:
            with translated(f"deploying {name!r}"):
                self._client.create_endpoint(
                    EndpointName=name, EndpointConfigName=version, Tags=self._account.tag_list()
                )
        except AlreadyExistsError:
            # An answer may have been lost on its way, and the second request met the first one's endpoint.
            if not self._has(name, version):
                raise

    def update(self, name: str, folder: Path, details: Mapping[str, Any]) -> None:
        """Starts to serve another model; SageMaker switches over when that is healthy, and else goes back."""
        config, before, token = ServeConfig.model_validate(details["config"]), self.describe(name), secrets.token_hex(4)
        version = f"{name}-{token}"
        with Display(name) as display, self._undone_on_error(name, token):
            uri = self._archives.upload(folder, str(details["digest"]), display)
            address = self._functions.address(name) if config.http_api else None
            self._make_version(version, uri, config, details, address)
            if config.ttl_hours is not None:
                # The time it has goes on. The schedules before these go when the new version answers: see `settle`.
                left = config.ttl_hours - (time.time() - before.created) / 3600
                deletions = self._deletions(name, version, config, address)
                self._schedules.at(name, token, max(left, 1 / 60), deletions)
            scaled = {"RetainAllVariantProperties": True} if _is_scaled(config) else {}
            try:
                with translated(f"updating {name!r}"):
                    self._client.update_endpoint(EndpointName=name, EndpointConfigName=version, **scaled)
            except MedimgError:
                # The answer to a first request may have been lost, and the second is refused as one too many.
                if not self._has(name, version):
                    raise

    def _has(self, name: str, version: str) -> bool:
        found = self._seen(name)
        return found is not None and version in (found.current, found.pending)

    @contextmanager
    def _undone_on_error(self, name: str, token: str) -> Iterator[None]:
        """Where the block fails, deletes what it made under the token, unless an endpoint came of it."""
        version = f"{name}-{token}"
        try:
            yield
        except BaseException as error:
            # Another error here must not hide the first one; what is left is found by its tag: `delete_leftovers`.
            with suppress(MedimgError):
                if self._has(name, version):
                    error.add_note(
                        f"The endpoint {name!r} was started all the same, and is billed: delete it with "
                        f"backend.endpoint({name!r}).delete()"
                    )
                else:
                    self.versions.delete(version)
                    self._schedules.delete(name, only=token)
                    self._functions.close_relay(name, token)
            raise

    def _make_version(
        self, version: str, uri: str, config: ServeConfig, details: Mapping[str, Any], address: Address | None
    ) -> None:
        container = self._archives.container(uri, details, config.instance)
        container["Environment"] |= {
            "MEDIMG_CONFIG": settings(details["config"]), "MEDIMG_LOG_SALT": secrets.token_hex(16),
        }  # fmt: skip
        if address is not None:
            container["Environment"] |= {"MEDIMG_URL": address.url}
        self.versions.make(version, container, config)

    def _deletions(self, name: str, version: str, config: ServeConfig, address: Address | None) -> list[Deletion]:
        last = _END_SECONDS[-1]
        return [
            *([Deletion("applicationautoscaling", "deregisterScalableTarget", _target(name))] * _is_scaled(config)),
            *(Deletion("sagemaker", "deleteEndpoint", {"EndpointName": name}, after) for after in _END_SECONDS),
            *(self._functions.apis.deletions(name, address) if address is not None else ()),
            Deletion("sagemaker", "deleteEndpointConfig", {"EndpointConfigName": version}, last + 60),
            Deletion("sagemaker", "deleteModel", {"ModelName": version}, last + 120),
        ]

    def settle(self, name: str) -> None:
        """Deletes what an endpoint has left behind, and sets its scaling."""
        found = self._seen(name)
        if found is None or found.status != "InService":
            return
        for version, made in self.versions.of(name).items():
            # What was made after the last change may be about to be used, by another process.
            if version not in (found.current, found.pending) and made < found.changed:
                self.versions.delete(version)
                self._schedules.delete(name, only=version.rpartition("-")[2])
        config = ServeConfig.model_validate(self.describe(name).details["config"])
        scaling, target = self._account.client("application-autoscaling"), _target(name)
        if not _is_scaled(config):
            # One of the same name may have had it.
            with suppress(NotFoundError), translated(f"ending the scaling of {name!r}"):
                scaling.deregister_scalable_target(**target)
            return
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

    def _seen(self, name: str) -> _Seen | None:
        """Returns an endpoint as it is, also while it is being deleted; None where there is none."""
        if not NAME.fullmatch(name):
            return None
        try:
            with translated(f"looking for the endpoint {name!r}"):
                answer = self._client.describe_endpoint(EndpointName=name)
        except NotFoundError:
            return None
        return _Seen(
            status=answer["EndpointStatus"],
            current=answer.get("EndpointConfigName", ""),
            pending=answer.get("PendingDeploymentSummary", {}).get("EndpointConfigName", ""),
            created=answer["CreationTime"].timestamp(),
            changed=answer.get("LastModifiedTime", answer["CreationTime"]).timestamp(),
            reason=answer.get("FailureReason", ""),
        )

    def has(self, name: str) -> bool:
        """Tells whether an endpoint has that name, and not only for the moment that its deletion takes."""
        found = self._seen(name)
        return found is not None and found.status != "Deleting"

    def describe(self, name: str) -> Resource:
        """Returns an endpoint as it is now."""
        found = self._seen(name)
        if found is None or found.status == "Deleting":
            raise NotFoundError(f"there is no endpoint {name!r} in {self._account.region}. See backend.endpoints()")
        reason = found.reason
        try:
            told = self.versions.told(found.current)
        except NotFoundError:
            told = {}
        if "MEDIMG_CONFIG" not in told:
            if not self._account.owns(self._account.arn("endpoint", name)):
                raise NotFoundError(f"the endpoint {name!r} was not made by medimg. See backend.endpoints()")
            # It costs money and must be seen, whatever became of its model.
            told = {"MEDIMG_DIGEST": "", "MEDIMG_CONFIG": ServeConfig().model_dump_json()}
            reason = reason or "its model was deleted"
        config = json.loads(told["MEDIMG_CONFIG"])
        self._kinds[name] = config["kind"]
        runtime = f"https://runtime.sagemaker.{self._account.region}.amazonaws.com/endpoints/{name}/invocations"
        details: dict[str, Any] = {"digest": told["MEDIMG_DIGEST"], "config": config, "url": runtime}
        if "MEDIMG_URL" in told:
            details["url"] = f"{told['MEDIMG_URL']}/predict"
            details["key_command"] = self._functions.apis.key_command(name, str(config["auth"]))
        if reason:
            details["reason"] = reason
        return Resource("endpoint", name, _STATUS.get(found.status, "failed"), found.created, details)

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
        kind = self._kinds.get(name) or str(self.describe(name).details["config"]["kind"])
        if len(body) > _LIMITS_MB[kind] * 2**20:
            raise EndpointError(
                f"the image has {len(body) / 2**20:.1f} MB as it is sent, and SageMaker takes {_LIMITS_MB[kind]} MB of "
                f"a {kind} endpoint: make it smaller before, or predict with backend.predict_batch(…)",
                status=413,
            )
        try:
            with translated(f"asking the endpoint {name!r}"):
                answer = self._account.client("sagemaker-runtime").invoke_endpoint(
                    EndpointName=name, ContentType="application/octet-stream", Accept="application/json", Body=body
                )
                status, content = 200, answer["Body"].read()
        except NotFoundError:
            self._kinds.pop(name, None)
            found = self.describe(name)  # raises where it does not exist
            raise EndpointError(f"the endpoint {name!r} is {found.status}") from None
        except BackendError as error:
            response = getattr(error.__cause__, "response", {})
            if response.get("Error", {}).get("Code") != "ModelError":
                found = self.describe(name)
                if found.status not in ("ready", "updating"):
                    raise EndpointError(f"the endpoint {name!r} is {found.status}") from error
                raise
            status = int(response.get("OriginalStatusCode", 500))
            content = str(response.get("OriginalMessage", "")).encode()
        return read_answer(status, content, endpoint=name)

    def http_request(self, name: str, body: bytes) -> tuple[str, dict[str, str]]:
        """Returns where an image is sent, with headers that are signed for it and hold for 5 minutes."""
        found = self.describe(name)
        if found.status not in ("ready", "updating"):
            raise EndpointError(f"the endpoint {name!r} is {found.status}")
        headers = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
        url = f"{self._account.client('sagemaker-runtime').meta.endpoint_url}/endpoints/{name}/invocations"
        with translated(f"signing a request to the endpoint {name!r}"):
            return url, self._account.signed(url, headers, body, service="sagemaker")

    # -- ending -------------------------------------------------------------------------------------------------------

    def delete(self, name: str) -> None:
        """Deletes an endpoint with its versions, address, schedules, scaling and log."""
        if self._seen(name) is None or not self._account.owns(self._account.arn("endpoint", name)):
            raise NotFoundError(f"there is no endpoint {name!r} in {self._account.region}. See backend.endpoints()")
        self._delete_endpoint(name)
        self._kinds.pop(name, None)
        for version in self.versions.of(name):
            self.versions.delete(version)
        self._functions.close_relay(name)
        self._schedules.delete(name)
        self._logs.delete(f"/aws/sagemaker/Endpoints/{name}")

    def _delete_endpoint(self, name: str) -> None:
        """Deletes an endpoint and returns when it is gone: only then nothing is billed."""
        with suppress(NotFoundError), translated(f"ending the scaling of {name!r}"):
            self._account.client("application-autoscaling").deregister_scalable_target(**_target(name))
        deadline = time.monotonic() + _BUSY_SECONDS
        with Display(name) as display, heartbeat("deleting", display):
            while (found := self._seen(name)) is not None:
                if found.status not in _BUSY:
                    try:
                        with suppress(NotFoundError), translated(f"deleting the endpoint {name!r}"):
                            self._client.delete_endpoint(EndpointName=name)
                    except BackendError:
                        # boto3 asks again where an answer was lost, and is refused as one too many.
                        after = self._seen(name)
                        if after is not None and after.status not in _BUSY:
                            raise
                elif time.monotonic() > deadline:
                    raise BackendError(
                        f"the endpoint {name!r} is still {found.status}. Delete it again in a few minutes"
                    )
                else:
                    time.sleep(self.poll_seconds)

    def delete_leftovers(self) -> None:
        """Deletes versions whose endpoint does not exist: a deploy was cut off, or its time was up."""
        for version, name in self.versions.ours().items():
            if self._seen(name) is None:
                self.versions.delete(version)


def _is_scaled(config: ServeConfig) -> bool:
    return config.kind == "realtime" and config.max_instances > config.min_instances


def _target(name: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def _check(config: ServeConfig) -> None:
    if config.runtime != "litert":
        raise ConfigError(
            f"runtime={config.runtime!r}: the local backend serves it; a cloud serves the float32 network"
        )
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
    if not config.http_api and (config.auth == "none" or config.url_hosts):
        what = "auth='none'" if config.auth == "none" else "url_hosts"
        raise ConfigError(
            f"{what}: a SageMaker endpoint is asked with AWS credentials. Leave it out, or add http_api=True"
        )
    if len(settings(config.model_dump(mode="json"))) > _MOST_SETTINGS:
        raise ConfigError(f"url_hosts: {len(config.url_hosts)} hosts are too many for an endpoint. List fewer")
