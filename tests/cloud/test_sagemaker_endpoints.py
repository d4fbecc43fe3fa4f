"""Endpoints that share a name, lose their model, or change while something else happens: nothing is billed unseen."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import quick_sagemaker
from aws.handle import Emulator

from medimg.artifact import ModelFolder
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, NotFoundError
from medimg.inference.request_lines import read

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("account")]

REGION = "ap-northeast-1"


@pytest.fixture
def other(trained: ModelFolder, tmp_path: Path) -> ModelFolder:
    """The same network at another threshold."""
    shutil.copytree(trained.path, tmp_path / "other")
    thresholds = dict.fromkeys(trained.record.thresholds, 0.02)
    return ModelFolder.seal(tmp_path / "other", trained.record.model_copy(update={"thresholds": thresholds}))


def _schedules(account: Emulator) -> list[str]:
    return account.state(REGION).get("schedules", [])


def test_a_name_serves_one_kind_and_the_other_kind_leaves_it_alone(account: Emulator, trained: ModelFolder) -> None:
    """A refused deploy takes away nothing that it did not make: function, address, key and schedules are all there."""
    backend = quick_sagemaker.backend()
    taken = backend.deploy(trained, ServeConfig(kind="lambda", ttl_hours=2), name="taken")
    (step,) = taken.load_test([2], seconds=0.5, image=trained.golden[0].content).steps
    assert step.answered > 0 and not step.errors, "clients of their own are let in with its key"
    ids = {line["id"] for line in read(taken.logs()) if line["medimg"] == "request"}
    assert len(ids) == 1, "the same image counts once, whichever container answered it"
    before = account.state(REGION)
    for config in (ServeConfig(), ServeConfig(http_api=True, ttl_hours=1), ServeConfig(kind="serverless")):
        with pytest.raises(AlreadyExistsError, match="taken"):
            quick_sagemaker.backend().deploy(trained, config, name="taken")
    after = account.state(REGION)
    for kind in ("functions", "apis", "ssm_parameters", "schedules", "endpoints", "models"):
        assert after.get(kind) == before.get(kind), kind


def test_an_endpoint_whose_model_was_deleted_is_seen_and_can_be_deleted(
    account: Emulator, trained: ModelFolder
) -> None:
    """It costs money all the same."""
    backend = quick_sagemaker.backend()
    backend.deploy(trained, name="bodiless")
    sagemaker = account.client("sagemaker", REGION)
    (model,) = [each["ModelName"] for each in sagemaker.list_models()["Models"]]
    environment = sagemaker.describe_model(ModelName=model)["PrimaryContainer"]["Environment"]
    assert len(environment["MEDIMG_LOG_SALT"]) == 32, "all processes of a deployment have one salt"
    sagemaker.delete_model(ModelName=model)
    (found,) = quick_sagemaker.backend().inventory()
    assert (found.id, found.details["reason"]) == ("bodiless", "its model was deleted")
    quick_sagemaker.backend().cleanup()
    assert not account.state(REGION).get("endpoints")
    assert not account.state(REGION).get("endpoint_configs")


def test_an_update_and_a_deletion_whose_answers_are_lost_go_on(
    account: Emulator, trained: ModelFolder, other: ModelFolder
) -> None:
    """The second request is refused as one too many; what it was about is not taken away."""
    backend = quick_sagemaker.backend()
    endpoint = backend.deploy(trained, ServeConfig(ttl_hours=2), name="lost")
    account.faults(fail=("UpdateEndpoint", 1, "ServiceUnavailable"), performed=True)
    endpoint.update(other)
    account.clear_faults()
    assert quick_sagemaker.backend().endpoint("lost")._resource.details["digest"] == other.digest
    state = account.state(REGION)
    assert len(state["models"]) == len(state["endpoint_configs"]) == 1
    (version,) = state["models"]
    assert all(f"-{version.rpartition('-')[2]}-" in name for name in _schedules(account))
    account.faults(fail=("DeleteEndpoint", 1, "ServiceUnavailable"), performed=True)
    endpoint.delete()
    account.clear_faults()
    assert not account.state(REGION).get("endpoints")


def test_an_endpoint_keeps_its_end_through_an_update_that_fails(
    account: Emulator, trained: ModelFolder, other: ModelFolder
) -> None:
    """At no moment is there an endpoint without the schedule that it was promised."""
    endpoint = quick_sagemaker.backend().deploy(trained, ServeConfig(ttl_hours=2), name="promised")
    before = _schedules(account)
    for operation in ("CreateModel", "CreateSchedule", "UpdateEndpoint"):
        account.faults(fail=(operation, 1, "AccessDeniedException"))
        with pytest.raises(BackendError, match="may not do"):
            endpoint.update(other)
        account.clear_faults()
        assert _schedules(account) == before, operation
    account.advance(2.1 * 3600)
    deadline = time.monotonic() + 60
    while quick_sagemaker.backend().endpoints() and time.monotonic() < deadline:
        time.sleep(0.3)
    assert quick_sagemaker.backend().endpoints() == ()


def test_the_schedules_of_a_dead_endpoint_do_not_end_the_next_of_its_name(
    account: Emulator, trained: ModelFolder
) -> None:
    """It was deleted in the console, and its schedules stayed."""
    quick_sagemaker.backend().deploy(trained, ServeConfig(ttl_hours=2), name="again")
    account.client("sagemaker", REGION).delete_endpoint(EndpointName="again")
    assert _schedules(account)
    quick_sagemaker.backend().deploy(trained, ServeConfig(), name="again")
    assert not _schedules(account)
    account.advance(9 * 3600)
    time.sleep(1)
    assert quick_sagemaker.backend().endpoint("again").status == "ready"


def test_what_cannot_be_is_refused_before_anything_is_uploaded(account: Emulator, trained: ModelFolder) -> None:
    """Sizes and settings that AWS has not, each with the word that is wrong."""
    account.mark()
    wrong = {
        "memory_mb": ServeConfig(kind="serverless", memory_mb=1500),
        "min_instances": ServeConfig(min_instances=0),
        "auth": ServeConfig(auth="none"),
        "url_hosts": ServeConfig(url_hosts=("images.example",)),
        "has no instance": ServeConfig(kind="serverless", instance="ml.m5.large"),
        "128 to 10240": ServeConfig(kind="lambda", memory_mb=20_000),
    }
    for word, config in wrong.items():
        with pytest.raises(ConfigError, match=word):
            quick_sagemaker.backend().deploy(trained, config, name="wrong")
    assert not [call for call in account.calls() if call["operation"].startswith(("Put", "Create"))]
    with pytest.raises(NotFoundError):
        quick_sagemaker.backend().endpoint("wrong")
