"""What answers behind an endpoint: managed online deployments, of which an endpoint has two while it is updated.

They are made through Azure Resource Manager: azure-ai-ml's own calls wait in a thread of theirs, which writes dots to
standard output until a deployment is done, whoever still wants to know.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from medimg.backends.azureml.assets import discard, ensure
from medimg.backends.azureml.deadlines import ENDPOINT_API, MARK
from medimg.backends.azureml.environments import Environments
from medimg.backends.azureml.errors import explain_failure, translated, words_of
from medimg.backends.azureml.instances import SERVING_INSTANCE, cores
from medimg.backends.azureml.models import Models
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.wheel import wheel
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, MedimgError, NotFoundError
from medimg.progress import Report

__all__ = ["SCRIPT", "SLOTS", "Content", "Deployment", "Deployments", "check_settings", "created", "is_busy"]

SLOTS = ("blue", "green")  # names of deployments; each update takes the one that is free

SCRIPT = """import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("medimg.whl")))

from medimg.serving.clouds.azureml import init, run
"""
"""What the inference server imports: `score.py`, beside medimg's wheel."""

_CODE_FOLDER = "serving/"
_TIMEOUT = "PT60S"  # of a request: Azure's own 5 s are short for the first one after a pause
_WAITING = 4  # requests that a core may be sent at once; Azure lets as many again wait
# Of the server: 2 minutes to load a model and prove it, from when its container runs.
_PROBE = {"initialDelay": "PT10S", "period": "PT10S", "timeout": "PT5S", "successThreshold": 1, "failureThreshold": 11}
_MOST_LINES = 5000
_QUOTA = ("OutOfQuota", "ClusterCoreQuotaReached")
_ERROR = re.compile(r"azmlinfsrv\.print - error: (.+)")  # as Microsoft's server writes what ours prints


@dataclass(frozen=True)
class Content:
    """What a deployment is made of: ids of things that are there.

    Attributes:
        digest: Of the model.
        model: The asset that is mounted.
        code: The server's.
        environment: That it runs in.
        version: Of the registered model, such as "chest/2", or "".
    """

    digest: str
    model: str
    code: str
    environment: str
    version: str = ""


@dataclass(frozen=True)
class Deployment:
    """A deployment as Azure describes it.

    Attributes:
        slot: Its name.
        state: In Azure's words, such as "Creating", "Succeeded" or "Failed".
        digest: Of its model.
        token: Of the deploy or update that made it.
        instances: Its machines now.
        created: Seconds since the epoch.
        operation: The address of the operation that made it, or "".
    """

    slot: str
    state: str
    digest: str
    token: str
    instances: int
    created: float
    operation: str

    @property
    def failed(self) -> bool:
        """Whether it will never answer."""
        return self.state in ("Failed", "Canceled")


