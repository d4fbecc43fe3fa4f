"""Progress: JSON lines on the job's side, one bar that names the stage on the user's side.

A job writes one JSON object a line to standard output. Every backend carries those lines home as text, so that the bar,
the history and the timings are the same wherever the job ran.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

__all__ = ["Display", "Event", "Pace", "Report", "Stopwatch", "emit", "heartbeat", "parse", "pulse", "silent"]

KINDS = ("stage", "epoch", "log", "warning", "error", "done")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: "stage" (work moved on), "epoch" (values of one pass), "log", "warning", "error" or "done".
        stage: What is being done: listing, reading, auditing, packing, uploading, queueing, importing, features,
            fitting, fine-tuning, exporting, evaluating, predicting, downloading or unpacking.
        done: Units finished in this stage.
        total: Units of this stage; 0 where it is unknown.
        message: Text for people.
        values: Numbers, such as the losses of an epoch.
        time: Seconds since the epoch, on the clock of the machine that did the work.
    """

    kind: str
    stage: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Reports nothing."""


def emit(event: Event) -> None:
    """Writes an event as one JSON line to standard output and flushes it."""
    line: dict[str, Any] = {"event": event.kind, "time": round(event.time, 3)}
    for name in ("stage", "done", "total", "message"):
        if value := getattr(event, name):
            line[name] = value
    if event.values:
        line["values"] = dict(event.values)
    # One write call a line, so that the heartbeat's thread cannot cut another's line in two.
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def parse(line: str) -> Event | None:
    """Returns the event in a line of a job's log, or None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        data = json.loads(line)
    except ValueError:
        return None
    if not isinstance(data, dict) or data.get("event") not in KINDS:
        return None
    return Event(
        kind=data["event"],
        stage=str(data.get("stage", "")),
        done=int(data.get("done", 0)),
        total=int(data.get("total", 0)),
        message=str(data.get("message", "")),
        values=data.get("values", {}),
        time=float(data.get("time", 0.0)),
    )


