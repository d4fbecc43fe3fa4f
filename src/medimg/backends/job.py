"""`Job`: a training or a prediction that runs elsewhere. It is a backend and an id, so it survives a restart."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from medimg.artifact import ModelFolder
from medimg.backends.cost import Cost, job_cost
from medimg.backends.resource import Resource
from medimg.config import Resources
from medimg.errors import BackendError, JobFailedError, UnreachableError
from medimg.progress import Display, Event, parse

if TYPE_CHECKING:
    from medimg.backends.base import Backend
    from medimg.evaluation.report import Report
    from medimg.inference.predictions import Predictions

__all__ = ["Job"]

_LAST_LINES = 15
# TensorFlow's start-up notes would push what matters out of the last lines.
_NOISE = re.compile(r"[IWE]0000 00:00:|WARNING: All log messages before absl::|INFO: Created TensorFlow Lite|\s*$")
_BEFORE_LOG = ("provisioning", "preparing")  # stages between submit and first line that a cloud may tell apart


class _Tail:
    """Tells when the log of an ended job is complete: its last words were read, or none came for a while.

    Args:
        delay: Seconds that lines may take to arrive.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._last_words = False
        self._silent_since: float | None = None

    def is_complete(self, ended: bool, lines: Iterable[str]) -> bool:
        """Looks at one answer: whether the job had ended before it, and the lines that came."""
        found = [event.kind for event in map(parse, lines) if event is not None]
        self._last_words |= "done" in found or "error" in found
        if not ended or lines:
            self._silent_since = None
            return False
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        return self._last_words or now - self._silent_since >= self._delay


