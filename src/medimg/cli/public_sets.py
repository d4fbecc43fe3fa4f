"""`medimg download` and `medimg unpack`: public data sets on this disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medimg.cli import options

if TYPE_CHECKING:
    from medimg.data.public.catalogue import PublicSet

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command()(download)
    app.command()(unpack)


def download(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the set; none lists them all.")] = None,
    dest: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="Folder for it; none says what is known of the set.")
    ] = None,
    accept_changed: Annotated[
        bool,
        typer.Option("--accept-changed", help="Take a file that is another one than at its first download."),
    ] = False,
) -> None:
    """List the public data sets, say what is known of one, or download it: once, resumed, compared with its hashes."""
    from medimg.data.public.catalogue import catalogue, find

    if name is None:
        _list(catalogue())
        return
    if dest is None:
        typer.echo(_described(find(name)))
        return
    from medimg.data.dataset import Dataset

    dataset = Dataset.download(name, dest, accept_changed=accept_changed)
    typer.echo(f"{dest}: {len(dataset):,} images, {len(dataset.classes)} classes: {', '.join(dataset.classes)}")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder for it, which must not exist.")],
) -> None:
    """Unpack an archive safely: links, names that lead elsewhere and bombs refuse it, and nothing half is left."""
    from medimg import archive
    from medimg.progress import Display

    with Display(file.name) as display:
        archive.unpack(file, dest, report=display)
    typer.echo(f"unpacked: {dest}")


def _list(known: Mapping[str, PublicSet]) -> None:
    from rich.table import Table

    from medimg.data.public.catalogue import one_row_a_set

    table = Table("name", "task", "classes", "images", "download", "licence", box=None, pad_edge=False)
    for label, each in one_row_a_set(known):
        where = {"open": each.size, "kaggle": f"{each.size}, Kaggle key", "manual": "by agreement"}[each.host]
        images = f"{sum(each.images.values()):,}"
        table.add_row(label, each.task, str(len(each.classes)), images, where, each.licence)
    options.console().print(table)
    typer.echo("\nWhat is known of one: medimg download NAME. Download it: medimg download NAME DEST")


def _described(chosen: PublicSet) -> str:
    images = ", ".join(f"{count:,} {split}" for split, count in chosen.images.items())
    files = [
        f"  {file.name}  {f'{file.bytes:,} bytes' if file.bytes else file.size}  "
        f"{f'SHA-256 {file.sha256}' if file.sha256 else f'MD5 {file.md5}' if file.md5 else 'no published hash'}"
        for file in chosen.files
    ]
    lines = [
        chosen.title,
        f"page      {chosen.page}",
        f"licence   {chosen.licence}",
        f"task      {chosen.task}: {', '.join(chosen.classes)}",
        f"images    {images}",
        f"groups    {chosen.group}",
        f"cite      {chosen.citation}",
        f"source    {chosen.source}",
        f"reader    Dataset.{chosen.reader}",
        *(f"beware    {trap}" for trap in chosen.traps),
    ]
    if chosen.host == "manual":
        return "\n".join([*lines, "Given only to those who sign for it themselves: ask at its page."])
    key = ", with your Kaggle key" if chosen.host == "kaggle" else ""
    return "\n".join([*lines, f"download  {chosen.size}{key}", *files, f"\nmedimg download {chosen.name} DEST"])
