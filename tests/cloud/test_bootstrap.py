"""Setting up an account and taking it down, against the emulator of AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import quick_sagemaker
from botocore.stub import Stubber
from typer.testing import CliRunner

from medimg.backends.sagemaker import bootstrap as setting_up
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.backend import SageMakerBackend
from medimg.backends.sagemaker.bootstrap import bootstrap, status, teardown
from medimg.backends.sagemaker.storage import BLOCKED
from medimg.backends.sagemaker.template import template
from medimg.cli import app
from medimg.errors import AccessError, BackendError, ConfigError
from medimg.progress import silent

if TYPE_CHECKING:
    from aws.handle import Emulator

_HOME, _SECOND = "eu-central-1", "eu-west-1"
_ROLES = ["medimg-execution", "medimg-lambda", "medimg-scheduler"]
_POLICIES = ["medimg-user", "medimg-user-serve"]


@pytest.fixture
def aws_account(aws_environment: Emulator) -> Iterator[Emulator]:
    """The emulator, in which nothing is set up before the test or after it."""
    _sweep(aws_environment)
    yield aws_environment
    aws_environment.clear_faults()
    _sweep(aws_environment)


def _sweep(aws: Emulator) -> None:
    """Removes by hand what a test has set up."""
    for region in (_HOME, _SECOND):
        aws.client("cloudformation", region).delete_stack(StackName="medimg")
    iam, s3 = aws.client("iam"), aws.client("s3")
    quick_sagemaker.remove_roles(aws)
    for policy in iam.list_policies(Scope="Local")["Policies"]:
        if policy["PolicyName"] in _POLICIES:
            iam.delete_policy(PolicyArn=policy["Arn"])
    for bucket in s3.list_buckets()["Buckets"]:
        if bucket["Name"].startswith(("medimg-", "radiology")):
            for found in s3.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
                s3.delete_object(Bucket=bucket["Name"], Key=found["Key"])
            s3.delete_bucket(Bucket=bucket["Name"])


def _medimg(*arguments: object, typed: str | None = None) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


# -- making it --------------------------------------------------------------------------------------------------------


def test_bootstrap_makes_bucket_roles_and_policies(aws_account: Emulator) -> None:
    """One call makes all that the template says, and tells what there is."""
    made = bootstrap(Account(region=_HOME))
    there = aws_account.state()
    assert there["buckets"] == [made.bucket] == [f"medimg-{made.account}-{_HOME}"]
    assert there["roles"] == _ROLES
    assert there["policies"] == _POLICIES
    assert there["stacks"] == ["medimg"]
    assert made.is_complete and made.stack == "CREATE_COMPLETE" and made.home == _HOME


def test_the_bucket_is_closed_encrypted_and_ours(aws_account: Emulator) -> None:
    """Nobody's images are readable by the public; what is asked of S3 afterwards says so."""
    made, s3 = bootstrap(Account(region=_HOME)), aws_account.client("s3")
    assert s3.get_public_access_block(Bucket=made.bucket)["PublicAccessBlockConfiguration"] == BLOCKED
    rules = s3.get_bucket_encryption(Bucket=made.bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert s3.get_bucket_location(Bucket=made.bucket)["LocationConstraint"] == _HOME
    SageMakerBackend(region=_HOME).account.writable.put("probe", b"1")  # raises where the bucket is not as it must be


@pytest.mark.parametrize(
    ("role", "service"),
    [
        ("medimg-execution", "sagemaker.amazonaws.com"),
        ("medimg-lambda", "lambda.amazonaws.com"),
        ("medimg-scheduler", "scheduler.amazonaws.com"),
    ],
)
def test_each_role_trusts_its_service_only(aws_account: Emulator, role: str, service: str) -> None:
    """And may do what its policy says, and nothing by any other."""
    bootstrap(Account(region=_HOME))
    iam = aws_account.client("iam")
    (statement,) = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": service}
    assert iam.list_role_policies(RoleName=role)["PolicyNames"] == [role]
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    document = iam.get_role_policy(RoleName=role, PolicyName=role)["PolicyDocument"]
    assert all("*" not in action for each in document["Statement"] for action in each["Action"])
    assert "AWS::" not in json.dumps(document)


def test_bootstrap_twice_is_an_update_that_changes_nothing(aws_account: Emulator) -> None:
    """Whoever is not sure runs it again."""
    bootstrap(Account(region=_HOME))
    before = aws_account.state()
    aws_account.mark()
    again = bootstrap(Account(region=_HOME))
    assert again.is_complete
    assert aws_account.state() == before
    assert not aws_account.calls(operation="CreateStack")
    assert len(aws_account.calls(operation="UpdateStack")) == 1


def test_a_bucket_is_kept_except_where_its_stack_was_never_made() -> None:
    """Else the next bootstrap would meet the half-made bucket of the first."""
    resources = template()["Resources"]
    kept = {name: each["DeletionPolicy"] for name, each in resources.items() if "DeletionPolicy" in each}
    assert kept == dict.fromkeys(("Bucket", "BucketPolicy"), "RetainExceptOnCreate")
    assert all(resources[name]["UpdateReplacePolicy"] == "Retain" for name in kept)


def test_a_second_region_gets_a_bucket_and_uses_the_roles_of_the_first(aws_account: Emulator) -> None:
    """Roles belong to the account: to make them twice would fail."""
    bootstrap(Account(region=_HOME))
    second = bootstrap(Account(region=_SECOND))
    assert second.is_complete and second.home == _HOME
    resources = aws_account.client("cloudformation", _SECOND).list_stack_resources(StackName="medimg")
    assert not [each for each in resources["StackResourceSummaries"] if "IAM" in each["ResourceType"]]
    with pytest.raises(BackendError, match=f"medimg aws teardown --region {_SECOND}"):
        teardown(SageMakerBackend(region=_HOME))
    assert aws_account.state()["roles"] == _ROLES
    teardown(SageMakerBackend(region=_SECOND), delete_data=True)
    assert aws_account.state()["roles"] == _ROLES
    teardown(SageMakerBackend(region=_HOME), delete_data=True)
    assert not {"roles", "policies", "buckets"} & set(aws_account.state())


def test_a_bucket_out_of_the_roles_reach_is_refused_in_a_second_region(aws_account: Emulator) -> None:
    """Jobs there could not read it; nothing is made."""
    bootstrap(Account(region=_HOME))
    before = aws_account.state()
    with pytest.raises(ConfigError, match="Leave the bucket's name out"):
        bootstrap(Account(region=_SECOND, bucket="radiology-images"))
    assert aws_account.state() == before


def test_a_bucket_that_is_there_is_kept_and_closed(aws_account: Emulator) -> None:
    """As after a teardown that left the data: the stack does not own it, and public access is blocked."""
    s3 = aws_account.client("s3")
    s3.create_bucket(Bucket="radiology-images", CreateBucketConfiguration={"LocationConstraint": _HOME})
    s3.put_object(Bucket="radiology-images", Key="medimg/packs/one", Body=b"1")
    made = bootstrap(Account(region=_HOME, bucket="radiology-images"))
    assert made.is_complete and made.objects == 1
    assert s3.get_public_access_block(Bucket="radiology-images")["PublicAccessBlockConfiguration"] == BLOCKED
    arn = f"arn:aws:iam::{made.account}:policy/medimg-user"
    iam = aws_account.client("iam")
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    assert "arn:aws:s3:::radiology-images/medimg/*" in document["Statement"][1]["Resource"]


def test_anothers_bucket_is_refused_before_anything_is_made(aws_account: Emulator) -> None:
    """Names of buckets are the world's."""
    aws_account.faults(fail=("HeadBucket", 1, "AccessDenied"))
    with pytest.raises(AccessError, match=r"belongs to another AWS account.*--bucket NAME"):
        bootstrap(Account(region=_HOME, bucket="radiology-images"))
    assert not {"roles", "stacks", "buckets"} & set(aws_account.state())


def test_half_of_the_roles_made_by_hand_is_an_error_that_names_them(aws_account: Emulator) -> None:
    """Neither to make them nor to leave them out would be right."""
    aws_account.role("medimg-lambda", "lambda.amazonaws.com")
    with pytest.raises(ConfigError, match=r"has the role medimg-lambda.*not medimg-execution, medimg-scheduler"):
        bootstrap(Account(region=_HOME))


def test_what_is_in_the_way_is_named(aws_account: Emulator) -> None:
    """A policy of that name by somebody else: the error says so."""
    nothing = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "s3:GetObject", "Resource": "*"}]}
    aws_account.client("iam").create_policy(PolicyName="medimg-user", PolicyDocument=json.dumps(nothing))
    with pytest.raises(BackendError, match="medimg-user"):
        bootstrap(Account(region=_HOME))