class Deployments:
    """The deployments of a workspace's endpoints.

    Args:
        workspace: Whose.
        models: What they serve.
        environments: What they run in.
    """

    def __init__(self, workspace: Workspace, models: Models, environments: Environments) -> None:
        self._workspace = workspace
        self._models = models
        self._environments = environments

    def prepare(self, folder: Path, digest: str, report: Report) -> Content:
        """Uploads what a deployment is made of, unless it is there: all of it costs nothing."""
        model = self._models.serve(folder, digest, report)
        return Content(digest, model, self._code(), self._environments.serving())

    def _code_asset(self, digest: str) -> str:
        return f"codes/{self._workspace.prefix}-serve-{digest}"

    def _code(self) -> str:
        """Returns the id of the server's code, which is uploaded once for each version of medimg."""
        package = wheel()
        digest = hashlib.sha256(SCRIPT.encode() + package.read_bytes()).hexdigest()[:16]
        workspace, storage, asset = self._workspace, self._workspace.storage, self._code_asset(digest)
        # Also where the asset is there: Azure may keep one whose files were deleted.
        storage.put(f"{_CODE_FOLDER}{digest}/score.py", SCRIPT.encode())
        storage.upload_file(package, f"{_CODE_FOLDER}{digest}/medimg.whl")

        def make(version: str) -> str:
            properties = {"codeUri": storage.web_address(f"{_CODE_FOLDER}{digest}"), "tags": workspace.tag_map()}
            id = f"{workspace.id}/{asset}/versions/{version}"
            with translated("making the code of the endpoint"):
                workspace.arm("PUT", id, ENDPOINT_API, {"properties": properties})
            return id

        return ensure(workspace, asset, make)

    def delete_code(self, needed: Callable[[], bool]) -> None:
        """Forgets the server's code, of every version of medimg; the next deploy uploads it again.

        Args:
            needed: Tells whether somebody deploys; asked when it is known what there is, so that nothing newer is lost.
        """
        digests = {key.split("/")[1] for key in self._workspace.storage.list(_CODE_FOLDER)}
        for digest in () if needed() else digests:
            discard(self._workspace, self._code_asset(digest))
            self._workspace.storage.delete_prefix(f"{_CODE_FOLDER}{digest}/")

    def make(self, name: str, slot: str, token: str, content: Content, config: ServeConfig, instances: int) -> None:
        """Begins to make a deployment, and returns before it is ready.

        Args:
            name: The endpoint's.
            slot: One that is free.
            token: Of the deploy or update.
            content: What it is made of.
            config: Its settings.
            instances: Machines at the beginning.
        """
        instance = config.instance or SERVING_INSTANCE
        processes = max(1, cores(instance))
        body = {
            "location": self._workspace.location,
            "tags": self._workspace.tag_map(digest=content.digest, token=token),
            "sku": {"name": "Default", "capacity": instances},
            "properties": {
                "endpointComputeType": "Managed",
                "instanceType": instance,
                "model": content.model,
                "environmentId": content.environment,
                "codeConfiguration": {"codeId": content.code, "scoringScript": "score.py"},
                "environmentVariables": {
                    "MEDIMG_DIGEST": content.digest,
                    "MEDIMG_VERSION": content.version,
                    "MEDIMG_LOG_SALT": secrets.token_hex(16),
                    "WORKER_COUNT": str(processes),
                },
                "appInsightsEnabled": False,
                "scaleSettings": {"scaleType": "Default"},
                "requestSettings": {
                    "requestTimeout": _TIMEOUT,
                    "maxConcurrentRequestsPerInstance": processes * _WAITING,
                },
                "livenessProbe": _PROBE,
                "readinessProbe": _PROBE,
            },
        }
        try:
            with translated(f"starting to serve {content.digest[:12]} at {name!r}"):
                self._workspace.arm("PUT", self._id(name, slot), ENDPOINT_API, body)
        except BackendError as error:
            # An answer may have been lost on its way, and the second request met what the first one began.
            if not is_busy(error) or not any(each.slot == slot and each.token == token for each in self.of(name)):
                raise

    def of(self, name: str) -> tuple[Deployment, ...]:
        """Returns an endpoint's deployments, oldest first, also those that are being deleted."""
        try:
            with translated(f"looking for the deployments of {name!r}"):
                found = list(self._workspace.arm_list(f"{self._endpoint(name)}/deployments", ENDPOINT_API))
        except NotFoundError:
            return ()
        return tuple(sorted((_deployment(each) for each in found), key=lambda each: each.created))

    def delete(self, name: str, slot: str) -> None:
        """Deletes a deployment, and returns when it is gone: only then its machines are not billed.

        Raises:
            AlreadyExistsError: Azure refuses while something else is being done to the endpoint.
        """
        with suppress(NotFoundError), translated(f"deleting the deployment {slot!r} of {name!r}"):
            self._workspace.arm("DELETE", self._id(name, slot), ENDPOINT_API, wait=True)

    def reason(self, name: str, deployment: Deployment) -> str:
        """Returns why a deployment failed: what the server said last, else Azure's reason with what to do about it."""
        told: Mapping[str, Any] = {}
        if deployment.operation:
            with suppress(MedimgError), translated("asking why a deployment failed"):
                told = self._workspace.arm("GET", deployment.operation, ENDPOINT_API).get("error") or {}
        code, said = str(told.get("code", "")), words_of(told)
        if code in _QUOTA:
            return (
                "the subscription has too few cores left of this kind; Azure wants a fifth more machines than run, at "
                "least one, for exchanging them. Take another kind (medimg.ServeConfig(instance='Standard_…')), or ask "
                f"for more: ml.azure.com > Quota. Azure said: {said}"
            )
        reason = explain_failure(f"{code}: {said}") if told else f"Azure gives no reason ({deployment.state})"
        errors = [found[1] for found in map(_ERROR.search, self.last_words(name, deployment.slot)) if found]
        return f"{errors[-1]} ({reason})" if errors else reason

    def log(self, name: str, slot: str, lines: int = _MOST_LINES) -> list[str]:
        """Returns the last lines of a deployment's log; [] where it has none, or is gone."""
        try:
            with translated(f"reading the log of {name!r}"):
                return str(
                    self._workspace.ml.online_deployments.get_logs(name=slot, endpoint_name=name, lines=lines)
                ).splitlines()
        except NotFoundError:
            return []

    def last_words(self, name: str, slot: str, lines: int = _MOST_LINES) -> list[str]:
        """Returns the same, and [] where the log cannot be read: for what can be said without it."""
        with suppress(MedimgError):
            return self.log(name, slot, lines)
        return []

    def _endpoint(self, name: str) -> str:
        return f"{self._workspace.id}/onlineEndpoints/{name}"

    def _id(self, name: str, slot: str) -> str:
        return f"{self._endpoint(name)}/deployments/{slot}"


