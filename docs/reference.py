"""Writes docs/reference/python.md from the docstrings: `python docs/reference.py`; `make docs` checks it."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import medimg

PAGE = Path(__file__).parent / "reference" / "python.md"


def signature(thing: Any) -> str:
    """Returns a signature as people write it: without self, quotes and module names."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "()"
    parameters = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    text = str(found.replace(parameters=parameters)).replace("'", "").replace("~", "")
    for prefix in (
        "medimg.config.",
        "medimg.artifact.",
        "medimg.data.dataset.",
        "collections.abc.",
        "pathlib.",
        "typing.",
    ):
        text = text.replace(prefix, "")
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", text)


def first_line(thing: Any) -> str:
    """Returns what the caller gets."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def members(cls: type) -> list[str]:
    """Returns one line for each public method and property that the class or its bases in medimg define."""
    lines = []
    own = [base for base in reversed(cls.__mro__) if base is cls or base.__module__ == "medimg.data.sources"]
    for name, value in (item for base in own for item in vars(base).items()):
        if name.startswith("_") or (issubclass(cls, BaseModel) and name.startswith("model_")):
            continue
        if isinstance(value, (staticmethod, classmethod)) or inspect.isfunction(value):
            function = getattr(cls, name)
            lines.append(f"- `.{name}{signature(function)}` — {first_line(function)}")
        elif isinstance(value, property) or hasattr(value, "attrname"):  # the latter: functools.cached_property
            lines.append(f"- `.{name}` — {first_line(value)}")
    return lines


def page() -> str:
    """Returns the page."""
    parts = ["# Python", "", "Made from the docstrings by `python docs/reference.py`.", ""]
    for name in sorted(medimg._HOMES):
        thing = getattr(medimg, name)
        parts += [f"## {name}", "", f"`medimg.{name}`", "", "```text", inspect.getdoc(thing) or "", "```", ""]
        if inspect.isclass(thing):
            parts += [*members(thing), ""]
        else:
            parts += [f"`{name}{signature(thing)}`", ""]
    parts += ["## Errors", "", "`medimg.errors`", "", "```text", inspect.getdoc(medimg.errors) or "", "```", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv:
        if PAGE.read_text(encoding="utf-8") != page():
            raise SystemExit(f"{PAGE.name} is out of date: run python docs/reference.py")
    else:
        PAGE.write_text(page(), encoding="utf-8")
