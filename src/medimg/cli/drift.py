"""`medimg drift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medimg.cli import options
from medimg.cli.options import BackendName

__all__ = ["add_to"]

_ALARM = 3  # no error, which is 1: a job that runs this each hour must be able to tell them apart


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(drift)


def drift(
    log: Annotated[
        str, typer.Argument(metavar="ENDPOINT|FILE", help="An endpoint's name, or its request log: a file or a folder.")
    ],
    window: Annotated[int, typer.Option(min=50, metavar="N", help="Images that are compared, the last ones.")] = 500,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table with figures as a page.")] = None,
    backend: BackendName = "local",
) -> None:
    """Compare the images that an endpoint was sent with those of validation; the exit code is 3 on an alarm."""
    from medimg.backends.health import Health
    from medimg.inference.request_lines import health_of, lines_of

    path = Path(log)
    # A folder here that is called as the endpoint, as that of its images may be, is not its log: ./chest would be.
    is_path = path.exists() and (path.is_file() or "/" in log or log.startswith("."))
    lines = lines_of(path) if is_path else options.open_backend(backend).endpoint(log).backend._request_log(log)
    health = Health.from_json(health_of(lines, size=window))
    if health.measures:
        options.console().print(health)
    else:
        typer.echo(repr(health))
    if html is not None:
        typer.echo(f"{health.to_html(html)}: the table with figures")
    if health.status == "alarm":
        raise typer.Exit(_ALARM)
