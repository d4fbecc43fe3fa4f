"""`medimg deploy` and `medimg predict`."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medimg.cli import options
from medimg.cli.options import BackendName, Instance, Serving
from medimg.errors import ImageRejected

if TYPE_CHECKING:
    from medimg.backends.endpoint import Endpoint
    from medimg.inference.decision import Prediction

__all__ = ["add_to", "probabilities"]


_MOST_SHOWN = 5  # probabilities of one image in a table


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command()(deploy)
    app.command()(predict)


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
    backend: BackendName = "local",
) -> None:
    """Serve a model; prints where it answers and how to ask it."""
    from medimg.config import ServeConfig

    target = options.open_backend(backend)
    config = ServeConfig(
        kind=kind.value, instance=instance, max_instances=max_instances, memory_mb=memory_mb, http_api=http_api,
        ttl_hours=ttl_hours, auth="none" if no_auth else "key",
    )  # fmt: skip
    endpoint = target.deploy(options.find_model(target, model), config, name=name)
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
    rows = []
    if command:
        # The shell asks for the key itself, so that it is in no history and no screenshot.
        header = f'-H "Authorization: Bearer $({command})" '
        shown = f"printed by: {command}"
        if show_key:
            shown = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True).stdout.strip()
        rows.append(("key", shown))
    return [*rows, ("ask", f"curl {header}--data-binary @IMAGE {endpoint.url}")]


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A model folder, a job's id or name/version (default: the latest job's)."),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="NAME", help="Ask this endpoint instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    backend: BackendName = "local",
) -> None:
    """Classify images; one that cannot be read is listed with its reason, and the exit code is then 1."""
    if model is not None and endpoint is not None:
        raise typer.BadParameter("--model runs the model here, --endpoint asks a server. Give one of them")
    target = options.open_backend(backend)
    ask: Callable[[Path], Prediction]
    ask = options.find_model(target, model).predict if endpoint is None else target.endpoint(endpoint).predict
    answers = [(image, _answer(ask, image)) for image in images]
    if as_json:
        typer.echo(json.dumps([_as_json(image, answer) for image, answer in answers], indent=1, ensure_ascii=False))
    else:
        _show(answers)
    if any(isinstance(answer, ImageRejected) for _, answer in answers):
        raise typer.Exit(1)


def _answer(ask: Callable[[Path], Prediction], image: Path) -> Prediction | ImageRejected:
    try:
        return ask(image)
    except ImageRejected as rejection:
        return rejection


def _as_json(image: Path, answer: Prediction | ImageRejected) -> dict[str, Any]:
    if isinstance(answer, ImageRejected):
        return {"image": str(image), "error": answer.message, "code": answer.code}
    return {"image": str(image), **answer.to_json()}


def probabilities(prediction: Prediction) -> str:
    """Returns a prediction's probabilities as text, the largest first."""
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    more = ", …" if len(ranked) > _MOST_SHOWN else ""
    return ", ".join(f"{name} {value:.4f}" for name, value in ranked[:_MOST_SHOWN]) + more


def _show(answers: list[tuple[Path, Prediction | ImageRejected]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "label", "", "probabilities")
    for image, answer in answers:
        if isinstance(answer, ImageRejected):
            why = Text(f"{answer.message} [{answer.code}]")
            table.add_row(Text(str(image)), Text("rejected", style="red"), "", why)
        else:
            doubt = Text("uncertain", style="yellow") if answer.uncertain else ""
            table.add_row(Text(str(image)), Text(answer.label, style="bold"), doubt, Text(probabilities(answer)))
    options.console().print(table)
