"""The policies: what they say, that the documentation says the same, and that they are enough and not too much.

Moto asks policies for S3 (actions and resources), and for SageMaker, logs and a few more (actions). The emulator asks
them for every call of the verbs, with ARNs and tags as it understands them; its journal shows what no verb needed.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
import pytest
import quick_sagemaker
from botocore.exceptions import ClientError

import medimg
from medimg.artifact import ModelFolder
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.bootstrap import Setup, bootstrap, teardown
from medimg.backends.sagemaker.grants import Grant, Scope, policy, trust
from medimg.backends.sagemaker.policies import (
    BUCKET_MAKER,
    KEY,
    ROLES,
    SERVE_POLICY,
    TRAIN_POLICY,
    USER,
    role_policy,
    user_policies,
)
from medimg.data.dataset import Dataset

if TYPE_CHECKING:
    from aws.handle import Emulator

    from medimg.backends.sagemaker.backend import SageMakerBackend

_REGION = "eu-north-1"  # of no other test
_ACCOUNT = "123456789012"
_BUCKET = f"medimg-{_ACCOUNT}-{_REGION}"
_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "aws-permissions.md"
_SCOPE = Scope(_ACCOUNT, kms_key=f"arn:aws:kms:eu-central-1:{_ACCOUNT}:key/00000000-0000-0000-0000-000000000000")
_ENFORCED = ("s3", "sagemaker", "logs", "ssm", "application-autoscaling", "servicequotas")
_ALL = {
    **{name: (*grants, *(KEY if name == TRAIN_POLICY else ())) for name, grants in USER.items()},
    **{name: role.grants for name, role in ROLES.items()},
}
_GRANTS = [pytest.param(grant, id=f"{name}-{grant.name}") for name, grants in _ALL.items() for grant in grants]


# -- what they say ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grant", _GRANTS)
def test_a_statement_allows_named_actions_for_a_reason(grant: Grant) -> None:
    """No pattern of actions; everything else where the service can tell things apart, or the reason why not."""
    assert grant.actions and grant.verbs and grant.why
    assert list(grant.actions) == sorted(grant.actions)
    assert not [action for action in grant.actions if "*" in action]
    assert bool(grant.unconfined) == ("*" in grant.resources)
    assert re.fullmatch(r"[A-Za-z0-9]+", grant.name)


@pytest.mark.parametrize("grant", _GRANTS)
def test_every_resource_names_the_account_or_what_is_ours(grant: Grant) -> None:
    """An ARN that holds for other accounts is AWS's own images, or a service whose ARNs have no account."""
    for arn in grant.statement(_SCOPE)["Resource"]:
        ours = _ACCOUNT in arn or arn.startswith(("arn:aws:apigateway:", "arn:aws:s3:::medimg-"))
        assert (
            ours or arn == "*" or arn.endswith((":repository/tensorflow-training", ":repository/tensorflow-inference"))
        )


@pytest.mark.parametrize("grant", _GRANTS)
def test_what_is_made_changed_or_asked_at_sagemaker_has_our_tag(grant: Grant) -> None:
    """Names there are the user's own, so only the tag tells ours from others'."""
    changing = re.compile(r"sagemaker:(Create|Delete|Stop|Update|Invoke|AddTags)")
    # A version of a model has no tags of its own; scaling is AWS's own doing, in the caller's name.
    without = {"Register", "ScalingAlarms"}
    if any(map(changing.match, grant.actions)) and grant.name not in without:
        assert "medimg" in json.dumps(grant.conditions)


def test_a_role_is_passed_to_one_service_only() -> None:
    """Else who may pass it could have any service act as it."""
    passing = [grant for grants in _ALL.values() for grant in grants if "iam:PassRole" in grant.actions]
    assert {grant.conditions["StringEquals"]["iam:PassedToService"] for grant in passing} == {
        role.service for role in ROLES.values()
    }
    assert all(len(grant.resources) == 1 and "*" not in grant.resources[0] for grant in passing)


