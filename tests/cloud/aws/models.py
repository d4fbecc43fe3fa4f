"""Models and endpoint configurations: what endpoints and transform jobs run."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .calls import AwsError, Call, Operation
from .cloud import Cloud
from .instances import check_volume_key
from .packages import ModelPackages
from .records import Record, arn, now, page
from .training import check_role

__all__ = ["ModelContainer", "Models"]

_MEMORY_MB = range(1024, 6144 + 1, 1024)


@dataclass(frozen=True)
class ModelContainer:
    """What a model's container is made of.

    Attributes:
        image: Its address.
        data: Address of the model's archive, or "".
        environment: Of the container.
    """

    image: str
    data: str
    environment: Mapping[str, str]


class Models:
    """The models and endpoint configurations of all regions.

    Args:
        cloud: The emulator.
        packages: The registry, which a model may come from.
    """

    def __init__(self, cloud: Cloud, packages: ModelPackages) -> None:
        self._cloud = cloud
        self._packages = packages
        self._unpacking = threading.Lock()
        self._models = cloud.records(
            "model", 'Could not find model "{arn}".', 'Cannot create already existing model "{arn}".'
        )
        self._configs = cloud.records(
            "endpoint-config",
            'Could not find endpoint configuration "{arn}".',
            'Cannot create already existing endpoint configuration "{arn}".',
        )
        cloud.serve("sagemaker", self.operations())

    def operations(self) -> dict[str, Operation]:
        """Returns the operations by AWS's names."""
        return {
            "CreateModel": self._create_model,
            "DescribeModel": lambda call: self._models.get(call.region, call.parameters["ModelName"]),
            "ListModels": self._list_models,
            "DeleteModel": lambda call: self._delete(call, "model"),
            "CreateEndpointConfig": self._create_config,
            "DescribeEndpointConfig": lambda call: self.config(call.region, call.parameters["EndpointConfigName"]),
            "ListEndpointConfigs": self._list_configs,
            "DeleteEndpointConfig": lambda call: self._delete(call, "endpoint-config"),
        }

    def config(self, region: str, name: str) -> Record:
        """Returns an endpoint configuration."""
        return self._configs.get(region, name)

    def container(self, region: str, model: str) -> ModelContainer:
        """Returns what a model's container is made of."""
        record = self._models.get(region, model)
        given = record.get("PrimaryContainer") or record["Containers"][0]
        environment = given.get("Environment", {})
        if "ModelPackageName" in given:
            package = self._packages.get(region, given["ModelPackageName"])
            given = package["InferenceSpecification"]["Containers"][0]
            environment = {**given.get("Environment", {}), **environment}
        return ModelContainer(given["Image"], given.get("ModelDataUrl", ""), environment)

    def unpack(self, container: ModelContainer, folder: Path) -> None:
        """Puts a model's archive where its container finds it.

        Raises:
            OSError: It is no archive, or has members that would leave the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not container.data:
            return
        content = self._cloud.storage.read(container.data)
        if content is None:
            raise FileNotFoundError(container.data)
        # Unpacked once: a container gets a copy, which takes a tenth of the time.
        unpacked = self._cloud.root / "unpacked" / hashlib.sha256(content).hexdigest()
        with self._unpacking:
            if not unpacked.is_dir():
                making = unpacked.with_suffix(".making")
                shutil.rmtree(making, ignore_errors=True)
                try:
                    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
                        archive.extractall(making, filter="data")
                except (tarfile.TarError, EOFError) as error:
                    raise OSError(str(error)) from error
                making.rename(unpacked)
        shutil.copytree(unpacked, folder, symlinks=True, dirs_exist_ok=True)

    def close(self, region: str | None = None) -> None:
        """Forgets all of a region, or of all."""
        for records in (self._models, self._configs):
            records.clear(region)

    def _create_model(self, call: Call) -> Mapping[str, Any]:
        given, region, name = call.parameters, call.region, call.parameters["ModelName"]
        containers = [given["PrimaryContainer"]] if "PrimaryContainer" in given else given.get("Containers", [])
        if len(containers) != 1:
            raise AwsError("ValidationException", "This emulator serves models of one container")
        if "ExecutionRoleArn" in given:
            check_role(given["ExecutionRoleArn"])
        record: Record = {
            **{key: given[key] for key in ("PrimaryContainer", "Containers", "ExecutionRoleArn") if key in given},
            "ModelName": name,
            "ModelArn": arn(region, "model", name),
            "CreationTime": now(),
            "EnableNetworkIsolation": bool(given.get("EnableNetworkIsolation")),
        }
        self._check_container(region, containers[0])
        self._models.add(region, name, record)
        self._cloud.tags.put(record["ModelArn"], given.get("Tags"))
        return {"ModelArn": record["ModelArn"]}

    def _check_container(self, region: str, given: Mapping[str, Any]) -> None:
        if "ModelPackageName" in given:
            self._packages.get(region, given["ModelPackageName"])
            return
        image, data = given.get("Image", ""), given.get("ModelDataUrl", "")
        if self._cloud.images.pull(image, region) is None:
            raise AwsError("ValidationException", f"Requested image {image} not found.")
        if data and self._cloud.storage.read(data) is None:
            raise AwsError("ValidationException", f"Could not find model data at {data}.")

    def _create_config(self, call: Call) -> Mapping[str, Any]:
        given, region, name = call.parameters, call.region, call.parameters["EndpointConfigName"]
        for variant in given["ProductionVariants"]:
            check_volume_key(variant.get("InstanceType", ""), given.get("KmsKeyId"))
        variants = given["ProductionVariants"]
        for variant in variants:
            self._models.get(region, variant["ModelName"])
            serverless = variant.get("ServerlessConfig")
            if serverless is None and not {"InstanceType", "InitialInstanceCount"} <= set(variant):
                raise AwsError(
                    "ValidationException",
                    "A production variant needs either ServerlessConfig, or InstanceType and InitialInstanceCount",
                )
            if serverless is not None and ("InstanceType" in variant or "InitialInstanceCount" in variant):
                raise AwsError(
                    "ValidationException", "InstanceType and InitialInstanceCount cannot be given with ServerlessConfig"
                )
            if serverless is not None and serverless["MemorySizeInMB"] not in _MEMORY_MB:
                raise AwsError(
                    "ValidationException",
                    f"Value '{serverless['MemorySizeInMB']}' at 'memorySizeInMB' failed to satisfy constraint: Member "
                    f"must satisfy enum value set: {list(_MEMORY_MB)}",
                )
        if len(variants) != 1:
            raise AwsError("ValidationException", "This emulator serves endpoints of one variant")
        record: Record = {
            "EndpointConfigName": name,
            "EndpointConfigArn": arn(region, "endpoint-config", name),
            "ProductionVariants": [{"InitialVariantWeight": 1.0, **variant} for variant in variants],
            "CreationTime": now(),
            **{key: given[key] for key in ("KmsKeyId", "DataCaptureConfig", "AsyncInferenceConfig") if key in given},
        }
        self._configs.add(region, name, record)
        self._cloud.tags.put(record["EndpointConfigArn"], given.get("Tags"))
        return {"EndpointConfigArn": record["EndpointConfigArn"]}

    def _delete(self, call: Call, kind: str) -> None:
        records, key = {"model": (self._models, "Model"), "endpoint-config": (self._configs, "EndpointConfig")}[kind]
        record = records.pop(call.region, call.parameters[f"{key}Name"])
        self._cloud.tags.drop(record[f"{key}Arn"])

    def _list_models(self, call: Call) -> Mapping[str, Any]:
        return page(
            call, self._models.all(call.region), "Models",
            lambda record: {key: record[key] for key in ("ModelName", "ModelArn", "CreationTime")}, name="ModelName",
        )  # fmt: skip

    def _list_configs(self, call: Call) -> Mapping[str, Any]:
        shown = ("EndpointConfigName", "EndpointConfigArn", "CreationTime")
        return page(
            call, self._configs.all(call.region), "EndpointConfigs",
            lambda record: {key: record[key] for key in shown}, name="EndpointConfigName",
        )  # fmt: skip
