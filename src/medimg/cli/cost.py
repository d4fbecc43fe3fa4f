"""`medimg cost`: what a training and an endpoint will cost, before either is started."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from medimg.cli import options
from medimg.cli.options import (
    BackendName,
    Csv,
    Folder,
    Group,
    GroupColumn,
    Instance,
    LabelColumns,
    MaxHours,
    PathColumn,
    Positive,
    Reader,
    Separator,
    Serving,
    SplitColumn,
    Spot,
)

__all__ = ["add_to"]

_TRAINING = "Training"
_SERVING = "Serving"


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(cost)


def cost(
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
    backend: BackendName = "local",
    instance: Instance = None,
    count: Annotated[int | None, typer.Option(rich_help_panel=_TRAINING, help="Machines (default: 1).")] = None,
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
    serve: Annotated[
        Serving | None, typer.Option(rich_help_panel=_SERVING, help="An endpoint too (default: none).")
    ] = None,
    serve_instance: Annotated[
        str | None, typer.Option(rich_help_panel=_SERVING, metavar="NAME", help="Of a realtime endpoint.")
    ] = None,
    memory_mb: Annotated[
        int | None, typer.Option(rich_help_panel=_SERVING, help="Of a serverless endpoint or a function.")
    ] = None,
    ttl_hours: Annotated[
        float | None, typer.Option(rich_help_panel=_SERVING, help="It deletes itself after so long (default: never).")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PRICE", help="A price you know, such as ml.g4dn.xlarge=0.7. Repeatable."),
    ] = None,
) -> None:
    """Tell what training on a folder of images costs, and serving the model; nothing is started."""
    from medimg.config import Resources, ServeConfig, TrainConfig

    serving = {"instance": serve_instance, "memory_mb": memory_mb, "ttl_hours": ttl_hours}
    if serve is None and (given := [f"--{_option(name)}" for name, value in serving.items() if value is not None]):
        raise typer.BadParameter(f"{', '.join(given)}: of an endpoint. Add --serve realtime, serverless or lambda")
    prices = dict(map(_price, price or ()))
    config = TrainConfig(**_given(model=model, image_size=image_size, epochs=epochs))
    resources = Resources(**_given(instance=instance, count=count, max_hours=max_hours), spot=spot)
    endpoint = None if serve is None else ServeConfig(kind=serve.value, **_given(**serving))
    dataset = options.read_dataset(
        folder, reader=reader, group=group, positive=positive, csv=csv, path=path, labels=labels, separator=separator,
        group_column=group_column, split_column=split_column,
    )  # fmt: skip
    target = options.open_backend(backend)
    estimate = target.estimate(dataset, config, resources, serve=endpoint, hours=hours, prices=prices or None)
    options.console().print(estimate)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _option(name: str) -> str:
    return "serve-instance" if name == "instance" else name.replace("_", "-")


def _price(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if equals and name.strip():
            return name.strip(), float(value)
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r} is not NAME=PRICE, such as ml.g4dn.xlarge=0.7", param_hint="--price")
