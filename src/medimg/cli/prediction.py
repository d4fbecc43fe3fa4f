"""`medimg predict`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medimg.cli import options
from medimg.cli.options import BackendName
from medimg.errors import ConfigError, EndpointError, ImageRejected

if TYPE_CHECKING:
    from medimg.backends.base import Backend
    from medimg.backends.endpoint import Endpoint
    from medimg.data.dataset import Dataset
    from medimg.data.decode import ImageLike
    from medimg.inference.batch import Ask
    from medimg.inference.decision import Prediction
    from medimg.inference.predictions import Predictions

__all__ = ["add_to"]

_MOST_SHOWN = 5  # probabilities of one image in a table
_MOST_LINES = 20  # images in a table on the screen
_FIRST_LINES = 10  # of them, where there are more
_ASKED_AT_ONCE = 8  # images on their way to an endpoint
_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(predict)


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="DIR|IMAGE...", help="A folder of images, or image files.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the table: .csv or .parquet. A run that was cut off goes on there."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A model folder, a job's id or name/version (default: the latest job's)."),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="NAME", help="Ask this endpoint instead.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive/--flat", help="Read the folders in DIR, too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    backend: BackendName = "local",
) -> None:
    """Classify images; those that cannot be read are listed with their reason, and the exit code is then 1."""
    if model is not None and endpoint is not None:
        raise typer.BadParameter("--model runs the model here, --endpoint asks a server. Give one of them")
    if out is not None and as_json:
        raise typer.BadParameter("--out writes a table, --json prints. Give one of them")
    if out is not None and out.suffix.lower() not in (".csv", ".parquet"):
        raise typer.BadParameter(f"--out {out}: its name must end in .csv or .parquet")
    from medimg.data.dataset import Dataset
    from medimg.progress import Display, heartbeat

    target = options.open_backend(backend)
    with Display("predict", enabled=any(image.is_dir() for image in images)) as display, heartbeat("listing", display):
        dataset = Dataset.from_images(images, recursive=recursive)
    for notice in dataset.notices:
        typer.echo(notice, err=True)
    ask, answering, at_once = _asking(target, model, endpoint)
    if out is None:
        rejected = _to_screen(dataset, ask, at_once, as_json)
    else:
        rejected = _to_file(dataset, ask, at_once, out, answering)
    if rejected:
        raise typer.Exit(1)


def _asking(backend: Backend, model: str | None, endpoint: str | None) -> tuple[Ask, str, int]:
    """Returns what predicts a file, the digest and the runtime of the model that does, and how many at once."""
    if endpoint is not None:
        served = backend.endpoint(endpoint)
        details = served._resource.details
        digest, runtime = str(details.get("digest", "")), details.get("config", {}).get("runtime", "litert")
        return lambda image: _asked(served, digest, image), f"{digest} {runtime}", _ASKED_AT_ONCE
    from medimg.home import cores

    found = options.find_model(backend, model)
    found.predictor.check_golden()
    return found.predictor.predict, f"{found.digest} {found.predictor.runtime.name}", cores()


def _asked(endpoint: Endpoint, digest: str, image: ImageLike) -> Prediction:
    from medimg.inference.decision import Prediction

    try:
        answer = endpoint._answer(image)
    except EndpointError as error:
        if error.status != 413:
            raise
        raise ImageRejected("too-large", str(image), str(error)) from error  # this image, and not the endpoint
    if answer.get("digest", digest) != digest:
        raise EndpointError(
            f"the endpoint {endpoint.name!r} serves another model since this began. Run the same command again: it "
            "begins anew with that one"
        )
    return Prediction.from_json(answer)


# -- a few, on the screen ---------------------------------------------------------------------------------------------


def _to_screen(dataset: Dataset, ask: Ask, at_once: int, as_json: bool) -> int:
    """Shows what is predicted, and returns how many images were rejected."""
    from medimg.inference.batch import outcomes
    from medimg.progress import Display, Event, Pace

    pace, total = Pace(len(dataset)), len(dataset)
    found: dict[str, Prediction | ImageRejected] = {}
    with Display("predict", enabled=total > _MOST_LINES) as display:
        for done, (sample, _, outcome) in enumerate(outcomes(ask, dataset.samples, at_once=at_once), start=1):
            found[sample.id] = outcome
            display(Event("stage", "predicting", done, total, pace.text(done)))
    answers = [(sample.path, found[sample.id]) for sample in dataset.samples]
    rejected = [answer for answer in answers if isinstance(answer[1], ImageRejected)]
    if as_json:
        typer.echo(json.dumps([_as_json(image, answer) for image, answer in answers], indent=1, ensure_ascii=False))
    elif total <= _MOST_LINES:
        _show(answers)
        _tell_thresholds(answer for _, answer in answers)
    else:
        _show(answers[:_FIRST_LINES])
        _tell_thresholds(answer for _, answer in answers)
        predictions = [answer for _, answer in answers if not isinstance(answer, ImageRejected)]
        counts = Counter(prediction.label for prediction in predictions)
        _tell(counts, sum(prediction.uncertain for prediction in predictions), len(rejected))
        _show(rejected[:_FIRST_LINES])
        typer.echo("All of them, with their probabilities, in a table: --out FILE.csv or FILE.parquet")
    return len(rejected)


def _as_json(image: Path, answer: Prediction | ImageRejected) -> dict[str, Any]:
    if isinstance(answer, ImageRejected):
        return {"image": str(image), "error": answer.message, "code": answer.code}
    return {"image": str(image), **answer.to_json()}


def _probabilities(by_class: Mapping[str, float]) -> str:
    ranked = sorted(by_class.items(), key=lambda item: -item[1])
    more = ", …" if len(ranked) > _MOST_SHOWN else ""
    return ", ".join(f"{name} {value:.4f}" for name, value in ranked[:_MOST_SHOWN]) + more


def _show(answers: Iterable[tuple[Path, Prediction | ImageRejected]]) -> None:
    _print(
        (image, "rejected", "red", False, f"{answer.message} [{answer.code}]")
        if isinstance(answer, ImageRejected)
        else (image, answer.label, "bold", answer.uncertain, _probabilities(answer.probabilities))
        for image, answer in answers
    )


def _print(lines: Iterable[tuple[Path, str, str, bool | None, str]]) -> None:
    """Prints a table: image, label with its style, whether it is uncertain, and what else there is to say."""
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "label", "", "probabilities")
    for image, label, style, uncertain, text in lines:
        doubt = Text("uncertain", style="yellow") if uncertain else ""
        table.add_row(Text(str(image)), Text(label, style=style), doubt, Text(text))
    if table.row_count:
        options.console().print(table)


def _tell_thresholds(answers: Iterable[Prediction | ImageRejected]) -> None:
    """Says from which probability on a class is called positive: the label need not be the most probable one."""
    first = next((answer for answer in answers if not isinstance(answer, ImageRejected)), None)
    if first is not None and first.threshold:
        told = [f"{name} from {value:.3f}" for name, value in first.threshold.items()]
        typer.echo(f"called positive: {', '.join(told[:_MOST_SHOWN])}{', …' if len(told) > _MOST_SHOWN else ''}")


def _tell(counts: Counter[str], uncertain: int, rejected: int) -> None:
    for label, count in sorted(counts.items(), key=lambda item: -item[1]):
        typer.echo(f"{count:>9,}  {label}")
    typer.echo(f"{uncertain:>9,}  of them uncertain")
    typer.echo(f"{rejected:>9,}  rejected")


# -- many, into a file ------------------------------------------------------------------------------------------------


def _to_file(dataset: Dataset, ask: Ask, at_once: int, out: Path, answering: str) -> int:
    """Writes the table, goes on where an earlier run was cut off, and returns how many images were rejected."""
    from medimg.inference.batch import predict_files
    from medimg.inference.journal import Journal
    from medimg.progress import Display

    parquet = out.suffix.lower() == ".parquet"
    if parquet:
        _need_pyarrow()  # now, and not when all is predicted
    started = time.monotonic()
    with Journal(out.with_name(f"{out.name}.part"), answering) as journal:
        try:
            with Display("predict") as display:
                batch = predict_files(ask, dataset.samples, journal=journal, at_once=at_once, report=display)
        except KeyboardInterrupt:
            typer.echo(
                f"stopped; what is predicted is in {journal.path}: the same command goes on from there", err=True
            )
            raise typer.Exit(_INTERRUPTED) from None
        (batch.table.to_parquet if parquet else batch.table.to_csv)(out, dataset)
        _summarise(batch.table, dataset, time.monotonic() - started)
        typer.echo(f"the table is in {out}")
        journal.remove()
    _show([(dataset[id].path, reason) for id, reason in list(batch.reasons.items())[:_FIRST_LINES]])
    if len(batch.reasons) > _FIRST_LINES:
        typer.echo(f"and {len(batch.reasons) - _FIRST_LINES:,} more that could not be read: see the table")
    return len(batch.reasons)


def _need_pyarrow() -> None:
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs pyarrow, which is not installed. Run: pip install pyarrow, or name a .csv")


def _summarise(table: Predictions, dataset: Dataset, seconds: float) -> None:
    first = [table[id] for id in table.ids[:_FIRST_LINES]]
    _print(
        (dataset[row.id].path, str(row.decision), "bold", row.uncertain, _probabilities(row.probabilities))
        for row in first
    )
    _tell(Counter(table.decisions), sum(table.uncertain or ()), len(table.rejected))
    typer.echo(f"{len(dataset):>9,}  images in {seconds:,.1f} s")
