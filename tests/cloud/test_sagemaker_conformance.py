"""The SageMaker backend keeps the whole contract, on an emulator that executes what is submitted."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import quick_sagemaker
from aws.handle import Emulator

from medimg.testing import BackendConformance, Flags

# What one workspace keeps must not be seen in another: each has a region of its own.
_REGIONS = itertools.cycle(["us-east-1", "eu-central-1", "eu-west-1", "us-west-2", "ap-south-1", "ca-central-1"])


@pytest.mark.slow
class TestSageMaker(BackendConformance):
    """Nothing is skipped."""

    factory = "quick_sagemaker:backend"
    flags = Flags(state_in_home=False, poll_seconds=0.2, ttl_seconds=25.0, submits=20)

    @classmethod
    def options(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003 - a region tells workspaces apart
        """Returns a region, and with it a bucket, for each folder."""
        return {"region": next(_REGIONS)}

    @pytest.fixture(scope="class")
    @classmethod
    def surroundings(cls, aws: Emulator) -> Iterator[Mapping[str, str]]:
        """The emulator, and the way to this folder for other processes."""
        quick_sagemaker.make_roles(aws)
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        yield {**aws.environment, "PYTHONPATH": os.pathsep.join(paths)}