def is_busy(error: MedimgError) -> bool:
    """Tells whether Azure refuses because it is doing something else to an endpoint, which it says in two ways."""
    return isinstance(error, AlreadyExistsError) or "provisioning state" in str(error)


def check_settings(config: ServeConfig) -> None:
    """Makes sure that Azure has what the settings ask for.

    Raises:
        ConfigError: It has not; the message says what it has instead.
    """
    if config.runtime != "litert":
        raise ConfigError(
            f"runtime={config.runtime!r}: the local backend serves it; a cloud serves the float32 network"
        )
    if config.kind != "realtime":
        raise ConfigError(
            f"kind={config.kind!r}: AzureML has managed online endpoints, which keep a machine. Take kind='realtime', "
            "with ttl_hours= where it shall end by itself, or predict with backend.predict_batch(…)"
        )
    if config.http_api:
        raise ConfigError("http_api=True: an AzureML endpoint already is an HTTPS address with a key. Leave it out")
    if config.url_hosts:
        raise ConfigError("url_hosts: an AzureML endpoint fetches no images. Leave it out, and send the image")
    if config.auth == "none":
        raise ConfigError("auth='none': an AzureML endpoint always asks for its key, or a login. Leave it out")
    if config.memory_mb is not None:
        raise ConfigError("memory_mb: an endpoint on AzureML has the memory of its machine. Take instance='Standard_…'")
    if config.min_instances < 1:
        raise ConfigError("min_instances=0: an endpoint on AzureML keeps a machine. End it by itself with ttl_hours=")
    if config.max_instances < config.min_instances:
        raise ConfigError(f"max_instances={config.max_instances} is less than min_instances={config.min_instances}")


def _deployment(told: Mapping[str, Any]) -> Deployment:
    tags, properties = told.get("tags") or {}, told["properties"]
    return Deployment(
        slot=str(told["name"]),
        state=str(properties.get("provisioningState") or "Creating"),
        digest=tags.get("medimg-digest", ""),
        token=tags.get(MARK, ""),
        instances=int((told.get("sku") or {}).get("capacity") or 1),
        created=created(told),
        operation=(properties.get("properties") or {}).get("AzureAsyncOperationUri", ""),
    )


def created(told: Mapping[str, Any]) -> float:
    """Returns when something was made, in seconds since the epoch."""
    moment = (told.get("systemData") or {}).get("createdAt")
    return datetime.fromisoformat(str(moment)).timestamp() if moment else 0.0
