"""What of an AWS account is ready for medimg, each check with the command that mends what fails."""

from __future__ import annotations

import json
import re
import shlex
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import Any

from medimg.backends.doctor import Check
from medimg.backends.sagemaker.account import EXECUTION_ROLE, LAMBDA_ROLE, SCHEDULER_ROLE, Account
from medimg.backends.sagemaker.archives import DEFAULT_INSTANCE as SERVING_INSTANCE
from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.grants import Grant, Role, Scope, trust
from medimg.backends.sagemaker.images import serving_image, training_image
from medimg.backends.sagemaker.jobs import DEFAULT_INSTANCE as TRAINING_INSTANCE
from medimg.backends.sagemaker.policies import ROLES, USER
from medimg.backends.sagemaker.storage import BLOCKED
from medimg.config import Resources
from medimg.errors import (
    AccessError,
    BackendError,
    ConfigError,
    MedimgError,
    MissingExtraError,
    NotFoundError,
    UnreachableError,
)

__all__ = ["checks", "examine"]

_SKEW_SECONDS = 240  # AWS refuses what was signed five minutes away from its own clock
_AT_ONCE = 16
_MOST_SHOWN = 4  # actions that are missing
_PASSING, _ASKING = "PassExecutionRole", "ReadMyself"  # statements

Work = Callable[[], Check]


def examine(resources: Resources | None = None, image: str | None = None, **options: Any) -> list[Check]:
    """Returns the checks of an account that may not even have a region; options as for `Account`."""
    try:
        account = Account(**options)
    except ConfigError as error:
        if "rofile" in str(error):
            return [Check("profile", False, str(error), "aws configure list-profiles")]
        if better := re.search(r"export AWS_DEFAULT_REGION=[\w-]+", str(error)):
            return [Check("region", False, str(error), better[0])]
        return [Check("options", False, str(error), "medimg aws doctor --help")]
    return checks(account, resources or Resources(), image)


def checks(account: Account, resources: Resources, image: str | None = None) -> list[Check]:
    """Returns what is ready and what is not; a check that fails is returned, never raised.

    Only the check of writing changes anything: it writes a small object and deletes it.

    Args:
        account: What is looked at.
        resources: What a job would ask for: the quota is that of its instance.
        image: The image of jobs, where it is not AWS's.
    """
    first = [_packages(), Check("region", True, account.region)]
    identity, *clock = _credentials(account)
    region = account.region
    instance = resources.instance or TRAINING_INSTANCE
    kind = "spot training" if resources.spot else "training"
    remaining: list[tuple[str, Work]] = [
        ("bucket", lambda: _bucket(account)),
        ("bucket is closed", lambda: _closed(account)),
        ("bucket is writable", lambda: _writable(account)),
        ("execution role", lambda: _role(account, account.role_arn, ROLES[EXECUTION_ROLE])),
        ("what that role may do", lambda: _role_permissions(account)),
        ("Lambda role", lambda: _role(account, account.lambda_role_arn, ROLES[LAMBDA_ROLE])),
        ("scheduler's role", lambda: _role(account, account.scheduler_role_arn, ROLES[SCHEDULER_ROLE])),
        ("what you may do", lambda: _own_permissions(account)),
        ("passing the role", lambda: _passing(account)),
        (f"quota of {kind}", lambda: _quota(account, f"{instance} for {kind} job usage")),
        ("quota of endpoints", lambda: _quota(account, f"{SERVING_INSTANCE} for endpoint usage")),
        ("image of jobs", lambda: _image(image, training_image, region, instance)),
        ("image of endpoints", lambda: _image(None, serving_image, region, SERVING_INSTANCE)),
    ]
    if identity.ok is not True:
        unknown = [Check(name, None, "not asked: there are no credentials that work") for name, _ in remaining]
        return [*first, identity, *clock, *unknown]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [*first, identity, *clock, *pool.map(lambda one: _guarded(*one), remaining)]


