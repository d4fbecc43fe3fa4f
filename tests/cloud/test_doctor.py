"""Each thing that may be missing turns its check red, with the command that mends it, and no other."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from botocore.awsrequest import AWSResponse
from typer.testing import CliRunner
from urllib3 import HTTPResponse

import medimg
from medimg.backends.doctor import Check, Checks, local_checks
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.bootstrap import bootstrap
from medimg.backends.sagemaker.doctor import checks, examine
from medimg.cli import app
from medimg.config import Resources

if TYPE_CHECKING:
    from aws.handle import Emulator

_REGION = "eu-central-1"
_NOTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}]}
_ROLES = ("medimg-execution", "medimg-lambda", "medimg-scheduler")


@pytest.fixture
def ready(aws_environment: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator after bootstrap; the credentials are those of a user who has the two policies."""
    aws = aws_environment
    _sweep(aws)
    made = bootstrap(Account(region=_REGION))
    iam = aws.client("iam")
    iam.create_user(UserName="student")
    for arn in made.policies.values():
        iam.attach_user_policy(UserName="student", PolicyArn=arn)
    key = iam.create_access_key(UserName="student")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    yield aws
    aws.clear_faults()
    _sweep(aws)


def _sweep(aws: Emulator) -> None:
    """Removes by hand what `ready` and its tests have made."""
    if "stacks" in aws.state(_REGION):
        for role in _ROLES:  # the emulator's stack cannot go where a part of it is gone
            aws.role(role)
            aws.client("iam").put_role_policy(RoleName=role, PolicyName=role, PolicyDocument=json.dumps(_NOTHING))
        aws.client("cloudformation").delete_stack(StackName="medimg")
    iam, s3 = aws.client("iam"), aws.client("s3")
    for user in iam.list_users()["Users"]:
        name = user["UserName"]
        for policy in iam.list_attached_user_policies(UserName=name)["AttachedPolicies"]:
            iam.detach_user_policy(UserName=name, PolicyArn=policy["PolicyArn"])
        for key in iam.list_access_keys(UserName=name)["AccessKeyMetadata"]:
            iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName=name)
    for role in iam.list_roles()["Roles"]:
        if role["RoleName"] in _ROLES:
            _delete_role(aws, role["RoleName"])
    for policy in iam.list_policies(Scope="Local")["Policies"]:
        iam.delete_policy(PolicyArn=policy["Arn"])
    for bucket in s3.list_buckets()["Buckets"]:
        for found in s3.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
            s3.delete_object(Bucket=bucket["Name"], Key=found["Key"])
        s3.delete_bucket(Bucket=bucket["Name"])


def _delete_role(aws: Emulator, name: str) -> None:
    iam = aws.client("iam")
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)


def _look(resources: Resources | None = None, image: str | None = None, **options: Any) -> list[Check]:
    return checks(Account(**{"region": _REGION, **options}), resources or Resources(), image)


def _look_refused(service: str, operation: str) -> list[Check]:
    """Returns the checks of somebody who is denied an operation, whoever asks for it and however often."""

    def refuse(request: Any, **_: Any) -> AWSResponse:
        said = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
        content = b"" if request.method == "HEAD" else said
        return AWSResponse(request.url, 403, {}, HTTPResponse(io.BytesIO(content), status=403, preload_content=False))

    account = Account(region=_REGION)
    account.client(service).meta.events.register(f"before-send.{service}.{operation}", refuse)
    return checks(account, Resources())


def _failed(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found if check.ok is False}


def _named(found: list[Check], name: str) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


# -- all is well ------------------------------------------------------------------------------------------------------


def test_after_bootstrap_everything_is_green_within_five_seconds(ready: Emulator) -> None:
    """Every check could be made, and none failed; what was written to try the bucket is gone."""
    _look()  # the library that looks up images is loaded once
    before, began = ready.state(), time.monotonic()
    found = _look()
    assert time.monotonic() - began < 5
    assert {check.name: check.found for check in found if check.ok is not True} == {}
    assert len(found) >= 15 and all(check.found and not check.fix for check in found)
    assert ready.state() == before


def test_the_backend_shows_its_checks(ready: Emulator) -> None:
    """`backend.doctor()` is the same, as a table in a notebook and as text elsewhere."""
    found = medimg.backend("sagemaker", region=_REGION).doctor()
    assert found.ok
    assert "arn:aws:iam::123456789012:user/student" in repr(found)
    assert found._repr_html_().count("<tr>") == len(found) + 1


# -- one thing is missing ---------------------------------------------------------------------------------------------


