"""Who and where we are at AWS: one session, its clients, and the names that follow from account and region."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from medimg.backends.sagemaker.errors import translated
from medimg.backends.sagemaker.storage import Storage
from medimg.errors import AccessError, ConfigError, MissingExtraError, NotFoundError

try:
    import boto3
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
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

_MOST_TAGS = 45  # AWS takes 50 on one thing; the others are ours
_MOST_IN_TAG = {"key": 128, "value": 256}  # characters
_IN_TAG = frozenset("_.:/=+-@")  # beside letters, digits and spaces


class Account:
    """An AWS account and region, with boto3 clients that retry.

    Args:
        role: Name or ARN of the role that jobs and endpoints run as; None: the one that `medimg aws bootstrap` makes.
        region: Such as "eu-central-1"; None: that of the environment or profile.
        bucket: Where everything of ours is kept; None: medimg-ACCOUNT-REGION.
        profile: Of the AWS configuration; None: the default credentials.
        kms_key: ARN of the key that encrypts objects and disks; None: the service's own keys.
        prefix: What every object's key begins with.
        create_bucket: Whether to make the bucket where it does not exist.
        tags: Put on everything that is made.

    Raises:
        ConfigError: No region or none of AWS's, no such profile, or what AWS would refuse later.
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
        self._check_region()
        if kms_key is not None and not kms_key.startswith("arn:"):
            raise ConfigError(
                f"kms_key={kms_key!r} is no ARN, and policies name keys by theirs. "
                f"Pass what this prints: aws kms describe-key --key-id {kms_key} --query KeyMetadata.Arn"
            )
        _check_tags(tags or {})
        self.kms_key = kms_key
        self.prefix = prefix
        self.tags = dict(tags or {})
        self._role = role or EXECUTION_ROLE
        self._role_arn = ""
        self._bucket = bucket
        self._create_bucket = create_bucket
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self._lock = threading.Lock()
        self._ours: set[str] = set()

    def _check_region(self) -> None:
        """Raises where the region is surely misspelt; one that boto3 does not know yet passes."""
        session = self._session
        known = {
            region
            for partition in session.get_available_partitions()
            for region in session.get_available_regions("sagemaker", partition_name=partition)
        }
        near = get_close_matches(self.region.lower(), sorted(known), n=3, cutoff=0.75)
        if self.region in known or (not near and re.fullmatch(r"[a-z]{2,4}(-[a-z]+)+-\d", self.region)):
            return
        # Letters that changed places first: "us-esat-1" is as near to the west as to the east.
        better = min(near, key=lambda each: sorted(each) != sorted(self.region), default="eu-central-1")
        raise ConfigError(
            f"{self.region!r} is no region where AWS has SageMaker. Pass region={better!r}, or run: "
            f"export AWS_DEFAULT_REGION={better}. If the region is new: pip install --upgrade boto3"
        )

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

    def signed(self, url: str, headers: Mapping[str, str], body: bytes, *, service: str) -> dict[str, str]:
        """Returns the headers of a POST request with its signature (AWS Signature Version 4), good for 5 minutes.

        Args:
            url: Where it goes.
            headers: That are signed with it.
            body: Of the request.
            service: The name that signatures have for it, such as "sagemaker".

        Raises:
            AccessError: There are no credentials.
        """
        credentials = self._session.get_credentials()
        if credentials is None:
            raise AccessError("there are no AWS credentials. Run: aws configure, or aws sso login")
        request = AWSRequest("POST", url, data=body, headers=dict(headers))
        SigV4Auth(credentials.get_frozen_credentials(), service, self.region).add_auth(request)
        return dict(request.headers)

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
        """The role that jobs and endpoints run as, with its path where these credentials may ask for it."""
        made = self.role(self._role)
        if self._role in (made, EXECUTION_ROLE):  # bootstrap makes its role without a path
            return made
        if not self._role_arn:
            with suppress(AccessError, NotFoundError), translated(f"looking for the role {self._role!r}"):
                name = self._role.rpartition("/")[2]
                self._role_arn = str(self.client("iam").get_role(RoleName=name)["Role"]["Arn"])
        return self._role_arn or made

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
        return self.storage.uri(key)

    def tag_list(self, **more: str) -> list[dict[str, str]]:
        """Returns our tags in the form that most services take: everything of ours has the tag `medimg`."""
        tags = {"medimg": self.prefix, **{f"medimg:{name}": value for name, value in more.items()}, **self.tags}
        return [{"Key": name, "Value": value} for name, value in tags.items()]

    def __repr__(self) -> str:
        return f"Account({self.region!r}, prefix={self.prefix!r})"


def _check_tags(tags: Mapping[str, str]) -> None:
    """Raises where AWS would refuse a tag, or it would change what is known as ours."""
    if len(tags) > _MOST_TAGS:
        raise ConfigError(f"there are {len(tags)} tags, and AWS takes {_MOST_TAGS} beside medimg's own. Pass fewer")
    for key, value in tags.items():
        # Conditions of policies do not tell capitals from small letters.
        if re.match(r"medimg(:|$)|aws:", key.lower()):
            raise ConfigError(f"the tag {key!r} is taken: 'medimg', 'medimg:…' and 'aws:…' are not yours. Rename it")
        for what, text in (("key", key), ("value", value)):
            if not isinstance(text, str) or len(text) > _MOST_IN_TAG[what] or (what == "key" and not text):
                least = 1 if what == "key" else 0
                raise ConfigError(
                    f"tags={{{key!r}: {value!r}}}: a {what} is a text of {least} to {_MOST_IN_TAG[what]} characters"
                )
            if odd := [one for one in text if one not in _IN_TAG and unicodedata.category(one)[0] not in "LNZ"]:
                raise ConfigError(
                    f"tags={{{key!r}: {value!r}}}: AWS does not take {odd[0]!r} in a {what}; it takes letters, digits, "
                    f"spaces and {' '.join(sorted(_IN_TAG))}"
                )
