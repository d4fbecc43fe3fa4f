"""Setting up an account: bucket, roles and policies as one CloudFormation stack a region, and how they go again.

Roles and policies belong to the account, a bucket to a region: the first region's stack holds both, those of other
regions hold a bucket and use the roles of the first.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.errors import code_of, translated
from medimg.backends.sagemaker.policies import ROLES, USER
from medimg.backends.sagemaker.storage import BLOCKED
from medimg.backends.sagemaker.template import HOME_TAG, logical_name, template
from medimg.errors import AccessError, BackendError, ConfigError, NotFoundError
from medimg.progress import Display, Event, Report, heartbeat

if TYPE_CHECKING:
    from medimg.backends.sagemaker.backend import SageMakerBackend

__all__ = ["STACK", "Setup", "bootstrap", "status", "teardown"]

STACK = "medimg"
_POLL_SECONDS = 2.0
_PATIENCE_SECONDS = 900.0
_ROLE_NAMES = {logical_name(name, "Role") for name in ROLES}  # in the template


@dataclass(frozen=True)
class Setup:
    """What there is of medimg's set-up in an account and region.

    Attributes:
        account: The account's number.
        region: The region.
        stack: The stack's state in AWS's words; "": there is none.
        bucket: The bucket's name.
        bucket_exists: Whether it is there.
        objects: Objects of ours in it.
        size_bytes: Their size.
        roles: ARN of each role by name; "": it is not there.
        policies: Likewise of the policies for people.
        home: The region whose stack holds the roles; "": not known.
    """

    account: str
    region: str
    stack: str
    bucket: str
    bucket_exists: bool
    objects: int = 0
    size_bytes: int = 0
    roles: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    home: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether bucket, roles and policies are all there."""
        return self.bucket_exists and all(self.roles.values()) and all(self.policies.values())


# -- making it --------------------------------------------------------------------------------------------------------


def bootstrap(account: Account) -> Setup:
    """Makes bucket, roles and policies, or brings them up to date, and returns what there is when all is done.

    Raises:
        AccessError: These credentials may not, or the bucket's name is another account's.
        ConfigError: The roles were made elsewhere, and do not fit what is asked for.
        BackendError: The stack failed; the message says at what.
    """
    with Display("bootstrap") as display:
        with heartbeat("looking", display):
            made = _resources(account)
            with_bucket = "Bucket" in made or not _bucket_exists(account)
            with_roles = _may_make_roles(account, made)
        body = template(
            bucket=account._bucket,
            prefix=account.prefix,
            kms_key=account.kms_key,
            with_bucket=with_bucket,
            with_roles=with_roles,
        )
        if body["Resources"]:
            _apply(account, json.dumps(body), display)
        _close(account)
        return status(account)


def _apply(account: Account, body: str, report: Report) -> None:
    cloudformation = account.client("cloudformation")
    request = {
        "StackName": STACK,
        "TemplateBody": body,
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        "Tags": account.tag_list(),
    }
    # A stack whose first creation failed can only be deleted.
    if _stack(account).get("StackStatus") in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"):
        _delete_stack(account, report)
    with translated(f"making the stack {STACK!r}"):
        if _stack(account):
            word = "updating"
            try:
                id = cloudformation.update_stack(**request)["StackId"]
            except ClientError as error:
                if "No updates are to be performed" in str(error):
                    return
                raise
        else:
            # What failed leaves nothing behind; its events can still be read.
            word = "making"
            id = cloudformation.create_stack(**request, OnFailure="DELETE")["StackId"]
    _wait(account, id, word, report)


def _may_make_roles(account: Account, made: set[str]) -> bool:
    """Tells whether this region's stack is to hold roles and policies: it does already, or nobody has made them."""
    if made & _ROLE_NAMES:
        return True
    found = _roles(account)
    there = sorted(name for name, role in found.items() if role)
    if not there:
        return True
    homes = sorted({tag["Value"] for role in found.values() for tag in role.get("Tags", ()) if tag["Key"] == HOME_TAG})
    if missing := sorted(set(found) - set(there)):
        again = f"medimg aws bootstrap --region {homes[0]}" if homes else f"aws iam delete-role --role-name {there[0]}"
        raise ConfigError(
            f"the account has the role {', '.join(there)}, made elsewhere, and not {', '.join(missing)}. "
            f"Complete or remove them first: {again}"
        )
    if account._bucket is not None and not account._bucket.startswith(f"medimg-{account.id}-"):
        raise ConfigError(
            f"the roles of this account were made {'in ' + homes[0] if homes else 'elsewhere'} and reach the buckets "
            f"medimg-{account.id}-…, not {account._bucket!r}. Leave the bucket's name out: "
            f"medimg aws bootstrap --region {account.region}"
        )
    return False


