"""`medimg train` and `medimg evaluate`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medimg.cli import options
from medimg.cli.options import (
    BackendName,
    Csv,
    Folder,
    Group,
    GroupColumn,
    Instance,
    KeptColumns,
    LabelColumns,
    MaxHours,
    PathColumn,
    Positive,
    Reader,
    Separator,
    SplitColumn,
    Spot,
)
from medimg.errors import ConfigError

if TYPE_CHECKING:
    from medimg.config import TrainConfig

__all__ = ["add_to"]

_TRAINING = "Training (see TrainConfig)"


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command()(train)
    app.command()(evaluate)


def train(
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
    columns: KeptColumns = None,
    config: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_TRAINING, metavar="FILE.json", help="Settings as JSON; options given here win over it."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TRAINING, metavar="NAME", help="Architecture, or module:function (default: mobilenet_v2)."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_TRAINING, metavar="NAME=VALUE", help="Of the architecture, such as alpha=0.35. Repeatable."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TRAINING,
            metavar="imagenet|none|FILE|MODEL",
            help="What to start from (default: imagenet).",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_TRAINING, metavar="PIXELS", help="Side that images are resized to (default: 224)."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(rich_help_panel=_TRAINING, help="Largest number of passes over train (default: 10).")
    ] = None,
    fine_tune_epochs: Annotated[
        int | None,
        typer.Option(rich_help_panel=_TRAINING, help="Passes that train the top of the backbone too (default: 0)."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(rich_help_panel=_TRAINING, help="Images a step (default: 32).")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(rich_help_panel=_TRAINING, help="Adam's step size (default: by phase).")
    ] = None,
    early_stopping: Annotated[
        str | None,
        typer.Option(rich_help_panel=_TRAINING, metavar="EPOCHS|none", help="Patience on validation (default: 3)."),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TRAINING,
            metavar="youden|NUMBER|AIM",
            help="How validation sets the threshold: sensitivity=0.95, specificity=0.9, miss=10,false_alarm=1, a fixed "
            "probability, or youden (default).",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TRAINING,
            metavar="platt|temperature|none",
            help="What makes probabilities mean frequencies, from validation (default: platt).",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(rich_help_panel=_TRAINING, help="Of all that is random (default: 0).")
    ] = None,
    backend: BackendName = "local",
    instance: Instance = None,
    spot: Spot = False,
    max_hours: MaxHours = None,
    name: Annotated[str | None, typer.Option(help="Begins the job's id (default: medimg).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Train anew although an identical job exists.")] = False,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="Override a check of the data by name. Repeatable.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return when the job is submitted.")] = False,
) -> None:
    """Train a classifier on a folder of images."""
    from medimg.config import Resources

    settings = _settings(
        config,
        {
            "model": model,
            "image_size": image_size,
            "epochs": epochs,
            "fine_tune_epochs": fine_tune_epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "threshold": None if threshold is None else _threshold(threshold),
            "seed": seed,
        },
        {"weights": weights, "early_stopping": early_stopping, "calibration": calibration},
        option or [],
    )
    dataset = options.read_dataset(
        folder, reader=reader, group=group, positive=positive, csv=csv, path=path, labels=labels, separator=separator,
        group_column=group_column, split_column=split_column, kept=columns,
    )  # fmt: skip
    typer.echo(dataset.summary())
    target = options.open_backend(backend)
    resources = Resources(instance=instance, spot=spot, **({} if max_hours is None else {"max_hours": max_hours}))
    # Submitted first and followed then, so that an interrupt knows whether there is a job that goes on.
    job = target.train(dataset, settings, resources=resources, name=name, allow=allow or (), force=force, wait=False)
    if no_wait:
        typer.echo(
            f"{job.id} is submitted.\nFollow it with the same command without --no-wait; stop it: medimg rm {job.id}"
        )
        return
    if job.status == "completed":
        typer.echo(f"An identical job is done already: {job.id}. --force trains anew.")
    try:
        job.wait()
    except KeyboardInterrupt:
        typer.echo(
            f"\nThe job {job.id} goes on. Follow it: the same command again. See it: medimg ls jobs. "
            f"Stop and delete it: medimg rm {job.id}",
            err=True,
        )
        raise typer.Exit(130) from None
    trained = job.model
    typer.echo(f"\n{trained.report!r}")
    where = "" if backend == "local" else f" --backend {backend}"
    typer.echo(
        f"\njob      {job.id}\nmodel    {trained.path}\nreport   {trained.path / 'report' / 'report.html'}\n\n"
        f"Next:\n  medimg predict IMAGE --model {job.id}{where}\n  medimg deploy {job.id}{where}\n  medimg ls"
    )


def _settings(
    file: Path | None, plain: dict[str, Any], nullable: dict[str, str | None], model_options: list[str]
) -> TrainConfig:
    """Returns the configuration: the file's settings, and over them what the command line gives."""
    from medimg.config import TrainConfig

    settings: dict[str, Any] = {}
    if file is not None:
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"--config: there is no file {file}") from None
        except ValueError as error:
            raise ConfigError(f"--config: {file} is not JSON: {error}") from None
        if not isinstance(settings, dict):
            raise ConfigError(f'--config: {file} must hold an object of settings, such as {{"epochs": 5}}')
    settings |= {name: value for name, value in plain.items() if value is not None}
    for name, text in nullable.items():
        if text is not None:
            settings[name] = None if text.lower() == "none" else text
    if model_options:
        settings["model_options"] = {**settings.get("model_options", {}), **dict(map(_option, model_options))}
    return TrainConfig(**settings)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE, such as alpha=0.35", param_hint="--option")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def _threshold(text: str) -> float | str | dict[str, float | str]:
    if "=" not in text:
        return _number_or_text(text)
    parts = (part.partition("=") for part in text.split(","))
    return {name.strip(): _number_or_text(value) for name, _, value in parts}


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a job's id or name/version.")],
    folder: Folder,
    split: Annotated[str, typer.Option(help="The split to score.")] = "test",
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write the whole report there.")] = None,
    reader: Reader = None,
    group: Group = None,
    positive: Positive = None,
    csv: Csv = None,
    path: PathColumn = None,
    labels: LabelColumns = None,
    separator: Separator = None,
    group_column: GroupColumn = None,
    split_column: SplitColumn = None,
    columns: KeptColumns = None,
    backend: BackendName = "local",
) -> None:
    """Score a model on a split of a folder of images, at its frozen thresholds."""
    dataset = options.read_dataset(
        folder, reader=reader, group=group, positive=positive, csv=csv, path=path, labels=labels, separator=separator,
        group_column=group_column, split_column=split_column, kept=columns,
    )  # fmt: skip
    report = options.find_model(options.open_backend(backend), model).evaluate(dataset, split=split)
    typer.echo(repr(report))
    if html is None:
        typer.echo(
            f"\nWith plots: medimg evaluate {shlex.quote(model)} {shlex.quote(str(folder))} … --html report.html"
        )
    else:
        typer.echo(f"\nreport   {report.to_html(html).resolve()}")
