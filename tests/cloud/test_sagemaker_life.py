"""A job's and a model's life on SageMaker with the real trainer: spot capacity, an empty home."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import quick_sagemaker
from aws.handle import Emulator

import medimg
from medimg.config import Resources, ServeConfig
from medimg.data.synthetic import write_phantoms
from medimg.progress import parse
from medimg.testing.workspace import phantom_dataset, recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("account")]

REGION = "eu-west-2"


def test_an_interrupted_spot_job_goes_on_from_its_checkpoint(account: Emulator, tmp_path: Path) -> None:
    """AWS takes the machine in the middle; the history has every epoch once, and none was computed twice."""
    dataset = phantom_dataset(write_phantoms(tmp_path / "phantoms", patients=72, images_per_patient=(1, 1), size=48))
    backend = quick_sagemaker.backend()
    config = recipe(epochs=200)
    job = backend.train(dataset, config, resources=Resources(spot=True), wait=False)
    deadline = time.monotonic() + 120
    while len(job.history) < 10:
        assert time.monotonic() < deadline, "\n".join(job.logs())
        time.sleep(0.2)
    before = job.history
    account.interrupt_spot(job.id, REGION)
    job.wait()
    assert job.status == "completed"
    history = job.history
    assert [row["epoch"] for row in history] == list(range(1, 201))
    assert history[: len(before)] == before, "what was done before the interruption was done again"
    assert sum(1 for event in map(parse, job.logs()) if event and event.stage == "importing" and not event.message) == 2
    assert job.timings["interrupted"] >= 0
    straight = medimg.backend("local").train(dataset, config)
    assert job.model.history[-1]["val_loss"] == pytest.approx(straight.model.history[-1]["val_loss"], abs=1e-6)


def test_a_new_process_with_an_empty_home_finds_job_and_endpoint(
    account: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And `deploy()` serves the latest job, whoever submitted it from wherever."""
    dataset = phantom_dataset(write_phantoms(tmp_path / "phantoms", patients=72, images_per_patient=(1, 1), size=48))
    job = quick_sagemaker.backend().train(dataset, recipe(), name="found")
    digest = job.model.digest
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "another-home"))
    backend = quick_sagemaker.backend()
    assert [found.id for found in backend.jobs()] == [job.id]
    assert backend.job(job.id).model.digest == digest
    endpoint = backend.deploy(config=ServeConfig(kind="serverless"), name="found")
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "a-third-home"))
    again = quick_sagemaker.backend().endpoint("found")
    assert again.predict(dataset.samples[0].path).label in dataset.classes
    assert again._resource.details["digest"] == digest
    endpoint.delete()
    assert quick_sagemaker.backend().endpoints() == ()
