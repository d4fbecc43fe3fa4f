"""Training jobs: what SageMaker's API says of them. What they do is in `training_run`."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .account import trusted_role
from .calls import AwsError, Call, Operation
from .cloud import Cloud
from .instances import check_volume_key
from .quotas import Quotas
from .records import Record, arn, now, page
from .training_run import TrainingRun

__all__ = ["TrainingJobs", "check_role"]

_KEPT = (
    "TrainingJobName", "HyperParameters", "AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig",
    "ResourceConfig", "VpcConfig", "StoppingCondition", "EnableNetworkIsolation", "EnableManagedSpotTraining",
    "EnableInterContainerTrafficEncryption", "CheckpointConfig", "ExperimentConfig", "RetryStrategy", "Environment",
)  # fmt: skip
_TERMINAL = {"Completed", "Failed", "Stopped"}


def check_role(role: str) -> None:
    """Raises AWS's refusal of a role that SageMaker may not assume."""
    if not trusted_role(role, "sagemaker.amazonaws.com"):
        raise AwsError(
            "ValidationException",
            f"Could not assume role {role}. Please ensure that the role exists and allows principal "
            "'sagemaker.amazonaws.com' to assume the role.",
        )


class TrainingJobs:
    """The training jobs of all regions.

    Args:
        cloud: The emulator.
        quotas: How many machines of a kind may run.
    """

    def __init__(self, cloud: Cloud, quotas: Quotas) -> None:
        self._cloud = cloud
        self._quotas = quotas
        self._runs: dict[tuple[str, str], TrainingRun] = {}
        self._records = cloud.records(
            "training-job",
            "Requested resource not found.",
            "Training job names must be unique within an AWS account and region, and a training job with this name "
            "already exists ({arn})",
            "ResourceInUse",
        )
        cloud.serve("sagemaker", self.operations())

    def operations(self) -> dict[str, Operation]:
        """Returns the operations by AWS's names."""
        return {
            "CreateTrainingJob": self._create,
            "DescribeTrainingJob": self._describe,
            "ListTrainingJobs": self._list,
            "StopTrainingJob": self._stop,
            "DeleteTrainingJob": self._delete,
        }

    def run(self, region: str, name: str) -> TrainingRun:
        """Returns what a job does now."""
        self._records.get(region, name)
        return self._runs[region, name]

    def close(self, region: str | None = None) -> None:
        """Ends and forgets all jobs of a region, or of all."""
        for (where, name), run in list(self._runs.items()):
            if region in (None, where):
                run.abandon()
                self._runs.pop((where, name))
                self._records.pop(where, name)

    def _create(self, call: Call) -> Mapping[str, Any]:
        given, region = call.parameters, call.region
        name = given["TrainingJobName"]
        self._check(call)
        with self._records.locked():
            record: Record = {key: given[key] for key in _KEPT if key in given}
            moment = now()
            record |= {
                "TrainingJobArn": arn(region, "training-job", name),
                "TrainingJobStatus": "InProgress",
                "SecondaryStatus": "Starting",
                "SecondaryStatusTransitions": [
                    {"Status": "Starting", "StartTime": moment, "StatusMessage": "Starting the training job"}
                ],
                "CreationTime": moment,
                "LastModifiedTime": moment,
            }
            existing = name in self._records.names(region)
            if not existing:
                self._check_quota(call)
            self._records.add(region, name, record)
            self._cloud.tags.put(record["TrainingJobArn"], given.get("Tags"))
            run = self._runs[region, name] = TrainingRun(self._cloud, region, record)
        threading.Thread(target=run.do, name=f"training {name}", daemon=True).start()
        return {"TrainingJobArn": record["TrainingJobArn"]}

    def _check(self, call: Call) -> None:
        given = call.parameters
        stopping, resources = given.get("StoppingCondition") or {}, given.get("ResourceConfig") or {}
        if "StoppingCondition" not in given:
            raise AwsError("ValidationException", "StoppingCondition is required")
        instance = resources.get("InstanceType", "")
        if not re.fullmatch(r"ml\.[a-z0-9-]+\.[a-z0-9]+", instance):
            raise AwsError("ValidationException", f"Instance type '{instance}' is not supported for training jobs")
        check_volume_key(instance, resources.get("VolumeKmsKeyId"))
        if resources.get("InstanceCount", 1) != 1:
            raise AwsError("ValidationException", "This emulator runs jobs of one instance only")
        if given.get("EnableManagedSpotTraining"):
            longest, wait = stopping.get("MaxRuntimeInSeconds", 86_400), stopping.get("MaxWaitTimeInSeconds")
            if wait is None:
                raise AwsError(
                    "ValidationException", "MaxWaitTimeInSeconds is required when EnableManagedSpotTraining is true."
                )
            if wait < longest:
                raise AwsError(
                    "ValidationException",
                    f"Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
                    f"MaxRuntimeInSeconds ({longest}).",
                )
        elif "MaxWaitTimeInSeconds" in stopping:
            raise AwsError(
                "ValidationException", "MaxWaitTimeInSeconds is only supported with EnableManagedSpotTraining."
            )
        check_role(given["RoleArn"])

    def _check_quota(self, call: Call) -> None:
        instance = call.parameters["ResourceConfig"]["InstanceType"]
        spot = bool(call.parameters.get("EnableManagedSpotTraining"))
        used = sum(
            record["TrainingJobStatus"] not in _TERMINAL
            and record["ResourceConfig"]["InstanceType"] == instance
            and bool(record.get("EnableManagedSpotTraining")) == spot
            for record in self._records.all(call.region)
        )
        self._quotas.check(call.region, f"{instance} for {'spot ' * spot}training job usage", used)

    def _describe(self, call: Call) -> Record:
        record = self._records.get(call.region, call.parameters["TrainingJobName"])
        return {**record, "SecondaryStatusTransitions": list(record["SecondaryStatusTransitions"])}

    def _list(self, call: Call) -> Mapping[str, Any]:
        shown = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingEndTime", "LastModifiedTime",
                 "TrainingJobStatus", "SecondaryStatus")  # fmt: skip
        summary: Callable[[Record], Record] = lambda record: {key: record[key] for key in shown if key in record}  # noqa: E731
        return page(
            call, self._records.all(call.region), "TrainingJobSummaries", summary,
            name="TrainingJobName", status="TrainingJobStatus",
        )  # fmt: skip

    def _stop(self, call: Call) -> None:
        name = call.parameters["TrainingJobName"]
        status = self._records.get(call.region, name)["TrainingJobStatus"]
        if status != "InProgress":
            raise AwsError(
                "ValidationException",
                f"The request was rejected because the training job is in status {status}.",
            )
        self._runs[call.region, name].stop()

    def _delete(self, call: Call) -> None:
        name = call.parameters["TrainingJobName"]
        record = self._records.get(call.region, name)
        if record["TrainingJobStatus"] not in _TERMINAL:
            raise AwsError(
                "ValidationException",
                f"The request was rejected because the training job is in status {record['TrainingJobStatus']}. "
                "Only jobs that are Completed, Failed or Stopped can be deleted.",
            )
        self._records.pop(call.region, name)
        self._runs.pop((call.region, name), None)
        self._cloud.tags.drop(record["TrainingJobArn"])
