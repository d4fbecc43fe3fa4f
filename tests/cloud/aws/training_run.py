"""What a training job does: its instance starts, data comes, the container runs, what it wrote is kept."""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
import threading
import time
from pathlib import Path

from machines.containers import Container

from .account import LogStream, role_credentials
from .cloud import Cloud
from .images import ML
from .records import Record, now

__all__ = ["TrainingRun", "pack_folder"]

_SYNC_SECONDS = 0.5
_TAIL_LINES = 10
_SPOT_SHARE = 0.3  # of the on-demand price
_MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Interrupted": "The job was interrupted because the managed spot training instances were reclaimed",
    "Stopping": "Stopping the training job",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
}


class JobFailedError(Exception):
    """What AWS writes into FailureReason."""


class TrainingRun:
    """One job from its creation to its end.

    Args:
        cloud: The emulator.
        region: Where it runs.
        record: What is said of it; changed as it goes on.
    """

    def __init__(self, cloud: Cloud, region: str, record: Record) -> None:
        self._cloud = cloud
        self._region = region
        self._record = record
        self._container: Container | None = None
        self._tail: list[str] = []
        self._metrics: dict[str, Record] = {}
        self._why_stopped: str = ""  # "Stopped" by a user, "MaxRuntimeExceeded", "Interrupted" by spot
        self._abandoned = False
        self._lock = threading.Lock()

    # -- from outside -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends the job as StopTrainingJob does."""
        self._record["TrainingJobStatus"] = "Stopping"
        self._move("Stopping")
        self._end("Stopped")

    def interrupt(self) -> None:
        """Takes the spot instance away; the job begins anew on another."""
        if not self._record.get("EnableManagedSpotTraining"):
            raise ValueError(f"{self._record['TrainingJobName']} does not run on spot instances")
        self._end("Interrupted")

    def abandon(self) -> None:
        """Ends the job without a trace."""
        self._abandoned = True
        if self._container is not None:
            self._container.kill()

    # -- inside -------------------------------------------------------------------------------------------------------

    def do(self) -> None:
        """Does the job, to its end."""
        limit = self._record["StoppingCondition"].get("MaxRuntimeInSeconds", 86_400)
        timer = threading.Timer(limit, self._end, ("MaxRuntimeExceeded",))
        timer.daemon = True
        timer.start()
        try:
            while True:
                self._attempt()
                with self._lock:
                    if self._why_stopped != "Interrupted":
                        break
                    self._why_stopped = ""
                self._move("Interrupted")
                self._move("Starting")
            final = self._why_stopped or "Completed"
        except JobFailedError as failure:
            self._record["FailureReason"] = str(failure)[:1024]
            final = "Failed"
        except Exception as error:
            self._record["FailureReason"] = f"InternalServerError: {type(error).__name__}: {error}"[:1024]
            final = "Failed"
        finally:
            timer.cancel()
        self._finish(final)

    def _attempt(self) -> None:
        """Runs on one instance until the container ends."""
        time.sleep(self._cloud.settings.starting_seconds)
        record = self._record
        with self._cloud.lock:
            if self._cloud.settings.capacity_errors > 0:
                self._cloud.settings.capacity_errors -= 1
                raise JobFailedError(
                    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different "
                    "ML instance type."
                )
        if self._why_stopped:
            return
        uri = record["AlgorithmSpecification"].get("TrainingImage", "")
        image = self._cloud.images.pull(uri, self._region)
        if image is None:
            raise JobFailedError(
                f"ClientError: Cannot pull image {uri}: it was not found. Please check that your ECR repository and "
                f"image exist in {self._region} and that role {record['RoleArn']} has permission to pull it: "
                "ecr:BatchCheckLayerAvailability, ecr:BatchGetImage, ecr:GetDownloadUrlForLayer"
            )
        container = self._cloud.containers.make(image, record["TrainingJobName"], ML)
        try:
            self._move("Downloading")
            read_only = self._fill(container.files)
            with self._lock:
                if self._why_stopped:
                    return
                self._start(container, read_only)
            status = self._watch(container)
            why = self._why()
            if not why and status != 0:
                raise JobFailedError(f"AlgorithmError: {self._reason(container.files)}, exit code: {status}")
            if why != "Interrupted":
                self._upload(container.files)
        finally:
            self._container = None
            self._cloud.containers.remove(container)

    def _fill(self, ml: Path) -> list[Path]:
        """Puts into place what the container finds; returns what it may only read."""
        record, read_only = self._record, []
        for name in ("input/config", "input/data", "model", "output/data"):
            (ml / name).mkdir(parents=True)
        channels = {}
        mode = record["AlgorithmSpecification"]["TrainingInputMode"]
        for channel in record.get("InputDataConfig", ()):
            source = channel["DataSource"]["S3DataSource"]
            folder = ml / "input" / "data" / channel["ChannelName"]
            folder.mkdir()
            self._require("s3:ListBucket", source["S3Uri"].removeprefix("s3://").partition("/")[0])
            self._require("s3:GetObject", source["S3Uri"])
            if not self._cloud.storage.download(source["S3Uri"], folder):
                raise JobFailedError(_no_data(source["S3Uri"], self._region, record["RoleArn"]))
            if channel.get("InputMode", mode) == "FastFile":
                read_only.append(folder)
            channels[channel["ChannelName"]] = {
                "TrainingInputMode": channel.get("InputMode", mode),
                "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            }
        if (checkpoints := self._checkpoints(ml)) is not None:
            checkpoints.mkdir(parents=True, exist_ok=True)
            self._require("s3:PutObject", _folder(record["CheckpointConfig"]["S3Uri"]))
            self._cloud.storage.download(_folder(record["CheckpointConfig"]["S3Uri"]), checkpoints)
        instance = record["ResourceConfig"]["InstanceType"]
        for name, content in {
            "hyperparameters": record.get("HyperParameters", {}),
            "inputdataconfig": channels,
            "resourceconfig": {
                "current_host": "algo-1", "current_instance_type": instance,
                "current_group_name": "homogeneousCluster", "hosts": ["algo-1"], "network_interface_name": "eth0",
                "instance_groups": [
                    {"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": ["algo-1"]}
                ],
            },
        }.items():  # fmt: skip
            (ml / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
        return read_only

    def _require(self, action: str, uri: str) -> None:
        role, resource = self._record["RoleArn"], f"arn:aws:s3:::{uri.removeprefix('s3://')}"
        if not self._cloud.allows(role, action, resource):
            raise JobFailedError(
                f"ClientError: Access denied: {role} is not authorized to perform: {action} on resource: {resource}"
            )

    def _start(self, container: Container, read_only: list[Path]) -> None:
        record, name = self._record, self._record["TrainingJobName"]
        algorithm = record["AlgorithmSpecification"]
        command = [*algorithm.get("ContainerEntrypoint", ["train"]), *algorithm.get("ContainerArguments", [])]
        environment = {
            **self._cloud.environment(self._region),
            **role_credentials(record["RoleArn"], name, self._region),
            "TRAINING_JOB_NAME": name,
            "TRAINING_JOB_ARN": record["TrainingJobArn"],
            **record.get("Environment", {}),
        }
        stream = LogStream(self._region, "/aws/sagemaker/TrainingJobs", f"{name}/algo-1-{time.time_ns() // 1_000_000}")
        group = f"arn:aws:logs:{self._region}:{record['TrainingJobArn'].split(':')[4]}:log-group:/aws/sagemaker"
        logged = self._cloud.allows(record["RoleArn"], "logs:PutLogEvents", f"{group}/TrainingJobs:log-stream:{name}")
        if logged:
            stream.write([])
        self._tail = []

        def log(lines: list[str]) -> None:
            if self._abandoned:
                return
            if logged:
                stream.write(lines)
            self._tail = [*self._tail, *(line for line in lines if line)][-_TAIL_LINES:]
            self._measure(lines)

        self._move("Training")
        record.setdefault("TrainingStartTime", now())
        try:
            container.start(command, environment, log, read_only=read_only)
        except OSError as error:
            raise JobFailedError(f"AlgorithmError: {error}, exit code: 127") from error
        self._container = container

    def _watch(self, container: Container) -> int:
        """Returns the container's exit status; meanwhile its checkpoints are kept."""
        ended = threading.Event()
        sync = None
        if (folder := self._checkpoints(container.files)) is not None:
            sync = _Sync(self._cloud, folder, self._record["CheckpointConfig"]["S3Uri"])
            watcher = threading.Thread(target=sync.until, args=(ended,), daemon=True)
            watcher.start()
        status = container.wait()
        ended.set()
        if sync is not None:
            watcher.join()
            if not self._abandoned:
                sync.once()
        return status

    def _checkpoints(self, ml: Path) -> Path | None:
        given = self._record.get("CheckpointConfig")
        if given is None:
            return None
        return ml / str(given.get("LocalPath", "/opt/ml/checkpoints")).removeprefix("/opt/ml").lstrip("/")

    def _measure(self, lines: list[str]) -> None:
        for definition in self._record["AlgorithmSpecification"].get("MetricDefinitions", ()):
            for line in lines:
                if (found := re.search(definition["Regex"], line)) is not None:
                    value = {"MetricName": definition["Name"], "Value": float(found[1]), "Timestamp": now()}
                    self._metrics[definition["Name"]] = value
        if self._metrics:
            self._record["FinalMetricDataList"] = list(self._metrics.values())

    def _reason(self, ml: Path) -> str:
        told = ml / "output" / "failure"
        return (told.read_text(errors="replace") if told.is_file() else "\n".join(self._tail)).strip()[-960:]

    def _upload(self, ml: Path) -> None:
        if self._abandoned:
            return
        self._move("Uploading")
        self._require("s3:PutObject", self._record["OutputDataConfig"]["S3OutputPath"] + "/")
        uri = f"{self._record['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self._record['TrainingJobName']}/output"
        for folder, name in ((ml / "output" / "data", "output.tar.gz"), (ml / "model", "model.tar.gz")):
            if any(folder.iterdir()):
                self._cloud.storage.write(f"{uri}/{name}", pack_folder(folder))
                if name == "model.tar.gz":
                    self._record["ModelArtifacts"] = {"S3ModelArtifacts": f"{uri}/{name}"}

    def _why(self) -> str:
        with self._lock:
            return self._why_stopped

    def _end(self, why: str) -> None:
        with self._lock:
            if self._why_stopped:
                return
            self._why_stopped = why
            container = self._container
        if container is not None:
            container.stop(self._cloud.settings.grace_seconds)

    def _move(self, status: str) -> None:
        moment, transitions = now(), self._record["SecondaryStatusTransitions"]
        if status == "Starting" and transitions[-1]["Status"] == "Starting":
            return
        transitions[-1].setdefault("EndTime", moment)
        transitions.append({"Status": status, "StartTime": moment, "StatusMessage": _MESSAGES[status]})
        self._record["SecondaryStatus"] = status
        self._record["LastModifiedTime"] = moment

    def _finish(self, final: str) -> None:
        record = self._record
        self._move(final)
        moment = record["SecondaryStatusTransitions"][-1]["StartTime"]
        record["SecondaryStatusTransitions"][-1]["EndTime"] = moment
        record["TrainingEndTime"] = moment
        if "TrainingStartTime" in record:
            seconds = max(1, math.ceil((moment - record["TrainingStartTime"]).total_seconds()))
            share = _SPOT_SHARE if record.get("EnableManagedSpotTraining") else 1.0
            record["TrainingTimeInSeconds"] = seconds
            record["BillableTimeInSeconds"] = math.ceil(seconds * share)
        # Last: who sees the end must see all of it.
        record["TrainingJobStatus"] = "Stopped" if final == "MaxRuntimeExceeded" else final


class _Sync:
    """Copies new and changed files of a folder to S3; deletes none there, as AWS does."""

    def __init__(self, cloud: Cloud, folder: Path, uri: str) -> None:
        self._cloud = cloud
        self._folder = folder
        self._uri = uri.rstrip("/")
        self._seen: dict[Path, tuple[int, int]] = self._now()

    def _now(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in self._folder.rglob("*"):
            try:
                if path.is_file():
                    known = path.stat()
                    found[path] = (known.st_mtime_ns, known.st_size)
            except FileNotFoundError:  # renamed or deleted meanwhile
                continue
        return found

    def once(self) -> None:
        """Copies what is new or changed."""
        for path, known in self._now().items():
            if self._seen.get(path) != known:
                try:
                    content = path.read_bytes()
                except FileNotFoundError:
                    continue
                self._cloud.storage.write(f"{self._uri}/{path.relative_to(self._folder)}", content)
                self._seen[path] = known

    def until(self, ended: threading.Event) -> None:
        """Copies again and again."""
        while not ended.wait(_SYNC_SECONDS):
            self.once()


def pack_folder(folder: Path) -> bytes:
    """Returns a folder's content as a gzipped tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for entry in sorted(folder.iterdir()):
            archive.add(entry, entry.name)
    return buffer.getvalue()


def _folder(uri: str) -> str:
    return uri.rstrip("/") + "/"


def _no_data(uri: str, region: str, role: str) -> str:
    return (
        f'ClientError: No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the '
        f"bucket exists in the selected region ({region}), that objects exist under that S3 prefix, and that the role "
        f'"{role}" has "s3:ListBucket" permissions on the bucket.'
    )
