"""Assets of a workspace whose name says what is in them: any version of ours is as good as another.

Azure may never make a version again that was deleted, and may refuse to delete one; what it will do is found out by
asking.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.workspace import Workspace
from medimg.errors import AccessError, AlreadyExistsError, BackendError, NotFoundError, UnreachableError

__all__ = ["discard", "ensure", "make_one"]

_API = "2024-10-01"
_TRIES = 5
# Azure of its registries: "Asset … was deleted at …, it cannot be recreated. Please try again with a different …"
_USED_UP = re.compile(r"was deleted\b.*\bcannot be recreated", re.DOTALL)
_TOLD_ONLY = {"environmentType", "provisioningState"}  # Azure tells them and takes none


def make_one(versions: Iterable[str], make: Callable[[str], str]) -> str:
    """Makes the first of some versions that Azure has not deleted before, and returns what `make` returns.

    Args:
        versions: Those to try.
        make: Makes one.
    """
    for version in versions:
        try:
            return make(version)
        except BackendError as error:
            if _USED_UP.search(str(error)) is None:
                raise
            refused = error
    raise refused


def ensure(workspace: Workspace, asset: str, make: Callable[[str], str]) -> str:
    """Returns the id of a version of ours, made if there is none.

    Args:
        workspace: Whose.
        asset: Kind and name, such as "data/medimg-pack-…".
        make: Makes a version, with our tags, and returns its id.
    """
    id = _ours(workspace, asset)
    if id is None:
        now = int(time.time())  # a number that no version has had which was deleted before
        try:
            id = make_one(["1", *map(str, range(now, now + _TRIES))], make)
        except AlreadyExistsError:  # another process makes the same one
            id = _ours(workspace, asset)
            if id is None:
                raise
    return id


def discard(workspace: Workspace, asset: str, *, tagged: bool = True) -> None:
    """Deletes our versions of an asset, and the asset if it has no others; what Azure does not delete is archived.

    Args:
        workspace: Whose.
        asset: Kind and name.
        tagged: False takes all versions for ours: Azure makes those of what a job writes, without our tags.
    """
    left = 0
    for version in list(_versions(workspace, asset, "All")):
        about = version["properties"]
        if about.get("isArchived") or (tagged and not workspace.owns(about.get("tags"))):
            left += 1
        elif not _delete(workspace, version["id"]):
            left += 1
            _archive(workspace, version["id"], about)
    if not left:
        _delete(workspace, f"{workspace.id}/{asset}")


def _ours(workspace: Workspace, asset: str) -> str | None:
    versions = _versions(workspace, asset, "ActiveOnly")
    return next((str(one["id"]) for one in versions if workspace.owns(one["properties"].get("tags"))), None)


def _versions(workspace: Workspace, asset: str, view: str) -> Iterator[dict[str, Any]]:
    with suppress(NotFoundError), translated(f"listing the versions of {asset}"):
        yield from workspace.arm_list(f"{workspace.id}/{asset}/versions", _API, listViewType=view)


def _delete(workspace: Workspace, id: str) -> bool:
    """Tells whether something is gone; False: Azure does not delete it, whoever asks."""
    try:
        with translated(f"deleting {id.removeprefix(f'{workspace.id}/')}"):
            workspace.arm("DELETE", id, _API, wait=True)
    except NotFoundError:  # where the first answer was lost, the second says that there is nothing to delete
        return True
    except (AccessError, UnreachableError):
        raise
    except BackendError:
        return False
    return True


def _archive(workspace: Workspace, id: str, about: Mapping[str, Any]) -> None:
    told = {name: value for name, value in about.items() if name not in _TOLD_ONLY and value is not None}
    with suppress(NotFoundError), translated(f"archiving {id.removeprefix(f'{workspace.id}/')}"):
        workspace.arm("PUT", id, _API, {"properties": {**told, "isArchived": True}})
