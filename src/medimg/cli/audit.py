"""`medimg audit`: what is wrong with a folder of images, before anything is trained on it."""

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
    PathColumn,
    Positive,
    Reader,
    Separator,
    SplitColumn,
)

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(audit)


def audit(
    folder: Folder,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write it there, with pictures.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write it there, with all file names.")] = None,
    reader: Reader = None,
    group: Group = None,
    positive: Positive = None,
    csv: Csv = None,
    path: PathColumn = None,
    labels: LabelColumns = None,
    separator: Separator = None,
    group_column: GroupColumn = None,
    split_column: SplitColumn = None,
) -> None:
    """Check a folder of images for mistakes that make a score too good; exit status 1 where training would stop."""
    dataset = options.read_dataset(
        folder, reader=reader, group=group, positive=positive, csv=csv, path=path, labels=labels, separator=separator,
        group_column=group_column, split_column=split_column,
    )  # fmt: skip
    report = dataset.audit()
    typer.echo(repr(report))
    for written in (html and report.to_html(html), json and report.to_json(json)):
        if written:
            typer.echo(f"written: {written}")
    if report.errors:
        raise typer.Exit(1)
