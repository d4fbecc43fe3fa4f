"""Batch transform: a model's container answers for each object under an S3 prefix."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .account import LogStream
from .calls import AwsError, Call, Operation
from .cloud import Cloud
from .deployment import Deployment, NotHealthyError
from .models import ModelContainer, Models
from .records import Record, arn, now, page

__all__ = ["TransformJobs"]

_KEPT = (
    "TransformJobName", "ModelName", "MaxConcurrentTransforms", "ModelClientConfig", "MaxPayloadInMB", "BatchStrategy",
    "Environment", "TransformInput", "TransformOutput", "TransformResources", "DataProcessing",
)  # fmt: skip
_SHOWN = ("TransformJobName", "TransformJobArn", "CreationTime", "TransformEndTime", "LastModifiedTime",
          "TransformJobStatus", "FailureReason")  # fmt: skip
_PAYLOAD_MB = 6
_INVOKE_SECONDS = 600.0


class TransformJobs:
    """The transform jobs of all regions.

    Args:
        cloud: The emulator.
        models: What they run.
    """

    def __init__(self, cloud: Cloud, models: Models) -> None:
        self._cloud = cloud
        self._models = models
        self._stopped: dict[str, threading.Event] = {}  # by ARN
        self._records = cloud.records(
            "transform-job",
            "Could not find requested job with name: {name}",
            "Job name must be unique within an AWS account and region, and a job with this name already exists ({arn})",
            "ResourceInUse",
        )
        operations: dict[str, Operation] = {
            "CreateTransformJob": self._create,
            "DescribeTransformJob": lambda call: dict(
                self._records.get(call.region, call.parameters["TransformJobName"])
            ),
            "ListTransformJobs": self._list,
            "StopTransformJob": self._stop,
        }
        cloud.serve("sagemaker", operations)

    def close(self, region: str | None = None) -> None:
        """Ends and forgets all of a region, or of all."""
        for arn_, stopped in self._stopped.items():
            if region in (None, arn_.split(":")[3]):
                stopped.set()
        self._records.clear(region)

    def _create(self, call: Call) -> Mapping[str, Any]:
        given, name = call.parameters, call.parameters["TransformJobName"]
        container = self._models.container(call.region, given["ModelName"])
        record: Record = {
            **{key: given[key] for key in _KEPT if key in given},
            "TransformJobArn": arn(call.region, "transform-job", name),
            "TransformJobStatus": "InProgress",
            "CreationTime": now(),
            "LastModifiedTime": now(),
        }
        self._records.add(call.region, name, record)
        self._cloud.tags.put(record["TransformJobArn"], given.get("Tags"))
        self._stopped[record["TransformJobArn"]] = threading.Event()
        threading.Thread(target=self._run, args=(call.region, record, container), daemon=True).start()
        return {"TransformJobArn": record["TransformJobArn"]}

    def _list(self, call: Call) -> Mapping[str, Any]:
        return page(
            call, self._records.all(call.region), "TransformJobSummaries",
            lambda record: {key: record[key] for key in _SHOWN if key in record},
            name="TransformJobName", status="TransformJobStatus",
        )  # fmt: skip

    def _stop(self, call: Call) -> None:
        record = self._records.get(call.region, call.parameters["TransformJobName"])
        if record["TransformJobStatus"] != "InProgress":
            raise AwsError(
                "ValidationException",
                f"The request was rejected because the transform job is in status {record['TransformJobStatus']}.",
            )
        record["TransformJobStatus"] = "Stopping"
        self._stopped[record["TransformJobArn"]].set()

    def _run(self, region: str, record: Record, container: ModelContainer) -> None:
        stopped = self._stopped[record["TransformJobArn"]]
        stream = LogStream(
            region, "/aws/sagemaker/TransformJobs", f"{record['TransformJobName']}/i-{uuid.uuid4().hex[:17]}"
        )
        container = ModelContainer(
            container.image, container.data, {**container.environment, **record.get("Environment", {})}
        )
        deployment = None
        try:
            deployment = Deployment(self._cloud, region, record["TransformJobName"], container, self._models, stream)
            deployment.start()
            record["TransformStartTime"] = now()
            self._transform(record, deployment, stopped)
            final = "Stopped" if stopped.is_set() else "Completed"
        except (NotHealthyError, AwsError, OSError) as error:
            final = "Failed"
            record["FailureReason"] = error.message if isinstance(error, AwsError) else f"AlgorithmError: {error}"
        finally:
            if deployment is not None:
                deployment.kill()
        record |= {"TransformEndTime": now(), "LastModifiedTime": now(), "TransformJobStatus": final}

    def _transform(self, record: Record, deployment: Deployment, stopped: threading.Event) -> None:
        given = record["TransformInput"]
        source = given["DataSource"]["S3DataSource"]["S3Uri"]
        bucket = source.removeprefix("s3://").partition("/")[0]
        keys = [(key, relative) for key, relative in self._cloud.storage.keys(source) if not key.endswith("/")]
        if not keys:
            raise AwsError("ClientError", f"ClientError: No S3 objects found under {source}")
        target = record["TransformOutput"]["S3OutputPath"].rstrip("/")
        limit = int(record.get("MaxPayloadInMB", _PAYLOAD_MB)) * 1024 * 1024

        def one(key: str, relative: str) -> None:
            content = self._cloud.storage.read(f"s3://{bucket}/{key}")
            if stopped.is_set() or content is None:
                return
            if limit and len(content) > limit:
                raise AwsError("ClientError", f"ClientError: {key} is larger than MaxPayloadInMB allows")
            headers = {"Accept": record["TransformOutput"].get("Accept", "")}
            if "ContentType" in given:
                headers["Content-Type"] = given["ContentType"]
            answer = deployment.invoke(
                content, {name: value for name, value in headers.items() if value}, _INVOKE_SECONDS
            )
            if answer.status != 200:
                raise AwsError(
                    "ClientError",
                    f"ClientError: See job logs for more information: {key}: status {answer.status}: "
                    f"{answer.body[:300].decode(errors='replace')}",
                )
            self._cloud.storage.write(f"{target}/{relative}.out", answer.body)

        with ThreadPoolExecutor(int(record.get("MaxConcurrentTransforms") or 1)) as pool:
            for done in [pool.submit(one, key, relative) for key, relative in keys]:
                done.result()