class Pace:
    """Tells how fast images are done, and how long the rest will take.

    Args:
        total: Images in all.
        done: Of them done already, such as by an attempt before this one.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._total = total
        self._begun = done
        self._since = time.monotonic()

    def text(self, done: int) -> str:
        """Returns text such as "312 images/s, 2 min left", or "" before the first image is done."""
        seconds = time.monotonic() - self._since
        if done <= self._begun or seconds <= 0:
            return ""
        rate = (done - self._begun) / seconds
        left = (self._total - done) / rate
        shown = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min" if left < 6000 else f"{left / 3600:.1f} h"
        return f"{rate:,.{0 if rate >= 10 else 1}f} images/s" + (f", {shown} left" if done < self._total else "")


class Stopwatch:
    """Measures the stages that it is told of, and passes every event on.

    Args:
        report: Where events go.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._spent: dict[str, float] = {}
        self._stage = ""
        self._since = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Counts the time since the last event for the stage that it named."""
        self._lap(event.stage if event.kind == "stage" else self._stage)
        self._report(event)

    @property
    def timings(self) -> dict[str, float]:
        """Stage to seconds, up to now."""
        self._lap(self._stage)
        return {stage: round(seconds, 3) for stage, seconds in self._spent.items()}

    def _lap(self, stage: str) -> None:
        now = time.monotonic()
        if self._stage:
            self._spent[self._stage] = self._spent.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


@contextmanager
def heartbeat(stage: str, report: Report, *, message: str = "", every: float = 1.5) -> Iterator[None]:
    """Reports `stage` at the start and then every `every` seconds, for work that cannot report from inside."""
    stop = threading.Event()
    started = time.monotonic()

    def beat() -> None:
        while not stop.wait(every):
            elapsed = int(time.monotonic() - started)
            report(Event("stage", stage, message=f"{message} {elapsed} s".strip()))

    report(Event("stage", stage, message=message))
    thread = threading.Thread(target=beat, name=f"heartbeat-{stage}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def pulse(report: Report, *, every: float = 1.5) -> Iterator[Report]:
    """Yields a `report` that says the last stage again, with the seconds it has lasted, whenever nothing else is said.

    So a bar moves through imports, compilations and exports, which cannot report from inside.
    """
    stop = threading.Event()
    lock = threading.Lock()
    stage: Event | None = None
    began = said = time.monotonic()

    def forward(event: Event) -> None:
        nonlocal stage, began, said
        with lock:
            said = time.monotonic()
            if event.kind == "stage":
                stage, began = event, said
            report(event)

    def beat() -> None:
        nonlocal said
        while not stop.wait(every / 3):
            with lock:
                now = time.monotonic()
                if stage is not None and now - said >= every:
                    said = now
                    message = f"{stage.message} {now - began:.0f} s".strip()
                    report(Event("stage", stage.stage, stage.done, stage.total, message))

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield forward
    finally:
        stop.set()
        thread.join()


class Display(AbstractContextManager["Display"]):
    """Shows events: a live bar in a terminal or notebook, lines in a log.

    Args:
        title: What is going on, such as the job's name.
        enabled: False shows nothing.
    """

    LINE_EVERY = 2.0  # seconds between two lines of the same stage in a log
    SELDOM = 60.0  # the same at most, where nobody knows how far it is: it doubles from line to line

    def __init__(self, title: str, *, enabled: bool = True) -> None:
        self.title = title
        self._enabled = enabled
        self._progress: Any = None
        self._task: Any = None
        self._started = False
        self._fields = {"title": title, "count": "", "note": ""}
        self._stage = ""
        self._last_line = ("", 0.0)
        self._pause = self.LINE_EVERY
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def _start(self) -> None:
        """Starts the bar, with the first event: what shows nothing leaves no empty bar behind."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        if console.is_terminal or console.is_jupyter:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.fields[title]}[/] {task.description}"),
                BarColumn(bar_width=28),
                TextColumn("{task.fields[count]}"),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                console=console,
                transient=False,
            )
            self._task = self._progress.add_task("", total=None, **self._fields)
            self._progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        if not self._enabled:
            return
        with self._lock:
            if not self._started:
                self._started = True
                self._start()
            if self._progress is None:
                self._write_line(event)
            else:
                self._move_bar(event)

    def _move_bar(self, event: Event) -> None:
        from rich.markup import escape

        if event.kind in ("epoch", "log", "warning", "error", "done"):
            colour = {"warning": "yellow", "error": "red", "done": "green"}.get(event.kind)
            text = escape(self._text(event))
            self._progress.console.print(f"[{colour}]{text}[/]" if colour else text, highlight=False)
        if event.kind == "stage":
            if event.stage != self._stage:
                self._stage = event.stage
                # A new stage starts its own clock and bar.
                self._progress.reset(self._task, total=None, description=event.stage, **self._fields)
            count = f"{event.done:,}/{event.total:,}" if event.total else ""
            self._progress.update(
                self._task,
                completed=event.done,
                total=event.total or None,
                count=count,
                note=escape(event.message),
            )

    def _write_line(self, event: Event) -> None:
        if event.kind == "stage":
            same = event.stage == self._stage
            text, when = self._last_line
            now = time.monotonic()
            fresh = self._text(event)
            if same and event.done < event.total and (now - when < self.LINE_EVERY or fresh == text):
                return
            if same and event.total == 0 and now - when < self._pause:
                return
            self._pause = min(2 * self._pause, self.SELDOM) if same and event.total == 0 else self.LINE_EVERY
            self._stage, self._last_line = event.stage, (fresh, now)
        print(f"{self.title}: {self._text(event)}", file=sys.stderr, flush=True)  # noqa: T201

    @staticmethod
    def _text(event: Event) -> str:
        parts = [event.stage] if event.stage else []
        if event.total:
            parts.append(f"{event.done:,}/{event.total:,}")
        parts.extend(
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in event.values.items()
        )
        if event.message:
            parts.append(event.message)
        prefix = {"warning": "warning: ", "error": "error: "}.get(event.kind, "")
        return prefix + "  ".join(parts)