def test_without_credentials_only_that_is_red(ready: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be asked without them is not known, and not called wrong."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    found = _look()
    assert list(_failed(found)) == ["credentials"]
    assert _named(found, "credentials").fix == "aws configure sso"
    assert _named(found, "bucket").ok is None


def test_without_a_region_only_that_is_red(ready: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to ask anywhere."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert [(check.name, check.ok, check.fix) for check in examine()] == [
        ("region", False, "export AWS_DEFAULT_REGION=eu-central-1")
    ]


def test_a_misspelt_region_is_red_with_the_right_one(ready: Emulator) -> None:
    """And an option that AWS would refuse is not called a wrong region."""
    (check,) = examine(region="eu-centrall-1")
    assert (check.name, check.ok, check.fix) == ("region", False, "export AWS_DEFAULT_REGION=eu-central-1")
    (check,) = examine(region=_REGION, prefix="Not/This/")
    assert (check.name, check.ok) == ("options", False)


def test_without_such_a_profile_only_that_is_red(ready: Emulator) -> None:
    """With the command that lists those there are."""
    (check,) = examine(profile="absent", region=_REGION)
    assert (check.name, check.ok, check.fix) == ("profile", False, "aws configure list-profiles")


def test_an_expired_login_is_told_from_none(ready: Emulator) -> None:
    """The command is another."""
    ready.faults(fail=("GetCallerIdentity", 1, "ExpiredToken"))
    assert _named(_look(), "credentials").fix == "aws sso login"


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("medimg-execution", "execution role"),
        ("medimg-lambda", "Lambda role"),
        ("medimg-scheduler", "scheduler's role"),
    ],
)
def test_a_missing_role_turns_its_check_red(ready: Emulator, role: str, name: str) -> None:
    """The fix makes it."""
    _delete_role(ready, role)
    found = _look()
    assert list(_failed(found)) == [name]
    assert _named(found, name).fix == f"medimg aws bootstrap --region {_REGION}"


