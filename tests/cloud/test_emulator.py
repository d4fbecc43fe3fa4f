"""The emulator's own promises, with jobs of a line of shell: what the tests of the backend rest on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("moto", reason="the emulator of AWS needs moto: pip install 'moto[server]'")

from aws.handle import Emulator
from botocore.exceptions import ClientError, ConnectionClosedError
from machines import guardian

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_GROUP = "/aws/sagemaker/TrainingJobs"


class Region:
    """What the tests do in one region.

    Args:
        aws: The emulator.
        name: The region.
    """

    def __init__(self, aws: Emulator, name: str) -> None:
        self.aws = aws
        self.name = name
        self.bucket = f"bucket-{name}"
        self.role = aws.role("execution")
        self.sagemaker = aws.client("sagemaker", name)
        self.s3 = aws.client("s3", name)
        self.logs = aws.client("logs", name)
        self.s3.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": name})
        self.put("data/file.txt", b"hello\n")

    def put(self, key: str, body: ReadableBuffer) -> None:
        """Writes an object."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        """Reads an object."""
        return bytes(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def image(self, kind: str) -> str:
        """Returns an image's address."""
        return f"763104351884.dkr.ecr.{self.name}.amazonaws.com/tensorflow-{kind}:2.20-cpu"

    def request(self, name: str, script: str, **changed: Any) -> dict[str, Any]:
        """Returns a training job that runs a script."""
        algorithm = {
            "TrainingImage": self.image("training"),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/bash", "-c"],
            "ContainerArguments": [f"R=${{MEDIMG_ROOT:-/opt/ml}}; {script}"],
            **changed.pop("algorithm", {}),
        }
        source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{self.bucket}/data/"}}
        return {
            "TrainingJobName": name,
            "RoleArn": self.role,
            "AlgorithmSpecification": algorithm,
            "InputDataConfig": [{"ChannelName": "pack", "InputMode": "FastFile", "DataSource": source}],
            "OutputDataConfig": {"S3OutputPath": f"s3://{self.bucket}/jobs"},
            "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 5},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            **changed,
        }

    def start(self, name: str, script: str, **changed: Any) -> None:
        """Creates a training job."""
        self.sagemaker.create_training_job(**self.request(name, script, **changed))

    def end(self, name: str) -> dict[str, Any]:
        """Returns a training job once it has ended."""
        return until(
            lambda: self.sagemaker.describe_training_job(TrainingJobName=name),
            lambda job: job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"),
        )

    def run(self, name: str, script: str, **changed: Any) -> dict[str, Any]:
        """Creates a training job and returns it once it has ended."""
        self.start(name, script, **changed)
        return self.end(name)

    def lines(self, prefix: str, group: str = _GROUP) -> list[str]:
        """Returns the lines of the streams whose names begin so."""
        try:
            named = {"logStreamNamePrefix": prefix} if prefix else {}
            streams = self.logs.describe_log_streams(logGroupName=group, **named)["logStreams"]
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [
            event["message"]
            for stream in sorted(streams, key=lambda stream: stream["creationTime"])
            for event in self.logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
            )["events"]
        ]


def until(ask: Callable[[], Any], done: Callable[[Any], Any], seconds: float = 60.0) -> Any:
    """Asks until the answer is as wanted, and returns it."""
    deadline = time.monotonic() + seconds
    while not done(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.03)
    return answer


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator of this module's own: it breaks things, and its clock runs ahead."""
    with Emulator.start(tmp_path_factory.mktemp("emulator")) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def region(aws: Emulator) -> Region:
    """Where most tests are: with a bucket, data and a role."""
    return Region(aws, "ap-southeast-2")


@pytest.fixture(autouse=True)
def nothing_wrong(aws: Emulator) -> Iterator[None]:
    """Takes back what a test made go wrong."""
    yield
    aws.enforce_iam(False)
    aws.clear_faults()
    aws.settings(grace_seconds=120.0)


# -- training ---------------------------------------------------------------------------------------------------------


def test_a_job_finds_its_data_and_leaves_a_model(region: Region) -> None:
    """Channels, configuration, the model's archive, times and the kept description."""
    job = region.run(
        "job-1",
        "cat $R/input/data/pack/file.txt > $R/model/copy; cat $R/input/config/hyperparameters.json; echo; "
        "echo x > $R/output/data/extra; echo value=$VALUE",
        HyperParameters={"alpha": "0.5"},
        Environment={"VALUE": "7"},
    )
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Completed"
    assert (job["HyperParameters"], job["Environment"]) == ({"alpha": "0.5"}, {"VALUE": "7"})
    told = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert told == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert job["TrainingTimeInSeconds"] == job["BillableTimeInSeconds"] >= 1
    key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{region.bucket}/")
    with tarfile.open(fileobj=io.BytesIO(region.get(key))) as archive:
        assert archive.extractfile("copy").read() == b"hello\n"  # type: ignore[union-attr]
    assert region.get("jobs/job-1/output/output.tar.gz")
    assert [json.loads(region.lines("job-1/")[0]), region.lines("job-1/")[1]] == [{"alpha": "0.5"}, "value=7"]


