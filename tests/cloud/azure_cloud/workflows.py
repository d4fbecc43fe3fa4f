"""Logic Apps: workflows that begin by the emulator's clock, and ask Azure as the identity that they have.

There is no schema of them here: what they are made of is checked by hand, and what is not known is refused.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .calls import Answer, AzureError, Request
from .cloud import Cloud
from .expressions import Expressions, actions_named, check, check_condition
from .kinds import Change, Kind, Record
from .setup import Identities

__all__ = ["Workflows", "add_workflows"]

_TICK_SECONDS = 0.2
_AT_ONCE = 3  # times that were missed while the clock was moved on, and are made up for
_RETRIES = 4
_PATIENCE_SECONDS = 30.0
_UNITS = {"Second": 1, "Minute": 60, "Hour": 3600, "Day": 86_400}
_ENDS = {"Succeeded", "Failed", "Skipped", "TimedOut"}
_SCHEMA = "/providers/Microsoft.Logic/schemas/2016-06-01/workflowdefinition.json"
_METHODS = {"GET", "PUT", "POST", "PATCH", "DELETE"}


def _invalid(message: str) -> AzureError:
    return AzureError("InvalidTemplate", f"The template validation failed: {message}")


class Workflows(Kind):
    """The workflows of all resource groups.

    Args:
        cloud: The emulator.
    """

    type = "Microsoft.Logic/workflows"
    shown = "workflows"
    checked = False

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self._due: dict[str, float] = {}
        self._firing = threading.Lock()
        cloud.verbs["advance"] = self._advance
        threading.Thread(target=self._watch, daemon=True).start()

    # -- making -------------------------------------------------------------------------------------------------------

    def check(self, change: Change) -> None:
        """Refuses what Azure would refuse, and what is not known here."""
        record, given = change.record, change.properties
        definition = given.get("definition") or {}
        if not record.get("location"):
            raise AzureError("LocationRequired", "The location property is required for this definition.")
        if _SCHEMA not in definition.get("$schema", "") or not definition.get("contentVersion"):
            raise _invalid("'$schema' or 'contentVersion' is missing or not known")
        if unknown := set(definition) - {"$schema", "contentVersion", "triggers", "actions", "outputs", "parameters"}:
            raise _invalid(f"{sorted(unknown)} are not known")
        if len(definition.get("triggers") or {}) != 1:
            raise _invalid("one trigger is needed")
        _check_trigger(next(iter(definition["triggers"].values())))
        identities = self._check_identities(change)
        _check_actions(definition.get("actions") or {}, identities, set())
        given["state"] = given.get("state") or "Enabled"
        given["provisioningState"] = "Succeeded"

    def _check_identities(self, change: Change) -> set[str]:
        """Returns the identities that it has; who makes it must be allowed to give it them."""
        identity = change.record.get("identity") or {}
        given = identity.get("userAssignedIdentities") or {}
        if given and identity.get("type") != "UserAssigned":
            raise AzureError("InvalidIdentity", "The type of user-assigned identities is UserAssigned.")
        for id in given:
            if self.cloud.arm.find(id) is None:
                raise AzureError(
                    "FailedIdentityOperation",
                    f"Identity operation for resource '{change.record['id']}' failed with error 'Failed to perform "
                    f"resource identity operation. Status: NotFound. Response: Resource '{id}' was not found.'.",
                )
            if not self.cloud.allows(change.request.caller, f"{Identities.type}/assign/action", id):
                raise AzureError(
                    "LinkedAuthorizationFailed",
                    f"The client '{change.request.caller}' has permission to perform action '{self.type}/write' on "
                    f"scope '{change.record['id']}'; however, it does not have permission to perform action "
                    f"'{Identities.type}/assign/action' on the linked scope(s) '{id}'.",
                    403,
                )
        return {id.lower() for id in given}

    def put(self, change: Change) -> None:
        """Sets when it runs first: times that are past are left out."""
        recurrence = _recurrence(change.record)
        start = recurrence.get("startTime")
        now, every = self.cloud.clock.now(), _every(recurrence)
        due = now if start is None else _moment(start)
        while due < now:
            due += every
        self._due[change.address.key] = due

    def close(self, workspace: str | None) -> None:
        """Forgets those that are about a workspace, or all."""
        with self.cloud.lock:
            for key, record in list(self.records.items()):
                if workspace is None or workspace in json.dumps(record).lower():
                    del self.records[key]

    # -- running ------------------------------------------------------------------------------------------------------

    def fire(self) -> None:
        """Runs what is due, and returns when it has run."""
        with self._firing:
            for key in list(self._due):
                self._catch_up(key)

    def _advance(self, given: Mapping[str, Any]) -> None:
        self.cloud.clock.advance(given["seconds"])
        self.fire()

    def _watch(self) -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            try:
                self.fire()
            except Exception:
                logging.exception("the workflows broke down")

    def _catch_up(self, key: str) -> None:
        for _ in range(_AT_ONCE):
            with self.cloud.lock:
                record = self.records.get(key)
                if record is None:  # deleted, maybe by itself
                    self._due.pop(key, None)
                    return
            if self._due[key] > self.cloud.clock.now():
                return
            self._due[key] += _every(_recurrence(record))
            if record["properties"]["state"] == "Enabled":
                run = _Run(self.cloud, record)
                run.do()
                self._await(run)
        while self._due[key] <= self.cloud.clock.now():
            self._due[key] += _every(_recurrence(record))

    def _await(self, run: _Run) -> None:
        """Waits for what a run began: before the next there is time enough, of which nothing is seen here."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for url in run.begun:
            while time.monotonic() < deadline:
                request = Request.to("GET", url)
                request.caller = run.caller
                content = self.cloud.arm.answer(request).content
                if content["status"] != "InProgress":
                    break
                time.sleep(0.02)


