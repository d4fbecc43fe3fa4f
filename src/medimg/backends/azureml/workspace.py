"""Who and where we are at Azure: one login, one workspace, its clients, and the names that follow from them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from medimg.backends.azureml.errors import UNREGISTERED, code_of, translated, words_of
from medimg.backends.azureml.login import Login
from medimg.errors import ConfigError, MissingExtraError, UnreachableError

try:
    from azure.core import PipelineClient
    from azure.core.exceptions import HttpResponseError, ODataV4Format
    from azure.core.pipeline.policies import (
        BearerTokenCredentialPolicy,
        HeadersPolicy,
        RetryPolicy,
        UserAgentPolicy,
    )
    from azure.core.rest import HttpRequest, HttpResponse
except ImportError as error:
    raise MissingExtraError("the AzureML backend", "azureml") from error

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

    from medimg.backends.azureml.storage import Storage

__all__ = ["ARM", "ENDER", "Workspace"]

ARM = "https://management.azure.com"
ENDER = "medimg-ender"  # the identity that deletes endpoints when their time is up; bootstrap makes it

_ML_API = "2024-10-01"
_ATTEMPTS = 10
_LONGEST_PAUSE = 20  # seconds between two of them
_TIMEOUTS = {"connection_timeout": 10, "read_timeout": 60}  # seconds; Azure's libraries wait for 300
_HASTE = {"retry_total": 1, "connection_timeout": 4, "read_timeout": 15}
_POLL_SECONDS = 2.0
_OPERATION_SECONDS = 3600.0
_MOST_TAGS = 40  # Azure takes 50 on one thing; the others are ours
_MOST_IN_TAG = {"key": 512, "value": 256}  # characters
_NOT_IN_TAG = frozenset("<>%&\\?/")


class Workspace:
    """An AzureML workspace, with clients that retry.

    Args:
        subscription: Its id; None: AZURE_SUBSCRIPTION_ID.
        resource_group: None: "medimg", which `medimg azure bootstrap` makes.
        workspace: None: "medimg".
        credential: Any TokenCredential of azure-identity; None: what the environment, a managed identity or `az login`
            gives, without a browser.
        prefix: What everything of ours in Blob Storage begins with, and the value of the tag `medimg`.
        tags: Put on everything that is made.

    Attributes:
        poll_seconds: Between two questions about an operation that Azure does not give a time for.

    Raises:
        ConfigError: No subscription, or a name that Azure would refuse later.
    """

    poll_seconds = _POLL_SECONDS

    def __init__(
        self,
        *,
        subscription: str | None = None,
        resource_group: str | None = None,
        workspace: str | None = None,
        credential: Any = None,
        prefix: str = "medimg",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        subscription = subscription or os.environ.get("AZURE_SUBSCRIPTION_ID")
        if not subscription:
            raise ConfigError(
                "no Azure subscription is set. Pass subscription='…', or run: "
                "export AZURE_SUBSCRIPTION_ID=$(az account show --query id --output tsv)"
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", prefix):
            raise ConfigError(f"prefix={prefix!r}: small letters, digits and hyphens, such as 'medimg'")
        _check_tags(tags or {})
        self.subscription = subscription
        self.resource_group = resource_group or os.environ.get("AZURE_RESOURCE_GROUP") or "medimg"
        self.name = workspace or os.environ.get("AZUREML_WORKSPACE_NAME") or "medimg"
        self.prefix = prefix
        self.tags = dict(tags or {})
        self.credential = Login(credential)
        self._lock = threading.RLock()
        self._client: MLClient | None = None
        # Azure's libraries log every retry and every refusal as a warning of their own.
        for name in ("azure.core", "azure.identity", "azure.ai.ml", "msrest"):
            logging.getLogger(name).setLevel(logging.ERROR)

    # -- names --------------------------------------------------------------------------------------------------------

    @property
    def group_id(self) -> str:
        """The ARM id of the resource group."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"

    @property
    def id(self) -> str:
        """The ARM id of the workspace."""
        return f"{self.group_id}/providers/Microsoft.MachineLearningServices/workspaces/{self.name}"

    @property
    def place(self) -> str:
        """A short name that tells this workspace and prefix from every other."""
        digest = hashlib.sha256(self.id.lower().encode()).hexdigest()[:8]
        return f"azureml-{self.name.lower()}-{digest}-{self.prefix}"

    @property
    def ender_id(self) -> str:
        """The ARM id of the identity that deletes endpoints when their time is up."""
        return f"{self.group_id}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{ENDER}"

    def tag_map(self, **more: str) -> dict[str, str]:
        """Returns our tags: everything of ours has the tag `medimg`."""
        return {"medimg": self.prefix, **{f"medimg-{name}": value for name, value in more.items()}, **self.tags}

    def owns(self, tags: Mapping[str, str] | None) -> bool:
        """Tells whether something with these tags was made by us."""
        return (tags or {}).get("medimg") == self.prefix

    def page(self, path: str) -> str:
        """Returns the address of a page of ml.azure.com, such as ("runs/ID")."""
        return f"https://ml.azure.com/{path}?wsid={self.id}"

    # -- clients ------------------------------------------------------------------------------------------------------

    @property
    def ml(self) -> MLClient:
        """The SDK's client, made once; takes a second and a half to import."""
        with self._lock:
            if self._client is None:
                from azure.ai.ml import MLClient

                with translated("opening the workspace"):
                    self._client = MLClient(
                        self.credential, self.subscription, self.resource_group, self.name, enable_telemetry=False,
                        show_progress=False, logging_enable=False, retry_total=_ATTEMPTS, retry_connect=_ATTEMPTS,
                        retry_read=_ATTEMPTS, retry_status=_ATTEMPTS, retry_backoff_factor=0.5,
                        retry_backoff_max=_LONGEST_PAUSE, **_TIMEOUTS,
                    )  # fmt: skip
            return self._client

    @cached_property
    def _about(self) -> Mapping[str, Any]:
        with translated(f"looking for the workspace {self.name!r}"):
            return self.arm("GET", self.id, _ML_API)

    @property
    def location(self) -> str:
        """The region of the workspace, such as "westeurope"."""
        return str(self._about["location"])

    def location_soon(self) -> str:
        """Returns the same, or gives up soon: for what can be done without.

        Raises:
            MedimgError: Azure does not tell.
        """
        if "_about" not in self.__dict__:
            with translated(f"looking for the workspace {self.name!r}"):
                self.__dict__["_about"] = self.arm("GET", self.id, _ML_API, patient=False)
        return self.location

    @property
    def api(self) -> str:
        """The address of the region's own services, such as "https://westeurope.api.azureml.ms"."""
        return str(self._about["properties"]["discoveryUrl"]).removesuffix("/discovery")

    @cached_property
    def storage(self) -> Storage:
        """What is kept in the workspace's Blob Storage."""
        from medimg.backends.azureml.storage import Storage

        return Storage(self)

    # -- Azure Resource Manager, for what the SDK has no call for ----------------------------------------------------

    @cached_property
    def _pipeline(self) -> Any:
        return self.pipeline(f"{ARM}/.default")

    @cached_property
    def _hasty_pipeline(self) -> Any:
        return self.pipeline(f"{ARM}/.default", patient=False)

    def pipeline(self, scope: str, *, patient: bool = True) -> Any:
        """Returns a client that signs with our login for a scope, and retries what may be retried if it is patient."""
        return PipelineClient(
            ARM,
            policies=[
                HeadersPolicy(),
                UserAgentPolicy("medimg"),
                # Each kind of failure has a limit of its own, of 3 where it is not set.
                RetryPolicy(
                    retry_total=_ATTEMPTS,
                    retry_connect=_ATTEMPTS,
                    retry_read=_ATTEMPTS,
                    retry_status=_ATTEMPTS,
                    retry_backoff_factor=0.5,
                    retry_backoff_max=_LONGEST_PAUSE,
                ),
                BearerTokenCredentialPolicy(self.credential if patient else self.credential.hasty, scope),
            ],
            **_TIMEOUTS,
        )

    def arm(
        self,
        method: str,
        id: str,
        api_version: str,
        body: Any = None,
        *,
        wait: bool = False,
        patient: bool = True,
        **query: str,
    ) -> dict[str, Any]:
        """Returns the answer of Azure Resource Manager, {} where it has none.

        Args:
            method: Of HTTP.
            id: Of a resource, such as `Workspace.id`, or an address that an answer named.
            api_version: Of the resource's provider.
            body: As JSON.
            wait: Whether to return only when the operation that this starts has ended.
            patient: False gives up after one more attempt: for what can be done without.
            query: More parameters.

        Raises:
            HttpResponseError: Azure refuses: call this inside `errors.translated`.
        """
        request = HttpRequest(method, _address(id), params={"api-version": api_version, **query}, json=body)
        response = self._send(request, patient=patient)
        if wait:
            self._await(response)
        return _content(response)

    def arm_list(self, id: str, api_version: str, *, patient: bool = True, **query: str) -> Iterator[dict[str, Any]]:
        """Yields what a list of Azure Resource Manager holds, page by page; arguments as for `arm`."""
        answer = self.arm("GET", id, api_version, None, wait=False, patient=patient, **query)
        while True:
            yield from answer.get("value", ())
            following = answer.get("nextLink")
            if not following:
                return
            answer = _content(self._send(HttpRequest("GET", following), patient=patient))

    def in_group(self, kind: str, api_version: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields name and tags of each thing of ours of a kind that lies beside the workspace, and belongs to it.

        Args:
            kind: Such as "Microsoft.Logic/workflows"; where the subscription has not switched it on there is nothing.
            api_version: Of its provider.
        """
        for told in self.beside(kind, api_version):
            tags = told.get("tags") or {}
            if self.owns(tags) and tags.get("medimg-workspace") == self.name:
                yield str(told["name"]), tags

    def beside(self, kind: str, api_version: str) -> Iterator[dict[str, Any]]:
        """Yields each thing of a kind that lies beside the workspace, whoever made it; arguments as for `in_group`."""
        try:
            yield from self.arm_list(f"{self.group_id}/providers/{kind}", api_version)
        except HttpResponseError as error:
            if code_of(error) not in UNREGISTERED:
                raise

    def _send(self, request: HttpRequest, *, patient: bool = True) -> HttpResponse:
        # Everything we send may be sent twice: PUT and DELETE by their nature, and our POSTs read or cancel.
        pipeline, options = (self._pipeline, {}) if patient else (self._hasty_pipeline, _HASTE)
        response: HttpResponse = pipeline.send_request(request, retry_on_methods=_ALL_METHODS, **options)
        response.raise_for_status()
        return response

    def _await(self, response: HttpResponse) -> None:
        """Returns when a long-running operation has succeeded; such an answer has status 200 when it failed, too."""
        address = response.headers.get("Azure-AsyncOperation") or response.headers.get("Location")
        deadline = time.monotonic() + _OPERATION_SECONDS
        while address and response.status_code in (200, 201, 202):
            if time.monotonic() > deadline:
                raise UnreachableError(f"Azure has not finished after {_OPERATION_SECONDS / 60:.0f} minutes")
            time.sleep(_pause(response, self.poll_seconds))
            response = self._send(HttpRequest("GET", address))
            content = _content(response)
            status = str(content.get("status", ""))
            if status in ("Failed", "Canceled"):
                raise _failed(content.get("error") or {"code": status, "message": "Azure gives no reason"})
            if status == "Succeeded" or (not status and response.status_code != 202):
                return

    def __repr__(self) -> str:
        return f"Workspace({self.name!r}, resource_group={self.resource_group!r}, prefix={self.prefix!r})"


_ALL_METHODS = ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"]


def _address(id: str) -> str:
    return id if id.startswith("https://") else f"{ARM}{id}"


def _failed(told: Mapping[str, Any]) -> HttpResponseError:
    """Returns the failure of an operation in the form that refusals have."""
    error = HttpResponseError(message=words_of(told))
    error.error, error.status_code = ODataV4Format(told), 200
    return error


def _content(response: Any) -> dict[str, Any]:
    text = response.text()
    content = json.loads(text) if text.strip() else {}
    return content if isinstance(content, dict) else {"value": content}


def _pause(response: Any, otherwise: float) -> float:
    """Returns the seconds that Azure asks us to wait."""
    headers = response.headers
    if "retry-after-ms" in headers:
        return float(headers["retry-after-ms"]) / 1000
    return float(headers.get("Retry-After") or otherwise)


def _check_tags(tags: Mapping[str, str]) -> None:
    """Raises where Azure would refuse a tag, or it would change what is known as ours."""
    if len(tags) > _MOST_TAGS:
        raise ConfigError(f"there are {len(tags)} tags, and Azure takes {_MOST_TAGS} beside medimg's own. Pass fewer")
    for key, value in tags.items():
        if re.match(r"medimg(-|$)|azure|microsoft|windows", key.lower()):
            raise ConfigError(
                f"the tag {key!r} is taken: 'medimg', 'medimg-…' and Azure's own are not yours. Rename it"
            )
        for what, text in (("key", key), ("value", value)):
            if not isinstance(text, str) or len(text) > _MOST_IN_TAG[what] or not text:
                raise ConfigError(
                    f"tags={{{key!r}: {value!r}}}: a {what} is a text of 1 to {_MOST_IN_TAG[what]} characters"
                )
        if odd := sorted(_NOT_IN_TAG & set(key)):
            raise ConfigError(f"tags={{{key!r}: …}}: Azure does not take {odd[0]!r} in a key")
