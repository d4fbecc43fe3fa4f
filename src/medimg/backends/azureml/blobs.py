"""One blob: sent in blocks and received in ranges, so that little is moved again where a connection broke."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from medimg.backends import transfer
from medimg.backends.azureml.errors import translated
from medimg.backends.transfer import Told
from medimg.errors import MissingExtraError, NotFoundError

try:
    from azure.core import MatchConditions
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob import BlobBlock, BlockState, ExponentialRetry
except ImportError as error:
    raise MissingExtraError("the AzureML backend", "azureml") from error

__all__ = ["after", "options", "ranges", "send"]

_ATTEMPTS = 9
_SMALL_BYTES = 1 << 20  # of what is sent in one request
_BLOCK_BYTES = 8 << 20  # that are sent again at most where a connection broke
_RANGE_BYTES = 4 << 20  # likewise received


def options() -> dict[str, Any]:
    """Returns how a client of Blob Storage behaves."""
    return {
        # 0.5, 1.2, 2.4, 4, … seconds; the library's own begin with 15.
        "retry_policy": ExponentialRetry(
            initial_backoff=-1, increment_base=1.5, random_jitter_range=0.5, retry_total=_ATTEMPTS,
            retry_connect=_ATTEMPTS, retry_read=_ATTEMPTS, retry_status=_ATTEMPTS,
        ),
        "raw_response_hook": _let_go,
        # One request a call, so that it is known what is sent again.
        "max_single_put_size": _BLOCK_BYTES,
        "max_single_get_size": _RANGE_BYTES,
    }  # fmt: skip


def _let_go(response: Any) -> None:
    """Frees the connection of an answer that nobody reads, since the request is made again."""
    if response.http_response.status_code >= 500:
        response.http_response.internal_response.close()


def send(blob: Any, stream: BinaryIO, size: int, metadata: Mapping[str, str], told: Told) -> None:
    """Writes a blob; what is large goes in blocks, of which those that are there are not sent again.

    Args:
        blob: Its client.
        stream: The content.
        size: Of the content, in bytes.
        metadata: Written beside it.
        told: Told of the bytes that have been sent.
    """
    if size <= _SMALL_BYTES:
        blob.upload_blob(stream.read(), overwrite=True, validate_content=True, metadata=dict(metadata))
        told(size)
        return
    there = _blocks(blob)
    blocks = []
    for number, content in enumerate(iter(lambda: stream.read(_BLOCK_BYTES), b"")):
        # By its name a block's content is known, so that whoever sent it need not be.
        name = f"{number:06d}-{hashlib.sha256(content).hexdigest()[:32]}"
        blocks.append(BlobBlock(name, BlockState.LATEST))
        if there.get(name) == len(content):
            told(0)  # where another has failed it ends here
            continue
        checksum = hashlib.md5(content, usedforsecurity=False).digest()
        blob.stage_block(name, _Counted(content, told), len(content), transactional_content_md5=checksum)
    blob.commit_block_list(blocks, metadata=dict(metadata))


class _Counted(io.BytesIO):
    """Bytes to send that tell how many were read; a request that is repeated tells a negative number first."""

    def __init__(self, content: bytes, told: Told) -> None:
        super().__init__(content)
        self._length = len(content)
        self._told = told

    def __len__(self) -> int:
        return self._length

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self._told(len(part))
        return part

    def seek(self, offset: int, whence: int = 0, /) -> int:
        before = self.tell()
        after = super().seek(offset, whence)
        self._told(after - before)
        return after


def _blocks(blob: Any) -> dict[str, int]:
    """Returns the names and sizes of the blocks of a blob that were sent, whether it was finished or not."""
    try:
        with translated("looking for what was sent"):
            committed, waiting = blob.get_block_list("all")
    except NotFoundError:
        return {}
    return {str(block.id): int(block.size) for block in (*committed, *waiting)}


def ranges(blob: Any, size: int, etag: str) -> Iterator[bytes]:
    """Yields a blob's content in parts, all of the same version of it."""
    same = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
    for start in range(0, size, _RANGE_BYTES):
        yield _range(blob, start, min(_RANGE_BYTES, size - start), **same)


def after(blob: Any, position: int) -> bytes:
    """Returns what a blob that may still grow holds after a position; b"": nothing yet."""
    found = []
    while True:
        try:
            # Without its ETag, which changes when it grows.
            part = _range(blob, position, _RANGE_BYTES)
        except HttpResponseError as error:
            if error.status_code != 416:  # it ends at this position
                raise
            part = b""
        found.append(part)
        position += len(part)
        if len(part) < _RANGE_BYTES:
            return b"".join(found)


def _range(blob: Any, start: int, length: int, **condition: Any) -> bytes:
    """Returns bytes of a blob, asked for again where the connection broke."""
    for attempt in range(transfer.ATTEMPTS):
        try:
            return bytes(blob.download_blob(start, length, **condition).readall())
        except HttpResponseError as error:
            # Without a status the answer had begun, and broke.
            if error.status_code is not None or attempt == transfer.ATTEMPTS - 1:
                raise
        time.sleep(transfer.pause(attempt))
    raise AssertionError("the last attempt has raised")
