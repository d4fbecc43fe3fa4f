"""What several commands share: options of a dataset, and how a model is named on a command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medimg.errors import NotFoundError, did_you_mean
from medimg.home import atomic_write, storage_errors

if TYPE_CHECKING:
    from rich.console import Console

    from medimg.artifact import ModelFolder
    from medimg.backends.base import Backend
    from medimg.backends.doctor import Checks
    from medimg.backends.job import Job
    from medimg.backends.model_version import ModelVersion
    from medimg.data.dataset import Dataset

__all__ = [
    "BackendName",
    "Csv",
    "Folder",
    "Group",
    "GroupColumn",
    "Instance",
    "KeptColumns",
    "LabelColumns",
    "MaxHours",
    "PathColumn",
    "Positive",
    "Reader",
    "ReaderName",
    "Separator",
    "Serving",
    "SplitColumn",
    "Spot",
    "console",
    "find_model",
    "find_named",
    "hand_over",
    "open_backend",
    "read_dataset",
    "show_checks",
]

_DATA = "Data"
_TABLE = "Data from a table"
_MACHINE = "The machine, in a cloud"
_WIDTH_OF_A_FILE = 200  # columns, where the output is no terminal: wide enough that no id is cut

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder with CLASS/image or SPLIT/CLASS/image; with --csv, of the images.")
]


class ReaderName(StrEnum):
    """How a folder is read: the method of `Dataset` that begins with `from_`."""

    dicom = "dicom"
    intel = "intel"
    isic = "isic"
    kermany = "kermany"
    medmnist = "medmnist"
    nih = "nih"
    tfrecord = "tfrecord"


# What each takes beside the folder.
_TAKES = {
    ReaderName.dicom: ("--labels", "--columns", "--positive"),
    ReaderName.intel: (),
    ReaderName.isic: ("--columns",),
    ReaderName.kermany: (),
    ReaderName.medmnist: ("--positive",),
    ReaderName.nih: ("--labels", "--columns"),
    ReaderName.tfrecord: ("--labels", "--columns", "--positive"),
}

Reader = Annotated[
    ReaderName | None,
    typer.Option(
        rich_help_panel=_DATA,
        help="What DIR is, if no folder of class folders: DICOM files by patient, a public set, MedMNIST's file, or "
        "TFRecords.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX", rich_help_panel=_DATA, help=r"Whose image it is, from its path, such as 'patient(\d+)'."
    ),
]
Positive = Annotated[
    str | None, typer.Option(metavar="CLASS", rich_help_panel=_DATA, help="Of two classes, the one to detect.")
]
Csv = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=_TABLE, help="Table with a row an image, instead of class folders."),
]
PathColumn = Annotated[
    str | None, typer.Option("--path", metavar="COLUMN", rich_help_panel=_TABLE, help="Of the table: the image's file.")
]
LabelColumns = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="COLUMN[,COLUMN]",
        rich_help_panel=_TABLE,
        help="Of the table: the class, or one column a class.",
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(metavar="TEXT", rich_help_panel=_TABLE, help="Between several labels in one cell, such as '|'."),
]
GroupColumn = Annotated[
    str | None, typer.Option(metavar="COLUMN", rich_help_panel=_TABLE, help="Of the table: the patient.")
]
SplitColumn = Annotated[
    str | None, typer.Option(metavar="COLUMN", rich_help_panel=_TABLE, help="Of the table: train, val or test.")
]
KeptColumns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="COLUMN[,COLUMN]",
        rich_help_panel=_TABLE,
        help="Of the table: what to report by, such as sex,age. Leaves the machine with the images.",
    ),
]
Instance = Annotated[
    str | None,
    typer.Option(rich_help_panel=_MACHINE, metavar="NAME", help="Machine, such as ml.g4dn.xlarge (default: its own)."),
]
Spot = Annotated[
    bool, typer.Option("--spot", rich_help_panel=_MACHINE, help="Interruptible capacity; training resumes.")
]
MaxHours = Annotated[
    float | None, typer.Option(rich_help_panel=_MACHINE, help="A job that runs longer is stopped (default: 24).")
]
BackendName = Annotated[str, typer.Option("--backend", metavar="NAME", help="Where it runs.")]


class Serving(StrEnum):
    """How an endpoint is served: see `ServeConfig`."""

    realtime = "realtime"
    serverless = "serverless"
    function = "lambda"


def console() -> Console:
    """Returns the console for tables; text that comes from the user is never read as markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_OF_A_FILE
    return Console(width=width, highlight=False, markup=False, emoji=False)