def test_the_names_of_statements_are_unique_in_a_policy() -> None:
    """IAM refuses others."""
    for grants in _ALL.values():
        names = [grant.name for grant in grants]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("bucket", [None, "a-bucket-whose-name-is-as-long-as-s3-allows-and-not-a-letter-more"[:63]])
def test_policies_are_within_the_limits_of_iam(bucket: str | None) -> None:
    """6,144 characters a managed policy, 10,240 all inline policies of a role, without white space."""
    buckets = (f"medimg-{_ACCOUNT}-*", *([bucket] if bucket else []))
    scope = Scope(_ACCOUNT, partition="aws-us-gov", buckets=buckets, prefix="medimg" * 5, kms_key=_SCOPE.kms_key)
    for document in user_policies(scope).values():
        assert len(json.dumps(document, separators=(",", ":"))) <= 6144
    for role in ROLES.values():
        assert len(json.dumps(role_policy(role, scope), separators=(",", ":"))) <= 10_240


def test_who_reads_a_function_may_read_its_tags() -> None:
    """GetFunction leaves them out where lambda:ListTags is not allowed, without an error; by them ours are known."""
    for grants in _ALL.values():
        for grant in grants:
            assert ("lambda:GetFunction" in grant.actions) <= ("lambda:ListTags" in grant.actions)


def test_who_deletes_an_endpoint_may_end_its_scaling() -> None:
    """The person, and the schedule that does it when the time is up; else scaling and alarms outlive the endpoint."""
    wanted = {"application-autoscaling:DeregisterScalableTarget", "cloudwatch:DeleteAlarms"}
    ending = [each for each in _ALL.values() if any("sagemaker:DeleteEndpoint" in grant.actions for grant in each)]
    assert len(ending) == 2
    for grants in ending:
        assert wanted <= {action for grant in grants for action in grant.actions}


def test_every_action_exists() -> None:
    """A misspelt action is allowed by IAM and grants nothing."""
    session = botocore.session.get_session()
    services = {"servicequotas": ["service-quotas"], "sagemaker": ["sagemaker", "sagemaker-runtime"]}
    for action in {action for grants in _ALL.values() for grant in grants for action in grant.actions}:
        service, _, name = action.partition(":")
        if service in ("s3", "apigateway") or action == "iam:PassRole":
            known = {*_S3.values(), "GetBucketLocation", "POST", "GET", "DELETE", "TagResource", "PassRole"}
        else:
            models = [session.get_service_model(each) for each in services.get(service, [service])]
            known = {operation for model in models for operation in model.operation_names}
        assert name in known, action


def test_roles_trust_only_requests_of_the_account_where_the_service_says_whose_they_are() -> None:
    """The confused deputy: another account's job must not run as our role."""
    for name, role in ROLES.items():
        (statement,) = trust(role, _SCOPE)["Statement"]
        assert statement["Principal"] == {"Service": role.service}
        assert ("Condition" in statement) == (name != "medimg-lambda")


def test_a_project_of_its_own_is_within_reach_and_another_is_not() -> None:
    """prefix='medimg/skin' works with the policies of prefix 'medimg'; 'other' has policies of its own."""
    (objects,) = [each for each in user_policies(_SCOPE)[TRAIN_POLICY]["Statement"] if each["Sid"] == "Objects"]
    assert _matches(objects["Resource"], f"arn:aws:s3:::{_BUCKET}/medimg/skin/packs/one")
    assert not _matches(objects["Resource"], f"arn:aws:s3:::{_BUCKET}/other/packs/one")
    assert not _matches(objects["Resource"], "arn:aws:s3:::another-bucket/medimg/packs/one")


def _matches(patterns: list[str], arn: str) -> bool:
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), arn) for pattern in patterns)


# -- what the documentation says --------------------------------------------------------------------------------------


def test_the_page_of_permissions_says_what_the_policies_say() -> None:
    """Between its marks the page is this table; where this fails, put the table there."""
    page = _PAGE.read_text()
    begin, end = "<!-- policies: begin -->\n", "<!-- policies: end -->\n"
    assert page.partition(begin)[2].partition(end)[0] == _table()


