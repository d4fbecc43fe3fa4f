"""What Azure does to its users: answers that get lost, requests that are refused, hours without an answer."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import quick_azureml
from azure_cloud.handle import AzureEmulator

from medimg.artifact import ModelFolder
from medimg.backends.job import Job
from medimg.config import ServeConfig
from medimg.data.dataset import Dataset
from medimg.data.synthetic import write_phantoms
from medimg.errors import MedimgError, UnreachableError
from medimg.testing.workspace import phantom_dataset, recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("subscription")]

WORKSPACE = "faulty"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A few phantoms."""
    return phantom_dataset(write_phantoms(tmp_path / "phantoms", patients=72, images_per_patient=(1, 1), size=48))


def test_with_a_third_of_all_requests_refused_every_operation_completes(
    subscription: AzureEmulator, dataset: Dataset, trained: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 and 503, before and after the request was performed; each thing is made once. Waiting is cut short."""
    real_sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real_sleep(min(seconds, 0.2)))
    subscription.mark()
    # Blob Storage knows no 429: it says 503. To the login's library a 429 where it looks for a tenant is a wrong one.
    elsewhere = r"^(?!.*(blob\.core\.windows\.net|/discovery/|/\.well-known/))"
    at_once = {"Retry-After": "0"}  # without it, the login's library does not ask again for 5 seconds of the real clock
    subscription.fault(
        path=elsewhere, status=429, code="TooManyRequests", probability=0.15, times=None, headers=at_once
    )
    subscription.fault(status=503, code="ServerBusy", probability=0.18, times=None, after=True, headers=at_once)
    backend = quick_azureml.backend()
    job = backend.train(dataset, recipe(), name="busy")
    done = 1

    def ask(_: int) -> int:
        asking = quick_azureml.backend()
        assert asking.job(job.id).status == "completed"
        assert [found.id for found in asking.jobs()] == [job.id]
        assert list(asking.job(job.id).logs())
        return 3

    def register(_: int) -> int:
        version = quick_azureml.backend().register(trained, name="busy")
        assert version.id in [each.id for each in backend.models("busy")]
        assert version.load().digest == trained.digest
        return 3

    with ThreadPoolExecutor(5) as pool:
        done += sum(pool.map(ask, range(10))) + sum(pool.map(register, range(5)))
    endpoint = backend.deploy(trained, ServeConfig(ttl_hours=1), name="busy")
    assert endpoint.predict(dataset.samples[0].path).label
    endpoint.delete()
    assert backend.endpoints() == ()
    done += 4
    assert done == 50
    subscription.clear_faults()
    refused = [call for call in subscription.calls() if call["fault"]]
    assert len(refused) > 0.2 * len(subscription.calls())
    state = subscription.state(WORKSPACE)
    assert len(state["jobs"]) == 1
    assert len(backend.models("busy")) == 5
    assert not state.get("workflows")


def test_a_job_that_cannot_be_asked_about_is_neither_failed_nor_submitted_twice(
    subscription: AzureEmulator, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty minutes without an answer, at a question every few seconds; sleeping takes no time here."""
    backend = quick_azureml.backend()
    job = backend.train(dataset, recipe(epochs=60), name="lonely", wait=False)
    slept = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds
        if slept > 30 * 60:
            subscription.clear_faults()
            real_sleep(seconds)

    real_sleep = time.sleep
    subscription.fault(method="GET", status=503, code="ServerBusy", times=None)
    subscription.mark()
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        Job(backend, job.id).wait()
    assert slept > 30 * 60
    assert job.status == "completed"
    assert not subscription.calls("PUT", "/jobs/")
    assert len(backend.jobs()) == 1
    subscription.fault(status=0, times=None)
    with pytest.raises(UnreachableError), monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: None)
        quick_azureml.backend().jobs()


def test_time_to_live_without_its_identity_is_refused_before_anything_is_made(
    subscription: AzureEmulator, trained: ModelFolder
) -> None:
    """An endpoint that would not end must not be begun."""
    subscription.fault(method="GET", path="userAssignedIdentities/medimg-ender", status=404, code="ResourceNotFound")
    with pytest.raises(MedimgError, match="medimg azure bootstrap"):
        quick_azureml.backend().deploy(trained, ServeConfig(ttl_hours=1), name="endless")
    assert not subscription.state(WORKSPACE).get("onlineEndpoints")


def test_no_secret_name_or_patient_reaches_azure(
    subscription: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canaries in paths, file names, patients' ids and secrets are in no blob, name, description, tag or log."""
    ward, patient, secret = "ward-of-doctor-canary", "canary-patient", "canarySECRETcanary"
    root = write_phantoms(tmp_path / ward, patients=72, images_per_patient=(1, 1), size=48)
    for image in sorted(root.rglob("*.png")):
        image.rename(image.with_name(image.name.replace("patient", patient)))
    monkeypatch.setenv("MEDIMG_TEST_CANARY", secret)
    dataset = Dataset.from_folder(root, group=rf"({patient}\d+)")
    backend = quick_azureml.backend()
    job = backend.train(dataset, recipe(epochs=2), name="canary")
    backend.register(job, name="quiet")
    with backend.deploy(job, ServeConfig(ttl_hours=1), name="quiet") as endpoint:
        endpoint.predict(dataset.samples[0].path)
        told = {**subscription.everything(WORKSPACE), "log of the endpoint": "\n".join(endpoint.logs())}
    canaries = [ward, patient, secret, *{sample.path.stem for sample in dataset.samples}]
    for where, content in told.items():
        for canary in canaries:
            assert canary not in content, f"{canary!r} is in {where}"
    assert any("/std_log.txt" in where for where in told), sorted(told)
    assert any(where.startswith("ARM ") for where in told)