def hand_over(text: str, output: Path | None, then: Sequence[str]) -> None:
    """Prints what an administrator is given, or writes it to a file and says what is done with it.

    Args:
        text: The content.
        output: The file; None: standard output.
        then: Lines that say how it is made.
    """
    if output is None:
        sys.stdout.write(text)
        return
    with storage_errors(output.parent):
        atomic_write(output, text)
    typer.echo(f"{output}: hand it to your administrator; nothing was made.")
    for line in then:
        typer.echo(line)


def show_checks(found: Checks) -> None:
    """Prints what a doctor found; ends the program with 1 where something fails."""
    console().print(found)
    if not found.ok:
        raise typer.Exit(1)


def open_backend(name: str) -> Backend:
    """Returns the backend of that name."""
    import medimg

    return medimg.backend(name)


def read_dataset(
    folder: Path,
    *,
    group: str | None,
    positive: str | None,
    csv: Path | None,
    path: str | None,
    labels: str | None,
    separator: str | None,
    group_column: str | None,
    split_column: str | None,
    kept: str | None = None,
    reader: ReaderName | None = None,
) -> Dataset:
    """Returns the dataset that the options describe.

    Raises:
        typer.BadParameter: Options that do not go together.
    """
    from medimg.data.dataset import Dataset

    of_tables = {
        "--path": path,
        "--labels": labels,
        "--separator": separator,
        "--group-column": group_column,
        "--split-column": split_column,
        "--columns": kept,
    }
    if reader is not None:
        others = {"--group": group, "--positive": positive, "--csv": csv, **of_tables}
        return _read_as(reader, folder, {name: value for name, value in others.items() if value is not None})
    if csv is None:
        if given := [name for name, value in of_tables.items() if value is not None]:
            raise typer.BadParameter(f"{', '.join(given)}: these name columns of a table. Add --csv FILE")
        return Dataset.from_folder(folder, group=group, positive=positive)
    if group is not None:
        raise typer.BadParameter("--group reads the patient from a path. With --csv say --group-column COLUMN")
    if path is None or labels is None:
        raise typer.BadParameter("--csv needs --path COLUMN (the image's file) and --labels COLUMN[,COLUMN]")
    return Dataset.from_csv(
        csv,
        images=folder,
        path=path,
        labels=_one_or_several(labels),
        group=group_column,
        separator=separator,
        split=split_column,
        columns=[] if kept is None else _several(kept),
        positive=positive,
    )


def _read_as(reader: ReaderName, folder: Path, given: dict[str, Any]) -> Dataset:
    from medimg.data.dataset import Dataset

    if unknown := sorted(given.keys() - set(_TAKES[reader])):
        raise typer.BadParameter(
            f"{', '.join(unknown)}: not for --reader {reader.value}. Dataset.from_{reader.value} may take more"
        )
    settings: dict[str, Any] = {}
    if "--labels" in given:
        settings["labels"] = _one_or_several(given["--labels"])
    if "--columns" in given:
        settings["columns"] = _several(given["--columns"])
    if "--positive" in given:
        settings["positive"] = given["--positive"]
    read: Callable[..., Dataset] = getattr(Dataset, f"from_{reader.value}")
    return read(folder, **settings)


def _several(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]


def _one_or_several(names: str) -> str | list[str]:
    found = _several(names)
    return found[0] if len(found) == 1 else found


def find_model(backend: Backend, name: str | None) -> ModelFolder:
    """Returns the model that a user names, as `find_named` does; of a registered version or a job, its folder."""
    from medimg.backends.job import Job

    named = find_named(backend, name)
    # A job's own: `_model_folder` holds what it is given to its digest, and nothing could be added to it.
    return named.model if isinstance(named, Job) else backend._model_folder(named)


def find_named(backend: Backend, name: str | None) -> Path | Job | ModelVersion:
    """Returns what a user names: a folder, a registered "name/version", or a job; None: the latest job.

    Raises:
        NotFoundError: There is no such model; the message says which is nearest.
    """
    if name is None:
        try:
            return backend._latest()
        except NotFoundError:
            raise NotFoundError(
                "nothing was trained yet. Train first: medimg train DIR, or name a model: --model FOLDER"
            ) from None
    if Path(name).is_dir():
        return Path(name)
    known: dict[str, Job | ModelVersion] = {job.id: job for job in backend.jobs()}
    if name not in known:  # a registry takes seconds to open
        known |= {version.id: version for version in backend.models()}
    if name in known:
        return known[name]
    hint = did_you_mean(name, known) if known else ""
    raise NotFoundError(f"{name!r} is no folder, job or registered model (name/version).{hint} See: medimg ls")
