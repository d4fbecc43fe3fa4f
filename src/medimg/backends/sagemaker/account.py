"""Who and where we are at AWS: one session, its clients, and the names that follow from account and region."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.storage import Storage
from medimg.errors import ConfigError, MissingExtraError, NotFoundError

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
except ImportError as error:
    raise MissingExtraError("the SageMaker backend", "sagemaker") from error

__all__ = ["EXECUTION_ROLE", "LAMBDA_ROLE", "SCHEDULER_ROLE", "Account"]

# What `medimg aws bootstrap` makes.
EXECUTION_ROLE = "medimg-execution"
LAMBDA_ROLE = "medimg-lambda"
SCHEDULER_ROLE = "medimg-scheduler"

# "standard" waits 1, 2, 4, … up to 20 s, with jitter, after throttling, 5xx and broken connections.
_RETRIES = {"mode": "standard", "total_max_attempts": 10}
_HASTE = {"mode": "standard", "total_max_attempts": 2}
_CONNECTIONS = 32


class Account:
    """An AWS account and region, with boto3 clients that retry.

    Args:
        role: Name or ARN of the role that jobs and endpoints run as; None: the one that `medimg aws bootstrap` makes.
        region: Such as "eu-central-1"; None: that of the environment or profile.
        bucket: Where everything of ours is kept; None: medimg-ACCOUNT-REGION.
        profile: Of the AWS configuration; None: the default credentials.
        kms_key: Id or ARN of the key that encrypts objects and disks; None: the service's own keys.
        prefix: What every object's key begins with.
        create_bucket: Whether to make the bucket where it does not exist.
        tags: Put on everything that is made.

    Raises:
        ConfigError: No region, or no such profile.
    """

    def __init__(
        self,
        *,
        role: str | None = None,
        region: str | None = None,
        bucket: str | None = None,
        profile: str | None = None,
        kms_key: str | None = None,
        prefix: str = "medimg",
        create_bucket: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        with translated("opening a session"):
            self._session = boto3.Session(profile_name=profile, region_name=region)
        if self._session.region_name is None:
            raise ConfigError(
                "no AWS region is set. Pass region='eu-central-1' (or where your data may be), "
                "or run: export AWS_DEFAULT_REGION=eu-central-1"
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9/-]{0,62}", prefix) or prefix.endswith("/") or "//" in prefix:
            raise ConfigError(f"prefix={prefix!r}: small letters, digits, hyphens and single slashes, such as 'medimg'")
        self.region: str = self._session.region_name
        self.kms_key = kms_key
        self.prefix = prefix
        self.tags = dict(tags or {})
        self._role = role or EXECUTION_ROLE
        self._bucket = bucket
        self._create_bucket = create_bucket
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self._lock = threading.Lock()
        self._ours: set[str] = set()

    def client(self, service: str, *, region: str | None = None, patient: bool = True) -> Any:
        """Returns the boto3 client of a service, made once; safe to use from several threads.

        Args:
            service: Such as "sagemaker".
            region: Where the service has one home only; None: the account's.
            patient: False gives up after one more attempt: for what can be done without.
        """
        key = (service, region or self.region, patient)
        with self._lock:  # making clients is not thread-safe in botocore
            if key not in self._clients:
                config = Config(
                    retries=_RETRIES if patient else _HASTE, max_pool_connections=_CONNECTIONS,
                    connect_timeout=10 if patient else 4, read_timeout=70 if patient else 15, user_agent_extra="medimg",
                )  # fmt: skip
                with translated(f"opening {service}"):
                    self._clients[key] = self._session.client(service, region_name=key[1], config=config)
            return self._clients[key]

    @cached_property
    def _identity(self) -> Mapping[str, str]:
        with translated("asking AWS who we are"):
            answer: Mapping[str, str] = self.client("sts").get_caller_identity()
            return answer

    @property
    def id(self) -> str:
        """The account's number, twelve digits."""
        return self._identity["Account"]

    @property
    def caller(self) -> str:
        """The ARN of the user or role whose credentials are used."""
        return self._identity["Arn"]

    @property
    def partition(self) -> str:
        """The kind of AWS: "aws", "aws-cn" or "aws-us-gov"."""
        try:
            return str(self._session.get_partition_for_region(self.region))
        except BotoCoreError:
            return "aws"

    @property
    def bucket(self) -> str:
        """The bucket where everything of ours is kept."""
        return self._bucket or f"medimg-{self.id}-{self.region}"

    @cached_property
    def storage(self) -> Storage:
        """What is kept in the bucket."""
        return Storage(self.client("s3"), self.bucket, self.prefix, kms_key=self.kms_key, owner=self.id)

    @cached_property
    def writable(self) -> Storage:
        """What is kept in the bucket, once it is known to be ours and closed to the public.

        Raises:
            NotFoundError: There is no bucket and none is to be made.
            ConfigError: It could be made public, or is in another region.
        """
        self.storage.ensure_bucket(self._create_bucket, self.tag_list())
        return self.storage

    def role(self, name: str) -> str:
        """Returns the ARN of a role of this account; an ARN is returned as it is."""
        return name if name.startswith("arn:") else f"arn:{self.partition}:iam::{self.id}:role/{name}"

    @property
    def role_arn(self) -> str:
        """The role that jobs and endpoints run as."""
        return self.role(self._role)

    @property
    def lambda_role_arn(self) -> str:
        """The role that functions run as."""
        return self.role(LAMBDA_ROLE)

    @property
    def scheduler_role_arn(self) -> str:
        """The role that deletes endpoints when their time is up."""
        return self.role(SCHEDULER_ROLE)

    def arn(self, kind: str, name: str) -> str:
        """Returns the ARN of something at SageMaker, such as ("endpoint", "chest")."""
        return f"arn:{self.partition}:sagemaker:{self.region}:{self.id}:{kind}/{name}"

    def owns(self, arn: str) -> bool:
        """Tells whether something at SageMaker has our tag; False where it does not exist."""
        if arn in self._ours:
            return True
        try:
            with translated("reading tags"):
                pages = self.client("sagemaker").get_paginator("list_tags").paginate(ResourceArn=arn)
                tags = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
        except NotFoundError:
            return False
        if tags.get("medimg") != self.prefix:
            return False
        self._ours.add(arn)
        return True

    def uri(self, key: str) -> str:
        """Returns the S3 address of something of ours."""
        return f"s3://{self.bucket}/{self.prefix}/{key}"

    def tag_list(self, **more: str) -> list[dict[str, str]]:
        """Returns our tags in the form that most services take: everything of ours has the tag `medimg`."""
        tags = {"medimg": self.prefix, **{f"medimg:{name}": value for name, value in more.items()}, **self.tags}
        return [{"Key": name, "Value": value} for name, value in tags.items()]

    def __repr__(self) -> str:
        return f"Account({self.region!r}, prefix={self.prefix!r})"