def test_a_job_cannot_import_the_checkout(region: Region) -> None:
    """It has the image's packages, a Python and a home of its own, and nothing of the caller's environment."""
    os.environ["CALLERS_SECRET"] = "secret"
    region.run("job-2", "python -c 'import numpy; print(numpy.__file__)'; python -c 'import medimg'; env; echo ~")
    lines = region.lines("job-2/")
    assert lines[0].endswith("numpy/__init__.py") and str(region.aws.root) in lines[0]
    assert "ModuleNotFoundError: No module named 'medimg'" in lines
    assert not any("CALLERS_SECRET" in line for line in lines)
    assert lines[-1].startswith(str(region.aws.root))


def test_a_wheel_is_installed_into_the_job_s_own_python(region: Region) -> None:
    """`pip install --no-deps` finds no other medimg in the way, and the next job does not have it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr("medimg/__init__.py", "print('of the wheel')\n")
        wheel.writestr("medimg-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: medimg\nVersion: 0.1.0\n")
        wheel.writestr("medimg-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("medimg-0.1.0.dist-info/RECORD", "")
    region.put("data/medimg-0.1.0-py3-none-any.whl", buffer.getvalue())
    install = "python -m pip install --quiet --no-deps $R/input/data/pack/*.whl"
    region.run("job-3", f"{install} && python -c 'import medimg'; python -m pip install numpy nosuchpackage")
    assert "of the wheel" in region.lines("job-3/")
    assert any("No matching distribution found for nosuchpackage" in line for line in region.lines("job-3/"))
    region.run("job-4", "python -c 'import medimg'")
    assert "of the wheel" not in region.lines("job-4/")


def test_log_lines_are_there_while_the_job_runs(region: Region) -> None:
    """The first line is seen in less than a second, with the rest still to come."""
    region.start("job-5", "echo '{\"auroc\": 0.75}'; sleep 30", algorithm={"MetricDefinitions": [
        {"Name": "auroc", "Regex": r'"auroc": ([0-9.]+)'}]})  # fmt: skip
    until(lambda: region.lines("job-5/"), bool, 10)
    job = region.sagemaker.describe_training_job(TrainingJobName="job-5")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("InProgress", "Training")
    assert [(metric["MetricName"], metric["Value"]) for metric in job["FinalMetricDataList"]] == [("auroc", 0.75)]
    region.aws.settings(grace_seconds=0.2)
    region.sagemaker.stop_training_job(TrainingJobName="job-5")
    assert region.end("job-5")["TrainingJobStatus"] == "Stopped"


def test_a_stopped_job_gets_sigterm_and_may_save_its_state(region: Region) -> None:
    """The first process gets it; what it then writes is uploaded."""
    script = "trap 'echo saved > $R/model/state; exit 143' TERM; echo ready; while true; do sleep 0.05; done"
    region.start("job-6", script)
    until(lambda: region.lines("job-6/"), bool)
    region.sagemaker.stop_training_job(TrainingJobName="job-6")
    assert region.end("job-6")["ModelArtifacts"]["S3ModelArtifacts"].endswith("job-6/output/model.tar.gz")
    with pytest.raises(ClientError, match="is in status Stopped"):
        region.sagemaker.stop_training_job(TrainingJobName="job-6")


def test_a_job_that_ignores_sigterm_is_killed_with_its_children(region: Region) -> None:
    """After the grace nothing of it is left."""
    region.aws.settings(grace_seconds=0.3)
    region.start("job-7", "trap '' TERM; setsid sleep 300 & echo child=$!; wait; sleep 300")
    until(lambda: region.lines("job-7/"), bool)
    region.sagemaker.stop_training_job(TrainingJobName="job-7")
    assert region.end("job-7")["TrainingJobStatus"] == "Stopped"
    child = int(region.lines("job-7/")[0].partition("=")[2])
    until(lambda: Path(f"/proc/{child}/cmdline").exists() and b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes(),
          lambda alive: not alive, 5)  # fmt: skip


def test_a_job_that_runs_too_long_is_stopped(region: Region) -> None:
    """Its secondary status says why."""
    region.aws.settings(grace_seconds=0.2)
    job = region.run("job-8", "exec sleep 60", StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        ("own", "echo 'it was the data' > $R/output/failure; exit 2", "AlgorithmError: it was the data, exit code: 2"),
        ("tail", "echo 'the last words'; exit 1", "AlgorithmError: the last words, exit code: 1"),
    ],
)
def test_a_failure_is_told_as_aws_tells_it(region: Region, name: str, script: str, reason: str) -> None:
    """By what the job wrote, else by its last lines."""
    job = region.run(f"job-failure-{name}", script)
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", reason)


def test_what_is_missing_fails_the_job_or_the_call(region: Region) -> None:
    """An image or data that is not there fails the job; a role or a machine that is none is refused at once."""
    image = {"TrainingImage": region.image("nothing")}
    assert "Cannot pull image" in region.run("job-no-image", "true", algorithm=image)["FailureReason"]
    elsewhere = {"TrainingImage": region.image("training").replace(region.name, "us-east-1")}
    assert "Cannot pull image" in region.run("job-elsewhere", "true", algorithm=elsewhere)["FailureReason"]
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{region.bucket}/nothing/"}}
    job = region.run("job-no-data", "true", InputDataConfig=[{"ChannelName": "pack", "DataSource": source}])
    assert job["FailureReason"].startswith("ClientError: No S3 objects found")
    for changed, words in (
        ({"RoleArn": "arn:aws:iam::123456789012:role/nobody"}, "Could not assume role"),
        ({"RoleArn": region.aws.role("of-lambda", "lambda.amazonaws.com")}, "Could not assume role"),
        ({"ResourceConfig": {"InstanceType": "ml.q9.huge", "InstanceCount": 1, "VolumeSizeInGB": 5}}, "enum value set"),
        ({"TrainingJobName": "under_score"}, "regular expression pattern"),
        ({"HyperParameters": {"long": "x" * 2501}}, "length less than or equal to 2500"),
        ({"EnableManagedSpotTraining": True}, "MaxWaitTimeInSeconds"),
    ):
        with pytest.raises(ClientError, match=words):
            region.start("job-refused", "true", **changed)
    assert "job-refused" not in region.aws.state(region.name)["training_jobs"]


def test_of_twenty_identical_submits_one_makes_a_job(region: Region) -> None:
    """The others are told that the name is taken."""

    def submit(number: int) -> str:
        try:
            region.start("job-once", "true")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "made"

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(submit, range(20))) == ["ResourceInUse"] * 19 + ["made"]
    region.end("job-once")


def test_fast_files_cannot_be_written(region: Region) -> None:
    """Where the machine allows containers a view of their own."""
    region.run("job-9", "touch $R/input/data/pack/new && echo written")
    lines = region.lines("job-9/")
    if not any("Read-only file system" in line for line in lines):
        pytest.skip("this machine forbids user namespaces")
    assert "written" not in lines


def test_a_spot_interruption_goes_on_from_the_checkpoint_on_another_instance(region: Region) -> None:
    """Checkpoints are kept while the job runs, and come back into a fresh container with a stream of its own."""
    script = (
        "if [ -f $R/checkpoints/step ]; then echo resumed $(cat $R/checkpoints/step); cp $R/checkpoints/step $R/model; "
        "else echo 5 > $R/checkpoints/step; echo first; exec sleep 60; fi"
    )
    region.start(
        "job-spot", script, EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 100, "MaxWaitTimeInSeconds": 200},
        CheckpointConfig={"S3Uri": f"s3://{region.bucket}/checkpoints/a"},
    )  # fmt: skip
    until(lambda: region.s3.list_objects_v2(Bucket=region.bucket, Prefix="checkpoints/a/")["KeyCount"], bool)
    region.aws.interrupt_spot("job-spot", region.name)
    job = region.end("job-spot")
    assert job["TrainingJobStatus"] == "Completed"
    told = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert told == [
        "Starting", "Downloading", "Training", "Interrupted", "Starting", "Downloading", "Training", "Uploading",
        "Completed",
    ]  # fmt: skip
    assert region.lines("job-spot/") == ["first", "resumed 5"]
    streams = region.logs.describe_log_streams(logGroupName=_GROUP, logStreamNamePrefix="job-spot/")["logStreams"]
    assert len(streams) == 2


def test_jobs_are_listed_by_pages_and_deleted_when_they_have_ended(region: Region) -> None:
    """Newest first; a job that runs is not deleted; tags go with it."""
    for number in range(3):
        region.run(f"listed-{number}", "true", Tags=[{"Key": "medimg", "Value": "x"}])
    pages = region.sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains="listed", PaginationConfig={"PageSize": 2}
    )
    names = [[job["TrainingJobName"] for job in page["TrainingJobSummaries"]] for page in pages]
    assert names == [["listed-2", "listed-1"], ["listed-0"]]
    arn = region.sagemaker.describe_training_job(TrainingJobName="listed-0")["TrainingJobArn"]
    assert region.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "medimg", "Value": "x"}]
    region.sagemaker.delete_training_job(TrainingJobName="listed-0")
    with pytest.raises(ClientError, match="Could not find"):
        region.sagemaker.list_tags(ResourceArn=arn)
    region.start("listed-3", "exec sleep 60")
    with pytest.raises(ClientError, match="in status InProgress"):
        region.sagemaker.delete_training_job(TrainingJobName="listed-3")
    region.sagemaker.stop_training_job(TrainingJobName="listed-3")
    region.end("listed-3")


def test_regions_are_separate_and_can_be_reset(aws: Emulator) -> None:
    """The same name twice, and nothing left of a region that was reset."""
    first, second = Region(aws, "sa-east-1"), Region(aws, "ca-central-1")
    for each in (first, second):
        each.run("same-name", f"echo {each.name}")
        assert each.lines("same-name/") == [each.name]
    aws.reset_region("sa-east-1")
    assert "training_jobs" not in aws.state("sa-east-1") and "buckets" not in aws.state("sa-east-1")
    assert aws.state("ca-central-1")["training_jobs"] == ["same-name"]
    with pytest.raises(ClientError, match="404"):
        first.s3.head_bucket(Bucket=first.bucket)
    assert Region(aws, "sa-east-1").lines("same-name/") == []
    aws.reset_region("ca-central-1")


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_capacity_and_quota_are_told_in_aws_s_words(region: Region) -> None:
    """A quota refuses the call; a machine that is not there fails the job."""
    region.aws.capacity_errors(1)
    assert region.run("job-capacity", "true")["FailureReason"].startswith("CapacityError: ")
    region.aws.quota("ml.m5.xlarge for training job usage", 0, region.name)
    with pytest.raises(ClientError, match=r"service limit 'ml\.m5\.xlarge for training job usage' is 0 "):
        region.start("job-quota", "true")
    quotas = region.aws.client("service-quotas", region.name).get_paginator("list_service_quotas")
    found = {
        quota["QuotaName"]: quota["Value"]
        for page in quotas.paginate(ServiceCode="sagemaker")
        for quota in page["Quotas"]
    }
    assert found["ml.m5.xlarge for training job usage"] == 0


def test_a_key_for_disks_that_encrypt_by_themselves_is_refused(region: Region) -> None:
    """Those inside the machine; the volumes of other machines take it."""
    key = f"arn:aws:kms:{region.name}:123456789012:key/0"
    resources = {"InstanceCount": 1, "VolumeSizeInGB": 5, "VolumeKmsKeyId": key}
    for instance in ("ml.g4dn.xlarge", "ml.g5.2xlarge", "ml.r5d.large", "ml.p4d.24xlarge", "ml.trn1.2xlarge"):
        with pytest.raises(ClientError, match="KMS key is not supported for NVMe instance storage"):
            region.start("job-kms", "true", ResourceConfig={**resources, "InstanceType": instance})
    job = region.run("job-kms", "true", ResourceConfig={**resources, "InstanceType": "ml.c6i.xlarge"})
    assert job["TrainingJobStatus"] == "Completed"


def test_faults_hit_the_calls_they_name_and_the_journal_says_so(region: Region) -> None:
    """The nth call of an operation; a share of all, some of them performed; none at all."""
    aws = region.aws
    client = aws.client("sagemaker", region.name, attempts=1)
    aws.mark()
    aws.faults(fail=("ListModels", 2, "AccessDeniedException"))
    client.list_models()
    with pytest.raises(ClientError, match="AccessDeniedException"):
        client.list_models()
    client.list_models()
    assert [call["status"] for call in aws.calls("sagemaker", "ListModels")] == [200, 403, 200]
    aws.clear_faults()
    aws.faults(rate=1.0, statuses=[429], operations=["AddTags"], seed=1)
    aws.mark()
    arn = client.describe_training_job(TrainingJobName="job-1")["TrainingJobArn"]
    for number in range(6):
        with pytest.raises(ClientError, match="ThrottlingException"):
            client.add_tags(ResourceArn=arn, Tags=[{"Key": f"tag-{number}", "Value": ""}])
    aws.clear_faults()
    calls = aws.calls(operation="AddTags")
    assert {call["status"] for call in calls} == {429} and {call["fault"] for call in calls} == {"before", "after"}
    assert 0 < len(client.list_tags(ResourceArn=arn)["Tags"]) < 6


def test_an_outage_closes_connections_and_ends(region: Region) -> None:
    """For so many calls; others are not concerned."""
    once = region.aws.client("sagemaker", region.name, attempts=1)
    region.aws.outage(calls=2, operations=["ListModels"])
    for _ in range(2):
        with pytest.raises(ConnectionClosedError):
            once.list_models()
    once.list_endpoints()
    once.list_models()
    region.aws.outage(seconds=30)
    with pytest.raises(ConnectionClosedError):
        region.aws.client("s3", region.name, attempts=1).list_buckets()
    region.aws.clear_faults()
    once.list_models()


def test_of_several_conditional_writes_one_succeeds(region: Region) -> None:
    """`If-None-Match: *` is honoured, also at the same moment."""

    def write(number: int) -> bool:
        try:
            region.s3.put_object(Bucket=region.bucket, Key="once", Body=str(number), IfNoneMatch="*")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8))) == 1


def test_policies_are_enforced_for_callers_and_for_a_job_s_role(region: Region) -> None:
    """Actions, resources, tags and the passing of roles; and the simulator agrees."""
    aws, iam = region.aws, region.aws.client("iam")
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["sagemaker:CreateTrainingJob", "sagemaker:Describe*"],
             "Resource": f"arn:aws:sagemaker:{region.name}:123456789012:training-job/mine-*"},
            {"Effect": "Allow", "Action": "iam:PassRole", "Resource": region.role,
             "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}},
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{region.bucket}/data/*"},
        ],
    }  # fmt: skip
    iam.create_user(UserName="ann")
    iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    import boto3

    session = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name=region.name)
    sagemaker, s3 = (session.client(name, endpoint_url=aws.url) for name in ("sagemaker", "s3"))
    nearly_nothing = {"Effect": "Allow", "Action": "logs:*", "Resource": "*"}
    narrow = aws.role("narrow", policy={"Version": "2012-10-17", "Statement": [nearly_nothing]})
    aws.enforce_iam()
    sagemaker.create_training_job(**region.request("mine-1", "true"))
    assert s3.get_object(Bucket=region.bucket, Key="data/file.txt")["Body"].read() == b"hello\n"
    for ask, action in (
        (lambda: sagemaker.create_training_job(**region.request("other", "true")), "sagemaker:CreateTrainingJob"),
        (lambda: sagemaker.create_training_job(**region.request("mine-2", "true", RoleArn=narrow)), "iam:PassRole"),
        (lambda: sagemaker.list_models(), "sagemaker:ListModels"),
        (lambda: s3.list_objects_v2(Bucket=region.bucket), "s3:ListBucket"),
    ):
        with pytest.raises(ClientError, match=f"not authorized to perform: {action} "):
            ask()
    assert "not authorized to perform: s3:ListBucket" in region.run("narrow", "true", RoleArn=narrow)["FailureReason"]
    simulated = iam.simulate_principal_policy(
        PolicySourceArn=iam.get_user(UserName="ann")["User"]["Arn"],
        ActionNames=["s3:GetObject", "s3:DeleteObject"],
        ResourceArns=[f"arn:aws:s3:::{region.bucket}/data/x"],
    )["EvaluationResults"]
    assert [result["EvalDecision"] for result in simulated] == ["allowed", "implicitDeny"]
    region.end("mine-1")


# -- functions, HTTP APIs, schedules ----------------------------------------------------------------------------------

_FUNCTION = """
import base64, os, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    print("call", calls)
    if event.get("sleep"):
        time.sleep(event["sleep"])
    if "rawPath" in event:
        body = base64.b64decode(event["body"])
        return {"statusCode": 201, "headers": {"content-type": "image/png"}, "isBase64Encoded": True,
                "body": base64.b64encode(body[::-1]).decode()}
    try:
        import numpy
    except ImportError:
        numpy = None
    return [calls, numpy is None, context.memory_limit_in_mb, os.environ["SETTING"]]
