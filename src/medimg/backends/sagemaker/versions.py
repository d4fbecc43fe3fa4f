"""What an endpoint can be given to serve: a model and an endpoint configuration of one name, `ENDPOINT-xxxxxxxx`.

Both are free. What is known of an endpoint is in its model's environment: digest, settings, address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.archives import DEFAULT_INSTANCE
from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.functions import MEMORY_MB
from medimg.backends.sagemaker.instances import has_local_disk
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, NotFoundError

__all__ = ["VARIANT", "Versions"]

VARIANT = "AllTraffic"
_CONCURRENCY = 5  # requests at once of a serverless endpoint
_VERSION = re.compile(r".+-[0-9a-f]{8}")


class Versions:
    """The models and endpoint configurations of an account.

    Args:
        account: Whose.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._told: dict[str, Mapping[str, str]] = {}  # models never change

    @property
    def _client(self) -> Any:
        return self._account.client("sagemaker")

    def make(self, version: str, container: Mapping[str, Any], config: ServeConfig) -> None:
        """Makes the model and the endpoint configuration."""
        tags = self._account.tag_list()
        variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": version}
        encryption = {}
        if config.kind == "serverless":
            variant["ServerlessConfig"] = {
                "MemorySizeInMB": config.memory_mb or MEMORY_MB,
                "MaxConcurrency": max(_CONCURRENCY, config.max_instances),
            }
        else:
            instance = config.instance or DEFAULT_INSTANCE
            variant |= {"InstanceType": instance, "InitialInstanceCount": config.min_instances}
            if self._account.kms_key is not None and not has_local_disk(instance):
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

    def told(self, version: str) -> Mapping[str, str]:
        """Returns the environment of a version's model.

        Raises:
            NotFoundError: The model does not exist.
        """
        if version not in self._told:
            with translated(f"looking for the model {version!r}"):
                model = self._client.describe_model(ModelName=version)
            self._told[version] = model.get("PrimaryContainer", {}).get("Environment", {})
        return self._told[version]

    def of(self, name: str) -> dict[str, float]:
        """Returns the versions that were made for an endpoint, and when, in seconds since the epoch."""
        found = self._all(f"{name}-")  # AWS looks for it anywhere in a name
        return {version: made for version, made in found.items() if version.rpartition("-")[0] == name}

    def ours(self) -> dict[str, str]:
        """Returns all versions of ours and the endpoints they were made for."""
        found = {}
        for version in self._all("-"):
            arns = [self._account.arn(kind, version) for kind in ("model", "endpoint-config")]
            if any(map(self._account.owns, arns)):
                found[version] = version.rpartition("-")[0]
        return found

    def _all(self, contains: str) -> dict[str, float]:
        found: dict[str, float] = {}
        with translated("listing the models"):
            for page in self._client.get_paginator("list_models").paginate(NameContains=contains):
                found |= {model["ModelName"]: model["CreationTime"].timestamp() for model in page["Models"]}
        with translated("listing the endpoint configurations"):
            for page in self._client.get_paginator("list_endpoint_configs").paginate(NameContains=contains):
                for config in page["EndpointConfigs"]:
                    found.setdefault(config["EndpointConfigName"], config["CreationTime"].timestamp())
        return {version: made for version, made in found.items() if _VERSION.fullmatch(version)}

    def archives(self) -> set[str]:
        """Returns the addresses of the archives that endpoints are served from, and would grow from."""
        used = set()
        for version in self.ours():
            with suppress(NotFoundError), translated(f"looking for the model {version!r}"):
                model = self._client.describe_model(ModelName=version)
                used.add(str(model.get("PrimaryContainer", {}).get("ModelDataUrl", "")))
        return used

    def delete(self, version: str) -> None:
        """Deletes a version; what is not there is no error."""
        # Asked for first: where deleting is allowed by tag, what does not exist has none and would be denied.
        with suppress(NotFoundError), translated(f"deleting the endpoint configuration {version!r}"):
            self._client.describe_endpoint_config(EndpointConfigName=version)
            self._client.delete_endpoint_config(EndpointConfigName=version)
        with suppress(NotFoundError), translated(f"deleting the model {version!r}"):
            self._client.describe_model(ModelName=version)
            self._client.delete_model(ModelName=version)
        self._told.pop(version, None)


def settings(config: Mapping[str, Any]) -> str:
    """Returns an endpoint's settings as its model's environment holds them."""
    return json.dumps(config, separators=(",", ":"))
