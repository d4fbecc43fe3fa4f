"""The emulator of AWS, one for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Also where pytest was told not to change sys.path.
sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from aws.handle import Emulator


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator of AWS that runs until the tests end."""
    pytest.importorskip("moto", reason="the emulator of AWS needs moto: pip install 'moto[server]'")
    from aws.handle import Emulator

    with Emulator.start(tmp_path_factory.mktemp("aws")) as emulator:
        yield emulator


@pytest.fixture
def aws_environment(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, with the environment of this test set so that boto3 talks to it."""
    aws.apply(monkeypatch)
    return aws


@pytest.fixture
def account(aws: Emulator, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator in the module's own `REGION`, with the roles that bootstrap makes; forgotten at the end."""
    import quick_sagemaker

    region: str = request.module.REGION
    aws.apply(monkeypatch, region)
    quick_sagemaker.make_roles(aws)
    yield aws
    aws.clear_faults()
    aws.reset_clock()
    aws.reset_region(region)
