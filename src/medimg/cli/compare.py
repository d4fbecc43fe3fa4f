"""`medimg compare`: the same training on several backends, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medimg.cli import options
from medimg.cli.options import (
    Csv,
    Folder,
    Group,
    GroupColumn,
    LabelColumns,
    MaxHours,
    PathColumn,
    Positive,
    Reader,
    Separator,
    SplitColumn,
    Spot,
)

__all__ = ["add_to"]

_TRAINING = "Training"


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(compare)


def compare(
    folder: Folder,
    reader: Reader = None,
    group: Group = None,
    positive: Positive = None,
    csv: Csv = None,
    path: PathColumn = None,
    labels: LabelColumns = None,
    separator: Separator = None,
    group_column: GroupColumn = None,
    split_column: SplitColumn = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=INSTANCE]", help="Where, and on what machine. Repeatable (default: all)."),
    ] = None,
    spot: Spot = False,
    max_hours: MaxHours = None,
    hours: Annotated[
        float | None, typer.Option(rich_help_panel=_TRAINING, help="That training takes, if you know.")
    ] = None,
    model: Annotated[str | None, typer.Option(rich_help_panel=_TRAINING, metavar="NAME", help="Architecture.")] = None,
    image_size: Annotated[
        int | None, typer.Option(rich_help_panel=_TRAINING, metavar="PIXELS", help="Side of the images (default: 224).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(rich_help_panel=_TRAINING, help="Passes over train.")] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the picture there, such as compared.svg or .png.")
    ] = None,
) -> None:
    """Tell what a training costs on several backends, and what it took where it was done; nothing is started."""
    import medimg
    from medimg.config import Resources, TrainConfig

    if figure is not None and figure.suffix not in (".svg", ".png"):
        raise typer.BadParameter(f"{figure}: .svg or .png", param_hint="--figure")
    limits = {} if max_hours is None else {"max_hours": max_hours}
    places = [
        # One's own machine is never taken away.
        (name, Resources(instance=instance or None, spot=spot and name != "local", **limits))
        for name, _, instance in (each.partition("=") for each in backend or _all())
    ]
    given = {"model": model, "image_size": image_size, "epochs": epochs}
    config = TrainConfig(**{name: value for name, value in given.items() if value is not None})
    dataset = options.read_dataset(
        folder, reader=reader, group=group, positive=positive, csv=csv, path=path, labels=labels, separator=separator,
        group_column=group_column, split_column=split_column,
    )  # fmt: skip
    compared = medimg.compare_costs(dataset, config, places, hours=hours)
    options.console().print(compared)
    if figure is not None:
        drawn = compared.figure()
        figure.write_bytes(drawn.svg() if figure.suffix == ".svg" else drawn.png())
        typer.echo(f"written: {figure}")


def _all() -> list[str]:
    """Returns the names of the backends that are installed, this machine's first."""
    import medimg

    found = [each.name for each in medimg.available_backends() if each.installed]
    return sorted(found, key=lambda name: name != "local")