"""


@pytest.fixture(scope="module")
def function(region: Region) -> str:
    """A function's ARN."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("app.py")
        entry.external_attr = 0o644 << 16
        archive.writestr(entry, _FUNCTION)
    answer = region.aws.client("lambda", region.name).create_function(
        FunctionName="function", Runtime=f"python3.{sys.version_info.minor}", Handler="app.handler", Timeout=1,
        Role=region.aws.role("of-lambda", "lambda.amazonaws.com"), Code={"ZipFile": buffer.getvalue()},
        MemorySize=256, Environment={"Variables": {"SETTING": "set"}},
    )  # fmt: skip
    return str(answer["FunctionArn"])


def test_a_function_starts_cold_stays_warm_and_sees_only_its_zip(region: Region, function: str) -> None:
    """AWS's own runtime client runs it; a time-out ends it, and its output is in its log."""
    client = region.aws.client("lambda", region.name)

    def invoke(event: Any) -> tuple[Any, str | None]:
        answer = client.invoke(FunctionName=function, Payload=json.dumps(event))
        return json.loads(answer["Payload"].read()), answer.get("FunctionError")

    assert invoke({}) == ([1, True, "256", "set"], None)
    assert invoke({}) == ([2, True, "256", "set"], None)
    failed, kind = invoke({"sleep": 20})
    assert kind == "Unhandled" and "Task timed out after 1.00 seconds" in failed["errorMessage"]
    assert invoke({})[0][0] == 1
    until(
        lambda: region.lines("", "/aws/lambda/function"), lambda lines: any("Init Duration" in line for line in lines)
    )


