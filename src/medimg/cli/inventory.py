"""`medimg register`, `medimg ls` and `medimg rm`: what is kept, what there is, and how it goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medimg.cli import options
from medimg.cli.options import BackendName
from medimg.errors import ConfigError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    from medimg.backends.base import Backend
    from medimg.backends.resource import Resource

__all__ = ["add_to"]

_COLOURS = {"completed": "green", "registered": "green", "ready": "green", "failed": "red", "cancelled": "yellow"}
_FIRST = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "val_auroc", "val_loss")
_MOST_SHOWN = 4  # metrics of one job


class Kinds(StrEnum):
    """What can be listed."""

    jobs = "jobs"
    models = "models"
    endpoints = "endpoints"


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command()(register)
    app.command()(ls)
    app.command()(rm)


def register(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A model folder, a job's id or name/version (default: the latest job's)."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the registered model (default: its job's).")] = None,
    backend: BackendName = "local",
) -> None:
    """Keep a model in the registry as a new version; prints its name/version, which other commands take."""
    target = options.open_backend(backend)
    typer.echo(target.register(options.find_named(target, model), name=name).id)


def ls(
    kind: Annotated[Kinds | None, typer.Argument(help="Only these (default: all).")] = None,
    backend: BackendName = "local",
) -> None:
    """List jobs, registered models and endpoints."""
    from rich.table import Table
    from rich.text import Text

    target = options.open_backend(backend)
    found = [resource for resource in target.inventory() if kind is None or f"{resource.kind}s" == kind]
    if not found:
        typer.echo(
            f"no {kind or 'jobs, models or endpoints'} on {backend}. Start with: medimg train DIR, or medimg demo"
        )
        return
    table = Table("kind", "name", "status", "age", "metrics", "url or reason")
    for resource in found:
        table.add_row(
            resource.kind,
            Text(resource.id, no_wrap=True),
            Text(resource.status, style=_COLOURS.get(resource.status, "")),
            _age(resource.created),
            _metrics(target, resource),
            Text(str(resource.details.get("url") or resource.details.get("reason") or ""), overflow="fold"),
        )
    options.console().print(table)


def _age(created: float) -> str:
    seconds = max(0.0, time.time() - created)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def _metrics(backend: Backend, resource: Resource) -> str:
    values: Mapping[str, Any] = {}
    if resource.kind == "model":
        values = resource.details.get("metrics", {})
    elif resource.kind == "job" and resource.details.get("task", "train") == "train":
        values = backend.job(resource.id).metrics
    known = {name: value for name, value in values.items() if isinstance(value, float)}
    names = [name for name in _FIRST if name in known] or list(known)
    return ", ".join(f"{name} {known[name]:.3f}" for name in names[:_MOST_SHOWN])


def rm(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Job, name/version or endpoint.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that `medimg ls` lists.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    backend: BackendName = "local",
) -> None:
    """Stop and delete jobs, registered models and endpoints."""
    if bool(names) == everything:
        raise typer.BadParameter("give the names to delete (see: medimg ls), or --all")
    target = options.open_backend(backend)
    listed = target.inventory()
    # All names are looked up before anything goes: a typing mistake in the last one deletes nothing.
    doomed = list(listed) if everything else [_find(listed, name) for name in dict.fromkeys(names or ())]
    if not doomed:
        typer.echo(f"there is nothing to delete on {backend}")
        return
    if not yes:
        for resource in doomed:
            typer.echo(f"  {resource.kind} {resource.id} ({resource.status})")
        typer.confirm(f"Delete {'this' if len(doomed) == 1 else f'these {len(doomed)}'} for good?", abort=True)
    for resource in doomed:
        # Another process, or its own deadline, may have been faster.
        with contextlib.suppress(NotFoundError):
            target._remove(resource.kind, resource.id)
        typer.echo(f"deleted {resource.kind} {resource.id}")


def _find(listed: tuple[Resource, ...], name: str) -> Resource:
    found = [resource for resource in listed if resource.id == name]
    if not found:
        hint = did_you_mean(name, [resource.id for resource in listed]) if listed else " There is nothing to delete."
        raise NotFoundError(f"there is no job, name/version or endpoint {name!r}.{hint}")
    if len(found) > 1:
        kinds = " and ".join(resource.kind for resource in found)
        raise ConfigError(f"{name!r} is the name of {kinds}. Say which in Python: backend.job({name!r}).delete()")
    return found[0]
