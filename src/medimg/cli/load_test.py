"""`medimg load-test`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from medimg.cli import options
from medimg.cli.options import BackendName
from medimg.errors import ConfigError
from medimg.home import atomic_write, storage_errors

if TYPE_CHECKING:
    from medimg.backends.load.load_test import LoadTest

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command("load-test")(load_test)


def load_test(
    target: Annotated[str, typer.Argument(metavar="ENDPOINT|URL", help="An endpoint's name, or any address.")],
    clients: Annotated[str, typer.Option(metavar="N[,N]", help="That ask at once, a number a step.")] = "1,8,64",
    seconds: Annotated[float, typer.Option(help="That each step is measured.")] = 10.0,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="What is sent; several in turns (default: a phantom).")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With a URL: the file that holds the API key.")
    ] = None,
    impatient: Annotated[bool, typer.Option("--impatient", help="Ask again at once when refused.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that a client waits for an answer.")] = 60.0,
    allow_cost: Annotated[
        bool, typer.Option("--allow-cost", help="1,000 clients or more on an endpoint elsewhere.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures as CSV.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write table and picture as a page.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture.")] = None,
    backend: BackendName = "local",
) -> None:
    """Ask an endpoint with many clients at once; prints throughput, latency and errors for each number of them."""
    from medimg.backends.load.pictures import bodies
    from medimg.backends.load.run import run_load_test

    numbers = _numbers(clients)
    given: Sequence[Path] | None = image or None
    if urlsplit(target).scheme in ("http", "https"):
        url, headers = _address(target), _headers(key_file)
        found = run_load_test(
            lambda _: (url, headers), bodies(given), name=urlsplit(url).netloc, clients=numbers, seconds=seconds,
            patient=not impatient, timeout=timeout, allow_cost=allow_cost,
        )  # fmt: skip
    elif key_file is not None:
        raise typer.BadParameter("--key-file goes with a URL. An endpoint's own key is found by its name")
    else:
        found = options.open_backend(backend).endpoint(target).load_test(
            numbers, seconds=seconds, image=given, patient=not impatient, timeout=timeout, allow_cost=allow_cost,
        )  # fmt: skip
    options.console().print(found)
    _write(found, csv=csv, html=html, png=png)


def _write(found: LoadTest, *, csv: Path | None, html: Path | None, png: Path | None) -> None:
    if csv is not None:
        found.to_csv(csv)
    if html is not None:
        found.to_html(html)
    if png is not None:
        with storage_errors(png.parent):
            atomic_write(png, found.figure().png())


def _numbers(text: str) -> list[int]:
    try:
        return [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--clients {text}: numbers with commas between them, such as 1,8,64") from None


def _address(url: str) -> str:
    """Returns the address with the route that predicts, where it names none."""
    return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/predict"


def _headers(key_file: Path | None) -> dict[str, str]:
    headers = {"Content-Type": "application/octet-stream"}
    if key_file is not None:
        key = key_file.read_text().strip()
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"{key_file} does not hold a key. It must be one line, as `medimg keys` printed it")
        headers["Authorization"] = f"Bearer {key}"
    return headers
