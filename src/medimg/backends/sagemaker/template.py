"""What an administrator is given: the set-up as a CloudFormation template, or as plain documents of IAM."""

from __future__ import annotations

from typing import Any

from medimg.backends.sagemaker.grants import Scope, trust
from medimg.backends.sagemaker.policies import (
    ROLES,
    SERVE_POLICY,
    TRAIN_POLICY,
    role_policy,
    user_policies,
)
from medimg.backends.sagemaker.storage import BLOCKED

__all__ = ["HOME_TAG", "documents", "logical_name", "template"]

HOME_TAG = "medimg:region"  # says which region's stack made a role
_DESCRIPTIONS = {
    TRAIN_POLICY: "Trains and registers classifiers of medical images with medimg",
    SERVE_POLICY: "Serves models with medimg; needs medimg-user too",
}


def logical_name(name: str, kind: str) -> str:
    """Returns what a role or policy is called inside the template, such as "ExecutionRole"."""
    return "".join(part.title() for part in name.split("-")[1:]) + kind


def template(
    *,
    bucket: str | None = None,
    prefix: str = "medimg",
    kms_key: str | None = None,
    with_bucket: bool = True,
    with_roles: bool = True,
) -> dict[str, Any]:
    """Returns the CloudFormation template; it names no account and no region, so it serves for all.

    Args:
        bucket: Its name; None: medimg-ACCOUNT-REGION.
        prefix: What the keys of our objects begin with.
        kms_key: ARN of the key that encrypts the bucket; None: S3's own keys.
        with_bucket: Whether the stack makes the bucket.
        with_roles: Whether the stack makes roles and policies, which an account has once.
    """
    name = bucket or "medimg-${AWS::AccountId}-${AWS::Region}"
    resources: dict[str, Any] = {}
    outputs: dict[str, Any] = {"Bucket": {"Description": "Where everything is kept", "Value": name}}
    if with_bucket:
        resources |= _bucket(name, prefix, kms_key)
    if with_roles:
        scope = _portable(bucket, prefix, kms_key)
        for role_name, role in ROLES.items():
            resources[logical_name(role_name, "Role")] = {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": role_name,
                    "Description": role.description,
                    "AssumeRolePolicyDocument": trust(role, scope),
                    "Tags": [*_tags(prefix), {"Key": HOME_TAG, "Value": "${AWS::Region}"}],
                },
            }
            resources[logical_name(role_name, "RolePolicy")] = {
                "Type": "AWS::IAM::Policy",
                "Properties": {
                    "PolicyName": role_name,
                    "PolicyDocument": role_policy(role, scope),
                    "Roles": [{"Ref": logical_name(role_name, "Role")}],
                },
            }
            outputs[logical_name(role_name, "Role")] = {
                "Description": role.description,
                "Value": f"arn:${{AWS::Partition}}:iam::${{AWS::AccountId}}:role/{role_name}",
            }
        for policy_name, document in user_policies(scope).items():
            resources[logical_name(policy_name, "Policy")] = {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {
                    "ManagedPolicyName": policy_name,
                    "Description": _DESCRIPTIONS[policy_name],
                    "PolicyDocument": document,
                },
            }
    made: dict[str, Any] = _substituted(
        {
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": "medimg: where training and serving of medical images is kept, and who may do it",
            "Resources": resources,
            "Outputs": outputs,
        }
    )
    return made


def documents(
    account: str, *, region: str = "*", bucket: str | None = None, prefix: str = "medimg", kms_key: str | None = None
) -> dict[str, Any]:
    """Returns the same as plain IAM documents, for an administrator who does not use CloudFormation.

    Args:
        account: The account's number, or any word to be replaced.
        region: Where the policies hold; "*": in all.
        bucket: The bucket's name; None: medimg-ACCOUNT-REGION.
        prefix: As for `template`.
        kms_key: As for `template`.
    """
    scope = Scope(account, region=region, buckets=(bucket,) if bucket else (), prefix=prefix, kms_key=kms_key)
    name = bucket or f"medimg-{account}-{region if region != '*' else 'REGION'}"
    return {
        "roles": {
            role_name: {
                "description": role.description,
                "trust": trust(role, scope),
                "policy": role_policy(role, scope),
            }
            for role_name, role in ROLES.items()
        },
        "policies of people": user_policies(scope),
        "bucket": {"name": name, "public access": BLOCKED, "policy": _tls_only(f"arn:{scope.partition}:s3:::{name}")},
    }


def _portable(bucket: str | None, prefix: str, kms_key: str | None) -> Scope:
    """Returns the scope of all regions, with CloudFormation's own words for account and kind of AWS."""
    patterns = ["medimg-${AWS::AccountId}-*", *([bucket] if bucket else [])]
    return Scope(
        "${AWS::AccountId}", partition="${AWS::Partition}", buckets=tuple(patterns), prefix=prefix, kms_key=kms_key
    )


def _substituted(value: Any) -> Any:
    """Returns a value whose texts CloudFormation fills in where they name account, region or kind of AWS."""
    if isinstance(value, dict):
        return {key: _substituted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_substituted(each) for each in value]
    if isinstance(value, str) and "${AWS::" in value:
        return {"Fn::Sub": value.replace("${aws:", "${!aws:")}  # IAM's own variables stay
    return value


def _tags(prefix: str) -> list[dict[str, str]]:
    return [{"Key": "medimg", "Value": prefix}]


def _tls_only(arn: str) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "EncryptedTransportOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }


def _bucket(name: str, prefix: str, kms_key: str | None) -> dict[str, Any]:
    default = {"SSEAlgorithm": "AES256"} if kms_key is None else {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": kms_key}
    return {
        "Bucket": {
            "Type": "AWS::S3::Bucket",
            # Patients' images are deleted by a person, not with a stack; of one that was never made nothing stays.
            "DeletionPolicy": "RetainExceptOnCreate",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "BucketName": name,
                "PublicAccessBlockConfiguration": BLOCKED,
                "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
                "BucketEncryption": {
                    "ServerSideEncryptionConfiguration": [
                        {"ServerSideEncryptionByDefault": default, "BucketKeyEnabled": kms_key is not None}
                    ]
                },
                "LifecycleConfiguration": {
                    "Rules": [
                        {
                            "Id": "medimg-parts",
                            "Status": "Enabled",
                            "Prefix": f"{prefix}/",
                            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3},
                        }
                    ]
                },
                "Tags": _tags(prefix),
            },
        },
        "BucketPolicy": {
            "Type": "AWS::S3::BucketPolicy",
            "DeletionPolicy": "RetainExceptOnCreate",
            "UpdateReplacePolicy": "Retain",
            "DependsOn": "Bucket",
            "Properties": {"Bucket": name, "PolicyDocument": _tls_only(f"arn:${{AWS::Partition}}:s3:::{name}")},
        },
    }
