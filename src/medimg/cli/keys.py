"""`medimg keys`: who may ask an endpoint."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medimg.cli import options
from medimg.cli.options import BackendName

if TYPE_CHECKING:
    from medimg.key_file import Key, KeyFile

__all__ = ["add_to"]

_Of = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Its name, or the path of a file of keys (with a / or .json).")
]
_Which = Annotated[str, typer.Argument(metavar="KEY", help="Id or name of the key, as listed.")]

keys = typer.Typer(no_args_is_help=True, help="List, add, rotate and revoke the keys of an endpoint.")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.add_typer(keys, name="keys")


@keys.command(name="list")
def list_keys(endpoint: _Of, backend: BackendName = "local") -> None:
    """List the keys: never the keys themselves, which only their holders know."""
    from rich.table import Table
    from rich.text import Text

    now = time.time()
    table = Table("id", "name", "created", "expires", "revoked", "rate limit", "")
    for key in _file(endpoint, backend).read():
        good = Text("good", style="green") if key.is_valid(now) else Text("ended", style="red")
        limit = "yes" if key.limited else "no"
        times = (_time(key.created), _time(key.expires), _time(key.revoked))
        table.add_row(Text(key.id, no_wrap=True), Text(key.name), *times, limit, good)
    options.console().print(table)


@keys.command()
def add(
    endpoint: _Of,
    name: Annotated[str, typer.Option(help="Who it is for.")],
    expires_days: Annotated[float | None, typer.Option(min=0.001, help="When it ends (default: never).")] = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="The rate limit does not hold for it.")] = False,
    backend: BackendName = "local",
) -> None:
    """Make a key and print it, this once; a running server knows it at once."""
    _show(*_file(endpoint, backend).add(name, expires_days=expires_days, limited=not unlimited))


@keys.command()
def rotate(
    endpoint: _Of,
    key: _Which = "owner",
    grace_hours: Annotated[float, typer.Option(min=0.0, help="How long the old key stays good.")] = 24.0,
    backend: BackendName = "local",
) -> None:
    """Make a key in place of another (default: your own); both are good for a while."""
    file = _file(endpoint, backend)
    secret, made = file.rotate(key, grace_hours=grace_hours)
    if file.is_own(made):
        typer.echo(f"{made.id}  {made.name}: programs on this machine ask with the new key; it is in {file.own}")
    else:
        _show(secret, made)
    typer.echo(f"the old one {f'is good for {grace_hours:g} h more' if grace_hours else 'has ended'}", err=True)


@keys.command()
def revoke(endpoint: _Of, key: _Which, backend: BackendName = "local") -> None:
    """End a key (all of a name), and the sessions that were begun with it, at once."""
    for ended in _file(endpoint, backend).revoke(key):
        typer.echo(f"{ended.id}  {ended.name}: revoked")


def _file(endpoint: str, backend: str) -> KeyFile:
    if "/" in endpoint or endpoint.endswith(".json"):
        from medimg.key_file import KeyFile

        return KeyFile(Path(endpoint))
    return options.open_backend(backend).endpoint(endpoint).keys


def _show(secret: str, key: Key) -> None:
    # The key alone goes to standard output, so that it can be handed on unseen: medimg keys add … | pass insert …
    typer.echo(f"{key.id}  {key.name}: this key is shown once", err=True)
    typer.echo(secret)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