def _table() -> str:
    lines = []
    titles = {TRAIN_POLICY: "who trains and registers", SERVE_POLICY: "who serves, with the one above"}
    for name, grants in {**_ALL, "no policy": (BUCKET_MAKER,)}.items():
        heading = titles.get(name) or (ROLES[name].service if name in ROLES else "only where a user makes the bucket")
        lines += [f"## `{name}`: {heading}" if name != "no policy" else f"## In no policy: {heading}", ""]
        lines += ["| statement | actions | on | why | without it fails | shown |", "|---|---|---|---|---|---|"]
        for grant in grants:
            shown = "enforced" if name in USER and _services(grant) <= set(_ENFORCED) else "not enforced"
            if name in ROLES or name == "no policy":
                shown = "not enforced"
            on = ", ".join(f"`{_short(resource)}`" for resource in grant.resources)
            on += f": {grant.unconfined}" if grant.unconfined else ""
            conditions = ", ".join(f"`{key}`" for wanted in grant.conditions.values() for key in wanted)
            on += f"; only with {conditions}" if conditions else ""
            actions = ", ".join(f"`{action}`" for action in grant.actions)
            verbs = ", ".join(f"`{verb}`" for verb in grant.verbs)
            lines.append(f"| {grant.name} | {actions} | {on} | {grant.why} | {verbs} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def _short(pattern: str) -> str:
    """Returns a pattern as people read it."""
    for name, word in {
        "p": "aws",
        "r": "REGION",
        "a": "ACCOUNT",
        "bucket": "BUCKET",
        "prefix": "PREFIX",
        "key": "KEY",
    }.items():
        pattern = pattern.replace(f"{{{name}}}", word)
    return pattern.replace("{{", "{").replace("}}", "}")


def _services(grant: Grant) -> set[str]:
    return {action.partition(":")[0] for action in grant.actions}


# -- enforced ---------------------------------------------------------------------------------------------------------

Probe = Callable[[Callable[[str], Any]], Any]

_JOB: Mapping[str, Any] = {
    "TrainingJobName": "probe",
    "RoleArn": f"arn:aws:iam::{_ACCOUNT}:role/medimg-execution",
    "AlgorithmSpecification": {"TrainingImage": "i", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": f"s3://{_BUCKET}/medimg"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}
_KEY_OF = {"Bucket": _BUCKET, "Key": "medimg/probe"}
_TRAINING_LOG = {"logGroupName": "/aws/sagemaker/TrainingJobs"}
_STREAM = {**_TRAINING_LOG, "logStreamName": "absent"}
_ARN = f"arn:aws:sagemaker:{_REGION}:{_ACCOUNT}"
_VARIANT = {"VariantName": "a", "ModelName": "absent", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}

# Whether they succeed does not matter here, only whether they are denied.
_PROBES: Mapping[str, Probe] = {
    "s3:GetBucketPublicAccessBlock": lambda of: of("s3").get_public_access_block(Bucket=_BUCKET),
    "s3:ListBucket": lambda of: of("s3").list_objects_v2(Bucket=_BUCKET),
    "s3:AbortMultipartUpload": lambda of: of("s3").abort_multipart_upload(**_KEY_OF, UploadId="absent"),
    "s3:DeleteObject": lambda of: of("s3").delete_object(**_KEY_OF),
    "s3:GetObject": lambda of: of("s3").get_object(**_KEY_OF),
    "s3:PutObject": lambda of: of("s3").put_object(**_KEY_OF, Body=b"1"),
    "sagemaker:CreateTrainingJob": lambda of: of("sagemaker").create_training_job(**_JOB),
    "sagemaker:AddTags": lambda of: of("sagemaker").add_tags(
        ResourceArn=f"{_ARN}:model/absent", Tags=[{"Key": "medimg", "Value": "medimg"}]
    ),
    "sagemaker:DescribeTrainingJob": lambda of: of("sagemaker").describe_training_job(TrainingJobName="absent"),
    "sagemaker:DeleteTrainingJob": lambda of: of("sagemaker").delete_training_job(TrainingJobName="absent"),
    "sagemaker:StopTrainingJob": lambda of: of("sagemaker").stop_training_job(TrainingJobName="absent"),
    "sagemaker:ListEndpointConfigs": lambda of: of("sagemaker").list_endpoint_configs(),
    "sagemaker:ListEndpoints": lambda of: of("sagemaker").list_endpoints(),
    "sagemaker:ListModelPackageGroups": lambda of: of("sagemaker").list_model_package_groups(),
    "sagemaker:ListModelPackages": lambda of: of("sagemaker").list_model_packages(ModelPackageGroupName="absent"),
    "sagemaker:ListModels": lambda of: of("sagemaker").list_models(),
    "sagemaker:ListTrainingJobs": lambda of: of("sagemaker").list_training_jobs(),
    "sagemaker:ListTags": lambda of: of("sagemaker").list_tags(ResourceArn=f"{_ARN}:model/absent"),
    "logs:DescribeLogStreams": lambda of: of("logs").describe_log_streams(**_TRAINING_LOG),
    "logs:GetLogEvents": lambda of: of("logs").get_log_events(**_STREAM),
    "logs:DeleteLogGroup": lambda of: of("logs").delete_log_group(logGroupName="/aws/sagemaker/Endpoints/absent"),
    "logs:DeleteLogStream": lambda of: of("logs").delete_log_stream(**_STREAM),
    "sagemaker:CreateModelPackageGroup": lambda of: of("sagemaker").create_model_package_group(
        ModelPackageGroupName="probe"
    ),
    "sagemaker:CreateModelPackage": lambda of: of("sagemaker").create_model_package(ModelPackageGroupName="absent"),
    "sagemaker:DeleteModelPackage": lambda of: of("sagemaker").delete_model_package(
        ModelPackageName=f"{_ARN}:model-package/absent/1"
    ),
    "sagemaker:DescribeModelPackage": lambda of: of("sagemaker").describe_model_package(
        ModelPackageName=f"{_ARN}:model-package/absent/1"
    ),
    "sagemaker:DeleteModelPackageGroup": lambda of: of("sagemaker").delete_model_package_group(
        ModelPackageGroupName="absent"
    ),
    "sagemaker:CreateModel": lambda of: of("sagemaker").create_model(
        ModelName="probe", ExecutionRoleArn=str(_JOB["RoleArn"]), PrimaryContainer={"Image": "i"}
    ),
    "sagemaker:CreateEndpointConfig": lambda of: of("sagemaker").create_endpoint_config(
        EndpointConfigName="probe", ProductionVariants=[_VARIANT]
    ),
    "sagemaker:CreateEndpoint": lambda of: of("sagemaker").create_endpoint(
        EndpointName="probe", EndpointConfigName="absent"
    ),
    "sagemaker:DescribeEndpointConfig": lambda of: of("sagemaker").describe_endpoint_config(
        EndpointConfigName="absent"
    ),
    "sagemaker:DescribeEndpoint": lambda of: of("sagemaker").describe_endpoint(EndpointName="absent"),
    "sagemaker:DescribeModel": lambda of: of("sagemaker").describe_model(ModelName="absent"),
    "sagemaker:DeleteEndpoint": lambda of: of("sagemaker").delete_endpoint(EndpointName="absent"),
    "sagemaker:DeleteEndpointConfig": lambda of: of("sagemaker").delete_endpoint_config(EndpointConfigName="absent"),
    "sagemaker:DeleteModel": lambda of: of("sagemaker").delete_model(ModelName="absent"),
    "sagemaker:UpdateEndpoint": lambda of: of("sagemaker").update_endpoint(
        EndpointName="absent", EndpointConfigName="absent"
    ),
    "sagemaker:InvokeEndpoint": lambda of: of("sagemaker-runtime").invoke_endpoint(EndpointName="absent", Body=b"1"),
}
_SCALED = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/absent/variant/a",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
_PARAMETER = "/medimg/endpoints/absent/key"
_PROBES = {
    **_PROBES,
    "application-autoscaling:DeregisterScalableTarget": lambda of: of(
        "application-autoscaling"
    ).deregister_scalable_target(**_SCALED),
    "application-autoscaling:PutScalingPolicy": lambda of: of("application-autoscaling").put_scaling_policy(
        PolicyName="absent", **_SCALED
    ),
    "application-autoscaling:RegisterScalableTarget": lambda of: of("application-autoscaling").register_scalable_target(
        **_SCALED
    ),
    "servicequotas:ListServiceQuotas": lambda of: of("service-quotas").list_service_quotas(ServiceCode="vpc"),
    "ssm:DeleteParameter": lambda of: of("ssm").delete_parameter(Name=_PARAMETER),
    "ssm:GetParameter": lambda of: of("ssm").get_parameter(Name=_PARAMETER),
    "ssm:PutParameter": lambda of: of("ssm").put_parameter(Name=_PARAMETER, Value="1", Type="String", Overwrite=True),
}
_PROBED = [grant for grants in USER.values() for grant in grants if _services(grant) <= set(_ENFORCED)]

# S3's operations whose permission has another name.
_S3 = {
    "AbortMultipartUpload": "AbortMultipartUpload", "CompleteMultipartUpload": "PutObject",
    "CreateMultipartUpload": "PutObject", "DeleteObject": "DeleteObject", "DeleteObjects": "DeleteObject",
    "GetObject": "GetObject", "GetPublicAccessBlock": "GetBucketPublicAccessBlock", "HeadBucket": "ListBucket",
    "HeadObject": "GetObject", "ListObjectsV2": "ListBucket",
    "PutObject": "PutObject", "UploadPart": "PutObject",
}  # fmt: skip


class Moto:
    """A server of moto alone, which asks the policies before anything else.

    Attributes:
        url: Where it answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._keys = {"AccessKeyId": "AKIAOUTSIDE000000000", "SecretAccessKey": "none"}
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam = self.client("iam")
        iam.create_user(UserName="administrator")
        iam.put_user_policy(UserName="administrator", PolicyName="all", PolicyDocument=json.dumps(everything))
        keys = iam.create_access_key(UserName="administrator")["AccessKey"]
        # The number of calls until policies are asked.
        request = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})  # noqa: S310
        urllib.request.urlopen(request).close()  # noqa: S310
        self._keys = keys

    def client(self, service: str, keys: Mapping[str, str] | None = None) -> Any:
        """Returns a client of the administrator, or one that signs with other keys."""
        keys = keys or self._keys
        session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], region_name=_REGION)
        return session.client(service, endpoint_url=self.url)


class Student:
    """A user whose policies are set by the test."""

    name = "student"

    def __init__(self, moto: Moto) -> None:
        self._moto = moto
        self._iam = moto.client("iam")
        self._iam.create_user(UserName=self.name)
        self._keys = self._iam.create_access_key(UserName=self.name)["AccessKey"]

    def allow(self, documents: Mapping[str, Any]) -> None:
        """Gives the user exactly these policies."""
        for name in self._iam.list_user_policies(UserName=self.name)["PolicyNames"]:
            self._iam.delete_user_policy(UserName=self.name, PolicyName=name)
        for name, document in documents.items():
            self._iam.put_user_policy(
                UserName=self.name, PolicyName=name, PolicyDocument=json.dumps(_as_enforced(document))
            )

    def client(self, service: str) -> Any:
        """Returns a client that signs as the user."""
        return self._moto.client(service, self._keys)

    def is_denied(self, action: str) -> bool:
        """Tells whether the user may not do something, by trying."""
        try:
            _PROBES[action](self.client)
        except ClientError as error:
            return "AccessDenied" in str(error)
        return False


def _as_enforced(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a policy as moto reads it: outside S3 it asks for the resource "*" of every action, and has no tags."""
    made = json.loads(json.dumps(document))
    for statement in made["Statement"]:
        if not statement["Action"][0].startswith("s3:"):
            statement["Resource"] = "*"
        statement.pop("Condition", None)
    return dict(made)


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    """A server that checks policies, with a bucket."""
    pytest.importorskip("moto", reason="checking policies needs moto: pip install 'moto[server]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None and time.monotonic() < deadline, "moto did not start"
            time.sleep(0.1)
        made = Moto(f"http://127.0.0.1:{port}")
        made.client("s3").create_bucket(Bucket=_BUCKET, CreateBucketConfiguration={"LocationConstraint": _REGION})
        yield made
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def student(moto: Moto) -> Student:
    """A user of that server, who may do nothing yet."""
    return Student(moto)


def test_a_user_without_policies_is_denied_everything(student: Student) -> None:
    """Else nothing below would show anything."""
    student.allow({})
    assert [action for action in _PROBES if not student.is_denied(action)] == []


def test_every_enforced_action_is_probed() -> None:
    """A statement that is added without a probe shows here."""
    assert {action for grant in _PROBED for action in grant.actions} == set(_PROBES)


def test_the_two_policies_allow_all_that_they_name(student: Student) -> None:
    """Nothing that a statement is there for is denied."""
    student.allow(user_policies(Scope(_ACCOUNT)))
    assert [action for action in _PROBES if student.is_denied(action)] == []


@pytest.mark.parametrize("removed", [pytest.param(grant, id=grant.name) for grant in _PROBED])
def test_no_statement_can_be_left_out(student: Student, removed: Grant) -> None:
    """Without it exactly its actions are denied: no other statement allows them."""
    scope = Scope(_ACCOUNT)
    left = {name: policy([grant for grant in grants if grant != removed], scope) for name, grants in USER.items()}
    student.allow(left)
    denied = {action for action in removed.actions if student.is_denied(action)}
    assert denied == set(removed.actions)


@pytest.mark.parametrize(
    ("bucket", "key"), [(_BUCKET, "other/probe"), ("somebody-elses", "medimg/probe"), (_BUCKET, "medimg-too/probe")]
)
def test_objects_out_of_reach_are_denied(student: Student, bucket: str, key: str) -> None:
    """Other prefixes of the bucket, and other buckets."""
    student.allow(user_policies(Scope(_ACCOUNT)))
    with pytest.raises(ClientError, match="AccessDenied"):
        student.client("s3").put_object(Bucket=bucket, Key=key, Body=b"1")


# -- what the verbs ask -----------------------------------------------------------------------------------------------

# Allowed, and in no journal of an emulator.
_NEVER_SEEN = {
    "s3:AbortMultipartUpload": "only where a large upload fails",
    "sagemaker:AddTags": "asked for by AWS where something is made with tags",
    "lambda:TagResource": "likewise",
    "lambda:ListTags": "asked for by AWS where GetFunction tells the tags",
    "apigateway:TagResource": "likewise",
    "iam:PassRole": "asked for by AWS where something is given a role",
    "iam:CreateServiceLinkedRole": "asked for by AWS when the first endpoint of an account scales",
    "cloudwatch:DeleteAlarms": "by Application Auto Scaling in the caller's name",
    "cloudwatch:DescribeAlarms": "likewise",
    "cloudwatch:PutMetricAlarm": "likewise",
    "sagemaker:UpdateEndpointWeightsAndCapacities": "likewise",
}


def _action(call: Mapping[str, Any]) -> str:
    """Returns the permission that a call needs."""
    service, operation = call["service"], call["operation"]
    if service == "s3":
        return f"s3:{_S3.get(operation, operation)}"
    if service == "apigatewayv2":
        verbs = {"Create": "POST", "Get": "GET", "Delete": "DELETE"}
        return next(f"apigateway:{verb}" for begin, verb in verbs.items() if operation.startswith(begin))
    names = {"sagemaker-runtime": "sagemaker", "service-quotas": "servicequotas"}
    return f"{names.get(service, service)}:{operation}"


@pytest.fixture
def in_force(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """An account after bootstrap, where policies are asked, and the credentials of a user who has the two."""
    aws.apply(monkeypatch, _REGION)
    quick_sagemaker.remove_roles(aws)
    made = bootstrap(Account(region=_REGION))
    iam = aws.client("iam")
    iam.create_user(UserName="researcher")
    for arn in made.policies.values():
        iam.attach_user_policy(UserName="researcher", PolicyArn=arn)
    key = iam.create_access_key(UserName="researcher")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    aws.enforce_iam()
    try:
        yield made
    finally:
        aws.enforce_iam(False)
        aws.apply(monkeypatch, _REGION)
        administrator = quick_sagemaker.backend(region=_REGION)
        administrator.cleanup()
        teardown(administrator, delete_data=True)
        iam.delete_access_key(UserName="researcher", AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName="researcher")


@pytest.mark.slow
def test_a_user_with_the_two_policies_can_do_everything_and_no_action_in_them_is_for_nothing(
    in_force: Setup, aws: Emulator, phantoms: Path, trained: ModelFolder
) -> None:
    """The life of a model, with ARNs and tags enforced as the emulator understands them; and its journal."""
    backend = quick_sagemaker.backend(region=_REGION, create_bucket=False)
    assert backend.account.caller.endswith(":user/researcher")
    aws.mark()
    _live(backend, phantoms, trained)
    asked = {_action(call) for call in aws.calls()} - {"sts:GetCallerIdentity"}
    allowed = {action for grants in USER.values() for grant in grants for action in grant.actions}
    assert sorted(asked - allowed) == []
    assert sorted(allowed - asked - set(_NEVER_SEEN)) == []


def test_what_is_not_ours_is_out_of_reach(in_force: Setup, aws: Emulator) -> None:
    """A model without our tag is neither deleted nor given our tag by somebody with the two policies."""
    administrator = aws.client("sagemaker", _REGION)
    role = in_force.roles["medimg-execution"]
    image = "123456789012.dkr.ecr.eu-north-1.amazonaws.com/tensorflow-inference:1"
    administrator.create_model(ModelName="theirs", ExecutionRoleArn=role, PrimaryContainer={"Image": image})
    ours = boto3.client("sagemaker", region_name=_REGION)
    try:
        with pytest.raises(ClientError, match="not authorized to perform: sagemaker:DeleteModel"):
            ours.delete_model(ModelName="theirs")
        with pytest.raises(ClientError, match="not authorized to perform: sagemaker:AddTags"):
            ours.add_tags(ResourceArn=f"{_ARN}:model/theirs", Tags=[{"Key": "medimg", "Value": "medimg"}])
        with pytest.raises(ClientError, match="not authorized to perform: sagemaker:CreateModel"):
            ours.create_model(ModelName="untagged", ExecutionRoleArn=role, PrimaryContainer={"Image": image})
        assert ours.describe_model(ModelName="theirs")["ModelName"] == "theirs"
    finally:
        administrator.delete_model(ModelName="theirs")


def _live(backend: SageMakerBackend, phantoms: Path, trained: ModelFolder) -> None:
    """Uses every verb of the contract."""
    dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
    config = medimg.TrainConfig(model="small_cnn", weights=None, image_size=32, epochs=1, augment=False)
    backend.doctor()
    backend.estimate(dataset, config)
    running = backend.train(dataset, config.model_copy(update={"epochs": 500}), wait=False)
    running.cancel()
    job = backend.train(dataset, config)
    list(job.logs())
    backend.register(job)
    backend.models()
    sample = dataset.samples[0].path
    with backend.deploy(
        job, medimg.ServeConfig(max_instances=2, ttl_hours=1, http_api=True), name="with-everything"
    ) as endpoint:
        backend.endpoint("with-everything").predict(sample)
        endpoint.logs()
        endpoint.update(trained)
    with backend.deploy(job, name="plain") as endpoint:
        endpoint.predict(sample)
    with backend.deploy(job, medimg.ServeConfig(kind="lambda"), name="function") as endpoint:
        endpoint.predict(sample)
        quick_sagemaker.backend(region=_REGION).endpoint("function").predict(sample)  # as from another process
    running.delete()
    backend.inventory()
    backend.cleanup()
