"""An object in S3 that is read as it comes, and read on where the connection broke."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, IncompleteReadError

from medimg.backends import transfer

__all__ = ["Reader"]


class Reader:
    """An object that is read from the beginning to the end, and read on where a connection broke.

    Attributes:
        size: Its bytes.
        told: Told how many bytes have come.
    """

    def __init__(self, client: Any, bucket: str, key: str, owned: Mapping[str, str]) -> None:
        self._get = partial(client.get_object, Bucket=bucket, Key=key, **owned)
        answer = self._get()
        self._body, self._etag = answer["Body"], answer["ETag"]
        self.size = int(answer["ContentLength"])
        self.told: Callable[[int], None] = lambda _: None
        self._position = 0

    def read(self, length: int = -1, /) -> bytes:
        """Returns the next bytes, b"" at the end; a negative length: all that are left."""
        if length < 0:
            return b"".join(iter(partial(self.read, 1 << 20), b""))
        for attempt in range(transfer.ATTEMPTS):
            if self._position == self.size:
                return b""
            try:
                if attempt:
                    time.sleep(transfer.pause(attempt))
                    # Of the same object: it may have been written anew meanwhile.
                    self._body = self._get(Range=f"bytes={self._position}-", IfMatch=self._etag)["Body"]
                part: bytes = self._body.read(length)
                if not part:
                    raise IncompleteReadError(actual_bytes=self._position, expected_bytes=self.size)
            except BotoCoreError:
                if attempt == transfer.ATTEMPTS - 1:
                    raise
                continue
            self._position += len(part)
            self.told(len(part))
            return part
        raise AssertionError("the last attempt has raised")
