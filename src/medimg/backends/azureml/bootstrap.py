"""Setting up at Azure: what the blueprint lists, made piece by piece; what is there already stays.

A workspace that somebody else has made is used with its own storage; what is not tagged as ours is never changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from azure.core.exceptions import HttpResponseError

from medimg.backends.azureml.blueprint import (
    GROUP_API,
    OF_WORKSPACE,
    PROVIDERS,
    BuiltIn,
    Here,
    Of,
    Part,
    blueprint,
    group_body,
)
from medimg.backends.azureml.errors import code_of, translated
from medimg.backends.azureml.workspace import Workspace
from medimg.errors import AccessError, BackendError, ConfigError, NotFoundError
from medimg.progress import Display, Event, Report

__all__ = ["Outcome", "Step", "bootstrap", "command", "find", "id_of", "is_ours"]

Outcome = Literal["made", "changed", "there", "not ours", "deleted", "none"]

_POLL_SECONDS = 2.0
_REGISTER_SECONDS = 900.0
_DIRECTORY_SECONDS = 120.0  # that a new identity may take until all of Azure knows it


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one piece of the set-up.

    Attributes:
        what: Such as "storage account".
        name: Its name.
        outcome: "made", "changed", "there", "not ours" (there, made by somebody else, and left as it is), "deleted" or
            "none".
        note: What else must be said.
    """

    what: str
    name: str
    outcome: Outcome
    note: str = ""


def command(workspace: Workspace, verb: str) -> str:
    """Returns what is typed to do something to a workspace: "medimg azure doctor", with the options that it needs."""
    options = (
        ("subscription", workspace.subscription, os.environ.get("AZURE_SUBSCRIPTION_ID")),
        ("resource-group", workspace.resource_group, "medimg"),
        ("workspace", workspace.name, "medimg"),
    )
    given = "".join(f" --{option} {value}" for option, value, default in options if value != default)
    return f"medimg azure {verb}{given}"


def is_ours(found: Mapping[str, Any]) -> bool:
    """Tells whether bootstrap made a resource, for whatever prefix."""
    return "medimg" in (found.get("tags") or {})


def find(workspace: Workspace, id: str, api_version: str, what: str, *, patient: bool = True) -> dict[str, Any] | None:
    """Returns a resource as Azure describes it; None: there is none. `patient` as for `Workspace.arm`."""
    try:
        with translated(f"looking for the {what}"):
            return workspace.arm("GET", id, api_version, patient=patient)
    except NotFoundError:
        return None


def id_of(workspace: Workspace, part: Part, parts: Iterable[Part]) -> str:
    """Returns the ARM id of a part."""
    if not part.on:
        return part.id(workspace.group_id)
    (on,) = (each for each in parts if each.key == part.on)
    return part.id(on.id(workspace.group_id))


def bootstrap(workspace: Workspace, *, region: str | None = None, user: str | None = None) -> list[Step]:
    """Makes what is missing, and says what became of each piece; running it again goes on where it stopped.

    Args:
        workspace: Whose subscription, names and tags.
        region: Where; None: where the resource group or the workspace is.
        user: Object id of a person or group that is given the roles.

    Raises:
        ConfigError: No region, or another one than that of what is there.
        AccessError: This login may not; the message says what was made by then and what to do.
    """
    steps: list[Step] = []
    with Display("bootstrap") as display:
        try:
            _register(workspace, steps, display)
            group = find(workspace, workspace.group_id, GROUP_API, f"resource group {workspace.resource_group!r}")
            existing = find(workspace, workspace.id, "2024-10-01", f"workspace {workspace.name!r}") if group else None
            place = _region(workspace, region, group, existing)
            steps.append(_make_group(workspace, group, place))
            parts = blueprint(workspace, user)
            if existing is not None and not is_ours(existing):
                parts = tuple(part for part in parts if part.key not in OF_WORKSPACE)
            maker = _Maker(workspace, place, parts)
            for number, part in enumerate(parts):
                display(Event("stage", "making", number, len(parts), f"{part.what} {part.label}"))
                steps.append(maker.make(part))
            display(Event("stage", "making", len(parts), len(parts)))
        except AccessError as error:
            raise AccessError(_stopped(workspace, steps, error)) from error
    return steps


def _stopped(workspace: Workspace, steps: list[Step], error: AccessError) -> str:
    made = [f"{step.what} {step.name}" for step in steps if step.outcome in ("made", "changed")]
    so_far = f"Made so far: {', '.join(made)}. " if made else "Nothing was made. "
    return (
        f"{error}. {so_far}Who owns the resource group {workspace.resource_group!r} can go on with the same command, "
        f"or with a file: {command(workspace, 'bootstrap')} --dry-run --output medimg.bicep"
    )


def _register(workspace: Workspace, steps: list[Step], report: Report) -> None:
    """Switches on the services that are off, and waits until they are on."""
    waiting = []
    for provider in PROVIDERS:
        if _is_registered(workspace, provider):
            continue
        with translated(f"switching on {provider}"):
            workspace.arm("POST", f"{_provider(workspace, provider)}/register", GROUP_API)
        waiting.append(provider)
    deadline = time.monotonic() + _REGISTER_SECONDS
    for number, provider in enumerate(waiting):
        report(Event("stage", "registering", number, len(waiting), provider))
        while not _is_registered(workspace, provider):
            if time.monotonic() > deadline:
                raise BackendError(
                    f"Azure is still switching on {provider} after {_REGISTER_SECONDS / 60:.0f} minutes. "
                    f"Run it again later: {command(workspace, 'bootstrap')}"
                )
            time.sleep(_POLL_SECONDS)
        steps.append(Step("service", provider, "made"))


