"""`medimg export`."""

from __future__ import annotations

import shlex
from enum import StrEnum
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
from medimg.errors import ModelFolderError

__all__ = ["add_to"]


class RuntimeName(StrEnum):
    """What a model is exported for."""

    litert = "litert"
    saved_model = "saved_model"
    onnx = "onnx"
    int8 = "int8"


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(export)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a job's id or name/version.")],
    runtime: Annotated[RuntimeName, typer.Argument(help="What it is for; int8 is LiteRT's too, and needs --data.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For int8: the images that the model was trained with.")
    ] = None,
    most_lost: Annotated[float, typer.Option(help="For int8: how far the AUROC may fall.")] = 0.01,
    most_flipped: Annotated[float, typer.Option(help="For int8: the share of decisions that may flip.")] = 0.02,
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
    """Print the model's file for a runtime, made now where training did not, and checked against the trained network.

    What is made is added to the model folder, whose digest is then another one.
    """
    from medimg.export.gate import Agreement

    given = {
        "--reader": reader, "--group": group, "--positive": positive, "--csv": csv, "--path": path, "--labels": labels,
        "--separator": separator, "--group-column": group_column, "--split-column": split_column,
    }  # fmt: skip
    if runtime is RuntimeName.int8 and data is None:
        raise typer.BadParameter("int8 is made and judged with images. Add --data DIR, as it was trained with")
    if data is None and (lost := [name for name, value in given.items() if value is not None]):
        raise typer.BadParameter(f"{', '.join(lost)}: these describe images. Add --data DIR")
    if data is not None and runtime is not RuntimeName.int8:
        raise typer.BadParameter(f"--data is for int8; {runtime.value} is made of the network alone. Leave it out")
    dataset = None
    if data is not None:
        dataset = options.read_dataset(
            data, reader=reader, group=group, positive=positive, csv=csv, path=path, labels=labels,
            separator=separator, group_column=group_column, split_column=split_column,
        )  # fmt: skip
    chosen = options.find_model(options.open_backend(backend), model)
    before = chosen.digest
    try:
        file = chosen.export(runtime.value, dataset, most_lost=most_lost, most_flipped=most_flipped)
    except ModelFolderError as error:
        if not chosen.kept:
            raise
        images = " --data …" if data is not None else ""
        raise ModelFolderError(
            f"{error}\nIn a shell: cp -r {shlex.quote(str(chosen.path))} my_model\n"
            f"            medimg export my_model {runtime.value}{images}\n            medimg register my_model"
        ) from error
    typer.echo(f"{runtime.value:8}  {file}")
    if runtime is RuntimeName.int8:
        typer.echo(str(Agreement.of(chosen)))
    if chosen.digest != before:
        typer.echo(f"{'digest':8}  {chosen.digest}: the folder has more in it, and is another model by its digest")
