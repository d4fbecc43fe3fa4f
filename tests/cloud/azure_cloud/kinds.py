"""What Azure Resource Manager keeps: everything that has an id, by type, with what each type does of its own.

A type is a `Kind`. Subclass it, override the hooks, and let it be served:

    class Jobs(Kind):
        type = "Microsoft.MachineLearningServices/workspaces/jobs"
        shown = "jobs"                                        # its name in state()

        def __init__(self, cloud: Cloud) -> None:
            super().__init__(cloud)
            self.actions["cancel"] = self._cancel            # POST {id}/cancel

        def check(self, change: Change) -> None: …            # raise AzureError to refuse a PUT or PATCH
        def put(self, change: Change) -> Operation | None: …  # the record is made; begin what must be done
        def delete(self, request, record) -> Operation | None: …

    cloud.arm.serve(Jobs(cloud))

Hooks run under `cloud.lock`, so they return soon: what takes time is the work of the `Operation` that they return,
which runs in a thread without the lock. Actions run without the lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from .calls import Answer, AzureError, Request

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["ML", "Action", "Address", "Change", "Kind", "Operation", "Record", "now"]

Record = dict[str, Any]  # what GET answers: id, name, type, tags, properties, systemData and so on
ML = "Microsoft.MachineLearningServices"


def now() -> str:
    """Returns the time as Azure writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Address:
    """What the path of a request to Azure Resource Manager names.

    Attributes:
        id: Of the resource, or of a list's parent with the last word of the type, as it was written.
        type: Such as "Microsoft.MachineLearningServices/workspaces/jobs".
        names: One for each word of the type after the first; one fewer where a list is asked for.
        rest: The words after the id: an action and what it may have; () mostly.
        scope: What an extension such as a role assignment is of: all before its "/providers/".
    """

    id: str
    type: str
    names: tuple[str, ...]
    rest: tuple[str, ...] = ()
    scope: str = ""

    @property
    def name(self) -> str:
        """The last name."""
        return self.names[-1] if self.names else ""

    @property
    def lists(self) -> bool:
        """Whether it names a list."""
        return len(self.names) < self.type.count("/")

    @property
    def key(self) -> str:
        """The id in small letters: ids are the same in any case."""
        return self.id.lower()

    @property
    def group(self) -> str:
        """The resource group's name; "" where there is none."""
        return _after(self.id, "resourcegroups")

    @property
    def subscription(self) -> str:
        """The subscription's id."""
        return _after(self.id, "subscriptions")

    @property
    def workspace(self) -> str:
        """The ARM id of the workspace that it lies in or is, as it was written; "" where there is none."""
        found = re.match(rf".*?/providers/{re.escape(ML)}/workspaces/[^/]+", self.id, re.IGNORECASE)
        return found[0] if found else ""


@dataclass
class Operation:
    """Something that takes time, begun by a PUT, a DELETE or an action.

    Attributes:
        work: What is done in a thread. An AzureError that it raises is how the operation fails.
        failed: What is done when it failed.
        kind: The word in its address.
    """

    work: Callable[[], None]
    failed: Callable[[AzureError], None] | None = None
    kind: str = "mfeOperationsStatus"


@dataclass
class Change:
    """A PUT or a PATCH.

    Attributes:
        request: As it came.
        address: What it names.
        body: What was sent.
        old: The record as it was, a copy; None: it is made.
        record: The record as it will be kept, which hooks may change; in `check` it is not kept yet.
    """

    request: Request
    address: Address
    body: Record
    old: Record | None
    record: Record

    @property
    def properties(self) -> Record:
        """Of the record."""
        found: Record = self.record["properties"]
        return found


Action = Callable[[Request, Address, Record], Answer]


class Kind:
    """A type of resource; the hooks do nothing unless they are overridden.

    Attributes:
        type: In full.
        shown: What `state` calls it; "": not at all.
        checked: Whether a PUT is checked against Microsoft's schemas.
        implied: Whether it comes with what is first put into it, so that it need not exist.
        early: Actions of what need not exist yet.
        page: How many a list's page has; None: `Settings.page_size`.
        actions: What POST {id}/{word} does; words in small letters.
        records: What there is, by ids in small letters, oldest first.
    """

    type: ClassVar[str]
    shown: ClassVar[str] = ""
    checked: ClassVar[bool] = True
    implied: ClassVar[bool] = False
    early: ClassVar[tuple[str, ...]] = ()
    page: ClassVar[int | None] = None

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.actions: dict[str, Action] = {}
        self.records: dict[str, Record] = {}

    # -- hooks --------------------------------------------------------------------------------------------------------

    def check(self, change: Change) -> None:
        """Refuses what Azure would refuse."""

    def put(self, change: Change) -> Operation | None:
        """Does what follows; the record is kept already. What the answer shows may still be changed in it."""
        return None

    def began(self, record: Record, address: str) -> None:
        """Is told where to ask about the operation that `put` began."""

    def delete(self, request: Request, record: Record) -> Operation | None:
        """Refuses, or does what follows.

        Returns:
            None: the record and what lies in it are forgotten at once. An operation: it must do that itself, with
            `forget`.
        """
        return None

    def shows(self, request: Request, record: Record) -> Record:
        """Returns what GET and the list answer of a record."""
        return record

    def listed(self, request: Request, address: Address, records: list[Record]) -> list[Record]:
        """Returns what a list shows of the records in it, in its order."""
        return records

    def missing(self, address: Address) -> AzureError:
        """Returns Azure's words when there is none."""
        return AzureError(
            "ResourceNotFound",
            f"The Resource '{address.type}/{'/'.join(address.names)}' under resource group '{address.group}' was not "
            "found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
            404,
        )

    def close(self, workspace: str | None) -> None:
        """Ends what runs of a workspace (its id in small letters), or of all, before its records are forgotten."""

    # -- records ------------------------------------------------------------------------------------------------------

    def find(self, id: str) -> Record | None:
        """Returns the record of an id, None where there is none."""
        return self.records.get(id.lower())

    def get(self, address: Address) -> Record:
        """Returns a record, or raises what Azure says when there is none."""
        record = self.records.get(address.key)
        if record is None:
            raise self.missing(address)
        return record

    def within(self, parent: str) -> list[Record]:
        """Returns the records directly in a parent, by its id, oldest first."""
        start = f"{parent}/{self.type.rpartition('/')[2]}/".lower()
        return [
            record for key, record in self.records.items() if key.startswith(start) and "/" not in key[len(start) :]
        ]

    def forget(self, id: str) -> None:
        """Removes a record with all that lies in it, of every kind."""
        self.cloud.arm.forget(id)


def _after(id: str, word: str) -> str:
    words = id.strip("/").split("/")
    for at, one in enumerate(words[:-1]):
        if one.lower() == word:
            return words[at + 1]
    return ""