def test_a_role_that_trusts_another_service_is_red(ready: Emulator) -> None:
    """The fix is the whole command, with the right document."""
    trust = {"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}}  # fmt: skip
    ready.client("iam").update_assume_role_policy(RoleName="medimg-execution", PolicyDocument=json.dumps(trust))
    found = _look()
    assert list(_failed(found)) == ["execution role"]
    check = _named(found, "execution role")
    assert "ec2.amazonaws.com" in check.found
    assert check.fix.startswith("aws iam update-assume-role-policy --role-name medimg-execution --policy-document")
    assert '"sagemaker.amazonaws.com"' in check.fix


def test_a_role_of_another_account_is_red(ready: Emulator) -> None:
    """Jobs cannot run as it."""
    found = _look(role="arn:aws:iam::999999999999:role/theirs")
    assert "another account" in _failed(found)["execution role"].found


def test_a_role_that_may_too_little_is_red(ready: Emulator) -> None:
    """The missing actions are named."""
    ready.client("iam").put_role_policy(
        RoleName="medimg-execution", PolicyName="medimg-execution", PolicyDocument=json.dumps(_NOTHING)
    )
    found = _look()
    assert list(_failed(found)) == ["what that role may do"]
    check = _named(found, "what that role may do")
    assert "cloudwatch:PutMetricData" in check.found and check.fix == f"medimg aws bootstrap --region {_REGION}"


def test_a_user_without_the_serving_policy_is_told_what_is_missing(ready: Emulator) -> None:
    """Two policies are given by hand; one is easily forgotten."""
    arn = "arn:aws:iam::123456789012:policy/medimg-user-serve"
    ready.client("iam").detach_user_policy(UserName="student", PolicyArn=arn)
    found = _look()
    assert list(_failed(found)) == ["what you may do"]
    assert "apigateway:" in _named(found, "what you may do").found


def test_who_may_not_pass_the_role_is_told_so(ready: Emulator) -> None:
    """It is the permission that is forgotten most."""
    ready.client("iam").detach_user_policy(UserName="student", PolicyArn="arn:aws:iam::123456789012:policy/medimg-user")
    assert "iam:PassRole" in _failed(_look())["passing the role"].found


def test_who_may_not_ask_for_permissions_is_not_called_wrong(ready: Emulator) -> None:
    """Not known is not red."""
    found = _look_refused("iam", "SimulatePrincipalPolicy")
    assert not _failed(found)
    for name in ("what that role may do", "what you may do", "passing the role"):
        assert _named(found, name).ok is None


def test_a_missing_bucket_is_red(ready: Emulator) -> None:
    """What else is asked of it is not known."""
    ready.client("s3").delete_bucket(Bucket=f"medimg-123456789012-{_REGION}")
    found = _look()
    assert list(_failed(found)) == ["bucket"]
    assert _named(found, "bucket").fix == f"medimg aws bootstrap --region {_REGION}"
    assert _named(found, "bucket is writable").ok is None


def test_anothers_bucket_is_red(ready: Emulator) -> None:
    """With the option that takes another name."""
    found = _look_refused("s3", "HeadBucket")
    assert list(_failed(found)) == ["bucket"]
    assert "another account's" in _named(found, "bucket").found
    assert "--bucket ANOTHER-NAME" in _named(found, "bucket").fix


def test_a_bucket_that_could_be_public_is_red(ready: Emulator) -> None:
    """The fix is AWS's own command, and after it the check is green."""
    bucket = f"medimg-123456789012-{_REGION}"
    ready.client("s3").delete_public_access_block(Bucket=bucket)
    found = _look()
    assert list(_failed(found)) == ["bucket is closed"]
    assert _named(found, "bucket is closed").fix.startswith(f"aws s3api put-public-access-block --bucket {bucket}")


def test_a_bucket_that_cannot_be_written_is_red(ready: Emulator) -> None:
    """Found out by writing."""
    ready.faults(fail=("PutObject", 1, "AccessDenied"))
    found = _look()
    assert list(_failed(found)) == ["bucket is writable"]
    assert "medimg aws bootstrap --dry-run" in _named(found, "bucket is writable").fix


def test_a_quota_of_zero_is_red(ready: Emulator) -> None:
    """The fix asks AWS for one, by the quota's own code."""
    ready.quota("ml.p3.2xlarge for training job usage", 0)
    assert not _failed(_look())
    found = _look(Resources(instance="ml.p3.2xlarge"))
    assert list(_failed(found)) == ["quota of training"]
    fix = _named(found, "quota of training").fix
    assert fix.startswith("aws service-quotas request-service-quota-increase") and "--quota-code L-" in fix


def test_the_quota_of_spot_is_its_own(ready: Emulator) -> None:
    """New accounts often have the one and not the other."""
    ready.quota("ml.p3.2xlarge for spot training job usage", 0)
    assert not _failed(_look(Resources(instance="ml.p3.2xlarge")))
    assert list(_failed(_look(Resources(instance="ml.p3.2xlarge", spot=True)))) == ["quota of spot training"]


def test_an_instance_without_an_image_is_red(ready: Emulator) -> None:
    """Found before anything is uploaded; an image of one's own is taken as it is."""
    found = _look(Resources(instance="ml.trn1.2xlarge"))
    assert list(_failed(found)) == ["image of jobs"]
    assert _named(found, "image of jobs").fix.startswith("medimg aws doctor")
    assert _named(_look(image="mine:1"), "image of jobs").found == "mine:1"


def test_an_aws_that_does_not_answer_is_not_known(ready: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is called wrong because of the network."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("medimg.backends.sagemaker.account._RETRIES", {"mode": "standard", "total_max_attempts": 1})
    assert not _failed(_look())


# -- the commands and the table ---------------------------------------------------------------------------------------


def test_the_command_fails_where_a_check_fails(ready: Emulator) -> None:
    """So that a script notices; and the fix can be copied from the output."""
    assert CliRunner().invoke(app, ["aws", "doctor", "--region", _REGION]).exit_code == 0
    ready.client("s3").delete_bucket(Bucket=f"medimg-123456789012-{_REGION}")
    done = CliRunner().invoke(app, ["aws", "doctor", "--region", _REGION])
    assert done.exit_code == 1
    assert f"medimg aws bootstrap --region {_REGION}" in done.output


def test_checks_show_what_is_not_markup() -> None:
    """Names of users' own making are shown as they are."""
    found = Checks([Check("home", False, "[red]<b>", "rm '<x>'"), Check("disk", None, "?")])
    assert not found.ok and len(found) == 2 and found[0].name == "home"
    assert "&lt;b&gt;" in found._repr_html_() and "<b>" not in found._repr_html_()
    assert "[red]<b>" in repr(found) and "rm '<x>'" in repr(found)
    assert Checks(found[1:]).ok


def test_this_machine_is_ready() -> None:
    """The local backend's own checks, on a machine that runs these tests."""
    assert [check.name for check in local_checks()][:3] == ["system", "home", "disk"]
    assert not [check for check in local_checks() if check.ok is False and check.name != "disk"]


def test_a_home_that_cannot_be_written_is_red(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix names another."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "file" / "home"))
    failed = [check for check in local_checks() if check.ok is False]
    assert [check.name for check in failed] == ["home"]
    assert failed[0].fix.startswith("export MEDIMG_HOME=")