def test_a_function_s_tags_are_told_to_those_who_may_list_them(region: Region, function: str) -> None:
    """GetFunction leaves them out silently."""
    aws, iam = region.aws, region.aws.client("iam")
    aws.client("lambda", region.name).tag_resource(Resource=function, Tags={"medimg": "x"})
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    import boto3

    session = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name=region.name)
    client = session.client("lambda", endpoint_url=aws.url)
    aws.enforce_iam()
    for actions, there in ((["lambda:GetFunction"], False), (["lambda:GetFunction", "lambda:ListTags"], True)):
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": function}]}
        iam.put_user_policy(UserName="reader", PolicyName="p", PolicyDocument=json.dumps(policy))
        assert ("medimg" in client.get_function(FunctionName=function).get("Tags", {})) is there


def test_what_a_function_may_not_have_is_refused(region: Region) -> None:
    """A zip that unpacks to too much, files that only their owner may read, variables over 4 KB."""
    client = region.aws.client("lambda", region.name)

    def make(name: str, size: int = 0, mode: int = 0o644, **variables: str) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file, content in (("app.py", _FUNCTION.encode()), ("more", bytes(size))):
                entry = zipfile.ZipInfo(file)
                entry.external_attr = mode << 16
                archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
        client.create_function(
            FunctionName=name, Runtime=f"python3.{sys.version_info.minor}", Handler="app.handler",
            Role=region.aws.role("of-lambda", "lambda.amazonaws.com"), Code={"ZipFile": buffer.getvalue()},
            Environment={"Variables": variables},
        )  # fmt: skip

    with pytest.raises(ClientError, match="Unzipped size must be smaller than 262144000 bytes"):
        make("large", size=262_144_000)
    with pytest.raises(ClientError, match="exceeded the 4KB limit"):
        make("wordy", LONG="x" * 4096)
    with pytest.raises(ClientError, match="Reserved keys used in this request: AWS_REGION"):
        make("reserved", AWS_REGION="us-east-1")
    make("private", mode=0o600)
    answer = client.invoke(FunctionName="private")
    assert "Permission denied: '/var/task/app.py'" in json.loads(answer["Payload"].read())["errorMessage"]


