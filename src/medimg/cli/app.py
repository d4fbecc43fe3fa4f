"""The program `medimg`: its commands, and what it says when one fails."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medimg import __version__
from medimg.errors import AuditError, MedimgError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Commands whose expected errors are one message, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # `medimg ls | head` is no error; typer ends quietly
        except (MedimgError, OSError) as error:
            hint = f"\nIn this command: --allow {error.check}" if isinstance(error, AuditError) else ""
            typer.echo(typer.style("error:", fg="red", bold=True) + f" {error}{hint}", err=True)
            raise typer.Exit(1) from None


# A traceback of a real mistake must not show local variables: they hold the paths of patients' images.
app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medimg {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _medimg(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has then ended the program
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, evaluate, register and serve classifiers of medical images."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


# In the order of a project's life, which is how help lists them. Each module is light: the libraries load in the calls.
for _name in (
    "public_sets", "audit", "training", "export", "serving", "serve", "prediction", "load_test", "drift", "inventory",
    "keys", "cost", "compare", "comparison", "doctor", "aws", "azure", "demo",
):  # fmt: skip
    importlib.import_module(f"medimg.cli.{_name}").add_to(app)


def main() -> None:
    """Runs the program on this process's arguments; ends it with 0, 1 (an error), 2 (a mistake) or a command's own."""
    # Accents in names of files and classes must not stop a report in a terminal that has none.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="medimg")