def test_a_failed_stack_is_one_error_that_says_what_failed_first(
    aws_account: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stack's many events, the cause; the emulator's stacks fail at once, so AWS's answers are given here."""
    monkeypatch.setattr(setting_up, "_POLL_SECONDS", 0.01)
    account = Account(region=_HOME)
    client = account.client("cloudformation")
    stack = {"StackName": "medimg", "CreationTime": 0, "StackId": "id"}
    event = {"StackId": "id", "EventId": "1", "StackName": "medimg", "Timestamp": 0}
    names = {"LogicalResourceId": "LambdaRole", "ResourceType": "AWS::IAM::Role"}
    events = [
        {**event, **names, "ResourceStatus": "DELETE_COMPLETE"},
        {**event, "LogicalResourceId": "Bucket", "ResourceType": "AWS::S3::Bucket", "ResourceStatus": "CREATE_FAILED",
         "ResourceStatusReason": "Resource creation cancelled"},
        {**event, **names, "ResourceStatus": "CREATE_FAILED",
         "ResourceStatusReason": "User is not authorized to perform: iam:CreateRole"},
        {**event, **names, "ResourceStatus": "CREATE_IN_PROGRESS"},
    ]  # fmt: skip
    with Stubber(client) as stub:
        stub.add_response("describe_stacks", {"Stacks": [{**stack, "StackStatus": "CREATE_IN_PROGRESS"}]})
        stub.add_response("describe_stacks", {"Stacks": [{**stack, "StackStatus": "DELETE_COMPLETE"}]})
        stub.add_response("describe_stack_events", {"StackEvents": events})
        with pytest.raises(BackendError, match=r"LambdaRole \(AWS::IAM::Role\).*iam:CreateRole.*--dry-run"):
            setting_up._wait(account, "id", "making", silent)


# -- taking it down ---------------------------------------------------------------------------------------------------


def test_teardown_with_its_data_leaves_nothing(aws_account: Emulator) -> None:
    """Also where a person still has the policies, and the bucket holds versions and half an upload."""
    before = aws_account.state()
    made = bootstrap(Account(region=_HOME))
    iam, s3 = aws_account.client("iam"), aws_account.client("s3")
    iam.create_user(UserName="student")
    iam.attach_user_policy(UserName="student", PolicyArn=made.policies["medimg-user"])
    s3.put_bucket_versioning(Bucket=made.bucket, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=made.bucket, Key="medimg/x", Body=body)
    s3.create_multipart_upload(Bucket=made.bucket, Key="medimg/y")
    left = teardown(SageMakerBackend(region=_HOME), delete_data=True)
    iam.delete_user(UserName="student")
    assert not left.bucket_exists and not any(left.roles.values()) and not left.stack
    assert aws_account.state() == before


def test_teardown_keeps_the_data_unless_told(aws_account: Emulator) -> None:
    """Models outlive the set-up, and bootstrap finds them again."""
    made = bootstrap(Account(region=_HOME))
    aws_account.client("s3").put_object(Bucket=made.bucket, Key="medimg/models/one", Body=b"1")
    left = teardown(SageMakerBackend(region=_HOME))
    assert left.bucket_exists and left.objects == 1
    assert not {"roles", "policies", "stacks"} & set(aws_account.state())
    again = bootstrap(Account(region=_HOME))
    assert again.is_complete and again.objects == 1


def test_teardown_is_refused_while_a_job_runs(aws_account: Emulator) -> None:
    """It would lose its role; the error says what there is and how it ends."""
    made = bootstrap(Account(region=_HOME))
    id = "chest-0123456789-1"
    _start_job(aws_account, made, id)
    backend = SageMakerBackend(region=_HOME)
    try:
        with pytest.raises(BackendError, match=f"job {id} .*medimg rm {id} --backend sagemaker"):
            teardown(backend, delete_data=True)
        assert status(backend.account).is_complete
    finally:
        backend.job(id).delete()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_teardown_is_refused_while_a_schedule_needs_its_role(aws_account: Emulator, elsewhere: bool) -> None:
    """What it is to delete would go on and cost money; also where another region only has a bucket left."""
    made = bootstrap(Account(region=_HOME))
    region = _HOME
    if elsewhere:
        region = _SECOND
        name = f"medimg-{made.account}-{_SECOND}"
        s3 = aws_account.client("s3", _SECOND)
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": _SECOND})
    scheduler = aws_account.client("scheduler", region)
    target = {"Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint", "RoleArn": made.roles["medimg-scheduler"]}
    scheduler.create_schedule(
        Name="medimg-chest-0", ScheduleExpression="at(2099-01-01T00:00:00)", FlexibleTimeWindow={"Mode": "OFF"},
        Target={**target, "Input": "{}"},
    )  # fmt: skip
    command = f"aws scheduler delete-schedule --region {region} --name medimg-chest-0"
    try:
        with pytest.raises(BackendError, match=f"schedule medimg-chest-0 in {region}.*{command}"):
            teardown(SageMakerBackend(region=_HOME))
        assert aws_account.state()["roles"] == _ROLES
    finally:
        scheduler.delete_schedule(Name="medimg-chest-0")
    teardown(SageMakerBackend(region=_HOME))
    assert not {"roles", "policies", "stacks"} & set(aws_account.state())


def test_teardown_is_refused_while_another_project_serves(aws_account: Emulator) -> None:
    """Its endpoint has another prefix, and uses the same role; one that is not ours is nobody's concern."""
    made = bootstrap(Account(region=_HOME))
    aws_account.client("s3").put_object(Bucket=made.bucket, Key="model.tar.gz", Body=b"not one")
    sagemaker = aws_account.client("sagemaker", _HOME)
    variant = {"VariantName": "a", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    for name, tags in (("another", [{"Key": "medimg", "Value": "skin"}]), ("theirs", [])):
        container = {
            "Image": f"763104351884.dkr.ecr.{_HOME}.amazonaws.com/tensorflow-inference:2.20-cpu",
            "ModelDataUrl": f"s3://{made.bucket}/model.tar.gz",
        }
        sagemaker.create_model(
            ModelName=name, PrimaryContainer=container, ExecutionRoleArn=made.roles["medimg-execution"], Tags=tags
        )
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{**variant, "ModelName": name}], Tags=tags
        )
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=tags)
    try:
        with pytest.raises(
            BackendError, match=f"still endpoint another in {_HOME}: .*--endpoint-name another"
        ) as raised:
            teardown(SageMakerBackend(region=_HOME), delete_data=True)
        assert "theirs" not in str(raised.value)
        assert status(Account(region=_HOME)).is_complete
    finally:
        aws_account.reset_region(_HOME)


