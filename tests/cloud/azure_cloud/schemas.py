"""Microsoft's own descriptions of the bodies: ARM schemas and Bicep types, both made from the services' Swagger.

Neither alone finds everything: only the ARM schemas refuse members that are for reading, only the Bicep types know
which values an enumeration has in some places. A body must hold by both, where both know the type and version.
"""

from __future__ import annotations

import json
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .calls import user_error
from .kinds import ML

__all__ = ["Schemas"]

Schema = Mapping[str, Any]

_ARM, _BICEP = "arm-schemas", "bicep-types"
_REQUIRED, _READ_ONLY, _CONSTANT = 1, 2, 8  # flags of Bicep's properties
_OUTSIDE = ("id", "type", "apiVersion", "name", "systemData")  # said by the address, not by the body


class Schemas:
    """The descriptions.

    Args:
        archive: The zip file that has them; None: nothing is checked.
    """

    def __init__(self, archive: Path | None) -> None:
        self._archive = archive if archive is not None and archive.is_file() else None
        self._seen: dict[tuple[str, str], list[str]] = {}
        self._unknown: set[str] = set()
        self._count = 0
        self._lock = threading.Lock()
        self._load = cache(self._read)

    def check(self, kind: str, version: str, name: str, body: Mapping[str, Any]) -> None:
        """Refuses what violates them.

        Args:
            kind: The type of the resource, in full.
            version: The api-version.
            name: The resource's last name.
            body: That was sent.

        Raises:
            AzureError: As the service refuses it.
        """
        if self._archive is None or not kind.startswith(f"{ML}/"):
            return
        with self._lock:
            checks: list[str] = []
            errors: list[str] = []
            bicep, arm = self._load(_BICEP, version), self._load(_ARM, version)
            if bicep is not None and (found := _bicep_type(bicep, kind, version)) is not None:
                checks.append(_BICEP)
                errors += _Bicep(bicep).walk(found, {**body}, "$")
            if arm is not None and (found := _arm_type(arm, kind)) is not None:
                checks.append(_ARM)
                named = {**body, "name": name, "type": found["properties"]["type"]["enum"][0], "apiVersion": version}
                errors += _Arm(arm).walk(found, named, "$")
            self._count += 1
            self._seen.setdefault((kind, version), checks)
            if not checks:
                self._unknown.add(f"{kind}@{version}")
        if errors := list(dict.fromkeys(errors)):
            raise user_error("The request is invalid. " + "; ".join(errors), "RequestInvalid", details=errors)

    def report(self) -> dict[str, Any]:
        """Returns what was checked.

        Returns:
            "archive": whether there is one; "bodies": how many were checked; "types": by "type@version" the sets of
            descriptions that knew it; "unknown": those that none knew.
        """
        return {
            "archive": self._archive is not None,
            "bodies": self._count,
            "types": {f"{kind}@{version}": checks for (kind, version), checks in sorted(self._seen.items())},
            "unknown": sorted(self._unknown),
        }

    def _read(self, folder: str, version: str) -> Any:
        assert self._archive is not None
        with zipfile.ZipFile(self._archive) as archive:
            try:
                return json.loads(archive.read(f"azure-schemas/{folder}/{version}.json"))
            except KeyError:
                return None


def _bicep_type(types: list[Schema], kind: str, version: str) -> Schema | None:
    wanted = f"{kind}@{version}".lower()
    for one in types:
        if one["$type"] == "ResourceType" and one["name"].lower() == wanted:
            found: Schema = types[int(one["body"]["$ref"].rpartition("/")[2])]
            properties = {name: value for name, value in found["properties"].items() if name not in _OUTSIDE}
            return {**found, "properties": properties}
    return None


def _arm_type(schemas: Schema, kind: str) -> Schema | None:
    wanted = kind.partition("/")[2].replace("/", "_").lower()
    return next((one for name, one in schemas["resourceDefinitions"].items() if name.lower() == wanted), None)


def _named(known: Mapping[str, Any], name: str) -> Any:
    """Returns what has a name, whatever its case; None where nothing has it."""
    if name in known:
        return known[name]
    return next((value for one, value in known.items() if one.lower() == name.lower()), None)


