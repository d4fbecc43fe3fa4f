"""Azure Resource Manager: reads what a request is about, and lets the type do it; see `kinds`."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

from .calls import Answer, AzureError, Request
from .kinds import ML, Address, Change, Kind, Record, now

if TYPE_CHECKING:
    from .cloud import Cloud

__all__ = ["Arm"]

_MOST_TAGS = 50


@dataclass
class Arm:
    """Azure Resource Manager.

    Attributes:
        cloud: The emulator.
        kinds: By types in small letters.
        functions: What POST or GET to other paths does: by the method and a pattern of the path in small letters.
    """

    cloud: Cloud
    kinds: dict[str, Kind] = field(default_factory=dict)
    functions: list[tuple[str, re.Pattern[str], Callable[[Request, re.Match[str]], Answer]]] = field(
        default_factory=list
    )
    _known: set[str] = field(default_factory=set)  # the types there are, and what they begin with

    def serve(self, kind: Kind) -> None:
        """Answers for a type."""
        self.kinds[kind.type.lower()] = kind
        self._known = {one[: match.start()] for one in self.kinds for match in re.finditer("/|$", one)}

    def function(self, method: str, pattern: str, answer: Callable[[Request, re.Match[str]], Answer]) -> None:
        """Answers for a path that is no resource's: one that matches as a whole, whatever its case."""
        self.functions.append((method, re.compile(pattern, re.IGNORECASE), answer))

    def kind(self, name: str) -> Kind:
        """Returns what answers for a type."""
        return self.kinds[name.lower()]

    def find(self, id: str) -> Record | None:
        """Returns the record of an id of any type; None where there is none."""
        address = self.address(id)
        kind = self.kinds.get(address.type.lower())
        return None if kind is None or address.rest else kind.find(id)

    def forget(self, id: str) -> None:
        """Removes a record with all that lies in it, of every kind."""
        key = id.lower()
        with self.cloud.lock:
            for kind in self.kinds.values():
                for one in [one for one in kind.records if one == key or one.startswith(f"{key}/")]:
                    del kind.records[one]

    def address(self, path: str) -> Address:
        """Reads a path; see `Address`."""
        words = [unquote(word) for word in path.strip("/").split("/")]
        low = [word.lower() for word in words]
        at = len(low) - 1 - low[::-1].index("providers") if "providers" in low else -2
        word = words[at + 1] if 0 <= at < len(words) - 1 else "Microsoft.Resources"
        names: list[str] = []
        used = at + 2
        while used < len(words) and f"{word}/{words[used]}".lower() in self._known:
            word = f"{word}/{words[used]}"
            names += words[used + 1 : used + 2]
            used += 2
        kind = self.kinds.get(word.lower())
        scope = "/" + "/".join(words[:at]) if at > 0 else ""
        return Address(
            "/" + "/".join(words[:used]), kind.type if kind else word, tuple(names), tuple(words[used:]), scope
        )

    # -- requests -----------------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """Answers a request to management.azure.com."""
        if not request.api:
            raise AzureError(
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
        for method, pattern, function in self.functions:
            found = pattern.fullmatch(unquote(request.path))
            if found is not None and method == request.method:
                return function(request, found)
        address = self.address(request.path)
        kind = self.kinds.get(address.type.lower())
        if kind is None:
            raise AzureError(
                "InvalidResourceType",
                f"The resource type could not be found in the namespace '{address.type.partition('/')[0]}' for api "
                f"version '{request.api}': {request.method} {request.path}",
                404,
            )
        self._allow(request, address)
        self._look_for_parents(address)
        if address.rest:
            return self._act(kind, request, address)
        if address.lists:
            if request.method != "GET":
                raise _no_method(request)
            return self._list(kind, request, address)
        perform = _METHODS.get(request.method)
        if perform is None:
            raise _no_method(request)
        with self.cloud.lock:
            return perform(self, kind, request, address)

    def _allow(self, request: Request, address: Address) -> None:
        """Raises when the caller may not do this."""
        word = "/".join([*address.rest, "action"]) if address.rest else _RIGHTS.get(request.method, "read")
        if not self.cloud.allows(request.caller, f"{address.type}/{word}", address.id):
            raise AzureError(
                "AuthorizationFailed",
                f"The client '{request.caller}' with object id '{request.caller}' does not have authorization to "
                f"perform action '{address.type}/{word}' over scope '{address.id}' or the scope is invalid. If access "
                "was recently granted, please refresh your credentials.",
                403,
            )

    def _look_for_parents(self, address: Address) -> None:
        """Raises when something that the address lies in is not there."""
        if address.scope:
            self._exists(address.scope)
        parts = address.id.strip("/").split("/")
        levels = len(address.names) if address.lists else len(address.names) - 1
        for up in range(1, levels + 1):
            cut = len(parts) - 2 * up if not address.lists else len(parts) - 1 - 2 * (up - 1)
            self._exists("/" + "/".join(parts[:cut]))

    def _exists(self, id: str) -> None:
        address = self.address(id)
        kind = self.kinds.get(address.type.lower())
        if kind is not None and not address.lists and not kind.implied:
            kind.get(address)

    def _act(self, kind: Kind, request: Request, address: Address) -> Answer:
        action = kind.actions.get("/".join(address.rest).lower())
        if action is None or request.method not in ("POST", "GET"):
            raise AzureError(
                "InvalidResourceType", f"There is no {request.method} {'/'.join(address.rest)} of {address.type}", 404
            )
        with self.cloud.lock:
            early = address.lists or "/".join(address.rest).lower() in kind.early
            record = {} if early else kind.get(address)
        return action(request, address, record)

    def _get(self, kind: Kind, request: Request, address: Address) -> Answer:
        return Answer(copy.deepcopy(kind.shows(request, kind.get(address))))

    def _list(self, kind: Kind, request: Request, address: Address) -> Answer:
        with self.cloud.lock:
            parent = address.id.rpartition("/")[0]
            records = kind.listed(request, address, self._in(kind, parent, address))
            return self.paged(request, [copy.deepcopy(kind.shows(request, one)) for one in records], kind.page)

    def _in(self, kind: Kind, parent: str, address: Address) -> list[Record]:
        if address.type.count("/") > 1:
            return kind.within(parent)
        # A list of what lies in the resource group, in the whole subscription, or in any other scope.
        scope = f"{address.scope}/".lower()
        return [record for key, record in kind.records.items() if f"{key}/".startswith(scope)]

    def paged(self, request: Request, items: list[Any], size: int | None = None) -> Answer:
        """Answers one page of a list: `$top` is the most there are, and `$skipToken` where it goes on."""
        size = size or self.cloud.settings.page_size
        top = request.parameter("$top")
        items = items[: int(top)] if top else items
        begin = int(request.parameter("$skipToken") or 0)
        content: dict[str, Any] = {"value": items[begin : begin + size]}
        if begin + size < len(items):
            query = {key: value for key, value in request.query.items() if key.lower() != "$skiptoken"}
            query["$skipToken"] = str(begin + size)
            content["nextLink"] = f"https://{request.host}{request.path}?{urlencode(query, quote_via=quote)}"
        return Answer(content)

    def _put(self, kind: Kind, request: Request, address: Address) -> Answer:
        body = request.json
        if not isinstance(body, dict):
            raise AzureError("InvalidRequestContent", "The request content must be an object.")
        if kind.checked:
            self.cloud.schemas.check(address.type, request.api, address.name, body)
        old = kind.find(address.id)
        record = copy.deepcopy(body)
        record.setdefault("properties", {})
        return self._keep(kind, Change(request, address, body, copy.deepcopy(old), record))

    def _patch(self, kind: Kind, request: Request, address: Address) -> Answer:
        old = kind.get(address)
        body = request.json
        return self._keep(kind, Change(request, address, body, copy.deepcopy(old), _merged(old, body)))

    def _keep(self, kind: Kind, change: Change) -> Answer:
        old, record, moment = change.old, change.record, now()
        _check_tags(record.get("tags"))
        made = {"createdAt": moment, "createdBy": change.request.caller, "createdByType": "Application"}
        if old is not None:
            made = {name: value for name, value in old["systemData"].items() if name.startswith("created")}
        record["systemData"] = {
            **made, "lastModifiedAt": moment, "lastModifiedBy": change.request.caller,
            "lastModifiedByType": "Application",
        }  # fmt: skip
        record.update(
            id=old["id"] if old else change.address.id, name=old["name"] if old else change.address.name,
            type=change.address.type,
        )  # fmt: skip
        kind.check(change)
        if old is not None:  # whoever holds the record sees the change
            kept = kind.records[change.address.key]
            kept.clear()
            kept.update(record)
            change.record = kept
        else:
            kind.records[change.address.key] = record
        operation = kind.put(change)
        answer = Answer(copy.deepcopy(kind.shows(change.request, change.record)), 200 if old is not None else 201)
        if operation is not None:
            answer.headers |= self.cloud.operations.begin(change.request, change.address, operation)
            kind.began(change.record, answer.headers["Azure-AsyncOperation"])
        return answer

    def _delete(self, kind: Kind, request: Request, address: Address) -> Answer:
        record = kind.find(address.id)
        if record is None:
            return Answer(None, 204)
        operation = kind.delete(request, record)
        if operation is None:
            self.forget(address.id)
            return Answer(None, 200)
        return Answer(None, 202, self.cloud.operations.begin(request, address, operation))

    def _head(self, kind: Kind, request: Request, address: Address) -> Answer:
        kind.get(address)
        return Answer(None, 204)

    # -- the whole ----------------------------------------------------------------------------------------------------

    def state(self, workspace: str | None) -> dict[str, list[str]]:
        """Returns the names of what there is, by what each kind is shown as; versions as "name:version"."""
        found: dict[str, list[str]] = {}
        with self.cloud.lock:
            for kind in self.kinds.values():
                if kind.shown:
                    names = [
                        self._called(record)
                        for key, record in kind.records.items()
                        if workspace is None or key.startswith(f"{workspace.lower()}/") or not self._in_workspace(kind)
                    ]
                    found.setdefault(kind.shown, []).extend(names)
        return found

    def _called(self, record: Record) -> str:
        names = self.address(record["id"]).names
        return ":".join(names[1:] if len(names) > 1 else names)

    @staticmethod
    def _in_workspace(kind: Kind) -> bool:
        return kind.type.lower().startswith(f"{ML}/workspaces/".lower())


_METHODS: dict[str, Callable[[Arm, Kind, Request, Address], Answer]] = {
    "GET": Arm._get, "PUT": Arm._put, "PATCH": Arm._patch, "DELETE": Arm._delete, "HEAD": Arm._head,
}  # fmt: skip


_RIGHTS = {"PUT": "write", "PATCH": "write", "DELETE": "delete"}


def _merged(old: Record, change: Record) -> Record:
    """Returns a record with a change merged into it, as PATCH does: objects by their members, None removes."""
    result = copy.deepcopy(old)
    for name, value in change.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict) and name != "tags":
            result[name] = _merged(result[name], value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def _check_tags(tags: Any) -> None:
    """Raises where Azure takes no such tags."""
    if tags is not None and len(tags) > _MOST_TAGS:
        raise AzureError("InvalidTags", f"The resource has {len(tags)} tags, more than {_MOST_TAGS}.")
    for name, value in (tags or {}).items():
        if not name or len(name) > 512 or set(name) & set("<>%&\\?/"):
            raise AzureError("InvalidTagName", f"The tag name '{name}' is too long or has characters that it may not.")
        if not isinstance(value, str) or len(value) > 256:
            raise AzureError("InvalidTagValue", f"The value of the tag '{name}' is no text of at most 256 characters.")


def _no_method(request: Request) -> AzureError:
    return AzureError("MethodNotAllowed", f"{request.method} is not allowed for {request.path}", 405)