class _Run:
    """One run of a workflow.

    Attributes:
        caller: The principal as which it asks.
        begun: Where to ask about the operations that it began.
    """

    def __init__(self, cloud: Cloud, record: Record) -> None:
        self._cloud = cloud
        self._record = record
        self._outputs: dict[str, dict[str, Any]] = {}
        self.caller = ""
        self.begun: list[str] = []

    def do(self) -> None:
        """Does all of it."""
        statuses = self._all(self._record["properties"]["definition"].get("actions") or {})
        logging.info("the workflow %s ran: %s", self._record["name"], statuses)

    def _all(self, actions: Mapping[str, Any]) -> dict[str, str]:
        """Does actions, each when those are done that it runs after; returns how they ended."""
        ended: dict[str, str] = {}
        while len(ended) < len(actions):
            ready = [
                name
                for name, action in actions.items()
                if name not in ended and all(one in ended for one in action.get("runAfter") or {})
            ]
            for name in ready:
                after = actions[name].get("runAfter") or {}
                meant = all(ended[one] in statuses for one, statuses in after.items())
                ended[name] = self._one(name, actions[name]) if meant else "Skipped"
        return ended

    def _one(self, name: str, action: Mapping[str, Any]) -> str:
        try:
            if action["type"] == "If":
                expressions = Expressions(self._cloud.clock.now(), self._outputs)
                holds = expressions.holds(action["expression"])
                inner = action["actions"] if holds else (action.get("else") or {}).get("actions") or {}
                return "Failed" if "Failed" in self._all(inner).values() else "Succeeded"
            return self._http(name, action["inputs"])
        except AzureError as error:
            logging.warning("the action %s of the workflow %s failed: %s", name, self._record["name"], error)
            return "Failed"

    def _http(self, name: str, inputs: Mapping[str, Any]) -> str:
        given = Expressions(self._cloud.clock.now(), self._outputs).value(inputs)
        identity = self._cloud.arm.find(given["authentication"]["identity"])
        if identity is None:
            raise AzureError("ManagedIdentityNotFound", "The workflow's identity does not exist any more.")
        self.caller = identity["properties"]["principalId"]
        for _ in range(_RETRIES + 1):
            request = Request.to(given["method"], given["uri"], given.get("body"))
            request.caller = self.caller
            answer = self._cloud.call(request)
            if answer.status not in (408, 429) and answer.status < 500:
                break
        self._outputs[name] = {"statusCode": answer.status, "body": _content(answer), "headers": answer.headers}
        if "Azure-AsyncOperation" in answer.headers:
            self.begun.append(answer.headers["Azure-AsyncOperation"])
        return "Succeeded" if answer.status < 400 else "Failed"


def _content(answer: Answer) -> Any:
    return json.loads(json.dumps(answer.content)) if not isinstance(answer.content, bytes) else answer.content.decode()


# -- what a definition may have ---------------------------------------------------------------------------------------


def _recurrence(record: Record) -> Mapping[str, Any]:
    trigger: Mapping[str, Any] = next(iter(record["properties"]["definition"]["triggers"].values()))
    found: Mapping[str, Any] = trigger["recurrence"]
    return found