def test_an_http_api_leads_to_a_function_that_allows_it(region: Region, function: str) -> None:
    """Bytes go there and back; without the permission, without a stage and without a route they do not."""
    client, api = region.aws.client("lambda", region.name), region.aws.client("apigatewayv2", region.name)
    made = api.create_api(Name="api", ProtocolType="HTTP")
    id, url = made["ApiId"], made["ApiEndpoint"]
    integration = api.create_integration(
        ApiId=id, IntegrationType="AWS_PROXY", IntegrationUri=function, PayloadFormatVersion="2.0"
    )
    api.create_route(ApiId=id, RouteKey="POST /predict", Target=f"integrations/{integration['IntegrationId']}")

    def post(path: str, body: bytes = b"\x89PNG\xff") -> tuple[int, bytes]:
        request = urllib.request.Request(url + path, body, {"Content-Type": "image/png"})  # noqa: S310
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    assert post("/predict")[0] == 404
    api.create_stage(ApiId=id, StageName="$default", AutoDeploy=True)
    assert post("/predict")[0] == 500
    source = f"arn:aws:execute-api:{region.name}:123456789012:{id}/*"
    permission = {"FunctionName": "function", "StatementId": "api", "Action": "lambda:InvokeFunction",
                  "Principal": "apigateway.amazonaws.com", "SourceArn": source}  # fmt: skip
    client.add_permission(**permission)
    with pytest.raises(ClientError, match="ResourceConflictException"):
        client.add_permission(**permission)
    assert post("/predict") == (201, b"\xffGNP\x89")
    assert post("/other")[0] == 404
    assert post("/predict", bytes(10 * 1024 * 1024 + 1))[0] == 413
    api.delete_api(ApiId=id)
    assert post("/predict")[0] == 404


