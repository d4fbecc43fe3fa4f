"""The emulators of AWS and of Azure, one of each for all tests."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Also where pytest was told not to change sys.path.
sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from aws.handle import Emulator
    from azure_cloud.handle import AzureEmulator


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator of AWS that runs until the tests end."""
    pytest.importorskip("moto", reason="the emulator of AWS needs moto: pip install 'moto[server]'")
    import botocore.session
    from aws.handle import Emulator

    with pytest.MonkeyPatch.context() as patch, Emulator.start(tmp_path_factory.mktemp("aws")) as emulator:
        # Tests open hundreds of sessions, and each would read megabytes of descriptions of AWS's services anew.
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield emulator


@pytest.fixture
def aws_environment(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, with the environment of this test set so that boto3 talks to it."""
    aws.apply(monkeypatch)
    return aws


@pytest.fixture(scope="session")
def bundles(shared: Path) -> Path:
    """The packages of endpoints, which follow from their versions alone: gathered once for all tests."""
    folder = shared / "bundles"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def account(
    aws: Emulator, bundles: Path, own_home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Emulator]:
    """The emulator in the module's own `REGION`, with the roles that bootstrap makes; forgotten at the end."""
    import quick_sagemaker

    region: str = request.module.REGION
    own_home.mkdir(parents=True, exist_ok=True)
    (own_home / "bundles").symlink_to(bundles)
    aws.apply(monkeypatch, region)
    quick_sagemaker.make_roles(aws)
    yield aws
    aws.clear_faults()
    aws.reset_clock()
    aws.reset_region(region)


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureEmulator]:
    """An emulator of Azure that runs until the tests end."""
    pytest.importorskip("azure.ai.ml", reason="needs Azure's SDK: pip install 'medimg[azureml]'")
    from azure_cloud.handle import AzureEmulator

    if (missing := AzureEmulator.missing()) is not None:
        pytest.skip(missing)
    with AzureEmulator.start(tmp_path_factory.mktemp("azure")) as emulator:
        yield emulator


@pytest.fixture
def subscription(
    azure: AzureEmulator, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AzureEmulator]:
    """The emulator with the module's own `WORKSPACE`, and the identity that bootstrap makes; forgotten at the end."""
    import quick_azureml  # noqa: F401 - it makes the backend ask more often

    name: str = request.module.WORKSPACE
    azure.make_workspace(name)
    azure.make_ender()
    azure.apply(monkeypatch, name)
    yield azure
    azure.clear_faults()
    azure.reset_clock()
    azure.reset_workspace(name)