def _every(recurrence: Mapping[str, Any]) -> float:
    return float(recurrence["interval"] * _UNITS[recurrence["frequency"]])


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _check_trigger(trigger: Mapping[str, Any]) -> None:
    recurrence = trigger.get("recurrence") or {}
    if trigger.get("type") != "Recurrence" or set(trigger) - {"type", "recurrence"}:
        raise _invalid(f"this emulator knows triggers of the type Recurrence only, not {trigger}")
    if recurrence.get("frequency") not in _UNITS or not isinstance(recurrence.get("interval"), int):
        raise _invalid(f"the recurrence {recurrence} has no frequency or interval that is known")
    if set(recurrence) - {"frequency", "interval", "startTime"}:
        raise _invalid(f"the recurrence {recurrence} has members that are not known")
    if "startTime" in recurrence:
        try:
            _moment(recurrence["startTime"])
        except ValueError:
            raise _invalid(f"the start time {recurrence['startTime']!r} is not of the form …T…Z") from None


def _check_actions(actions: Mapping[str, Any], identities: set[str], outer: set[str]) -> None:
    """Raises where actions are not known, or refer to what does not run before them.

    Args:
        actions: Side by side.
        identities: That the workflow has.
        outer: Actions that are done by then.
    """
    for name, action in actions.items():
        after = action.get("runAfter") or {}
        if missing := set(after) - set(actions):
            raise _invalid(f"the action '{name}' runs after {sorted(missing)}, which are not beside it")
        if any(not statuses or set(statuses) - _ENDS for statuses in after.values()):
            raise _invalid(f"the action '{name}' runs after {after}, which is not known")
        done = outer | _before(name, actions)
        if action.get("type") == "Http":
            _check_http(name, action, identities)
        elif action.get("type") == "If":
            if unknown := set(action) - {"type", "runAfter", "expression", "actions", "else"}:
                raise _invalid(f"{sorted(unknown)} of the action '{name}' are not known to this emulator")
            check_condition(action.get("expression"))
            for inner in (action.get("actions") or {}, (action.get("else") or {}).get("actions") or {}):
                _check_actions(inner, identities, done)
        else:
            raise _invalid(f"the type {action.get('type')!r} of the action '{name}' is not known to this emulator")
        referred = actions_named(action.get("inputs")) | actions_named(action.get("expression"))
        if referred - done:
            raise _invalid(f"the action '{name}' refers to {sorted(referred - done)}, which do not run before it")


def _before(name: str, actions: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> set[str]:
    """Returns the actions that are done when one begins."""
    found: set[str] = set()
    for one in actions[name].get("runAfter") or {}:
        if one in seen or one == name:
            raise _invalid(f"the action '{name}' runs after itself")
        found |= {one} | _before(one, actions, seen | {name})
    return found


def _check_http(name: str, action: Mapping[str, Any], identities: set[str]) -> None:
    inputs = action.get("inputs") or {}
    check(inputs)
    if unknown := set(action) - {"type", "runAfter", "inputs", "operationOptions"}:
        raise _invalid(f"{sorted(unknown)} of the action '{name}' are not known to this emulator")
    if inputs.get("method") not in _METHODS or set(inputs) - {"method", "uri", "authentication", "body", "headers"}:
        raise _invalid(f"the inputs of the action '{name}' are not known: {inputs}")
    if not str(inputs.get("uri", "")).startswith("https://management.azure.com/"):
        raise _invalid(f"the action '{name}' asks {inputs.get('uri')!r}, which is not here")
    who = inputs.get("authentication") or {}
    if who.get("type") != "ManagedServiceIdentity" or str(who.get("identity", "")).lower() not in identities:
        raise _invalid(f"the action '{name}' asks as an identity that the workflow does not have: {who}")
    if who.get("audience", "").rstrip("/") not in (
        "https://management.azure.com",
        "https://management.core.windows.net",
    ):
        raise _invalid(f"the audience {who.get('audience')!r} of the action '{name}' is not Azure Resource Manager's")
    # Without this Azure asks on until what was begun has ended, which nothing here needs.
    if action.get("operationOptions") != "DisableAsyncPattern":
        raise _invalid(f"the action '{name}' waits for what it begins, which this emulator does not know")


def add_workflows(cloud: Cloud) -> None:
    """Serves workflows."""
    cloud.arm.serve(Workflows(cloud))
