"""The five lines in three places: real radiographs, the real trainer, and only the backend's name is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import quick_azureml
import quick_sagemaker
from aws.handle import Emulator
from azure_cloud.handle import AzureEmulator
from radiographs import few_radiographs, five_lines, small_network

import medimg
from medimg.inference.predictor import TOLERANCE

pytestmark = pytest.mark.slow

REGION = "eu-west-3"
WORKSPACE = "places"


def test_the_five_lines_give_the_same_model_everywhere(
    account: Emulator, subscription: AzureEmulator, real_data: Path, tmp_path: Path
) -> None:
    """The same seed and data give the same name, figures and probabilities, also when served; each is compared."""
    root, config = few_radiographs(real_data, tmp_path), small_network(real_data)
    backends = [medimg.backend("local"), quick_sagemaker.backend(), quick_azureml.backend()]
    (here, answers_here), *others = [five_lines(backend, root, config) for backend in backends]
    for there, answers_there in others:
        assert there.id == here.id, "the same work has the same name everywhere"
        for one, other in zip(answers_here, answers_there, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=TOLERANCE)
        for name, value in here.metrics.items():
            assert there.metrics[name] == pytest.approx(value, abs=TOLERANCE), name
        assert {"packing", "uploading", "queueing", "fitting"} <= set(there.timings)
        assert there._resource.details["billable_seconds"] > 0
    (sagemaker, _), (azureml, _) = others
    assert "provisioning" in sagemaker.timings
    assert sagemaker.url.startswith("https://eu-west-3.console.aws.amazon.com/")
    assert azureml.url.startswith("https://ml.azure.com/")
    for told in (_of_cloudwatch(account, sagemaker.id), _of_mlflow(subscription, azureml.id)):
        for name in ("loss", "val_loss", "val_auroc"):
            assert told[name] == pytest.approx(here.history[-1][name]), "the cloud has another figure than the bar"
    dataset = medimg.Dataset.from_folder(root)
    for place in medimg.compare_costs(dataset, config, backends).places:
        assert place.job == here.id and place.estimate is not None, place.reason
        assert place.auroc == pytest.approx(here.metrics["auroc"], abs=TOLERANCE)
    _check_schemas(subscription)


def _of_cloudwatch(account: Emulator, job: str) -> dict[str, float]:
    """Returns the last metrics that SageMaker read from the job's log."""
    told = account.client("sagemaker", REGION).describe_training_job(TrainingJobName=job)["FinalMetricDataList"]
    return {metric["MetricName"]: metric["Value"] for metric in told}


def _of_mlflow(subscription: AzureEmulator, job: str) -> dict[str, Any]:
    """Returns the last metrics that the job wrote to its workspace's MLflow."""
    return {name: values[-1]["value"] for name, values in subscription.metrics(job).items()}


def _check_schemas(subscription: AzureEmulator) -> None:
    """Every body that was sent to Microsoft.MachineLearningServices is described; what does not fit was refused."""
    report = subscription.schema_report()
    if not report["archive"]:
        print("Microsoft's schemas are not on this machine: no body was checked against them")
        return
    print(f"{report['bodies']} bodies of {len(report['types'])} types and versions fit: {sorted(report['types'])}")
    assert any("workspaces/jobs@" in kind for kind in report["types"])
    assert any("onlineEndpoints/deployments@" in kind for kind in report["types"])
    assert not [kind for kind in report["unknown"] if "MachineLearningServices" in kind]