class _Bicep:
    """Walks a body along Bicep's types, which refer to each other by their numbers."""

    def __init__(self, types: list[Schema]) -> None:
        self._types = types

    def walk(self, told: Schema, value: Any, path: str) -> Iterator[str]:
        """Yields what is wrong."""
        if value is None:  # the service takes null for what is not there
            return
        match told["$type"]:
            case "StringType":
                yield from self._string(told, value, path)
            case "IntegerType":  # Bicep has no other numbers
                if isinstance(value, bool) or not isinstance(value, int | float):
                    yield f"{path}: expected a number, got {value!r}"
                elif value < told.get("minValue", value):
                    yield f"{path}: {value} is below {told['minValue']}"
            case "BooleanType":
                if not isinstance(value, bool):
                    yield f"{path}: expected true or false, got {value!r}"
            case "StringLiteralType":
                if not isinstance(value, str) or value.lower() != told["value"].lower():
                    yield f"{path}: {value!r} is not {told['value']!r}"
            case "UnionType":
                elements = [self._to(element) for element in told["elements"]]
                if not any(not list(self.walk(element, value, path)) for element in elements):
                    yield f"{path}: {value!r} is none of {[one.get('value', one['$type']) for one in elements]}"
            case "ArrayType":
                if not isinstance(value, list):
                    yield f"{path}: expected a list"
                    return
                for number, one in enumerate(value):
                    yield from self.walk(self._to(told["itemType"]), one, f"{path}[{number}]")
            case "ObjectType":
                yield from self._object(told["properties"], told.get("additionalProperties"), value, path)
            case "DiscriminatedObjectType":
                yield from self._discriminated(told, value, path)

    def _to(self, reference: Schema) -> Schema:
        return self._types[int(reference["$ref"].rpartition("/")[2])]

    def _string(self, told: Schema, value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict | list):
            yield f"{path}: expected a text"
        elif isinstance(value, str):  # the service turns numbers into text
            if len(value) < told.get("minLength", 0):
                yield f"{path}: shorter than {told['minLength']} characters"
            if told.get("pattern") and not re.search(told["pattern"], value):
                yield f"{path}: {value!r} does not match {told['pattern']}"

    def _discriminated(self, told: Schema, value: Any, path: str) -> Iterator[str]:
        word = told["discriminator"]
        given = value.get(word) if isinstance(value, dict) else None
        element = _named(told["elements"], str(given))
        if element is None:
            yield f"{path}.{word}: {given!r} is none of {list(told['elements'])}"
            return
        one = self._to(element)
        properties = {**told["baseProperties"], **one["properties"]}
        yield from self._object(properties, one.get("additionalProperties"), value, path)

    def _object(self, known: Mapping[str, Schema], others: Schema | None, value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{path}: expected an object"
            return
        for name, one in value.items():
            member = _named(known, name)
            if member is not None:
                yield from self.walk(self._to(member["type"]), one, f"{path}.{name}")
            elif others is not None:
                yield from self.walk(self._to(others), one, f"{path}.{name}")
            else:
                yield f"{path}: Could not find member '{name}'"
        for name, member in known.items():
            flags = member["flags"]
            if flags & _REQUIRED and not flags & (_READ_ONLY | _CONSTANT) and name not in value:
                yield f"{path}: Required property '{name}' is missing"


class _Arm:
    """Walks a body along an ARM schema.

    Its types that differ by a member are an `allOf` of a closed base and of alternatives, which no body can satisfy
    by the letter of JSON Schema: they are walked as one closed object.
    """

    def __init__(self, schemas: Schema) -> None:
        self._schemas = schemas

    def walk(self, schema: Schema, value: Any, path: str) -> Iterator[str]:
        """Yields what is wrong."""
        schema = self._to(schema)
        if value is None:
            return
        if "allOf" in schema:
            yield from self._discriminated(schema, value, path)
        elif "oneOf" in schema:
            found = [list(self.walk(one, value, path)) for one in schema["oneOf"] if not self._is_expression(one)]
            yield from min(found, key=len, default=[])
        elif "enum" in schema:
            if not isinstance(value, str) or value.lower() not in [str(one).lower() for one in schema["enum"]]:
                yield f"{path}: {value!r} is none of {schema['enum']}"
        else:
            yield from self._plain(schema, value, path)

    def _plain(self, schema: Schema, value: Any, path: str) -> Iterator[str]:
        match schema.get("type"):
            case "object":
                yield from self._object(schema, value, path)
            case "array":
                if not isinstance(value, list):
                    yield f"{path}: expected a list"
                    return
                for number, one in enumerate(value):
                    yield from self.walk(schema.get("items", {}), one, f"{path}[{number}]")
            case "string":
                if isinstance(value, dict | list):
                    yield f"{path}: expected a text"
                elif isinstance(value, str) and schema.get("pattern") and not re.search(schema["pattern"], value):
                    yield f"{path}: {value!r} does not match {schema['pattern']}"
            case "integer" | "number":
                if isinstance(value, bool) or not isinstance(value, int | float):
                    yield f"{path}: expected a number, got {value!r}"
            case "boolean":
                if not isinstance(value, bool):
                    yield f"{path}: expected true or false, got {value!r}"

    def _to(self, schema: Schema) -> Schema:
        while "$ref" in schema and not self._is_expression(schema):
            schema = self._schemas["definitions"][schema["$ref"].rpartition("/")[2]]
        return schema

    @staticmethod
    def _is_expression(schema: Schema) -> bool:
        """Tells whether this stands for a template's expression, which no request has."""
        return "$ref" in schema and not schema["$ref"].startswith("#/definitions/")

    def _discriminated(self, schema: Schema, value: Any, path: str) -> Iterator[str]:
        base, alternatives = schema["allOf"][0], schema["allOf"][1]["oneOf"]
        for alternative in alternatives:
            reference, constant = alternative["allOf"]
            ((word, told),) = constant["properties"].items()
            if isinstance(value, dict) and str(value.get(word, "")).lower() == told["const"].lower():
                one = self._to(reference)
                whole = {
                    "properties": {**base["properties"], **one.get("properties", {})},
                    "required": [*base.get("required", ()), *one.get("required", ())],
                }
                yield from self._object(whole, value, path)
                return
        yield f"{path}: it is none of the {len(alternatives)} kinds that it may be"

    def _object(self, schema: Schema, value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{path}: expected an object"
            return
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, one in value.items():
            member = _named(known, name)
            if member is not None:
                yield from self.walk(member, one, f"{path}.{name}")
            elif isinstance(others, dict):
                yield from self.walk(others, one, f"{path}.{name}")
            elif known or others is False:
                yield f"{path}: Could not find member '{name}'"
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}: Required property '{name}' is missing"
