"""What moto keeps for the emulator: objects, log streams and roles, reached without a request."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from moto.core.exceptions import ServiceException
from moto.iam.exceptions import NotFoundException
from moto.iam.models import Role, iam_backends
from moto.logs.models import logs_backends
from moto.s3.exceptions import MissingBucket
from moto.s3.models import FakeDeleteMarker, s3_backends
from moto.sts.models import sts_backends

from .calls import ACCOUNT, AwsError

__all__ = ["LogStream", "Storage", "role", "role_credentials", "trusted_role"]

_MESSAGE_BYTES = 262_118  # of CloudWatch: 256 KiB less 26


class Storage:
    """S3, as the service itself reaches it."""

    def keys(self, uri: str) -> list[tuple[str, str]]:
        """Returns the keys under an address, each with its path below the address."""
        bucket, prefix = _parts(uri)
        return [(key, key[len(prefix) :].lstrip("/") or key.rpartition("/")[2]) for key in self._names(bucket, prefix)]

    def read(self, uri: str) -> bytes | None:
        """Returns an object, or None."""
        bucket, key = _parts(uri)
        try:
            found = s3_backends[ACCOUNT]["aws"].get_object(bucket, key)
        except MissingBucket:
            return None
        return None if found is None else bytes(found.value)

    def write(self, uri: str, content: bytes) -> None:
        """Writes an object; the bucket must exist."""
        bucket, key = _parts(uri)
        s3_backends[ACCOUNT]["aws"].put_object(bucket, key, content)

    def download(self, uri: str, folder: Path) -> int:
        """Writes what is under an address into a folder and returns how many objects there were."""
        bucket, _ = _parts(uri)
        keys = [(key, relative) for key, relative in self.keys(uri) if not key.endswith("/")]
        for key, relative in keys:
            content = self.read(f"s3://{bucket}/{key}")
            if content is not None:
                file = folder / relative
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        return len(keys)

    def _names(self, bucket: str, prefix: str) -> Iterator[str]:
        found = s3_backends[ACCOUNT]["aws"].buckets.get(bucket)
        for name, key in list(found.keys.items()) if found is not None else ():
            if name.startswith(prefix) and not isinstance(key, FakeDeleteMarker):
                yield name


def _parts(uri: str) -> tuple[str, str]:
    found = re.fullmatch(r"(?:s3|https)://([^/]+)/?(.*)", uri, re.DOTALL)
    if found is None:
        raise AwsError("ValidationException", f"{uri} is not a valid S3 URI")
    return found[1], found[2]


class LogStream:
    """A stream of CloudWatch that lines are written to.

    Args:
        region: Where.
        group: The log group's name; made with the first line.
        name: The stream's name.
    """

    _lock = threading.Lock()

    def __init__(self, region: str, group: str, name: str) -> None:
        self._backend = logs_backends[ACCOUNT][region]
        self._group = group
        self._name = name
        self._last_ms = 0

    def write(self, lines: Iterable[str]) -> None:
        """Appends lines, in their order; CloudWatch takes no empty ones."""
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        events = [{"timestamp": self._last_ms, "message": line[:_MESSAGE_BYTES]} for line in lines if line]
        with self._lock:
            self._backend.ensure_log_group(self._group)
            self._backend.ensure_log_stream(self._group, self._name)
            if events:
                self._backend.put_log_events(self._group, self._name, events)


def role(arn: str) -> Role | None:
    """Returns a role, or None."""
    try:
        return iam_backends[ACCOUNT]["aws"].get_role_by_arn(arn)
    except (NotFoundException, ServiceException):
        return None


def trusted_role(arn: str, service: str) -> bool:
    """Tells whether there is a role that a service, such as "sagemaker.amazonaws.com", may assume."""
    found = role(arn)
    if found is None:
        return False
    document = found.assume_role_policy_document
    statements = json.loads(unquote(document) if document.startswith("%") else document)["Statement"]
    for statement in statements if isinstance(statements, list) else [statements]:
        trusted = statement.get("Principal", {}).get("Service", [])
        if statement["Effect"] == "Allow" and service in ([trusted] if isinstance(trusted, str) else trusted):
            return True
    return False


def role_credentials(arn: str, session: str, region: str) -> Mapping[str, str]:
    """Returns environment variables with the credentials of an assumed role."""
    assumed = sts_backends[ACCOUNT]["aws"].assume_role(
        region_name=region, role_session_name=session[:64], role_arn=arn, policy="", duration=43_200, external_id=""
    )
    return {
        "AWS_ACCESS_KEY_ID": assumed.access_key_id,
        "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
        "AWS_SESSION_TOKEN": assumed.session_token,
    }
