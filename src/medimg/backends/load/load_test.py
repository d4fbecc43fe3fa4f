"""`LoadTest`: how many answers a second an endpoint gives, and how long its clients wait for them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medimg.home import atomic_write, storage_errors

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medimg.evaluation.plot import Plot

__all__ = ["LoadTest", "Step", "amount"]

_KNEE = 0.9  # of the highest throughput
_LONG = 0.5  # of a step: answers that take longer may be cut off by its end
_SATURATED = 0.9  # of a core: from here on the clients may be what limits
_HEAD = ("clients", "answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors/s", "errors by kind", "again after")


@dataclass(frozen=True, slots=True)
class Step:
    """What so many clients met at once.

    Attributes:
        clients: That asked, each sending its next image when it has the answer to the last.
        seconds: That were measured, after connecting and the warm-up.
        answered: Requests that were answered (HTTP 200).
        p50_ms: Half of the answers took no longer; from the request's first byte to the answer's last.
        p95_ms: Likewise 95 %.
        p99_ms: Likewise 99 %.
        max_ms: The longest took so long. All four are None where nothing was answered.
        errors: How often each kind of failure was met: "HTTP 503" and others by status, "HTTP 503 without Retry-After",
            "connection refused" (by the kernel), "no connection in time", "connection reset", "closed without an
            answer", "no answer in time", "not JSON", …
        wrong: Answers whose probabilities were not those that the same image got before the load.
        other_digest: Answers of another model than before the load.
        recovery_seconds: From the end of the step to the next answer; None: there was none within 30 s.
        busy: Cores that the clients took themselves: near 1 they may be what limits.
        limit: Why fewer clients asked than were wanted; "": all did.
    """

    clients: int
    seconds: float
    answered: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    errors: Mapping[str, int] = field(default_factory=dict)
    wrong: int = 0
    other_digest: int = 0
    recovery_seconds: float | None = None
    busy: float = 0.0
    limit: str = ""

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def failures(self) -> float:
        """Errors a second."""
        return sum(self.errors.values()) / self.seconds

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table, in words."""
        waited = ("–" if ms is None else f"{ms:,.1f}" for ms in (self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms))
        kinds = dict(self.errors) | {"wrong answer": self.wrong, "another model": self.other_digest}
        told = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items() if count)
        again = "> 30 s" if self.recovery_seconds is None else f"{self.recovery_seconds:.2f} s"
        return (f"{self.clients:,}", f"{self.throughput:,.1f}", *waited, f"{self.failures:,.1f}", told or "–", again)


@dataclass(frozen=True, slots=True, repr=False)
class LoadTest:
    """The steps of a load test; print it, or show it in a notebook.

    Attributes:
        steps: One a number of clients, in their order.
        title: What was asked, and with what.
        patient: Whether refused clients waited as long as they were asked to.
    """

    steps: tuple[Step, ...]
    title: str = ""
    patient: bool = True

    @property
    def knee(self) -> int | None:
        """The fewest clients that get 90 % of the highest throughput: more of them mostly wait longer.

        None where nothing was answered.
        """
        best = max((step.throughput for step in self.steps), default=0.0)
        enough = [step.clients for step in self.steps if best > 0 and step.throughput >= _KNEE * best]
        return min(enough, default=None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before the figures are believed, a sentence each."""
        found = [f"{step.clients:,} clients asked: {step.limit}." for step in self.steps if step.limit]
        if busy := [f"{step.clients:,}" for step in self.steps if step.busy >= _SATURATED]:
            found.append(
                f"At {', '.join(busy)} clients the clients' own process was busy: the endpoint may be capable of more."
            )
        if slow := [f"{step.clients:,}" for step in self.steps if (step.p99_ms or 0) > _LONG * 1e3 * step.seconds]:
            found.append(
                f"At {', '.join(slow)} clients answers took nearly as long as the step, and longer ones were not seen: "
                "raise seconds."
            )
        if wrong := sum(step.wrong for step in self.steps):
            found.append(f"{wrong:,} answers were not those that the same image got before the load.")
        if others := sum(step.other_digest for step in self.steps):
            found.append(f"{others:,} answers came from another model than before the load.")
        if self.knee is not None and len(self.steps) > 1:
            found.append(f"The knee is at {amount(self.knee)}: from there on, more of them mostly wait longer.")
        return tuple(found)

    def to_json(self) -> list[dict[str, Any]]:
        """Returns a row a step, as plain data."""
        return [
            {
                **{each.name: getattr(step, each.name) for each in fields(step)},
                "errors": dict(step.errors),
                "throughput": round(step.throughput, 3),
            }
            for step in self.steps
        ]

    def to_csv(self, path: str | Path | None = None) -> str:
        """Returns the steps as CSV, with a column for each kind of error; writes it where a path is given.

        Raises:
            StorageError: The file cannot be written.
        """
        kinds = sorted({kind for step in self.steps for kind in step.errors})
        rows = []
        for row in self.to_json():
            errors = row.pop("errors")
            rows.append(row | {f"errors: {kind}": errors.get(kind, 0) for kind in kinds})
        stream = io.StringIO()
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        _write(path, stream.getvalue())
        return stream.getvalue()

    def to_html(self, path: str | Path | None = None) -> str:
        """Returns a page with the table and the picture, which loads nothing; writes it where a path is given.

        Raises:
            StorageError: The file cannot be written.
        """
        page = (
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(self.title)}</title>"
            "<style>body{font-family:system-ui,sans-serif;margin:2rem;color:#1d2733}td,th{padding:.25rem .8rem;"
            f"text-align:right}}svg{{max-width:100%;height:auto}}</style><body>{self._repr_html_()}</body></html>"
        )
        _write(path, page)
        return page

    def figure(self) -> Plot:
        """Returns the picture: throughput and latency over the number of clients."""
        from medimg.backends.load.figure import draw

        return draw(self)

    def __rich__(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in _HEAD:
            table.add_column(name, justify="left" if name == "errors by kind" else "right")
        for step in self.steps:
            table.add_row(*map(Text, step.cells))
        return Group(Text(self.title, style="bold"), table, *map(Text, self.notes))

    def __repr__(self) -> str:
        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, width=160, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def _repr_html_(self) -> str:
        top = "".join(f"<th>{escape(name)}</th>" for name in _HEAD)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in step.cells) + "</tr>" for step in self.steps
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        picture = f"<div style='max-width:900px'>{self.figure().svg().decode()}</div>" if self.steps else ""
        return (
            f"<div><p><b>{escape(self.title)}</b></p><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
            f"{notes}{picture}</div>"
        )


def _write(path: str | Path | None, text: str) -> None:
    if path is not None:
        with storage_errors(Path(path).parent):
            atomic_write(Path(path), text)


def amount(number: int) -> str:
    """Returns a number of clients in words."""
    return "1 client" if number == 1 else f"{number:,} clients"