def _wait(account: Account, id: str, word: str, report: Report) -> None:
    """Returns when a stack is as it was to be.

    Raises:
        BackendError: It is not; the message says which of its resources failed, and why.
    """
    cloudformation = account.client("cloudformation")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    began = time.monotonic()
    while True:
        with translated(f"looking at the stack {STACK!r}"):
            found = cloudformation.describe_stacks(StackName=id)["Stacks"][0]["StackStatus"]
        report(Event("stage", word, message=f"{found} {time.monotonic() - began:.0f} s"))
        if not found.endswith("_IN_PROGRESS"):
            break
        if time.monotonic() > deadline:
            raise BackendError(f"the stack {STACK!r} is still {found} after {_PATIENCE_SECONDS / 60:.0f} minutes")
        time.sleep(_POLL_SECONDS)
    good = ("DELETE_COMPLETE",) if word == "deleting" else ("CREATE_COMPLETE", "UPDATE_COMPLETE")
    if found in good:
        return
    raise BackendError(f"the stack {STACK!r} of {account.region} failed ({found}): {_reason(account, id)}")


def _reason(account: Account, id: str) -> str:
    """Returns what failed first in a stack's latest change; what fails after it only follows from it."""
    with translated(f"reading the events of the stack {STACK!r}"):
        pages = account.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=id)
        events = [event for page in pages for event in page["StackEvents"]]
    failed = [
        event
        for event in events  # newest first
        if event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in event.get("ResourceStatusReason", "")
    ]
    if not failed:
        return "AWS gives no reason. See the stack's events in the console of CloudFormation"
    first = failed[-1]
    said = first.get("ResourceStatusReason", "no reason given")
    what = f"{first['LogicalResourceId']} ({first['ResourceType']})"
    if "already exists" in said:
        said += f". Delete or rename what is in the way, then again: medimg aws bootstrap --region {account.region}"
    elif re.search(r"not authorized|AccessDenied", said):
        said += ". Ask an administrator to run it, or hand over: medimg aws bootstrap --dry-run --output medimg.json"
    return f"{what}: {said}"


# -- looking ----------------------------------------------------------------------------------------------------------


def status(account: Account) -> Setup:
    """Returns what there is of the set-up in the account and region."""
    roles = _roles(account)
    homes = [tag["Value"] for role in roles.values() for tag in role.get("Tags", ()) if tag["Key"] == HOME_TAG]
    exists = _bucket_exists(account)
    sizes = account.storage.list().values() if exists else ()
    return Setup(
        account=account.id,
        region=account.region,
        stack=_stack(account).get("StackStatus", ""),
        bucket=account.bucket,
        bucket_exists=exists,
        objects=len(sizes),
        size_bytes=sum(sizes),
        roles={name: role.get("Arn", "") for name, role in roles.items()},
        policies={name: _policy_arn(account, name) for name in USER},
        home=homes[0] if homes else "",
    )


def _stack(account: Account) -> Mapping[str, Any]:
    """Returns the stack of the region; {} where there is none."""
    with suppress(NotFoundError), translated(f"looking for the stack {STACK!r}"):
        found: list[Mapping[str, Any]] = account.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        return next((stack for stack in found if stack["StackStatus"] != "DELETE_COMPLETE"), {})
    return {}


def _resources(account: Account) -> set[str]:
    """Returns what the region's stack holds."""
    if not _stack(account):
        return set()
    with translated(f"reading the stack {STACK!r}"):
        pages = account.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=STACK)
        found = [resource for page in pages for resource in page["StackResourceSummaries"]]
    gone = ("DELETE_COMPLETE", "CREATE_FAILED")
    return {each["LogicalResourceId"] for each in found if each["ResourceStatus"] not in gone}


def _roles(account: Account) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {name: {} for name in ROLES}
    for name in ROLES:
        with suppress(NotFoundError), translated(f"looking for the role {name!r}"):
            found[name] = account.client("iam").get_role(RoleName=name)["Role"]
    return found


