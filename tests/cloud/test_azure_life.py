"""A job's and a model's life on AzureML with the real trainer: real radiographs, spot machines, an empty home."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import quick_azureml
from azure_cloud.handle import AzureEmulator
from radiographs import few_radiographs, five_lines, small_network

import medimg
from medimg.config import Resources, ServeConfig
from medimg.data.synthetic import write_phantoms
from medimg.inference.predictor import TOLERANCE
from medimg.progress import parse
from medimg.testing.workspace import phantom_dataset, recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("subscription")]

WORKSPACE = "life"


def test_the_five_lines_give_the_same_model_on_azureml_as_here(
    subscription: AzureEmulator, real_data: Path, tmp_path: Path
) -> None:
    """Only the backend's name is another; the same seed and data give the same probabilities, also when served."""
    root, config = few_radiographs(real_data, tmp_path), small_network(real_data)
    here, answers_here = five_lines(medimg.backend("local"), root, config)
    there, answers_there = five_lines(quick_azureml.backend(), root, config)
    assert there.id == here.id, "the same work has the same name everywhere"
    for one, other in zip(answers_here, answers_there, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=TOLERANCE)
    for name, value in here.metrics.items():
        assert there.metrics[name] == pytest.approx(value, abs=TOLERANCE), name
    assert {"packing", "uploading", "queueing", "fitting"} <= set(there.timings)
    assert there._resource.details["billable_seconds"] > 0
    assert there.url.startswith("https://ml.azure.com/")
    told = subscription.metrics(there.id)
    last = there.history[-1]
    for name in ("loss", "val_loss", "val_auroc"):
        assert told[name][-1]["value"] == pytest.approx(last[name]), "the workspace has another figure than the bar"


def test_a_preempted_job_goes_on_from_its_checkpoint(subscription: AzureEmulator, tmp_path: Path) -> None:
    """Azure takes the machine in the middle; the history has every epoch once, and few were computed twice."""
    dataset = phantom_dataset(write_phantoms(tmp_path / "phantoms", patients=72, images_per_patient=(1, 1), size=48))
    backend = quick_azureml.backend()
    config = recipe(epochs=200)
    job = backend.train(dataset, config, resources=Resources(spot=True), wait=False)
    deadline = time.monotonic() + 120
    while len(job.history) < 10:
        assert time.monotonic() < deadline, "\n".join(job.logs())
        time.sleep(0.2)
    before = job.history
    subscription.preempt(job.id)
    job.wait()
    assert job.status == "completed"
    history = job.history
    assert [row["epoch"] for row in history] == list(range(1, 201))
    assert history[: len(before)] == before, "what was done before the interruption came out differently"
    assert sum(1 for event in map(parse, job.logs()) if event and event.stage == "importing" and not event.message) == 2
    straight = medimg.backend("local").train(dataset, config)
    assert job.model.history[-1]["val_loss"] == pytest.approx(straight.model.history[-1]["val_loss"], abs=1e-6)


def test_a_new_process_with_an_empty_home_finds_job_and_endpoint(
    subscription: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And `deploy()` serves the latest job, whoever submitted it from wherever."""
    dataset = phantom_dataset(write_phantoms(tmp_path / "phantoms", patients=72, images_per_patient=(1, 1), size=48))
    job = quick_azureml.backend().train(dataset, recipe(), name="found")
    digest = job.model.digest
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "another-home"))
    backend = quick_azureml.backend()
    assert [found.id for found in backend.jobs()] == [job.id]
    assert backend.job(job.id).model.digest == digest
    endpoint = backend.deploy(config=ServeConfig(ttl_hours=2), name="found")
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "a-third-home"))
    again = quick_azureml.backend().endpoint("found")
    assert again.predict(dataset.samples[0].path).label in dataset.classes
    assert again._resource.details["digest"] == digest
    endpoint.delete()
    assert quick_azureml.backend().endpoints() == ()
