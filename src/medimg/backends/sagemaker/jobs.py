"""Training and prediction jobs: both are SageMaker training jobs that run `python -m medimg.train` or `medimg.predict`.

What is known of a job is in the job's own description at SageMaker (its hyperparameters), so that any process with the
credentials finds it, also with an empty `MEDIMG_HOME`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medimg.backends.job_files import JOB_ID, described, details, input_files, orphans, spec_file
from medimg.backends.resource import Resource, Status
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.errors import explain_failure, translated
from medimg.backends.sagemaker.images import training_image
from medimg.backends.sagemaker.instances import has_local_disk
from medimg.backends.sagemaker.logs import Logs
from medimg.backends.wheel import wheel
from medimg.config import JobSpec
from medimg.errors import AlreadyExistsError, BackendError, ConfigError, NotFoundError, UnreachableError
from medimg.progress import Display, Event, Report, Stopwatch, heartbeat, silent

__all__ = ["DEFAULT_INSTANCE", "Jobs"]

DEFAULT_INSTANCE = "ml.g4dn.xlarge"
_LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_SPOT_PATIENCE = 2.0  # times the longest run: how long a job may wait for spot capacity, its run included
_MOST_HOURS = 28 * 24  # of SageMaker
_AT_ONCE = 8
_STOP_SECONDS = 600.0
_MOST_IN_VARIABLE = 512  # characters of a variable of a job's environment, of SageMaker

# What the job needs beside the image's TensorFlow; pip leaves alone what the image already has.
_REQUIREMENTS = (
    "ai-edge-litert>=2.1", "h5py>=3.11", "keras>=3.15.1", "matplotlib>=3.9", "numpy>=2.0", "pillow>=12.0",
    "platformdirs>=4.2", "pydantic>=2.9", "scikit-learn>=1.5",
)  # fmt: skip

# An argument of a container has at most 256 characters, so what it runs travels beside the wheel. `exec` makes Python
# the container's first process: it is the one that gets SIGTERM.
_SCRIPT = """set -e
root="${MEDIMG_ROOT:-/opt/ml}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
python -m pip install --quiet --no-deps "$root"/input/data/code/*.whl
python -m pip install --quiet REQUIREMENTS
exec python -m "$1" --spec "$root"/input/data/spec/*.json --data "$root"/input/data/pack \\
  --inputs "$root"/input/data/inputs --out "$root"/model --checkpoints "$root"/checkpoints
"""

_METRIC = r'"event": "epoch".*"%s": ([-+0-9.eE]+)'
_METRICS = ("loss", "val_loss", "val_auroc", "val_accuracy")


class Jobs:
    """The jobs of an account.

    Attributes:
        poll_seconds: Between two questions about a job that is being stopped.
        image: The image they run in, where it is the user's.

    Args:
        account: Whose.
        logs: Where their logs are.
        image: The image they run in; None: AWS's TensorFlow training image.
        tracking_uri: An MLflow server that jobs report to; None: none.

    Raises:
        ConfigError: The server's address holds a secret, or is too long.
    """

    poll_seconds = 2.0

    def __init__(self, account: Account, logs: Logs, *, image: str | None, tracking_uri: str | None) -> None:
        if tracking_uri is not None:
            _check_tracking(tracking_uri)
        self._account = account
        self._logs = logs
        self.image = image
        self._tracking_uri = tracking_uri
        self._ended: dict[str, Resource] = {}  # what has ended does not change

    @property
    def _client(self) -> Any:
        return self._account.client("sagemaker")

    # -- submitting ---------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        """Uploads what is not there yet and creates the training job."""
        resources = spec.resources
        if resources.count != 1:
            raise ConfigError(
                f"Resources(count={resources.count}): a job runs on one machine. For more GPUs take an instance with "
                "several, such as instance='ml.g4dn.12xlarge'"
            )
        image = self.image or training_image(self._account.region, resources.instance or DEFAULT_INSTANCE)
        watch = Stopwatch(report)
        watch(Event("stage", "uploading"))
        code = self._upload_code(watch)
        data = self._account.writable.upload_pack(pack, spec.samples, watch)
        given = self._upload_inputs(spec, inputs, watch)
        timings = watch.timings
        spec_uri = self._account.writable.put(*spec_file(spec))
        request = self._request(spec, image, {"code": code, "pack": data, "spec": spec_uri, **given}, timings)
        report(Event("stage", "queueing"))
        try:
            with translated(f"submitting the job {spec.id!r}"):
                self._client.create_training_job(**request)
        except AlreadyExistsError:
            # An answer may have been lost on its way, and the second request met the first one's job.
            with translated(f"looking for the job {spec.id!r}"):
                found = self._client.describe_training_job(TrainingJobName=spec.id)
            if found.get("HyperParameters", {}).get("medimg-token") != request["HyperParameters"]["medimg-token"]:
                raise
        # A precaution: where nothing answers now, the job goes on all the same.
        with suppress(UnreachableError):
            self._complete(spec, pack, inputs)

    def _complete(self, spec: JobSpec, pack: Path, inputs: Path) -> None:
        """Sends again what another process deleted as unused before this job was there to name it."""
        storage = self._account.writable
        storage.upload_pack(pack, spec.samples)  # no more than a listing where all is there
        folder, files = self._code()
        if not files.keys() <= storage.list(folder).keys():
            self._upload_code(silent)
        if spec.inputs:
            folder, sources = input_files(spec, inputs)
            there = storage.list(folder)
            for key, path in sources.items():
                if key not in there:
                    storage.upload_file(path, key)
        key, content = spec_file(spec)
        if key not in storage.list(f"jobs/{spec.id}/"):
            storage.put(key, content)

    def _code(self) -> tuple[str, dict[str, Path | bytes]]:
        """Returns the folder of the running medimg and of the script that starts it, and both by key."""
        requirements = _REQUIREMENTS if self._tracking_uri is None else (*_REQUIREMENTS, "mlflow>=3.17")
        script = _SCRIPT.replace("REQUIREMENTS", " ".join(f"'{name}'" for name in requirements)).encode()
        built = wheel()
        content = hashlib.sha256(built.read_bytes() + script).hexdigest()[:16]
        return f"code/{content}/", {f"code/{content}/{built.name}": built, f"code/{content}/run.sh": script}

    def _upload_code(self, report: Report) -> str:
        folder, files = self._code()
        for key, content in files.items():
            if isinstance(content, Path):
                self._account.writable.upload_file(content, key, report)
            else:
                self._account.writable.put(key, content)
        return self._account.uri(folder)

    def _upload_inputs(self, spec: JobSpec, inputs: Path, report: Report) -> dict[str, str]:
        if not spec.inputs:
            return {}
        folder, files = input_files(spec, inputs)
        self._account.writable.upload_files(files, report)
        return {"inputs": self._account.uri(folder)}

    def _request(
        self, spec: JobSpec, image: str, channels: Mapping[str, str], timings: Mapping[str, float]
    ) -> dict[str, Any]:
        resources, account = spec.resources, self._account
        seconds = max(1, round(min(resources.max_hours, _MOST_HOURS) * 3600))
        encryption = {} if account.kms_key is None else {"KmsKeyId": account.kms_key}
        instance = resources.instance or DEFAULT_INSTANCE
        # SageMaker refuses a key for drives of the machine itself: they are encrypted by hardware, with keys of theirs.
        volume = {} if account.kms_key is None or has_local_disk(instance) else {"VolumeKmsKeyId": account.kms_key}
        stopping = {"MaxRuntimeInSeconds": seconds}
        if resources.spot:
            stopping["MaxWaitTimeInSeconds"] = min(round(seconds * _SPOT_PATIENCE), _MOST_HOURS * 3600)
        kept = {
            **described(spec, timings), "medimg-prefix": account.prefix, "medimg-token": secrets.token_hex(8),
        }  # fmt: skip
        environment = {"PYTHONUNBUFFERED": "1"}
        if self._tracking_uri is not None:
            environment["MLFLOW_TRACKING_URI"] = self._tracking_uri
        return {
            "TrainingJobName": spec.id,
            "RoleArn": account.role_arn,
            "AlgorithmSpecification": {
                "TrainingImage": image,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["/bin/bash", "-c"],
                "ContainerArguments": [f"exec bash ${{MEDIMG_ROOT:-/opt/ml}}/input/data/code/run.sh {spec.module}"],
                "MetricDefinitions": [{"Name": name, "Regex": _METRIC % name} for name in _METRICS],
            },
            "HyperParameters": kept,
            "Environment": environment,
            "InputDataConfig": [
                {
                    "ChannelName": name,
                    # Read once, from beginning to end, while it is being downloaded.
                    "InputMode": "FastFile" if name == "pack" else "File",
                    "DataSource": {
                        "S3DataSource": {
                            "S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated",
                        }
                    },
                }
                for name, uri in channels.items()
            ],
            "OutputDataConfig": {"S3OutputPath": account.uri("jobs"), **encryption},
            "CheckpointConfig": {
                "S3Uri": account.uri(f"checkpoints/{spec.checkpoints}/"), "LocalPath": "/opt/ml/checkpoints",
            },
            "ResourceConfig": {
                "InstanceType": instance,
                "InstanceCount": 1,
                "VolumeSizeInGB": resources.disk_gb,
                **volume,
            },
            "StoppingCondition": stopping,
            "EnableManagedSpotTraining": resources.spot,
            "Tags": account.tag_list(job=spec.id),
        }  # fmt: skip

    # -- reading ------------------------------------------------------------------------------------------------------

    def describe(self, id: str) -> Resource:
        """Returns a job as it is now."""
        if not JOB_ID.fullmatch(id):
            raise NotFoundError(f"SageMaker has no job {id!r} in {self._account.region}. See backend.jobs()")
        with translated(f"looking for the job {id!r}"):
            answer = self._client.describe_training_job(TrainingJobName=id)
        told = answer.get("HyperParameters", {})
        if told.get("medimg-prefix") != self._account.prefix or answer["TrainingJobStatus"] == "Deleting":
            raise NotFoundError(f"{id!r} is no job of medimg. See backend.jobs()")
        status, reason = _status(answer)
        found = details(told)
        found["timings"] |= _spent(answer)
        found |= {
            "instance": answer["ResourceConfig"].get("InstanceType", ""),
            "count": answer["ResourceConfig"].get("InstanceCount", 1),
            "spot": bool(answer.get("EnableManagedSpotTraining")),
            "training_seconds": answer.get("TrainingTimeInSeconds"),
            "billable_seconds": answer.get("BillableTimeInSeconds"),
            "url": f"https://{self._account.region}.console.aws.amazon.com/sagemaker/home"
            f"?region={self._account.region}#/jobs/{id}",
        }
        if reason:
            found["reason"] = reason
        resource = Resource("job", id, status, answer["CreationTime"].timestamp(), found)
        if status not in ("queued", "running"):
            self._ended[id] = resource
        return resource

    def all(self) -> list[Resource]:
        """Returns all jobs of ours."""
        names, ended = [], {}
        with translated("listing the jobs"):
            for page in self._client.get_paginator("list_training_jobs").paginate(PaginationConfig={"PageSize": 100}):
                for summary in page["TrainingJobSummaries"]:
                    if JOB_ID.fullmatch(summary["TrainingJobName"]):
                        names.append(summary["TrainingJobName"])
                        if summary["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"):
                            ended[summary["TrainingJobName"]] = summary["CreationTime"].timestamp()

        def one(name: str) -> Resource | None:
            known = self._ended.get(name)
            # A deleted job's name may have been given to the same work again, by another process.
            if known is not None and known.created == ended.get(name):
                return known
            try:
                return self.describe(name)
            except NotFoundError:  # another's, or deleted meanwhile
                return None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [resource for resource in pool.map(one, names) if resource is not None]

    def log(self, id: str, after: int) -> tuple[list[str], int]:
        """Returns the lines after a position, and the position after them."""
        self.describe(id)
        # Several machines would write several streams; a job has one.
        return self._logs.read(_LOG_GROUP, f"{id}/", after)

    def fetch(self, id: str, target: Path, report: Report) -> None:
        """Downloads what the job wrote."""
        resource = self.describe(id)
        if resource.status != "completed":
            raise NotFoundError(f"the job {id!r} has no result")
        self._account.storage.download_archive(f"jobs/{id}/output/model.tar.gz", target, report)
        # SageMaker keeps every checkpoint that ever was; what is done will not go on from any.
        if not any(
            other.status != "completed" and other.details["checkpoints"] == resource.details["checkpoints"]
            for other in self.all()
        ):
            self._account.storage.delete_prefix(f"checkpoints/{resource.details['checkpoints']}/")

    # -- ending -------------------------------------------------------------------------------------------------------

    def stop(self, id: str) -> None:
        """Asks a job to end; it has two minutes to save its state."""
        if self.describe(id).status not in ("queued", "running"):
            return
        try:
            with translated(f"stopping the job {id!r}"):
                self._client.stop_training_job(TrainingJobName=id)
        except BackendError:
            # It may have ended a moment ago, or is stopping already.
            if self.describe(id).status in ("queued", "running") and not self._is_stopping(id):
                raise

    def _is_stopping(self, id: str) -> bool:
        with translated(f"looking for the job {id!r}"):
            answer = self._client.describe_training_job(TrainingJobName=id)
        return bool(answer["TrainingJobStatus"] == "Stopping")

    def delete(self, id: str) -> None:
        """Deletes a job, its results, its log, and the pack, inputs and checkpoints that no other job names."""
        gone = self.describe(id)
        if gone.status in ("queued", "running"):
            self.stop(id)
            with Display(id) as display, heartbeat("stopping", display):
                deadline = time.monotonic() + _STOP_SECONDS
                while self.describe(id).status in ("queued", "running"):
                    if time.monotonic() > deadline:
                        raise BackendError(f"the job {id!r} is still stopping. Delete it again in a few minutes")
                    time.sleep(self.poll_seconds)
        # Where the first answer was lost, the second says that there is nothing to delete.
        with suppress(NotFoundError), translated(f"deleting the job {id!r}"):
            self._client.delete_training_job(TrainingJobName=id)
        self._ended.pop(id, None)
        self._account.storage.delete_prefix(f"jobs/{id}/")
        self._logs.delete(_LOG_GROUP, f"{id}/")
        for folder in orphans(gone.details, [other.details for other in self.all()]):
            self._account.storage.delete_prefix(folder)


def _check_tracking(uri: str) -> None:
    """Raises where an address cannot be told to jobs; the message never repeats it, for it may hold a password."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ConfigError(
            f"tracking_uri is no address ({error}). Pass such as tracking_uri='https://mlflow.example'"
        ) from None
    if "@" in parts.netloc:
        raise ConfigError(
            "tracking_uri holds a user name or password, which everybody who may look at a job could read. Pass the "
            f"address without it: tracking_uri='{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}'"
        )
    if len(uri) > _MOST_IN_VARIABLE:
        raise ConfigError(
            f"tracking_uri has {len(uri):,} characters, and SageMaker takes {_MOST_IN_VARIABLE}. Pass a shorter address"
        )


def _status(answer: Mapping[str, Any]) -> tuple[Status, str]:
    """Returns our word for a training job's state, and the reason where it failed."""
    primary, secondary = answer["TrainingJobStatus"], answer.get("SecondaryStatus", "")
    if primary == "Completed":
        return "completed", ""
    if primary == "Failed":
        local_disk = has_local_disk(answer["ResourceConfig"].get("InstanceType", ""))
        return "failed", explain_failure(answer.get("FailureReason", "AWS gives no reason"), local_disk=local_disk)
    if primary == "Stopped":
        if secondary in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
            waited = "" if secondary == "MaxRuntimeExceeded" else ", the wait for spot capacity included"
            return "failed", f"it ran longer than Resources(max_hours=…){waited}"
        return "cancelled", ""
    started = secondary in ("Training", "Uploading", "Interrupted", "Restarting", "Stopping")
    return ("running" if started or primary == "Stopping" else "queued"), ""


def _spent(answer: Mapping[str, Any]) -> dict[str, float]:
    """Returns the seconds that AWS took before and after the container's own work."""
    names = {
        "Starting": "provisioning", "Pending": "provisioning", "LaunchingMLInstances": "provisioning",
        "PreparingTrainingStack": "provisioning", "Downloading": "preparing", "DownloadingTrainingImage": "preparing",
        "Interrupted": "interrupted", "Uploading": "saving",
    }  # fmt: skip
    spent: dict[str, float] = {}
    for step in answer.get("SecondaryStatusTransitions", ()):
        name = names.get(step["Status"])
        if name is not None and "EndTime" in step:
            seconds = (step["EndTime"] - step["StartTime"]).total_seconds()
            spent[name] = round(spent.get(name, 0.0) + seconds, 3)
    return spent
