"""Who is making or changing an endpoint, decided by a blob: Azure's own PUT makes or changes, whatever is there.

There is one blob for each endpoint, `endpoints/NAME.json`. It is written on the condition that there is none, or that
it is still as it was read, so that of two who deploy or update at once one is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from medimg.backends.azureml.workspace import Workspace
from medimg.errors import AlreadyExistsError, BackendError, NotFoundError

__all__ = ["Claim", "Claims"]

_FOLDER = "endpoints/"


@dataclass(frozen=True)
class Claim:
    """What is known of an endpoint beside Azure's own record.

    Attributes:
        token: Of the deploy that made it.
        digest: Of the model that it was given last.
        config: Its settings, as JSON.
        owner: Token of the deploy or update that is going on; "": none is.
        since: When that claimed the name, in seconds since the epoch.
        failure: Why its last update failed, or "".
        log: The last lines of the model that did not become ready.
        dead_seconds: After which the process of one that was not renewed is taken for dead; it is renewed before
            anything is made that costs money.
    """

    dead_seconds: ClassVar[float] = 600.0

    token: str
    digest: str
    config: Mapping[str, Any]
    owner: str = ""
    since: float = field(default_factory=time.time)
    failure: str = ""
    log: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether somebody is at work, as far as one can know."""
        return bool(self.owner) and time.time() - self.since < self.dead_seconds


class Claims:
    """The claims of a workspace.

    Args:
        workspace: Whose.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    def _storage(self) -> Any:
        return self._workspace.storage

    def read(self, name: str) -> tuple[Claim | None, str]:
        """Returns an endpoint's claim, None where there is none, and the ETag with which it can be written."""
        try:
            content, etag = self._storage.get_with_etag(_key(name))
        except NotFoundError:
            return None, ""
        told = json.loads(content)
        return Claim(**{**told, "log": tuple(told["log"])}), etag

    def write(self, name: str, claim: Claim, etag: str) -> None:
        """Writes an endpoint's claim.

        Args:
            name: The endpoint's.
            claim: As it shall be.
            etag: As it was read; "": there must be none.

        Raises:
            AlreadyExistsError: Another was faster.
        """
        content = json.dumps(asdict(claim)).encode()
        if not (self._storage.replace(_key(name), content, etag) if etag else self._storage.claim(_key(name), content)):
            raise AlreadyExistsError(
                f"the endpoint {name!r} is being made or changed by another process. Wait for it: "
                f"backend.endpoint({name!r}).wait()"
            )

    def renew(self, name: str, owner: str) -> None:
        """Says that a deploy or update is still going on.

        Raises:
            BackendError: It was taken for dead, and the name is another's now.
        """
        self._own(name, owner, owner)

    def release(self, name: str, owner: str) -> None:
        """Says that a deploy or update has done its part; raises as `renew` does."""
        self._own(name, owner, "")

    def _own(self, name: str, owner: str, then: str) -> None:
        lost = f"the endpoint {name!r} was deleted, or taken over by another process, while it was prepared. Try again"
        claim, etag = self.read(name)
        if claim is None or claim.owner != owner:
            raise BackendError(lost)
        try:
            self.write(name, replace(claim, since=time.time(), owner=then), etag)
        except AlreadyExistsError as error:
            raise BackendError(lost) from error

    def all(self) -> dict[str, Claim]:
        """Returns the claims by endpoint."""
        names = [key.removeprefix(_FOLDER).removesuffix(".json") for key in self._storage.list(_FOLDER)]
        return {name: claim for name in names if (claim := self.read(name)[0]) is not None}

    def delete(self, name: str, token: str) -> None:
        """Forgets the claim of a deploy; where there is none, or another's by now, that is no error."""
        claim, etag = self.read(name)
        if claim is not None and claim.token == token:
            self._storage.delete_if(_key(name), etag)


def _key(name: str) -> str:
    return f"{_FOLDER}{name}.json"
