"""`medimg compare-models`: two models on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medimg.cli import options
from medimg.cli.options import (
    BackendName,
    Csv,
    Group,
    GroupColumn,
    LabelColumns,
    PathColumn,
    Positive,
    Reader,
    Separator,
    SplitColumn,
)

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(compare_models)


def compare_models(
    first: Annotated[str, typer.Argument(metavar="A", help="A model folder, a job's id or name/version.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other model.")],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="Images to score both on, as for evaluate; without it, the predictions that training kept.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The split to compare on.")] = "test",
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write the comparison as a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    reader: Reader = None,
    group: Group = None,
    positive: Positive = None,
    csv: Csv = None,
    path: PathColumn = None,
    labels: LabelColumns = None,
    separator: Separator = None,
    group_column: GroupColumn = None,
    split_column: SplitColumn = None,
    backend: BackendName = "local",
) -> None:
    """Tell which of two models is better on the same images, by how much, and whether the images can tell."""
    from medimg.evaluation import comparison

    given = {
        "--reader": reader, "--group": group, "--positive": positive, "--csv": csv, "--path": path, "--labels": labels,
        "--separator": separator, "--group-column": group_column, "--split-column": split_column,
    }  # fmt: skip
    dataset = None
    if folder is not None:
        dataset = options.read_dataset(
            folder, reader=reader, group=group, positive=positive, csv=csv, path=path, labels=labels,
            separator=separator, group_column=group_column, split_column=split_column,
        )  # fmt: skip
    elif lost := [name for name, value in given.items() if value is not None]:
        raise typer.BadParameter(f"{', '.join(lost)}: these describe images. Name their folder after the two models")
    place = options.open_backend(backend)
    models = options.find_model(place, first), options.find_model(place, second)
    compared = comparison.compare_models(*models, dataset, split=split)
    if html is not None:
        compared.to_html(html)
    if as_json:
        typer.echo(compared.model_dump_json(indent=2))
        return
    typer.echo(repr(compared))
    if html is not None:
        typer.echo(f"\npage     {html.resolve()}")
