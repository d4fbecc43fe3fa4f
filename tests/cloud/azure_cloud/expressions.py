"""The part of the Workflow Definition Language that workflows here may use; all else is an error, never ignored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from .calls import AzureError

__all__ = ["Expressions", "actions_named", "check", "check_condition"]

_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(-?\d+(?:\.\d+)?)|([A-Za-z_]\w*)|(\?\[|\?\.|[()\[\],.]))")
_WORDS = {"true": True, "false": False, "null": None}
_FUNCTIONS = {"outputs": 1, "body": 1, "ticks": 1, "utcNow": 0}
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "greater": lambda one, other: bool(one > other),
    "greaterOrEquals": lambda one, other: bool(one >= other),
    "less": lambda one, other: bool(one < other),
    "lessOrEquals": lambda one, other: bool(one <= other),
}
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)

Tree = tuple[Any, ...]


def _wrong(message: str) -> AzureError:
    return AzureError("InvalidTemplate", f"Unable to process template language expressions: {message}")


class _Parser:
    """Reads one expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split())
        self._at = 0

    def _split(self) -> Iterator[tuple[str, str]]:
        at = 0
        text = self._text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise _wrong(f"'{self._text}' cannot be read at position {at}")
            kind = ("string", "number", "name", "sign")[[bool(group) for group in found.groups()].index(True)]
            yield kind, found[0].strip()
            at = found.end()

    def whole(self) -> Tree:
        """Returns the expression as a tree."""
        tree = self._expression()
        if self._at != len(self._tokens):
            raise _wrong(f"'{self._text}' goes on after its end")
        return tree

    def _next(self, wanted: str = "") -> tuple[str, str]:
        if self._at == len(self._tokens) or wanted not in ("", self._tokens[self._at][1]):
            raise _wrong(f"'{self._text}' lacks {wanted or 'its end'!r}")
        self._at += 1
        return self._tokens[self._at - 1]

    def _sees(self, *signs: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at] in [("sign", sign) for sign in signs]

    def _expression(self) -> Tree:
        tree = self._primary()
        while self._sees("[", "?[", ".", "?."):
            sign = self._next()[1]
            if sign.endswith("["):
                tree = ("member", tree, self._expression(), sign.startswith("?"))
                self._next("]")
            else:
                tree = ("member", tree, ("value", self._next()[1]), sign.startswith("?"))
        return tree

    def _primary(self) -> Tree:
        kind, text = self._next()
        if kind == "string":
            return ("value", text[1:-1].replace("''", "'"))
        if kind == "number":
            return ("value", float(text) if "." in text else int(text))
        if kind != "name" or (text not in _WORDS and text not in _FUNCTIONS):
            raise _wrong(f"the function '{text}' is not known to this emulator")
        if text in _WORDS:
            return ("value", _WORDS[text])
        arguments = []
        self._next("(")
        while not self._sees(")"):
            arguments.append(self._expression())
            if not self._sees(")"):
                self._next(",")
        self._next(")")
        if len(arguments) != _FUNCTIONS[text]:
            raise _wrong(f"the function '{text}' takes {_FUNCTIONS[text]} arguments, not {len(arguments)}")
        return ("call", text, arguments)


def _parse(text: str) -> Tree | None:
    """Returns the expression in a text, None where it is only a text."""
    if text.startswith("@@") or "@" not in text:
        return None
    if "@{" in text or not text.startswith("@"):
        raise _wrong(f"'{text}': this emulator knows no expressions inside of texts")
    return _Parser(text[1:]).whole()


def check(value: Any) -> None:
    """Raises where a value has an expression that is not known."""
    if isinstance(value, str):
        _parse(value)
    elif isinstance(value, Mapping):
        for one in value.values():
            check(one)
    elif isinstance(value, list):
        for one in value:
            check(one)


def check_condition(condition: Any) -> None:
    """Raises where a condition is not of the form that is known."""
    if not isinstance(condition, Mapping) or len(condition) != 1:
        raise _wrong(f"a condition is an object with one member, not {condition!r}")
    ((word, inner),) = condition.items()
    if word in ("and", "or") and isinstance(inner, list):
        for one in inner:
            check_condition(one)
    elif word == "not":
        check_condition(inner)
    elif (word == "equals" or word in _COMPARED) and isinstance(inner, list) and len(inner) == 2:
        check(inner)
    else:
        raise _wrong(f"the condition {word!r} of {inner!r} is not known to this emulator")


def actions_named(value: Any) -> set[str]:
    """Returns the actions that a value's expressions refer to."""
    return set(re.findall(r"\b(?:outputs|body)\('([^']*)'\)", str(value).replace('\\"', '"')))


class Expressions:
    """What expressions amount to in one run of a workflow.

    Args:
        now: The time, in seconds since the epoch.
        outputs: Of the actions that are done, by their names.
    """

    def __init__(self, now: float, outputs: Mapping[str, Mapping[str, Any]]) -> None:
        self._now = now
        self._outputs = outputs

    def value(self, given: Any) -> Any:
        """Returns what a value amounts to.

        Raises:
            AzureError: It cannot be evaluated.
        """
        if isinstance(given, str):
            tree = _parse(given)
            return given.replace("@@", "@", 1) if tree is None else self._of(tree)
        if isinstance(given, Mapping):
            return {name: self.value(one) for name, one in given.items()}
        return [self.value(one) for one in given] if isinstance(given, list) else given

    def holds(self, condition: Mapping[str, Any]) -> bool:
        """Tells whether a condition holds."""
        ((word, inner),) = condition.items()
        if word == "and":
            return all(self.holds(one) for one in inner)
        if word == "or":
            return any(self.holds(one) for one in inner)
        if word == "not":
            return not self.holds(inner)
        one, other = self.value(inner[0]), self.value(inner[1])
        if word == "equals":
            return type(one) is type(other) and bool(one == other)
        if type(one) is not type(other) or not isinstance(one, (int, float, str)):
            raise AzureError("ExpressionEvaluationFailed", f"{word} cannot compare {one!r} with {other!r}")
        return _COMPARED[word](one, other)

    def _of(self, tree: Tree) -> Any:
        if tree[0] == "value":
            return tree[1]
        if tree[0] == "call":
            return self._call(tree[1], [self._of(argument) for argument in tree[2]])
        _, of, name, gently = tree
        whole, key = self._of(of), self._of(name)
        if isinstance(whole, Mapping) and key in whole:
            return whole[key]
        if gently and (whole is None or isinstance(whole, Mapping)):
            return None
        raise AzureError("ExpressionEvaluationFailed", f"the property {key!r} does not exist in {whole!r}")

    def _call(self, function: str, arguments: list[Any]) -> Any:
        if function == "utcNow":
            return datetime.fromtimestamp(self._now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
        if function == "ticks":
            moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", arguments[0]))
            return (moment - _BEGINNING) // timedelta(microseconds=1) * 10
        outputs = self._outputs.get(arguments[0])
        if outputs is None:
            raise AzureError("ExpressionEvaluationFailed", f"the action {arguments[0]!r} has no outputs")
        return outputs.get("body") if function == "body" else outputs
