"""What AWS does to its users: answers that get lost, calls that are refused, hours without an answer, and the bill."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import quick_sagemaker
from aws.handle import Emulator

from medimg.artifact import ModelFolder
from medimg.backends.job import Job
from medimg.backends.sagemaker.backend import SageMakerBackend
from medimg.config import ServeConfig
from medimg.data.dataset import Dataset
from medimg.data.synthetic import write_phantoms
from medimg.errors import AccessError, BackendError, MedimgError, NotFoundError, QuotaError, UnreachableError
from medimg.testing.workspace import phantom_dataset, recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("account")]

REGION = "eu-north-1"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A few phantoms."""
    return phantom_dataset(write_phantoms(tmp_path / "phantoms", patients=72, images_per_patient=(1, 1), size=48))


def test_with_a_third_of_all_calls_refused_every_operation_completes(
    account: Emulator, dataset: Dataset, trained: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 and 503, before and after the call was performed; each thing is made once. Waiting is cut short."""
    real_sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real_sleep(min(seconds, 0.2)))
    account.faults(rate=0.3, seed=7)
    backend = quick_sagemaker.backend()
    done = 0
    job = backend.train(dataset, recipe(), name="busy")
    done += 1
    for _ in range(10):
        assert quick_sagemaker.backend().job(job.id).status == "completed"
        assert [found.id for found in quick_sagemaker.backend().jobs()] == [job.id]
        assert list(quick_sagemaker.backend().job(job.id).logs())
        done += 3
    for number in range(5):
        version = backend.register(trained, name="busy")
        assert len(backend.models("busy")) == number + 1
        assert version.load().digest == trained.digest
        done += 3
    endpoint = backend.deploy(trained, name="busy")
    assert endpoint.predict(dataset.samples[0].path).label
    endpoint.delete()
    assert backend.endpoints() == ()
    done += 4
    assert done == 50
    account.clear_faults()
    assert account.calls()
    assert len(account.state(REGION)["training_jobs"]) == 1
    assert len(account.state(REGION)["model_packages"]) == 5


def test_a_job_that_cannot_be_asked_about_is_neither_failed_nor_submitted_twice(
    account: Emulator, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty minutes without an answer, at a question every two seconds; sleeping takes no time here."""
    backend = quick_sagemaker.backend()
    job = backend.train(dataset, recipe(epochs=60), name="lonely", wait=False)
    slept = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds
        if slept > 30 * 60:
            account.clear_faults()
            real_sleep(seconds)

    real_sleep = time.sleep
    account.outage(calls=1_000_000, operations=["DescribeTrainingJob", "GetLogEvents", "DescribeLogStreams"])
    account.mark()
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        Job(backend, job.id).wait()
    assert slept > 30 * 60
    assert job.status == "completed"
    assert not [call for call in account.calls() if call["operation"] == "CreateTrainingJob"]
    assert len(backend.jobs()) == 1
    with pytest.raises(UnreachableError):
        account.outage(calls=1_000_000)
        quick_sagemaker.backend().jobs()


@pytest.mark.parametrize(
    ("operation", "code", "expected", "says"),
    [
        ("CreateTrainingJob", "AccessDeniedException", AccessError, r"may not do|not authorized"),
        ("CreateTrainingJob", "ResourceLimitExceeded", QuotaError, r"quota"),
        ("CreateTrainingJob", "ExpiredTokenException", AccessError, r"has expired"),
        ("CreateTrainingJob", "UnrecognizedClientException", AccessError, r"does not know these credentials"),
        ("DescribeTrainingJob", "ValidationException", MedimgError, r"."),
    ],
)
def test_an_error_of_aws_says_what_to_do(
    account: Emulator, dataset: Dataset, operation: str, code: str, expected: type[Exception], says: str
) -> None:
    """Each is one of medimg's errors, keeps AWS's words, and names the fix."""
    account.faults(fail=[(operation, number, code) for number in range(1, 4)])
    with pytest.raises(expected, match=says):
        job = quick_sagemaker.backend().train(dataset, recipe(epochs=1), wait=False)
        _ = job.status


def test_a_missing_role_or_bucket_says_how_to_make_it(account: Emulator, dataset: Dataset) -> None:
    """The two that everybody meets first."""
    with pytest.raises(AccessError, match="medimg aws bootstrap"):
        quick_sagemaker.backend(role="nobody").train(dataset, recipe(), wait=False)
    with pytest.raises(NotFoundError, match="medimg aws bootstrap"):
        quick_sagemaker.backend(create_bucket=False, bucket="medimg-nowhere").train(dataset, recipe(), wait=False)


def test_no_capacity_is_a_failure_that_says_so(account: Emulator, dataset: Dataset) -> None:
    """AWS has no such machine now: another instance or region may."""
    account.capacity_errors(1)
    with pytest.raises(BackendError, match="no free machine"):
        quick_sagemaker.backend().train(dataset, recipe())


def test_time_to_live_without_its_role_is_refused_before_anything_is_made(
    account: Emulator, trained: ModelFolder
) -> None:
    """An endpoint that would not end must not be begun."""
    iam = account.client("iam")
    iam.delete_role_policy(RoleName="medimg-scheduler", PolicyName="policy")
    iam.delete_role(RoleName="medimg-scheduler")
    with pytest.raises(MedimgError, match="medimg aws bootstrap"):
        quick_sagemaker.backend().deploy(trained, ServeConfig(ttl_hours=1), name="endless")
    assert not account.state(REGION).get("endpoints")


def test_no_secret_name_or_patient_reaches_aws(
    account: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canaries in paths, file names, patients' ids, EXIF and keys are in no log, tag, key, object or metric."""
    ward, patient, secret = "ward-of-doctor-canary", "canary-patient", "canarySECRETcanary"
    root = write_phantoms(tmp_path / ward, patients=72, images_per_patient=(1, 1), size=48)
    for image in sorted(root.rglob("*.png")):
        image.rename(image.with_name(image.name.replace("patient", patient)))
    monkeypatch.setenv("MEDIMG_TEST_CANARY", secret)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    dataset = Dataset.from_folder(root, group=rf"({patient}\d+)")
    backend: SageMakerBackend = quick_sagemaker.backend()
    job = backend.train(dataset, recipe(epochs=2), name="canary")
    backend.register(job, name="quiet")
    with backend.deploy(job, ServeConfig(kind="lambda"), name="quiet") as endpoint:
        endpoint.predict(dataset.samples[0].path)
        key = backend._functions.apis.key("quiet")
        told = _everything(account)
    canaries = [ward, patient, secret, key, *{sample.path.stem for sample in dataset.samples}]
    for where, content in told.items():
        for canary in canaries:
            assert canary.encode() not in content, f"{canary!r} is in {where}"
    assert any(where.startswith("object ") for where in told) and any(where.startswith("log ") for where in told)


def _everything(account: Emulator) -> dict[str, bytes]:
    """Returns all that AWS holds of us, but the one place where the key belongs: SSM's encrypted parameter."""
    found: dict[str, bytes] = {}
    s3, logs, sagemaker = (account.client(name, REGION) for name in ("s3", "logs", "sagemaker"))
    for bucket in (each["Name"] for each in s3.list_buckets()["Buckets"]):
        if REGION in bucket:
            for item in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
                found[f"key {item['Key']}"] = item["Key"].encode()
                body = s3.get_object(Bucket=bucket, Key=item["Key"])
                found[f"object {item['Key']}"] = body["Body"].read() + json.dumps(body["Metadata"]).encode()
    for group in logs.describe_log_groups()["logGroups"]:
        for stream in logs.describe_log_streams(logGroupName=group["logGroupName"])["logStreams"]:
            events = logs.get_log_events(
                logGroupName=group["logGroupName"], logStreamName=stream["logStreamName"], startFromHead=True
            )["events"]
            name = f"log {group['logGroupName']}/{stream['logStreamName']}"
            found[name] = "\n".join(event["message"] for event in events).encode()
    for job in sagemaker.list_training_jobs()["TrainingJobSummaries"]:
        described = sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
        found[f"job {job['TrainingJobName']}"] = json.dumps(described, default=str).encode()
        tags = sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
        found[f"tags {job['TrainingJobName']}"] = json.dumps(tags).encode()
    for function in account.client("lambda", REGION).list_functions()["Functions"]:
        found[f"function {function['FunctionName']}"] = json.dumps(function, default=str).encode()
    found["state"] = json.dumps(account.state(REGION)).encode()
    return found
