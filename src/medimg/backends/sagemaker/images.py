"""The images that jobs and endpoints run in: AWS's own for TensorFlow, looked up for the region and the instance."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from medimg.errors import ConfigError, MissingExtraError

__all__ = ["SERVING_PYTHON", "serving_image", "training_image"]

TRAINING_VERSION = "2.21"
SERVING_VERSION = "2.20"
SERVING_PYTHON = "3.12"  # of the serving image: what is laid beside our code there must be built for it

# The SDK's table is read and the SDK is not imported: that takes longer than all calls of a submit together.
_TABLE = "sagemaker/core/image_uri_config/tensorflow.json"
_KNOWN = {"py_versions", "registries", "repository"}
_INSTANCE = re.compile(r"ml\.([a-z][a-z\d-]*)\.\w+")
_ARM = re.compile(r"[a-z]+\d+g[a-z]*")
_OTHER = re.compile(r"p2|inf\d.*|trn\d.*")  # GPUs too old for it, and chips of AWS's own


def training_image(region: str, instance: str) -> str:
    """Returns the address of AWS's TensorFlow training image for a region and an instance.

    Raises:
        ConfigError: There is none for this region or instance.
        MissingExtraError: The SageMaker SDK is not installed.
    """
    return _look_up("training", region, instance, TRAINING_VERSION)


def serving_image(region: str, instance: str) -> str:
    """Returns the address of AWS's TensorFlow Serving image for a region and an instance; raises as above."""
    return _look_up("inference", region, instance, SERVING_VERSION)


@cache
def _look_up(scope: Literal["training", "inference"], region: str, instance: str, version: str) -> str:
    try:
        table = _table()[scope]
        entry = table["versions"][table["version_aliases"].get(version, version)]
        if region not in entry["registries"]:
            raise ValueError(f"there are some in {', '.join(sorted(entry['registries']))}")
        if not entry.keys() <= _KNOWN or len(entry["py_versions"]) != 1:
            raise ValueError("the SageMaker SDK of this version describes it in a way that is not known here")
        tag = f"{version}-{_processor(instance)}-{entry['py_versions'][0]}"
        return f"{entry['registries'][region]}.dkr.ecr.{region}.{_suffix(region)}/{entry['repository']}:{tag}"
    except (ValueError, KeyError) as error:
        option = "image" if scope == "training" else "serving_image"
        raise ConfigError(
            f"AWS has no TensorFlow {version} image for {scope} on {instance} in {region}: {error}. "
            f"Take another instance or region, or pass {option}='…' with an image of your own"
        ) from None


@cache
def _table() -> dict[str, Any]:
    try:
        content = Path(str(distribution("sagemaker-core").locate_file(_TABLE))).read_bytes()
    except (PackageNotFoundError, FileNotFoundError) as error:
        raise MissingExtraError("looking up AWS's images", "sagemaker") from error
    table: dict[str, Any] = json.loads(content)
    return table


def _processor(instance: str) -> str:
    """Returns which of the two images an instance takes: they are built for x86, and one for NVIDIA's GPUs."""
    found = _INSTANCE.fullmatch(instance)
    if found is None:
        raise ValueError(f"{instance!r} is no instance of SageMaker, such as ml.m5.xlarge")
    family = found[1]
    if _ARM.fullmatch(family) or _OTHER.fullmatch(family):
        raise ValueError("they are for x86 and NVIDIA's GPUs newer than P2")
    return "gpu" if family[0] in "gp" else "cpu"


def _suffix(region: str) -> str:
    resolver = _resolver()
    return str(resolver.get_partition_dns_suffix(resolver.get_partition_for_region(region)))


@cache
def _resolver() -> Any:
    from botocore.loaders import create_loader
    from botocore.regions import EndpointResolver

    return EndpointResolver(create_loader().load_data("endpoints"))
