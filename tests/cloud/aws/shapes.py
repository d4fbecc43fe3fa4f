"""Requests and answers against AWS's own description of them, which botocore ships but does not fully check."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from botocore import xform_name
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape
from moto.core.utils import get_service_model

from .calls import AwsError, Call

__all__ = ["answer", "validate"]


def validate(call: Call) -> None:
    """Raises AWS's ValidationException where a value is too long, too small, or not one of those allowed."""
    shape = _model(call.service, call.operation).input_shape
    problems = list(_problems(shape, call.parameters, "")) if shape is not None else []
    if problems:
        count = f"{len(problems)} validation error{'s' * (len(problems) > 1)} detected"
        raise AwsError("ValidationException", f"{count}: {'; '.join(problems)}")


def answer(service: str, operation: str, result: Any) -> bytes:
    """Returns an operation's result as JSON, without what its description does not have."""
    shape = _model(service, operation).output_shape
    return json.dumps(_plain(shape, result or {}) if shape is not None else {}).encode()


def _model(service: str, operation: str) -> OperationModel:
    return get_service_model(service).operation_model(operation)


def _problems(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if isinstance(shape, StructureShape):
        for name in shape.required_members:
            if value.get(name) is None:
                yield f"Value null at '{_spelled(path, name)}' failed to satisfy constraint: Member must not be null"
        for name, given in value.items():
            if name not in shape.members:
                yield f"Unknown parameter '{_spelled(path, name)}'"
            elif given is not None:
                yield from _problems(shape.members[name], given, _spelled(path, name))
    elif isinstance(shape, ListShape):
        yield from _bounds(shape, len(value), value, path, "length")
        for number, each in enumerate(value, 1):
            yield from _problems(shape.member, each, f"{path}.{number}.member")
    elif isinstance(shape, MapShape):
        yield from _bounds(shape, len(value), value, path, "length")
        for name, each in value.items():
            yield from _problems(shape.key, name, f"{path}.key")
            yield from _problems(shape.value, each, f"{path}.{name}.member")
    elif shape.type_name == "string":
        yield from _bounds(shape, len(value), value, path, "length")
        allowed = shape.metadata.get("enum")
        if allowed and value not in allowed:
            yield f"Value '{value}' at '{path}' failed to satisfy constraint: Member must satisfy enum value set: " + (
                f"[{', '.join(allowed)}]"
            )
        pattern = _pattern(shape.metadata.get("pattern", ""))
        if pattern is not None and not pattern.fullmatch(value):
            yield (
                f"Value '{value}' at '{path}' failed to satisfy constraint: "
                f"Member must satisfy regular expression pattern: {shape.metadata['pattern']}"
            )
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _bounds(shape, value, value, path, "value")


def _bounds(shape: Shape, size: float, value: Any, path: str, what: str) -> Iterator[str]:
    said = f"Value '{value}' at '{path}' failed to satisfy constraint: Member must have {what}"
    if size < shape.metadata.get("min", size):
        yield f"{said} greater than or equal to {shape.metadata['min']}"
    if size > shape.metadata.get("max", size):
        yield f"{said} less than or equal to {shape.metadata['max']}"


@functools.cache
def _pattern(given: str) -> re.Pattern[str] | None:
    """Returns Java's pattern as Python's, or None where it has no equal."""
    for java, python in ((r"\p{L}", r"\w"), (r"\p{N}", r"\d"), (r"\p{Z}", r"\s"), (r"\p{M}", "")):
        given = given.replace(java, python)
    # AWS writes "the whole, so many characters" in a way that only its own reader understands.
    given = re.sub(r"\)\$\{\d+,\d+\}$", ")", given)
    if not given or r"\p{" in given:
        return None
    try:
        return re.compile(given, re.DOTALL)
    except re.error:
        return None


def _spelled(path: str, name: str) -> str:
    """Returns a member's path as AWS's messages spell it: trainingJobName."""
    first, *rest = xform_name(name).split("_")
    spelled = first + "".join(word.title() for word in rest)
    return f"{path}.{spelled}" if path else spelled


def _plain(shape: Shape, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        return {
            name: _plain(shape.members[name], each)
            for name, each in value.items()
            if each is not None and name in shape.members
        }
    if isinstance(shape, ListShape):
        return [_plain(shape.member, each) for each in value]
    if isinstance(shape, MapShape):
        return {name: _plain(shape.value, each) for name, each in value.items()}
    return value