def _guarded(name: str, work: Work) -> Check:
    """Returns the check under its name; what may not or cannot be asked is not known."""
    try:
        check = work()
    except NotFoundError as error:
        return Check(name, None, f"not asked: {error}")
    except MissingExtraError as error:
        return Check(name, False, str(error), f"pip install 'medimg[{error.extra}]'")
    except Exception as error:  # one check must not hide the others
        return Check(name, None, f"could not be asked: {error}")
    return Check(name, check.ok, check.found, check.fix)


def _packages() -> Check:
    found = []
    for name in ("boto3", "sagemaker-core"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return Check("packages", False, f"{name} is not installed", "pip install 'medimg[sagemaker]'")
    return Check("packages", True, ", ".join(found))


# -- who ----------------------------------------------------------------------------------------------------------


def _credentials(account: Account) -> list[Check]:
    try:
        with translated("asking AWS who we are"):
            answer = account.client("sts").get_caller_identity()
    except UnreachableError as error:
        return [Check("credentials", None, str(error)), Check("clock", None, "AWS did not answer")]
    except MedimgError as error:
        fix = "aws sso login" if "expired" in str(error) or "login has ended" in str(error) else "aws configure sso"
        return [Check("credentials", False, str(error), fix), Check("clock", None, "AWS did not tell its time")]
    return [Check("credentials", True, answer["Arn"]), _clock(answer)]


def _clock(answer: Any) -> Check:
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if told is None:
        return Check("clock", None, "AWS did not tell its time")
    skew = time.time() - parsedate_to_datetime(told).timestamp()
    if abs(skew) > _SKEW_SECONDS:
        found = f"this machine's clock is {abs(skew):.0f} s {'fast' if skew > 0 else 'slow'}: AWS refuses its requests"
        return Check("clock", False, found, "sudo timedatectl set-ntp true")
    return Check("clock", True, f"within {max(1, round(abs(skew)))} s of AWS's")


# -- the bucket -------------------------------------------------------------------------------------------------------


def _bootstrap(account: Account) -> str:
    # A role of the user's own is theirs to mend; what bootstrap makes, it mends.
    bucket = f" --bucket {shlex.quote(account._bucket)}" if account._bucket else ""
    return f"medimg aws bootstrap --region {account.region}{bucket}"


def _bucket(account: Account) -> Check:
    try:
        with translated(f"looking for the bucket {account.bucket!r}"):
            answer = account.client("s3").head_bucket(Bucket=account.bucket, ExpectedBucketOwner=account.id)
    except NotFoundError:
        return Check("", False, f"there is no bucket {account.bucket!r}", _bootstrap(account))
    except AccessError:
        found = f"{account.bucket!r} is another account's, or you may not use it (s3:ListBucket)"
        return Check("", False, found, f"medimg aws bootstrap --region {account.region} --bucket ANOTHER-NAME")
    region = answer.get("BucketRegion", account.region)
    if region != account.region:
        found = f"{account.bucket!r} is in {region}: data would cross regions"
        return Check("", False, found, f"export AWS_DEFAULT_REGION={region}")
    return Check("", True, account.bucket)


def _usable(account: Account) -> None:
    """Returns where there is a bucket of ours; what is asked of it otherwise says nothing."""
    try:
        with translated(f"looking for the bucket {account.bucket!r}"):
            account.client("s3").head_bucket(Bucket=account.bucket, ExpectedBucketOwner=account.id)
    except AccessError as error:
        raise NotFoundError("the bucket cannot be used") from error


def _closed(account: Account) -> Check:
    _usable(account)
    found: dict[str, bool] = {}
    try:
        with translated("asking whether the bucket is closed to the public"):
            answer = account.client("s3").get_public_access_block(Bucket=account.bucket, ExpectedBucketOwner=account.id)
        found = answer["PublicAccessBlockConfiguration"]
    except AccessError:
        raise
    except BackendError as error:
        if "NoSuchPublicAccessBlockConfiguration" not in str(error) and not isinstance(error, NotFoundError):
            raise
    if open_ways := sorted(name for name in BLOCKED if not found.get(name)):
        settings = ",".join(f"{name}=true" for name in BLOCKED)
        fix = f"aws s3api put-public-access-block --bucket {account.bucket}"
        fix += f" --public-access-block-configuration {settings}"
        return Check("", False, f"{account.bucket!r} could be made public: {', '.join(open_ways)} is off", fix)
    return Check("", True, "public access is blocked")


def _writable(account: Account) -> Check:
    _usable(account)
    key = f"doctor/{uuid.uuid4().hex}"
    try:
        account.storage.put(key, b"medimg")
        account.storage.delete_prefix(key)
    except AccessError as error:
        return Check("", False, str(error), "medimg aws bootstrap --dry-run --output for-your-administrator.json")
    return Check("", True, f"an object was written below {account.prefix}/ and deleted")


# -- roles and permissions --------------------------------------------------------------------------------------------


def _role(account: Account, arn: str, role: Role) -> Check:
    name = arn.rpartition("/")[2]
    if f":{account.id}:" not in arn:
        return Check("", False, f"{arn} is a role of another account than {account.id}", _bootstrap(account))
    try:
        with translated(f"looking for the role {name!r}"):
            found = account.client("iam").get_role(RoleName=name)["Role"]
    except NotFoundError:
        return Check("", False, f"there is no role {name!r}", _bootstrap(account))
    trusted = sorted(
        service
        for statement in _statements(found["AssumeRolePolicyDocument"])
        if statement.get("Effect") == "Allow"
        for service in _listed(statement.get("Principal", {}).get("Service", ()))
    )
    if role.service not in trusted:
        document = json.dumps(trust(role, Scope(account.id, partition=account.partition)), separators=(",", ":"))
        fix = f"aws iam update-assume-role-policy --role-name {name} --policy-document {shlex.quote(document)}"
        return Check("", False, f"{name!r} trusts {', '.join(trusted) or 'no service'}, not {role.service}", fix)
    return Check("", True, f"{name}, for {role.service}")


def _statements(document: Any) -> Iterable[Any]:
    found = document["Statement"]
    return found if isinstance(found, list) else [found]


def _listed(value: Any) -> Iterable[str]:
    return [value] if isinstance(value, str) else value


def _role_permissions(account: Account) -> Check:
    name = account.role_arn.rpartition("/")[2]
    with translated(f"looking for the role {name!r}"):
        arn = account.client("iam").get_role(RoleName=name)["Role"]["Arn"]
    missing = _missing(account, arn, ROLES[EXECUTION_ROLE].grants)
    return _permissions(missing, _bootstrap(account))


def _own_permissions(account: Account) -> Check:
    # Of one's own name IAM's simulator knows nothing; that it could be asked shows that it may be.
    left_out = (_PASSING, _ASKING)
    grants = [grant for policy in USER.values() for grant in policy if grant.name not in left_out]
    missing = _missing(account, _principal(account), grants)
    return _permissions(missing, "medimg aws bootstrap --dry-run --output for-your-administrator.json")


def _passing(account: Account) -> Check:
    (grant,) = [grant for policy in USER.values() for grant in policy if grant.name == _PASSING]
    resources = (account.role_arn,)
    missing = _missing(account, _principal(account), [grant], resources)
    if missing:
        found = f"you may not let jobs run as {account.role_arn.rpartition('/')[2]!r} (iam:PassRole)"
        return Check("", False, found, "medimg aws bootstrap --dry-run --output for-your-administrator.json")
    return Check("", True, f"jobs may run as {account.role_arn.rpartition('/')[2]}")


def _permissions(missing: Sequence[str], fix: str) -> Check:
    if not missing:
        return Check("", True, "all that it needs")
    more = f" and {len(missing) - _MOST_SHOWN} more" if len(missing) > _MOST_SHOWN else ""
    return Check("", False, f"not allowed: {', '.join(missing[:_MOST_SHOWN])}{more}", fix)


def _principal(account: Account) -> str:
    """Returns the ARN whose policies are the caller's: that of a user, or of the role that a session took on."""
    arn = account.caller
    if arn.endswith(":root"):
        raise AccessError("these are the keys of the account's root user, which may do everything")
    if ":assumed-role/" not in arn:
        return arn
    name = arn.split("/")[1]
    with translated(f"looking for the role {name!r}"):
        return str(account.client("iam").get_role(RoleName=name)["Role"]["Arn"])  # with its path


def _missing(
    account: Account, principal: str, grants: Iterable[Grant], resources: tuple[str, ...] | None = None
) -> list[str]:
    """Returns the actions of grants that a principal is not allowed, as IAM simulates it."""
    scope = Scope(
        account.id, account.partition, account.region, buckets=(account.bucket,), prefix=account.prefix
    )  # fmt: skip
    asked = [
        {
            "PolicySourceArn": principal,
            "ActionNames": sorted({action for grant in group for action in grant.actions}),
            "ResourceArns": list(resources or arns),
            "ContextEntries": list(context),
        }
        for arns, context, group in _grouped(grants, scope)
    ]

    def ask(request: dict[str, Any]) -> set[str]:
        with translated("asking IAM what is allowed"):
            pages = account.client("iam").get_paginator("simulate_principal_policy").paginate(**request)
            results = [result for page in pages for result in page["EvaluationResults"]]
        allowed = {result["EvalActionName"] for result in results if result["EvalDecision"] == "allowed"}
        denied = {result["EvalActionName"] for result in results if result["EvalDecision"] != "allowed"}
        # Several resources are asked about at once, and an action of several kinds of them need not be for all.
        return denied - allowed

    with ThreadPoolExecutor(_AT_ONCE // 2) as pool:
        return sorted(set().union(*pool.map(ask, asked)))


def _grouped(grants: Iterable[Grant], scope: Scope) -> Iterable[tuple[list[str], list[dict[str, Any]], list[Grant]]]:
    """Yields the grants that hold for the same resources under the same conditions: one question for all of them."""

    def key(grant: Grant) -> str:
        statement = grant.statement(scope)
        return json.dumps([statement["Resource"], statement.get("Condition", {})])

    for _, same in groupby(sorted(grants, key=key), key):
        group = list(same)
        statement = group[0].statement(scope)
        context = [
            {
                "ContextKeyName": name,
                "ContextKeyValues": [next(iter(_listed(value))).strip("*")],
                "ContextKeyType": "string",
            }
            for wanted in statement.get("Condition", {}).values()
            for name, value in wanted.items()
        ]
        yield statement["Resource"], context, group


# -- quota and image --------------------------------------------------------------------------------------------------


def _quota(account: Account, name: str) -> Check:
    with translated(f"asking for the quota {name!r}"):
        pages = account.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
        found = next((each for page in pages for each in page["Quotas"] if each["QuotaName"] == name), None)
    if found is None:
        return Check("", None, f"AWS lists no quota {name!r} in {account.region}")
    if found["Value"] >= 1:
        return Check("", True, f"{name}: {found['Value']:.0f}")
    fix = "aws service-quotas request-service-quota-increase --service-code sagemaker --desired-value 1"
    return Check("", False, f"{name}: 0", f"{fix} --quota-code {found['QuotaCode']} --region {account.region}")


def _image(given: str | None, look_up: Callable[[str, str], str], region: str, instance: str) -> Check:
    try:
        return Check("", True, given or look_up(region, instance))
    except ConfigError as error:
        return Check("", False, str(error), f"medimg aws doctor --region {region} --instance {TRAINING_INSTANCE}")