def test_a_schedule_does_its_call_when_the_clock_comes_to_it(region: Region) -> None:
    """Not before; it deletes itself; a role that the scheduler may not assume is refused."""
    scheduler, ssm = (region.aws.client(name, region.name) for name in ("scheduler", "ssm"))
    ssm.put_parameter(Name="/medimg/key", Value="secret", Type="SecureString")
    target = {
        "Arn": "arn:aws:scheduler:::aws-sdk:ssm:deleteParameter",
        "Input": json.dumps({"Name": "/medimg/key"}),
        "RoleArn": region.role,
    }
    due = datetime.now(UTC) + timedelta(hours=2)
    schedule: dict[str, Any] = {
        "Name": "end", "ScheduleExpression": f"at({due:%Y-%m-%dT%H:%M:%S})", "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE", "Target": target,
    }  # fmt: skip
    with pytest.raises(ClientError, match="must allow AWS EventBridge Scheduler to assume the role"):
        scheduler.create_schedule(**schedule)
    target["RoleArn"] = region.aws.role("of-the-scheduler", "scheduler.amazonaws.com")
    scheduler.create_schedule(**schedule)
    region.aws.advance(3600)
    assert region.aws.state(region.name)["ssm_parameters"] == ["/medimg/key"]
    region.aws.advance(3700)
    assert not {"ssm_parameters", "schedules"} & set(region.aws.state(region.name))
    region.aws.reset_clock()


def test_a_schedule_whose_call_is_refused_does_not_try_again(region: Region) -> None:
    """What is wrong stays wrong: unlike a call that AWS had no time for. A setting takes the other view."""
    aws, scheduler = region.aws, region.aws.client("scheduler", region.name)
    target = {
        "Arn": "arn:aws:scheduler:::aws-sdk:ssm:deleteParameter",
        "Input": json.dumps({"Name": "/medimg/nothing"}),
        "RoleArn": aws.role("of-the-scheduler", "scheduler.amazonaws.com"),
        "RetryPolicy": {"MaximumRetryAttempts": 20},
    }

    def tries() -> int:
        return len(aws.calls("ssm", "DeleteParameter"))

    try:
        for again in (False, True):
            aws.settings(retry_refused_schedules=again)
            due = datetime.now(UTC) + timedelta(hours=2)
            aws.mark()
            scheduler.create_schedule(
                Name=f"end-{again}", ScheduleExpression=f"at({due:%Y-%m-%dT%H:%M:%S})", Target=target,
                FlexibleTimeWindow={"Mode": "OFF"}, ActionAfterCompletion="DELETE",
            )  # fmt: skip
            aws.advance(7300)
            if again:
                until(tries, lambda number: number == 2)
                assert aws.state(region.name)["schedules"] == ["end-True"]
            else:
                assert (tries(), "schedules" in aws.state(region.name)) == (1, False)
            aws.reset_clock()
    finally:
        aws.settings(retry_refused_schedules=False)
        scheduler.delete_schedule(Name="end-True")


def test_prices_come_in_the_price_list_s_form(aws: Emulator) -> None:
    """By filters, from one of the regions that serve the list."""
    answer = aws.client("pricing", "us-east-1").get_products(
        ServiceCode="AmazonSageMaker",
        Filters=[
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in (("regionCode", "us-east-1"), ("instanceName", "ml.m5.large"), ("component", "Hosting"))
        ],
    )
    (product,) = map(json.loads, answer["PriceList"])
    (term,) = product["terms"]["OnDemand"].values()
    (dimension,) = term["priceDimensions"].values()
    assert (float(dimension["pricePerUnit"]["USD"]), dimension["unit"]) == (0.115, "Hrs")


# -- endpoints --------------------------------------------------------------------------------------------------------