def _start_job(aws: Emulator, made: Any, id: str) -> None:
    """Starts a job of ours that sleeps."""
    told = {"task": "train", "checkpoints": "c", "pack": "p", "samples": "s", "inputs": "{}", "timings": "{}",
            "workload": "{}", "prefix": "medimg"}  # fmt: skip
    aws.client("sagemaker", _HOME).create_training_job(
        TrainingJobName=id,
        RoleArn=made.roles["medimg-execution"],
        AlgorithmSpecification={
            "TrainingImage": f"763104351884.dkr.ecr.{_HOME}.amazonaws.com/tensorflow-training:2.21-cpu-py312",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/bash", "-c"],
            "ContainerArguments": ["exec sleep 120"],
        },
        HyperParameters={f"medimg-{name}": value for name, value in told.items()},
        OutputDataConfig={"S3OutputPath": f"s3://{made.bucket}/medimg/jobs"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        StoppingCondition={"MaxRuntimeInSeconds": 300},
        Tags=[{"Key": "medimg", "Value": "medimg"}],
    )


# -- the commands, and what an administrator is given -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["cloudformation", "json"])
def test_a_dry_run_asks_nothing_of_aws(
    aws_account: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    """It works without credentials and region, and what it writes is JSON."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    aws_account.mark()
    target = tmp_path / "for-the-administrator.json"
    assert _medimg("aws", "bootstrap", "--dry-run", "--format", form, "--output", target).exit_code == 0
    printed = _medimg("aws", "bootstrap", "--dry-run", "--format", form)
    assert json.loads(printed.stdout) == json.loads(target.read_text())
    assert aws_account.calls() == []
    assert all(name in printed.stdout for name in (*_ROLES, *_POLICIES))


def test_the_dry_run_is_what_bootstrap_makes(aws_account: Emulator) -> None:
    """An administrator reads the very template that the command would send, whatever the account and region."""
    bootstrap(Account(region=_HOME))
    sent = aws_account.client("cloudformation").get_template(StackName="medimg")["TemplateBody"]
    printed = json.loads(_medimg("aws", "bootstrap", "--dry-run").stdout)
    assert dict(sent) == printed == template()
    assert len(json.dumps(printed, indent=2)) < 51_200  # AWS's limit for a template that is sent along


def test_the_json_form_holds_no_placeholder_of_cloudformation() -> None:
    """It is for those who do not use CloudFormation."""
    given = ("aws", "bootstrap", "--dry-run", "--format", "json", "--account", "210987654321", "--region", _SECOND)
    printed = _medimg(*given).stdout
    assert "AWS::" not in printed and "Fn::" not in printed
    made = json.loads(printed)
    assert made["bucket"]["name"] == f"medimg-210987654321-{_SECOND}"
    (submit,) = [each for each in made["policies of people"]["medimg-user"]["Statement"] if each["Sid"] == "Submit"]
    assert submit["Resource"] == [f"arn:aws:sagemaker:{_SECOND}:210987654321:training-job/*"]


def test_the_commands_set_up_show_and_take_down(aws_account: Emulator) -> None:
    """As a person types them; teardown asks first, and an answer of no changes nothing."""
    made = _medimg("aws", "bootstrap", "--region", _HOME)
    assert made.exit_code == 0, made.output
    assert "attach-user-policy" in made.output
    assert "medimg-execution" in _medimg("aws", "status").output
    before = aws_account.state()
    refused = _medimg("aws", "teardown", "--delete-data", typed="n\n")
    assert refused.exit_code == 1 and "objects" in refused.output
    assert aws_account.state() == before
    assert _medimg("aws", "teardown", "--yes").exit_code == 0
    assert "medimg aws bootstrap" in _medimg("aws", "status").output


def test_options_of_a_dry_run_are_refused_without_it() -> None:
    """--output alone would look as if nothing were made."""
    done = _medimg("aws", "bootstrap", "--output", "x.json")
    assert done.exit_code == 2 and "--dry-run" in done.output
