"""What SageMaker keeps: records by region and name, their lists a page at a time, and the tags of all of them."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from .calls import ACCOUNT, AwsError, Call, Operation

__all__ = ["Record", "Records", "Tags", "arn", "now", "page"]

Record = dict[str, Any]  # what Describe… answers, and what the emulator keeps beside it


def now() -> datetime:
    """Returns the time, with milliseconds, as AWS's answers have it."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def arn(region: str, kind: str, name: str) -> str:
    """Returns the ARN of something at SageMaker; AWS writes the name in small letters."""
    return f"arn:aws:sagemaker:{region}:{ACCOUNT}:{kind}/{name.lower()}"


class Records:
    """Everything of one kind.

    Args:
        kind: As in its ARNs, "training-job".
        missing: AWS's words when there is none of a name, with `{arn}` and `{name}`.
        taken: AWS's words when the name is taken.
        taken_code: AWS's code for that.
    """

    def __init__(self, kind: str, missing: str, taken: str, taken_code: str = "ValidationException") -> None:
        self.kind = kind
        self._missing = missing
        self._taken = taken
        self._taken_code = taken_code
        self._records: dict[tuple[str, str], Record] = {}
        self._lock = threading.RLock()

    def add(self, region: str, name: str, record: Record) -> None:
        """Keeps a record; its name must be free."""
        with self._lock:
            if (region, name) in self._records:
                message = self._taken.format(arn=arn(region, self.kind, name), name=name)
                raise AwsError(self._taken_code, message)
            self._records[region, name] = record

    def get(self, region: str, name: str) -> Record:
        """Returns a record, or raises AWS's refusal."""
        with self._lock:
            if (region, name) not in self._records:
                raise AwsError("ValidationException", self._missing.format(arn=arn(region, self.kind, name), name=name))
            return self._records[region, name]

    def pop(self, region: str, name: str) -> Record:
        """Removes a record and returns it."""
        with self._lock:
            self.get(region, name)
            return self._records.pop((region, name))

    def discard(self, region: str, name: str) -> None:
        """Removes a record if there is one."""
        with self._lock:
            self._records.pop((region, name), None)

    def all(self, region: str) -> list[Record]:
        """Returns a region's records, oldest first."""
        with self._lock:
            return [record for (where, _), record in self._records.items() if where == region]

    def names(self, region: str | None) -> list[str]:
        """Returns the names in a region, or in all."""
        with self._lock:
            return sorted(name for where, name in self._records if region in (None, where))

    def clear(self, region: str | None = None) -> None:
        """Forgets what is in a region, or all."""
        with self._lock:
            self._records = {key: record for key, record in self._records.items() if region not in (None, key[0])}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others from changing the records in the block."""
        with self._lock:
            yield


def page(
    call: Call,
    records: Iterable[Record],
    key: str,
    summary: Callable[[Record], Mapping[str, Any]],
    *,
    name: str,
    status: str = "",
) -> dict[str, Any]:
    """Returns a page of a list: filtered, sorted and cut as the call asks.

    Args:
        call: The call.
        records: All of the region, oldest first.
        key: The answer's key for the page.
        summary: From a record to its entry.
        name: The record's key that holds its name.
        status: The record's key that holds its status; "": it has none.
    """
    given = call.parameters
    contained = given.get("NameContains", "").lower()
    found = [record for record in records if contained in str(record[name]).lower()]
    for parameter, keep in (("CreationTimeAfter", 1), ("CreationTimeBefore", -1)):
        if parameter in given:
            limit = float(given[parameter])
            found = [record for record in found if keep * (record["CreationTime"].timestamp() - limit) >= 0]
    if status and given.get("StatusEquals"):
        found = [record for record in found if record[status] == given["StatusEquals"]]
    order = {"Name": name, "Status": status or name}.get(given.get("SortBy", ""), "CreationTime")
    # Ascending where nothing is said is what AWS's reference says of jobs, and what it does not do: newest first.
    found.sort(key=lambda record: record[order], reverse=given.get("SortOrder", "Descending") == "Descending")
    start = int(base64.b64decode(given["NextToken"])) if given.get("NextToken") else 0
    end = start + int(given.get("MaxResults") or 10)
    answer: dict[str, Any] = {key: [summary(record) for record in found[start:end]]}
    if end < len(found):
        answer["NextToken"] = base64.b64encode(str(end).encode()).decode()
    return answer


class Tags:
    """The tags of everything at SageMaker.

    Args:
        exists: Tells whether there is something with an ARN.
    """

    def __init__(self, exists: Callable[[str], bool]) -> None:
        self._exists = exists
        self._tags: dict[str, dict[str, str]] = {}

    def operations(self) -> dict[str, Operation]:
        """Returns the operations by AWS's names."""
        return {"AddTags": self._add, "ListTags": self._list, "DeleteTags": self._delete}

    def put(self, resource: str, tags: Iterable[Mapping[str, str]] | None) -> None:
        """Adds tags to what has this ARN."""
        kept = self._tags.setdefault(resource.lower(), {})
        for tag in tags or ():
            if re.match("aws:", tag["Key"], re.IGNORECASE):
                raise AwsError("ValidationException", "Tag keys starting with 'aws:' are reserved for system use")
            kept[tag["Key"]] = tag["Value"]

    def drop(self, resource: str) -> None:
        """Forgets the tags of what was deleted."""
        self._tags.pop(resource.lower(), None)

    def of(self, resource: str) -> dict[str, str]:
        """Returns the tags of what has this ARN."""
        return dict(self._tags.get(resource.lower(), {}))

    def _known(self, call: Call) -> str:
        resource = str(call.parameters["ResourceArn"])
        if not self._exists(resource):
            kind = resource.rpartition(":")[2].partition("/")[0].replace("-", " ")
            raise AwsError("ValidationException", f'Could not find {kind} "{resource}".')
        return resource

    def _list(self, call: Call) -> Mapping[str, Any]:
        return {"Tags": [{"Key": key, "Value": value} for key, value in self.of(self._known(call)).items()]}

    def _add(self, call: Call) -> Mapping[str, Any]:
        resource = self._known(call)
        self.put(resource, call.parameters["Tags"])
        return self._list(call)

    def _delete(self, call: Call) -> Mapping[str, Any]:
        kept = self._tags.get(self._known(call).lower(), {})
        for key in call.parameters["TagKeys"]:
            kept.pop(key, None)
        return {}