def _is_registered(workspace: Workspace, provider: str) -> bool:
    with translated(f"asking whether {provider} is switched on"):
        answer = workspace.arm("GET", _provider(workspace, provider), GROUP_API)
    return bool(answer["registrationState"] == "Registered")


def _provider(workspace: Workspace, provider: str) -> str:
    return f"/subscriptions/{workspace.subscription}/providers/{provider}"


def _region(
    workspace: Workspace, wanted: str | None, group: Mapping[str, Any] | None, existing: Mapping[str, Any] | None
) -> str:
    wanted = wanted and wanted.lower().replace(" ", "")
    if existing is not None:
        found = str(existing["location"])
        if wanted not in (None, found):
            raise ConfigError(
                f"the workspace {workspace.name!r} is in {found}, and cannot be moved to {wanted}. Leave --region out, "
                "or take another name: --workspace NAME"
            )
        return found
    if wanted:
        return wanted
    if group is None:
        again = f"{command(workspace, 'bootstrap')} --region westeurope"
        raise ConfigError(f"say where images and models may be kept: {again}")
    return str(group["location"])


def _make_group(workspace: Workspace, group: Mapping[str, Any] | None, region: str) -> Step:
    name = workspace.resource_group
    if group is not None:
        return Step("resource group", name, "there" if is_ours(group) else "not ours")
    with translated(f"making the resource group {name!r}"):
        workspace.arm("PUT", workspace.group_id, GROUP_API, group_body(workspace, region))
    return Step("resource group", name, "made")


class _Maker:
    """Makes one part after the other; later ones name what Azure answered about earlier ones."""

    def __init__(self, workspace: Workspace, region: str, parts: tuple[Part, ...]) -> None:
        self._workspace = workspace
        self._region = region
        self._parts = parts
        self._answers: dict[str, Mapping[str, Any]] = {}

    def make(self, part: Part) -> Step:
        """Makes a part, changes it where it is ours and not as it should be, or leaves it."""
        id = id_of(self._workspace, part, self._parts)
        found = find(self._workspace, id, part.api_version, f"{part.what} {part.label!r}")
        if found is not None:
            self._answers[part.key] = found
            if "tags" in part.body and not is_ours(found):
                return Step(part.what, part.label, "not ours")
            if part.type.endswith("/roleAssignments") or _holds(self._filled(part.body), found):
                return Step(part.what, part.label, "there")
        body = self._filled(part.body)
        with translated(f"making the {part.what} {part.label!r}"):
            outcome: Outcome = self._put(part, id, body, "made" if found is None else "changed")
        if outcome != "there":
            with translated(f"looking at the {part.what} {part.label!r}"):
                self._answers[part.key] = self._workspace.arm("GET", id, part.api_version)
        return Step(part.what, part.label, outcome)

    def _put(self, part: Part, id: str, body: dict[str, Any], outcome: Outcome) -> Outcome:
        deadline = time.monotonic() + _DIRECTORY_SECONDS
        while True:
            try:
                self._workspace.arm("PUT", id, part.api_version, body, wait=True)
            except HttpResponseError as error:
                code, said = code_of(error), str(error)
                if code == "RoleAssignmentExists":  # under a name that somebody else gave it
                    return "there"
                if code == "PrincipalNotFound" and time.monotonic() < deadline:
                    time.sleep(_POLL_SECONDS)
                    continue
                deleted = "deleted state" in said and part.type == "Microsoft.KeyVault/vaults"
                if not deleted or "createMode" in body["properties"]:
                    raise
                # A vault is kept for a week after it was deleted, and its name with it.
                body = {**body, "properties": {**body["properties"], "createMode": "recover"}}
            else:
                return outcome

    def _filled(self, value: Any) -> Any:
        """Returns a body with what is known by now in the place of references."""
        if isinstance(value, Here):
            return _HERE[value](self)
        if isinstance(value, Of):
            return self._looked_up(value)
        if isinstance(value, BuiltIn):
            roles = "providers/Microsoft.Authorization/roleDefinitions"
            return f"/subscriptions/{self._workspace.subscription}/{roles}/{value.role}"
        if isinstance(value, Mapping):
            return {key: self._filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._filled(each) for each in value]
        return value

    def _looked_up(self, of: Of) -> Any:
        found: Any = self._answers[of.key]
        for word in of.path.split("."):
            found = found[word]
        return found

    def _tenant(self) -> str:
        with translated(f"looking for the subscription {self._workspace.subscription}"):
            answer = self._workspace.arm("GET", f"/subscriptions/{self._workspace.subscription}", GROUP_API)
        return str(answer["tenantId"])


_HERE: Mapping[Here, Callable[[_Maker], str]] = {
    Here.REGION: lambda maker: maker._region,
    Here.GROUP: lambda maker: maker._workspace.group_id,
    Here.TENANT: _Maker._tenant,
}


def _holds(wanted: Any, found: Any) -> bool:
    """Tells whether something is as it should be; what Azure adds to it does not count."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_holds(each, found.get(key)) for key, each in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and (
            len(wanted) == len(found) and all(map(_holds, sorted(wanted, key=str), sorted(found, key=str)))
        )
    if isinstance(wanted, str):  # ids, and names of regions, are the same in any case
        return isinstance(found, str) and _plain(wanted) == _plain(found)
    return bool(wanted == found)


def _plain(text: str) -> str:
    return text.lower().replace(" ", "")  # "West Europe" is westeurope