def _policy_arn(account: Account, name: str) -> str:
    arn = f"arn:{account.partition}:iam::{account.id}:policy/{name}"
    with suppress(NotFoundError), translated(f"looking for the policy {name!r}"):
        account.client("iam").get_policy(PolicyArn=arn)
        return arn
    return ""


def _bucket_exists(account: Account) -> bool:
    """Tells whether the bucket is there.

    Raises:
        AccessError: It is another account's.
    """
    with translated(f"looking for the bucket {account.bucket!r}"):
        try:
            account.client("s3").head_bucket(Bucket=account.bucket, ExpectedBucketOwner=account.id)
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchBucket", "NotFound"):
                return False
            if code_of(error) in ("403", "AccessDenied"):
                raise AccessError(
                    f"the bucket {account.bucket!r} belongs to another AWS account, or these credentials may not use "
                    "it. Take another name: medimg aws bootstrap --bucket NAME"
                ) from error
            raise
    return True


def _close(account: Account) -> None:
    """Blocks public access where that is not so: somebody opened the bucket, or made it in another way."""
    s3, named = account.client("s3"), {"Bucket": account.bucket, "ExpectedBucketOwner": account.id}
    with translated(f"closing the bucket {account.bucket!r} to the public"):
        try:
            found = s3.get_public_access_block(**named)["PublicAccessBlockConfiguration"]
        except ClientError as error:
            if code_of(error) != "NoSuchPublicAccessBlockConfiguration":
                raise
            found = {}
        if found != BLOCKED:
            s3.put_public_access_block(**named, PublicAccessBlockConfiguration=BLOCKED)


# -- taking it down ---------------------------------------------------------------------------------------------------


def teardown(backend: SageMakerBackend, *, delete_data: bool = False) -> Setup:
    """Deletes stack, roles and policies, and the bucket where that is wanted; returns what is left.

    Args:
        backend: Of the account and region.
        delete_data: Whether the bucket goes too, with every image, model and result in it. It does not come back.

    Raises:
        BackendError: Endpoints, their schedules or running jobs are there, or another region still uses the roles.
    """
    account = backend.account
    if busy := [r for r in backend.inventory() if r.kind == "endpoint" or r.status in ("queued", "running")]:
        listed = ", ".join(f"{resource.kind} {resource.id} ({resource.status})" for resource in busy)
        raise BackendError(
            f"there is still {listed}: they use the roles that would go. End them first: "
            f"medimg rm {' '.join(resource.id for resource in busy)} --backend sagemaker"
        )
    made = _resources(account)
    regions = {account.region}
    if made & _ROLE_NAMES:
        regions |= set(_regions(account))
    if found := [each for region in sorted(regions) for each in _in_use(account, region)]:
        raise BackendError(
            f"there is still {', '.join(what for what, _ in found)}: another project or an unfinished deletion has "
            f"left it, and it uses the roles that would go. Delete it first: {found[0][1]}"
        )
    if made & _ROLE_NAMES and (others := list(_other_stacks(account))):
        raise BackendError(
            f"the roles of this stack serve {', '.join(others)} too. Take those down first: "
            f"medimg aws teardown --region {others[0]}"
        )
    with Display("teardown") as display:
        if made:
            with_roles = bool(made & _ROLE_NAMES)
            if with_roles:
                _detach_policies(account)
            _delete_stack(account, display)
            if with_roles:
                _delete_policies(account)
        if delete_data and _bucket_exists(account):
            _delete_bucket(account, display)
    return status(account)


def _regions(account: Account) -> Iterator[str]:
    """Yields the other regions where medimg was used: the names of its buckets tell."""
    with translated("listing the buckets"):
        names = [bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]]
    for name in names:
        region = name.removeprefix(f"medimg-{account.id}-")
        if region not in (name, account.region) and re.fullmatch(r"[a-z]{2,4}(-[a-z]+)+-\d", region):
            yield region


def _other_stacks(account: Account) -> Iterator[str]:
    """Yields the other regions that have a stack of ours."""
    for region in _regions(account):
        with suppress(NotFoundError), translated(f"looking for the stack of {region}"):
            stacks = account.client("cloudformation", region=region).describe_stacks(StackName=STACK)["Stacks"]
            if any(stack["StackStatus"] != "DELETE_COMPLETE" for stack in stacks):
                yield region


