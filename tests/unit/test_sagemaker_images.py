"""The addresses of AWS's images are those that the SageMaker SDK answers."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from medimg.backends.sagemaker.images import (
    SERVING_VERSION,
    TRAINING_VERSION,
    _table,
    serving_image,
    training_image,
)
from medimg.errors import ConfigError

Retrieve = Callable[[str, str, str], str]

INSTANCES = ["ml.m5.xlarge", "ml.c5.2xlarge", "ml.g4dn.xlarge", "ml.g6e.xlarge", "ml.p3.2xlarge", "ml.p4d.24xlarge"]
NONE = ["ml.m6g.large", "ml.c7g.large", "ml.r6gd.large", "ml.p2.xlarge", "ml.trn1.2xlarge", "ml.inf2.xlarge",
        "m5.large", "ml.m5.xlarge.", ""]  # fmt: skip


@pytest.fixture(scope="module")
def sdk() -> Iterator[Retrieve]:
    """The SDK's own answer to a scope, a region and an instance."""
    pytest.importorskip("sagemaker.core", reason="needs AWS's SDK: pip install 'medimg[sagemaker]'")
    from sagemaker.core import common_utils, image_uris

    def retrieve(scope: str, region: str, instance: str) -> str:
        version = TRAINING_VERSION if scope == "training" else SERVING_VERSION
        return str(
            image_uris.retrieve("tensorflow", region, version=version, instance_type=instance, image_scope=scope)
        )

    with pytest.MonkeyPatch.context() as patch:
        # It would read all regions of AWS anew for each answer.
        patch.setattr(common_utils, "_botocore_resolver", functools.cache(common_utils._botocore_resolver))
        yield retrieve


@pytest.mark.parametrize("scope", ["training", "inference"])
def test_the_addresses_are_those_of_the_sdk(sdk: Retrieve, scope: str) -> None:
    """In all regions that have one, those of China and of governments too, on a CPU and on GPUs."""
    ours = training_image if scope == "training" else serving_image
    versions = _table()[scope]["versions"]
    regions = versions[f"{TRAINING_VERSION if scope == 'training' else SERVING_VERSION}.0"]["registries"]
    assert len(regions) > 30
    for region in regions:
        assert ours(region, "ml.g5.xlarge") == sdk(scope, region, "ml.g5.xlarge")
    for instance in INSTANCES:
        assert ours("eu-central-1", instance) == sdk(scope, "eu-central-1", instance)


@pytest.mark.parametrize("instance", NONE)
def test_an_instance_without_an_image_is_refused_as_by_the_sdk(sdk: Retrieve, instance: str) -> None:
    """The message names the instance and says how to bring an image of one's own."""
    with pytest.raises(ValueError, match=r"."):
        sdk("inference", "us-east-1", instance)
    with pytest.raises(ConfigError, match=r"serving_image='…'") as caught:
        serving_image("us-east-1", instance)
    assert f"on {instance} in us-east-1" in str(caught.value)


def test_a_newer_arm_processor_gets_no_x86_image() -> None:
    """The SDK would give it one, which could not run there."""
    with pytest.raises(ConfigError, match="x86"):
        training_image("us-east-1", "ml.m7g.large")


def test_a_region_without_an_image_is_answered_with_those_that_have_one() -> None:
    """The list is that of the table."""
    with pytest.raises(ConfigError, match=r"image='…'") as caught:
        training_image("mars-north-1", "ml.m5.xlarge")
    assert "eu-central-1" in str(caught.value)


def test_looking_up_an_image_does_not_import_the_sdk() -> None:
    """It takes more than a second."""
    program = (
        "import sys; from medimg.backends.sagemaker.images import training_image;"
        "training_image('eu-central-1', 'ml.m5.xlarge'); sys.exit('sagemaker.core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
