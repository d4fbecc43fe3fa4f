"""Logs from CloudWatch: whole lines, in order, from any position, while the job still writes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.errors import translated
from medimg.errors import NotFoundError

__all__ = ["Logs"]

_PAGE = 10_000  # events in one answer, at most 1 MB


@dataclass
class _Read:
    """How far a group's streams were read: a position is a number of lines, CloudWatch's own are tokens.

    Attributes:
        lines: Lines up to here.
        tokens: Stream to the token from which its next lines come.
    """

    lines: int = 0
    tokens: dict[str, str] = field(default_factory=dict)


class Logs:
    """The logs of an account.

    A log is one or more streams that follow each other: a job that was interrupted writes to a new one.

    Args:
        account: Whose.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._reads: dict[tuple[str, str], _Read] = {}
        self._lock = threading.Lock()

    def read(self, group: str, prefix: str, after: int) -> tuple[list[str], int]:
        """Returns the lines after a position and the position after them; [] where nothing was written yet.

        Args:
            group: Name of the log group.
            prefix: What the names of its streams begin with.
            after: Lines that were read already.
        """
        key = (group, prefix)
        with self._lock:
            known = self._reads.get(key)
        read = _Read(known.lines, dict(known.tokens)) if known is not None and known.lines == after else _Read()
        lines: list[str] = []
        for stream in self._streams(group, prefix):
            lines += self._lines(group, stream, read)
        # Without a place to go on from, all was read anew: the first lines are those the caller has.
        fresh = lines[after - read.lines :] if after > read.lines else lines
        read.lines = max(after, read.lines + len(lines))
        with self._lock:
            self._reads[key] = read
        return fresh, read.lines

    def _streams(self, group: str, prefix: str) -> list[str]:
        found = []
        try:
            with translated(f"reading the log {group}"):
                pages = self._account.client("logs").get_paginator("describe_log_streams")
                which = {"logStreamNamePrefix": prefix} if prefix else {}
                for page in pages.paginate(logGroupName=group, **which):
                    found += [(stream.get("creationTime", 0), stream["logStreamName"]) for stream in page["logStreams"]]
        except NotFoundError:
            return []
        return [name for _, name in sorted(found)]

    def _lines(self, group: str, stream: str, read: _Read) -> list[str]:
        lines: list[str] = []
        while True:
            more = {"nextToken": read.tokens[stream]} if stream in read.tokens else {}
            with translated(f"reading the log {group}/{stream}"):
                answer = self._account.client("logs").get_log_events(
                    logGroupName=group, logStreamName=stream, startFromHead=True, limit=_PAGE, **more
                )
            lines += [event["message"] for event in answer["events"]]
            token = answer["nextForwardToken"]
            # The same token again says that there is no more for now.
            if token == read.tokens.get(stream):
                return lines
            read.tokens[stream] = token

    def delete(self, group: str, prefix: str | None = None) -> None:
        """Deletes the streams whose names begin so; None: the whole group."""
        logs = self._account.client("logs")
        try:
            if prefix is None:
                with translated(f"deleting the log {group}"):
                    logs.delete_log_group(logGroupName=group)
                return
            for stream in self._streams(group, prefix):
                with translated(f"deleting the log {group}/{stream}"):
                    logs.delete_log_stream(logGroupName=group, logStreamName=stream)
        except NotFoundError:
            return