_HANDLER = """
import json, os
import falcon, requests
import bundled
if os.environ.get("CRASH"):
    raise RuntimeError("golden inputs differ")
def handler(data, context):
    body = data.read()
    if context.request_content_type != "application/json":
        raise falcon.HTTPError(falcon.HTTP_415, title="not JSON")
    answer = requests.post(context.rest_uri, data=body, timeout=20).json()
    return json.dumps({**answer, "bundled": bundled.VALUE, "medimg": "medimg" in str(os.listdir())}), "application/json"
"""
_SAVED_MODEL = """
import sys
import tensorflow as tf
class Sum(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    def serve(self, x):
        return {"sum": tf.reduce_sum(x, axis=1, keepdims=True)}
model = Sum()
tf.saved_model.save(model, sys.argv[1], signatures={"serving_default": model.serve})
"""


@pytest.fixture(scope="module")
def served(region: Region, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a model's archive."""
    folder = tmp_path_factory.mktemp("saved") / "1"
    subprocess.run([sys.executable, "-c", _SAVED_MODEL, str(folder)], check=True, capture_output=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, "model/exports/saved_model/1")
        for name, text in {
            "code/inference.py": _HANDLER, "code/lib/bundled.py": "VALUE = 5", "code/requirements.txt": "nosuchpackage",
        }.items():  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    region.put("models/model.tar.gz", buffer.getvalue())
    return f"s3://{region.bucket}/models/model.tar.gz"


def test_the_registry_numbers_versions_and_gives_no_number_twice(region: Region, served: str) -> None:
    """A version is approved, served and deleted; a group with versions stays."""
    client = region.sagemaker
    client.create_model_package_group(ModelPackageGroupName="Chest", Tags=[{"Key": "medimg", "Value": "x"}])
    specification = {
        "Containers": [{"Image": region.image("inference"), "ModelDataUrl": served}],
        "SupportedContentTypes": ["image/png"],
        "SupportedResponseMIMETypes": ["application/json"],
    }

    def register(**more: Any) -> str:
        answer = client.create_model_package(
            ModelPackageGroupName="Chest", InferenceSpecification=specification,
            CustomerMetadataProperties={"auroc": "0.75"}, **more,
        )  # fmt: skip
        return str(answer["ModelPackageArn"])

    first = register()
    assert first.endswith("model-package/chest/1")
    client.update_model_package(ModelPackageArn=first, ModelApprovalStatus="Approved")
    told = client.describe_model_package(ModelPackageName=first)
    assert (told["ModelApprovalStatus"], told["CustomerMetadataProperties"]) == ("Approved", {"auroc": "0.75"})
    with pytest.raises(ClientError, match="Tags are not allowed"):
        register(Tags=[{"Key": "a", "Value": "b"}])
    with pytest.raises(ClientError, match="still contains"):
        client.delete_model_package_group(ModelPackageGroupName="Chest")
    client.delete_model_package(ModelPackageName=first)
    with pytest.raises(ClientError, match="does not exist"):
        client.describe_model_package(ModelPackageName=first)
    assert register().endswith("model-package/chest/2")


def test_an_endpoint_serves_is_updated_without_a_gap_and_is_deleted(region: Region, served: str) -> None:
    """A new configuration that does not become healthy leaves the old one serving."""
    client, runtime = region.sagemaker, region.aws.client("sagemaker-runtime", region.name)
    for name, environment in (("good", {}), ("bad", {"CRASH": "1"})):
        container = {"Image": region.image("inference"), "ModelDataUrl": served, "Environment": environment}
        client.create_model(ModelName=name, ExecutionRoleArn=region.role, PrimaryContainer=container)
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large",
                   "InitialInstanceCount": 1}  # fmt: skip
        client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])

    def settled() -> Any:
        return until(
            lambda: client.describe_endpoint(EndpointName="endpoint"),
            lambda told: told["EndpointStatus"] not in ("Creating", "Updating"),
            120,
        )

    def invoke(body: bytes = b'{"instances": [[1, 2]]}', content_type: str = "application/json") -> Any:
        answer = runtime.invoke_endpoint(EndpointName="endpoint", Body=body, ContentType=content_type)
        return json.loads(answer["Body"].read())

    client.create_endpoint(EndpointName="endpoint", EndpointConfigName="good")
    pending = client.describe_endpoint(EndpointName="endpoint")["PendingDeploymentSummary"]
    assert pending["EndpointConfigName"] == "good"
    assert [variant["VariantName"] for variant in pending["ProductionVariants"]] == ["AllTraffic"]
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        client.update_endpoint(EndpointName="endpoint", EndpointConfigName="good")
    with pytest.raises(ClientError, match="not found"):
        invoke()
    with pytest.raises(ClientError, match="Cannot create already existing endpoint"):
        client.create_endpoint(EndpointName="endpoint", EndpointConfigName="good")
    with pytest.raises(ClientError, match="in-progress"):
        client.delete_endpoint(EndpointName="endpoint")
    assert settled()["EndpointStatus"] == "InService", settled()
    assert "PendingDeploymentSummary" not in settled()
    with pytest.raises(ClientError, match=r"\(ValidationError\).* exceeded 6291456 bytes"):
        invoke(bytes(6 * 1024 * 1024 + 1))
    assert invoke() == {"predictions": [[3.0]], "bundled": 5, "medimg": False}
    with pytest.raises(ClientError) as refused:
        invoke(b"\x89PNG\xff", "image/png")
    assert refused.value.response["OriginalStatusCode"] == 415  # type: ignore[typeddict-item]
    scaling = region.aws.client("application-autoscaling", region.name)
    target = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
              "MinCapacity": 1, "MaxCapacity": 2}  # fmt: skip
    scaling.register_scalable_target(ResourceId="endpoint/endpoint/variant/AllTraffic", **target)
    with pytest.raises(ClientError, match="No scalable resource found"):
        scaling.register_scalable_target(ResourceId="endpoint/another/variant/AllTraffic", **target)
    client.update_endpoint(EndpointName="endpoint", EndpointConfigName="bad")
    told = client.describe_endpoint(EndpointName="endpoint")
    assert (told["EndpointConfigName"], told["PendingDeploymentSummary"]["EndpointConfigName"]) == ("good", "bad")
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        client.update_endpoint(EndpointName="endpoint", EndpointConfigName="good")
    while client.describe_endpoint(EndpointName="endpoint")["EndpointStatus"] == "Updating":
        assert invoke()["bundled"] == 5
    told = settled()
    assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", "good")
    assert "did not pass the ping health check" in told["FailureReason"]
    assert "RuntimeError: golden inputs differ" in region.lines("", "/aws/sagemaker/Endpoints/endpoint")
    serverless = {"VariantName": "AllTraffic", "ModelName": "good",
                  "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}  # fmt: skip
    client.create_endpoint_config(EndpointConfigName="small", ProductionVariants=[serverless])
    client.update_endpoint(EndpointName="endpoint", EndpointConfigName="small")
    client.delete_endpoint_config(EndpointConfigName="small")
    told = settled()
    assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", "good"), "what it needs was deleted"
    assert "Could not find" in told["FailureReason"]
    client.create_endpoint_config(EndpointConfigName="small", ProductionVariants=[serverless])
    client.update_endpoint(EndpointName="endpoint", EndpointConfigName="small")
    assert settled()["EndpointConfigName"] == "small"
    with pytest.raises(ClientError, match=r"\(ValidationError\).* exceeded 4194304 bytes"):
        invoke(bytes(4 * 1024 * 1024 + 1))
    client.delete_endpoint(EndpointName="endpoint")
    until(lambda: "endpoints" in region.aws.state(region.name), lambda there: not there)
    with pytest.raises(ClientError, match="Could not find endpoint"):
        client.describe_endpoint(EndpointName="endpoint")


def test_a_transform_job_answers_for_each_object(region: Region, served: str) -> None:
    """By the same container; each answer is beside its object's name, with `.out`."""
    container = {"Image": region.image("inference"), "ModelDataUrl": served}
    region.sagemaker.create_model(ModelName="batch", ExecutionRoleArn=region.role, PrimaryContainer=container)
    for number in range(3):
        region.put(f"batch/{number}.json", json.dumps({"instances": [[number, 1]]}).encode())
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{region.bucket}/batch/"}}
    region.sagemaker.create_transform_job(
        TransformJobName="transform", ModelName="batch", MaxConcurrentTransforms=2,
        TransformInput={"DataSource": source, "ContentType": "application/json"},
        TransformOutput={"S3OutputPath": f"s3://{region.bucket}/answers"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )  # fmt: skip
    job = until(
        lambda: region.sagemaker.describe_transform_job(TransformJobName="transform"),
        lambda told: told["TransformJobStatus"] != "InProgress",
        120,
    )
    assert job["TransformJobStatus"] == "Completed", job
    for number in range(3):
        assert json.loads(region.get(f"answers/{number}.json.out"))["predictions"] == [[number + 1.0]]


# -- the process ------------------------------------------------------------------------------------------------------


def test_without_namespaces_a_job_is_told_where_its_folder_is(tmp_path: Path) -> None:
    """As on machines that forbid them: everything else is the same."""
    with Emulator.start(tmp_path / "aws", region="eu-west-1", namespaces=False) as aws:
        region = Region(aws, "eu-west-1")
        job = region.run("job", "cat $R/input/data/pack/file.txt; echo $R; python -c 'import medimg'; touch $R/model/m")
        assert job["TrainingJobStatus"] == "Failed" or "ModelArtifacts" in job
        lines = region.lines("job/")
        assert lines[0] == "hello" and lines[1].startswith(str(tmp_path))
        assert "ModuleNotFoundError: No module named 'medimg'" in lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_when_the_emulator_ends_so_do_its_containers(tmp_path: Path, number: signal.Signals) -> None:
    """Also when it had no time to do anything about it."""
    with Emulator.start(tmp_path / "aws", region="eu-west-1") as aws:
        region = Region(aws, "eu-west-1")
        region.start("job", "setsid sleep 300 & echo $!; sleep 300")
        child = int(until(lambda: region.lines("job/"), bool)[0])
        assert guardian.MARK.encode() in Path(f"/proc/{child}/environ").read_bytes()
        os.kill(aws.pid, number)
        until(lambda: Path(f"/proc/{child}/exe").exists(), lambda alive: not alive, 10)


def test_when_its_parent_ends_so_does_the_emulator(tmp_path: Path) -> None:
    """A test run that is killed leaves nothing behind."""
    script = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
        "from aws.handle import Emulator; aws = Emulator.start(Path(sys.argv[2])); print(aws.pid, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "aws")], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    emulator = int(run.stdout)
    until(lambda: Path(f"/proc/{emulator}/exe").exists(), lambda alive: not alive, 10)