def _in_use(account: Account, region: str) -> Iterator[tuple[str, str]]:
    """Yields what needs our roles in a region, whatever project made it, and the command that deletes it."""
    with translated(f"listing the schedules of {region}"):
        pages = (
            account.client("scheduler", region=region).get_paginator("list_schedules").paginate(NamePrefix="medimg-")
        )
        for schedule in [each["Name"] for page in pages for each in page["Schedules"]]:
            yield (
                f"schedule {schedule} in {region}",
                f"aws scheduler delete-schedule --region {region} --name {schedule}",
            )
    sagemaker = account.client("sagemaker", region=region)
    with translated(f"listing the endpoints of {region}"):
        for page in sagemaker.get_paginator("list_endpoints").paginate():
            for endpoint in page["Endpoints"]:
                with suppress(NotFoundError), translated("reading tags"):  # deleted meanwhile
                    tags = sagemaker.get_paginator("list_tags").paginate(ResourceArn=endpoint["EndpointArn"])
                    if any(tag["Key"] == "medimg" for tags_page in tags for tag in tags_page["Tags"]):
                        name = endpoint["EndpointName"]
                        yield (
                            f"endpoint {name} in {region}",
                            f"aws sagemaker delete-endpoint --region {region} --endpoint-name {name}",
                        )
    with translated(f"listing the functions of {region}"):
        for page in account.client("lambda", region=region).get_paginator("list_functions").paginate():
            for function in page["Functions"]:
                name = function["FunctionName"]
                if name.startswith("medimg-") and function["Role"] == account.lambda_role_arn:
                    yield (
                        f"function {name} in {region}",
                        f"aws lambda delete-function --region {region} --function-name {name}",
                    )


def _detach_policies(account: Account) -> None:
    """Takes our policies from whom they were given to: a policy in use is not deleted."""
    iam = account.client("iam")
    for name in USER:
        if not (arn := _policy_arn(account, name)):
            continue
        with translated(f"detaching the policy {name!r}"):
            for page in iam.get_paginator("list_entities_for_policy").paginate(PolicyArn=arn):
                for user in page["PolicyUsers"]:
                    iam.detach_user_policy(UserName=user["UserName"], PolicyArn=arn)
                for group in page["PolicyGroups"]:
                    iam.detach_group_policy(GroupName=group["GroupName"], PolicyArn=arn)
                for role in page["PolicyRoles"]:
                    iam.detach_role_policy(RoleName=role["RoleName"], PolicyArn=arn)


def _delete_policies(account: Account) -> None:
    """Deletes those of our policies that a stack has left behind."""
    for name in USER:
        if arn := _policy_arn(account, name):
            with suppress(NotFoundError), translated(f"deleting the policy {name!r}"):
                account.client("iam").delete_policy(PolicyArn=arn)


def _delete_stack(account: Account, report: Report) -> None:
    if not (found := _stack(account)):
        return
    with translated(f"deleting the stack {STACK!r}"):
        account.client("cloudformation").delete_stack(StackName=STACK)
    _wait(account, found["StackId"], "deleting", report)


def _delete_bucket(account: Account, report: Report) -> None:
    """Empties and deletes the bucket: every object, every version, and the parts of unfinished uploads."""
    s3, named = account.client("s3"), {"Bucket": account.bucket, "ExpectedBucketOwner": account.id}
    with heartbeat("emptying", report), translated(f"deleting the bucket {account.bucket!r}"):
        for page in s3.get_paginator("list_multipart_uploads").paginate(**named):
            for upload in page.get("Uploads", ()):
                s3.abort_multipart_upload(**named, Key=upload["Key"], UploadId=upload["UploadId"])
        for page in s3.get_paginator("list_object_versions").paginate(**named):
            objects = [
                {"Key": each["Key"], "VersionId": each["VersionId"]}
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]
            if objects:
                answer = s3.delete_objects(**named, Delete={"Objects": objects, "Quiet": True})
                if errors := answer.get("Errors"):
                    raise BackendError(
                        f"{len(errors):,} objects of {account.bucket!r} could not be deleted: "
                        f"{errors[0].get('Message', errors[0].get('Code'))}"
                    )
        s3.delete_bucket(**named)
