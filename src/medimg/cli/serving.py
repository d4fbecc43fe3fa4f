"""`medimg deploy`."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING, Annotated

import typer

from medimg.cli import options
from medimg.cli.options import BackendName, Instance, Serving

if TYPE_CHECKING:
    from medimg.backends.endpoint import Endpoint

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(deploy)


def deploy(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A model folder, a job's id or name/version (default: the latest job's)."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the endpoint (default: from the model's digest).")] = None,
    kind: Annotated[
        Serving, typer.Option(help="How it is served; the local backend has realtime only.")
    ] = Serving.realtime,
    instance: Instance = None,
    max_instances: Annotated[int, typer.Option(help="Machines at the highest load.")] = 1,
    memory_mb: Annotated[int | None, typer.Option(help="Of serverless and lambda.")] = None,
    http_api: Annotated[bool, typer.Option("--http-api", help="An HTTP address with a key in front of it.")] = False,
    ttl_hours: Annotated[float | None, typer.Option(help="It deletes itself after so long (default: never).")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everyone ask who reaches it.")] = False,
    show_key: Annotated[bool, typer.Option("--show-key", help="Print the API key itself.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Serve the int8 export; the local backend does.")] = False,
    backend: BackendName = "local",
) -> None:
    """Serve a model; prints where it answers and how to ask it."""
    from medimg.config import ServeConfig

    target = options.open_backend(backend)
    config = ServeConfig(
        kind=kind.value, instance=instance, max_instances=max_instances, memory_mb=memory_mb, http_api=http_api,
        ttl_hours=ttl_hours, auth="none" if no_auth else "key",
        runtime="int8" if int8 else "litert",
    )  # fmt: skip
    endpoint = target.deploy(options.find_named(target, model), config, name=name)
    rows = [("endpoint", endpoint.name), ("url", endpoint.url), *_how_to_ask(endpoint, show_key)]
    where = "" if backend == "local" else f" --backend {backend}"
    rows.append(("or", f"medimg predict IMAGE --endpoint {endpoint.name}{where}"))
    rows.append(("delete", f"medimg rm {endpoint.name}{where}"))
    if ttl_hours is not None:
        rows.append(("", f"it deletes itself after {ttl_hours:g} h"))
    for label, text in rows:
        typer.echo(f"{label:8}  {text}")


def _how_to_ask(endpoint: Endpoint, show_key: bool) -> list[tuple[str, str]]:
    command = endpoint._resource.details.get("key_command")
    if command is None:
        return []  # it is asked with the cloud's own credentials
    header = ""
    rows = [("page", endpoint.url.removesuffix("predict"))] if endpoint.url.endswith("/predict") else []
    if command:
        # The shell asks for the key itself, so that it is in no history and no screenshot.
        header = f'-H "Authorization: Bearer $({command})" '
        shown = f"printed by: {command}"
        if show_key:
            shown = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True).stdout.strip()
        rows.append(("key", shown))
    return [*rows, ("ask", f"curl {header}--data-binary @IMAGE {endpoint.url}")]
