"""The images that jobs and endpoints run in: AWS's own for TensorFlow, looked up for the region and the instance."""

from __future__ import annotations

from functools import cache
from typing import Literal

from medimg.errors import ConfigError, MissingExtraError

__all__ = ["SERVING_PYTHON", "serving_image", "training_image"]

TRAINING_VERSION = "2.21"
SERVING_VERSION = "2.20"
SERVING_PYTHON = "3.12"  # of the serving image: what is laid beside our code there must be built for it


def training_image(region: str, instance: str) -> str:
    """Returns the address of AWS's TensorFlow training image for a region and an instance.

    Raises:
        ConfigError: There is none for this region or instance.
        MissingExtraError: The SageMaker SDK is not installed.
    """
    return _look_up("training", region, instance, TRAINING_VERSION, "py312")


def serving_image(region: str, instance: str) -> str:
    """Returns the address of AWS's TensorFlow Serving image for a region and an instance; raises as above."""
    return _look_up("inference", region, instance, SERVING_VERSION, None)


@cache
def _look_up(
    scope: Literal["training", "inference"], region: str, instance: str, version: str, python: str | None
) -> str:
    try:
        # Late: it takes a second, and boto3 is enough for everything else.
        from sagemaker.core import image_uris
    except ImportError as error:
        raise MissingExtraError("looking up AWS's images", "sagemaker") from error
    try:
        found: str = image_uris.retrieve(
            "tensorflow", region, version=version, py_version=python, instance_type=instance, image_scope=scope
        )
    except (ValueError, KeyError) as error:
        option = "image" if scope == "training" else "serving_image"
        raise ConfigError(
            f"AWS has no TensorFlow {version} image for {scope} on {instance} in {region}: {error}. "
            f"Take another instance or region, or pass {option}='…' with an image of your own"
        ) from None
    return found
