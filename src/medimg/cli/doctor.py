"""`medimg doctor`: what is in order on a backend and what is not."""

from __future__ import annotations

import typer

from medimg.cli import options

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(doctor)


def doctor(backend: options.BackendName = "local") -> None:
    """Check system, disk and packages, or a cloud's set-up; each with the command that mends it."""
    options.show_checks(options.open_backend(backend).doctor())