class Job:
    """A training or prediction job: `backend.job(id)` brings it back in any process.

    Attributes:
        backend: Where it runs.
        id: Its name.
    """

    def __init__(self, backend: Backend, id: str) -> None:
        self.backend = backend
        self.id = id
        self._model: ModelFolder | None = None

    @property
    def status(self) -> str:
        """One of "queued", "running", "completed", "failed" and "cancelled", asked anew each time."""
        return self._resource.status

    @property
    def _resource(self) -> Resource:
        return self.backend._describe("job", self.id)

    # -- following ----------------------------------------------------------------------------------------------------

    def logs(self, follow: bool = False) -> Iterator[str]:
        """Yields the lines of the log; with `follow` until the job ends, as they come."""
        position, tail = 0, _Tail(self.backend.log_delay_seconds)
        while True:
            try:
                # The status is asked first: lines written between the two questions are read by the second.
                ended = not follow or self._resource.status not in ("queued", "running")
                lines, position = self.backend._log("job", self.id, position)
            except UnreachableError:
                if not follow:
                    raise
                # Not to be reached is not to have ended: keep asking.
                ended, lines = False, []
            yield from lines
            complete = tail.is_complete(ended, lines)
            if complete or (not follow and not lines):
                return
            if not lines:
                time.sleep(self.backend.job_poll_seconds)

    def wait(self, timeout: float | None = None) -> Self:
        """Shows progress until the job ends, and returns it.

        Interrupting (Ctrl-C, the stop button) or losing the process leaves the job running.

        Args:
            timeout: Seconds after which to give up waiting; the job goes on.

        Raises:
            JobFailedError: The job failed or was cancelled; the message ends with its last log lines.
            TimeoutError: It is still running.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        position, last = 0, deque[str](maxlen=_LAST_LINES)
        tail = _Tail(self.backend.log_delay_seconds)
        with Display(self.id) as display:
            try:
                while True:
                    try:
                        status = self._resource.status
                        lines, position = self.backend._log("job", self.id, position)
                    except UnreachableError as error:
                        # Not to be reached is not to have failed: keep asking.
                        display(Event("stage", "unreachable", message=str(error)))
                        status, lines = "running", []
                    last.extend(line for line in lines if parse(line) is None and not _NOISE.match(line))
                    for event in filter(None, map(parse, lines)):
                        display(event)
                    if status == "queued" and not lines:
                        display(Event("stage", "queueing"))
                    if tail.is_complete(status not in ("queued", "running"), lines):
                        break
                    if deadline is not None and time.monotonic() > deadline:
                        raise TimeoutError(
                            f"{self.id} is still {status}; wait again with backend.job({self.id!r}).wait()"
                        )
                    if not lines:
                        time.sleep(self.backend.job_poll_seconds)
            except KeyboardInterrupt:
                display(Event("log", message=f"the job goes on: backend.job({self.id!r}).wait(), or .cancel()"))
                raise
        if status != "completed":
            raise JobFailedError(self._failure(status, last))
        return self

    def _failure(self, status: str, last: Iterable[str]) -> str:
        reason = self._resource.details.get("reason", "")
        errors = [event.message for event in self._events() if event.kind == "error"]
        text = "\n".join(f"  {line}" for line in last)
        what = errors[-1] if errors else reason or "no reason given"
        again = "\nAn identical call is a new attempt; it goes on from the last checkpoint, if there is one"
        advice = "" if status == "cancelled" else again
        return f"{self.id} {status}: {what}{advice}" + (f"\nLast lines of its log:\n{text}" if text else "")

    def cancel(self) -> None:
        """Stops the job; its last checkpoint is kept, and an identical `train` goes on from there."""
        self.backend._stop(self.id)

    def delete(self) -> None:
        """Stops the job if it runs, and deletes it with its results. Registered models and endpoints stay."""
        self.backend._remove("job", self.id)

    # -- results ------------------------------------------------------------------------------------------------------

    def _events(self) -> Iterator[Event]:
        return filter(None, map(parse, self.logs()))

    def _finished(self) -> Path:
        resource = self._resource
        if resource.status != "completed":
            raise BackendError(
                f"{self.id} is {resource.status}: it has no result"
                + (" yet. Wait for it: job.wait()" if resource.status in ("queued", "running") else "")
            )
        return self.backend._fetched("job", self.id)

    @property
    def model(self) -> ModelFolder:
        """The trained model, fetched and verified the first time that this handle is asked for it.

        Raises:
            BackendError: The job is not completed, or predicts instead of training.
        """
        # The local copy goes when the job is deleted.
        if self._model is None or not self._model.path.exists():
            folder = self._finished() / "model"
            if not folder.exists():
                raise BackendError(f"{self.id} is a prediction job: see job.predictions")
            self._model = ModelFolder.load(folder)
        return self._model

    @property
    def report(self) -> Report:
        """The evaluation: metrics, thresholds, figures; shown as a page in a notebook."""
        return self.model.report

    @property
    def predictions(self) -> Predictions:
        """The table of a prediction job, keyed by sample id: `dataset[id]` is the sample.

        It has what the model decides, whether that is uncertain, and the images that could not be read. With the names
        of the files: `job.predictions.to_csv("table.csv", dataset)`, or `to_parquet`, or `to_dataframe(dataset)`.
        """
        from medimg.inference.predictions import Predictions

        path = self._finished() / "predictions.csv"
        if not path.exists():
            raise BackendError(f"{self.id} is a training job: see job.report.predictions")
        return Predictions.from_csv(path)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures on test (else validation) at the frozen thresholds; while it runs, those of the last epoch."""
        epochs = [event for event in self._events() if event.kind == "epoch"]
        final = {event.message: event.values for event in epochs if event.stage == "evaluating"}
        values = final.get("test") or final.get("val") or (epochs[-1].values if epochs else {})
        return dict(values)

    @property
    def cost(self) -> Cost | None:
        """What the job did cost, by the seconds that are billed and today's price; None where nothing is billed."""
        details = self._resource.details
        instance, spot = details.get("instance"), bool(details.get("spot"))
        return job_cost(details, self.backend._rates(Resources(instance=instance or None, spot=spot), None, None))

    @property
    def url(self) -> str:
        """The job's page in the cloud's console; "" where there is none."""
        return str(self._resource.details.get("url", ""))

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch, also while the job runs."""
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for event in self._events():
            if event.kind == "epoch" and event.stage != "evaluating":
                # A resumed job tells the epochs before it again: each counts once.
                rows[event.stage, event.done] = {"phase": event.stage, "epoch": event.done, **event.values}
        return list(rows.values())

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of packing and uploading, of queueing, of each stage on the job's machine and of each epoch.

        What came before the job is by this machine's clock, the rest by the times in the job's log. The epochs
        ("epoch 1", …) are parts of the stages "fitting" and "fine-tuning".
        """
        resource = self._resource
        spent: dict[str, float] = dict(resource.details.get("timings", {}))
        epochs: dict[tuple[str, int], float] = {}
        before: Event | None = None
        for event in self._events():
            if before is None:
                # Two clocks, where the job runs elsewhere.
                counted = sum(spent.get(stage, 0.0) for stage in _BEFORE_LOG)
                spent["queueing"] = max(0.0, event.time - resource.created - counted)
            if event.kind == "epoch" and "seconds" in event.values:
                epochs[event.stage, event.done] = float(event.values["seconds"])
            if before is not None and before.stage:
                spent[before.stage] = spent.get(before.stage, 0.0) + max(0.0, event.time - before.time)
            if event.stage:
                before = event
        # Fine-tuning counts its epochs from one again; here they go on from those before.
        spent |= {f"epoch {number}": seconds for number, seconds in enumerate(epochs.values(), start=1)}
        return {stage: round(seconds, 3) for stage, seconds in spent.items()}

    def __repr__(self) -> str:
        return f"Job({self.backend.name!r}, {self.id!r}, {self.status})"

    def _repr_html_(self) -> str:
        from html import escape

        figures = "".join(
            f"<tr><td>{escape(name)}</td><td>{value:.4f}</td></tr>"
            for name, value in self.metrics.items()
            if isinstance(value, float)
        )
        return f"<p><b>{escape(self.id)}</b> on {escape(self.backend.name)}: {self.status}</p><table>{figures}</table>"
