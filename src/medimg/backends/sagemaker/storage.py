"""Everything of ours in one bucket: what jobs are given, what they leave, and what is served."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from medimg.archive import extract
from medimg.backends.sagemaker.errors import code_of, translated
from medimg.backends.sagemaker.reader import Reader
from medimg.backends.transfer import Meter, Told, send_files, send_pack
from medimg.errors import AccessError, ArchiveError, BackendError, ConfigError, NotFoundError
from medimg.progress import Report, silent

__all__ = ["BLOCKED", "Storage"]

# Of what is larger only one part is sent again where a connection breaks. The threads are ours: boto3's own go on after
# an interrupt until the last byte.
_TRANSFER = TransferConfig(
    multipart_threshold=32 << 20, multipart_chunksize=16 << 20, use_threads=False, preferred_transfer_client="classic"
)
_MOST_DELETED = 1000  # AWS's own limit for one request
BLOCKED = dict.fromkeys(("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True)


class Storage:
    """A prefix in a bucket. Keys are below that prefix, without a slash first.

    Args:
        client: S3's client; may be used from several threads.
        bucket: The bucket's name.
        prefix: What every key of ours begins with.
        kms_key: ARN of the key that encrypts what is written; None: the bucket's own encryption.
        owner: Number of the account whose bucket it must be: AWS refuses requests to anybody else's.
    """

    def __init__(
        self, client: Any, bucket: str, prefix: str, *, kms_key: str | None = None, owner: str | None = None
    ) -> None:
        self._client = client
        self.bucket = bucket
        self.prefix = prefix
        self._kms_key = kms_key
        self._owned: dict[str, str] = {} if owner is None else {"ExpectedBucketOwner": owner}
        self._written: dict[str, str] = dict(self._owned)
        if kms_key is not None:
            self._written |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}

    def key(self, key: str) -> str:
        """Returns the key as AWS knows it, our prefix included."""
        return f"{self.prefix}/{key}"

    def uri(self, key: str = "") -> str:
        """Returns the address of an object, or of the folder where `key` ends with a slash."""
        return f"s3://{self.bucket}/{self.key(key)}"

    # -- small things -------------------------------------------------------------------------------------------------

    def put(self, key: str, content: bytes) -> str:
        """Writes an object and returns its address."""
        with translated(f"writing {self.uri(key)}"):
            self._client.put_object(Bucket=self.bucket, Key=self.key(key), Body=content, **self._written)
        return self.uri(key)

    def get(self, key: str) -> bytes:
        """Returns an object's content.

        Raises:
            NotFoundError: There is no such object.
        """
        with translated(f"reading {self.uri(key)}"):
            return Reader(self._client, self.bucket, self.key(key), self._owned).read()

    def exists(self, key: str) -> bool:
        """Tells whether there is such an object."""
        return self._head(key) is not None

    def _head(self, key: str) -> Mapping[str, Any] | None:
        with translated(f"looking for {self.uri(key)}"):
            try:
                found: Mapping[str, Any] = self._client.head_object(
                    Bucket=self.bucket, Key=self.key(key), **self._owned
                )
            except ClientError as error:
                if code_of(error) not in ("404", "NoSuchKey", "NotFound"):
                    raise
                return None
        return found

    def list(self, prefix: str = "") -> dict[str, int]:
        """Returns the keys that begin with `prefix` and the sizes of their objects, in order."""
        pages = self._client.get_paginator("list_objects_v2")
        with translated(f"listing {self.uri(prefix)}"):
            return {
                found["Key"][len(self.key("")) :]: found["Size"]
                for page in pages.paginate(Bucket=self.bucket, Prefix=self.key(prefix), **self._owned)
                for found in page.get("Contents", ())
            }

    def delete_prefix(self, prefix: str) -> int:
        """Deletes the objects whose key begins with `prefix` and returns how many; a folder is named with its slash."""
        if not prefix.strip("/"):
            raise ValueError("an empty prefix would delete everything of ours")
        keys = tuple(self.list(prefix))
        for start in range(0, len(keys), _MOST_DELETED):
            objects = [{"Key": self.key(key)} for key in keys[start : start + _MOST_DELETED]]
            with translated(f"deleting {self.uri(prefix)}"):
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True}, **self._owned
                )
            if errors := answer.get("Errors"):  # the request succeeds even where no object could be deleted
                raise BackendError(
                    f"{len(errors):,} of {len(objects):,} objects of {self.uri(prefix)} could not be deleted: "
                    f"{errors[0].get('Code')}: {errors[0].get('Message')}"
                )
        return len(keys)

    # -- uploading ----------------------------------------------------------------------------------------------------

    def upload_pack(self, pack: Path, manifest: str, report: Report = silent) -> str:
        """Uploads what is missing of a pack with one of its manifests, and returns the address of its folder.

        What is there is not sent again, so an upload that was cut off goes on, and a second one sends nothing.

        Raises:
            DatasetError: The pack is damaged.
            UnreachableError: AWS does not answer; what was sent is kept.
        """
        folder = f"packs/{pack.name}/"
        there = {key.removeprefix(folder) for key in self.list(folder)}
        with translated("uploading the pack"):
            send_pack(pack, manifest, there, lambda name, *what: self._send(folder + name, *what), report)
        return self.uri(folder)

    def _send(self, key: str, content: bytes, told: Told) -> None:
        self._client.upload_fileobj(
            io.BytesIO(content), self.bucket, self.key(key), ExtraArgs=self._written, Callback=told, Config=_TRANSFER
        )

    def upload_file(self, path: Path, key: str, report: Report = silent) -> str:
        """Uploads a file, unless an object of that key has its SHA-256, and returns its address."""
        self.upload_files({key: path}, report)
        return self.uri(key)

    def upload_files(self, files: Mapping[str, Path], report: Report = silent) -> None:
        """Uploads files under their keys, several at a time, except for those that are there with their SHA-256."""

        def known(key: str) -> str | None:
            found = self._head(key)
            return None if found is None else found.get("Metadata", {}).get("sha256")

        def send(key: str, stream: BinaryIO, sha256: str, told: Told) -> None:
            # Not upload_file, which hides what the error was.
            self._client.upload_fileobj(
                stream, self.bucket, self.key(key), Config=_TRANSFER, Callback=told,
                ExtraArgs={**self._written, "Metadata": {"sha256": sha256}},
            )  # fmt: skip

        with translated(f"uploading to {self.uri()}"):
            send_files(files, known, send, report)

    # -- downloading --------------------------------------------------------------------------------------------------

    def download_archive(self, key: str, target: Path, report: Report = silent, *, folder: str = "") -> None:
        """Downloads a `tar.gz` and unpacks it on the way, as `extract` does.

        Args:
            key: Of the archive.
            target: Folder to unpack into; nothing of it is left there after a failure.
            report: Told of progress.
            folder: Only what is below this folder of the archive.

        Raises:
            NotFoundError: There is no such archive.
            BackendError: It is damaged, or holds what no result does.
            StorageError: The disk is full.
        """
        with translated(f"downloading {self.uri(key)}"):
            reader = Reader(self._client, self.bucket, self.key(key), self._owned)
            with Meter(report, "downloading", math.ceil(reader.size / 1e6)) as meter:
                reader.told = lambda got: meter.add(got, 1e-6)
                try:
                    extract(reader, target, name=self.uri(key), packed_bytes=reader.size, folder=folder)
                except ArchiveError as error:
                    raise BackendError(f"{error}. Delete the job or model and make it again") from error

    # -- the bucket ---------------------------------------------------------------------------------------------------

    def ensure_bucket(self, create: bool, tags: Iterable[Mapping[str, str]] = ()) -> None:
        """Returns when the bucket is of the owner and the region, and closed to the public.

        Args:
            create: Whether to make it where it does not exist: encrypted, tagged, without public access.
            tags: Of a bucket that is made, as `Account.tag_list` returns them.

        Raises:
            NotFoundError: It does not exist.
            AccessError: It belongs to another account, or these credentials may not use it.
            ConfigError: It is in another region, or could be made public.
        """
        with translated(f"looking for the bucket {self.bucket!r}"):
            try:
                region = self._client.head_bucket(Bucket=self.bucket, **self._owned).get("BucketRegion")
            except ClientError as error:
                if code_of(error) in ("403", "AccessDenied"):
                    raise AccessError(
                        f"the bucket {self.bucket!r} belongs to another AWS account, or these credentials may not use "
                        "it (s3:ListBucket). Pass bucket='…' with the name of one of yours"
                    ) from error
                if code_of(error) not in ("404", "NoSuchBucket", "NotFound"):
                    raise
                region = None
                if not create:
                    raise NotFoundError(
                        f"the bucket {self.bucket!r} does not exist. Make it: medimg aws bootstrap, or "
                        "medimg.backend('sagemaker', create_bucket=True)"
                    ) from None
                self._make_bucket(tags)
        here = self._client.meta.region_name
        if region is not None and region != here:
            raise ConfigError(
                f"the bucket {self.bucket!r} is in {region}, and jobs run in {here}: data would cross regions. "
                f"Pass region={region!r}, or the bucket='…' of {here}"
            )
        self._check_closed()

    def _make_bucket(self, tags: Iterable[Mapping[str, str]]) -> None:
        region = self._client.meta.region_name
        # The first region has no name here, for historical reasons.
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            self._client.create_bucket(Bucket=self.bucket, **place)
        except ClientError as error:
            if code_of(error) != "BucketAlreadyOwnedByYou":  # by another process of ours, a moment ago
                raise
        named: dict[str, Any] = {"Bucket": self.bucket, **self._owned}
        self._client.put_public_access_block(**named, PublicAccessBlockConfiguration=BLOCKED)
        default = {"SSEAlgorithm": "AES256"}
        if self._kms_key is not None:
            default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": self._kms_key}
        rules = [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": self._kms_key is not None}]
        self._client.put_bucket_encryption(**named, ServerSideEncryptionConfiguration={"Rules": rules})
        # The parts of an upload that was killed cost money and are seen by nobody.
        abort = {"ID": "medimg-parts", "Status": "Enabled", "Filter": {"Prefix": self.key("")},
                 "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3}}  # fmt: skip
        self._client.put_bucket_lifecycle_configuration(**named, LifecycleConfiguration={"Rules": [abort]})
        self._client.put_bucket_tagging(**named, Tagging={"TagSet": [dict(tag) for tag in tags]})

    def _check_closed(self) -> None:
        with translated(f"checking that the bucket {self.bucket!r} is closed to the public"):
            try:
                answer = self._client.get_public_access_block(Bucket=self.bucket, **self._owned)
                found = answer["PublicAccessBlockConfiguration"]
            except ClientError as error:
                if code_of(error) != "NoSuchPublicAccessBlockConfiguration":
                    raise
                found = {}
        if not all(found.get(name) for name in BLOCKED):
            settings = ",".join(f"{name}=true" for name in BLOCKED)
            raise ConfigError(
                f"the bucket {self.bucket!r} could be made public, and patients' images are not put there. Run: "
                f"aws s3api put-public-access-block --bucket {self.bucket} "
                f"--public-access-block-configuration {settings}"
            )
