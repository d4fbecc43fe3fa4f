"""The AzureML backend keeps the whole contract, on an emulator that executes what is submitted."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from azure_cloud.handle import AzureEmulator

from medimg.testing import BackendConformance, Flags

# What one home keeps must not be seen in another: each has a workspace of its own.
_NAMES = [f"conform-{letter}" for letter in "abcdefgh"]
_WORKSPACES = itertools.cycle(_NAMES)


@pytest.mark.slow
class TestAzureML(BackendConformance):
    """Nothing is skipped."""

    factory = "quick_azureml:backend"
    flags = Flags(state_in_home=False, poll_seconds=0.2, ttl_seconds=25.0, submits=20)

    @classmethod
    def options(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003 - a workspace tells homes apart
        """Returns a workspace for each folder."""
        return {"workspace": next(_WORKSPACES)}

    @pytest.fixture(scope="class")
    @classmethod
    def surroundings(cls, azure: AzureEmulator) -> Iterator[Mapping[str, str]]:
        """The emulator, and the way to this folder for other processes."""
        for name in _NAMES:
            azure.make_workspace(name)
        azure.make_ender()
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        yield {**azure.environment, "PYTHONPATH": os.pathsep.join(paths)}
