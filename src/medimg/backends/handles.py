"""What a user holds: `Job`, `ModelVersion` and `Endpoint`. Each is a backend and a name, so each survives a restart."""

from __future__ import annotations

import re
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from medimg.artifact import ModelFolder
from medimg.backends.cost import Cost, job_cost
from medimg.backends.resource import Resource
from medimg.config import Resources
from medimg.errors import (
    BackendError,
    EndpointError,
    JobFailedError,
    MedimgError,
    ModelFolderError,
    NotFoundError,
    UnreachableError,
)
from medimg.progress import Display, Event, parse

if TYPE_CHECKING:
    from medimg.backends.base import Backend, Deployable
    from medimg.data.decode import ImageLike
    from medimg.evaluation.report import Report
    from medimg.inference.decision import Prediction
    from medimg.inference.predictions import Predictions

__all__ = ["Endpoint", "Job", "ModelVersion"]

_LAST_LINES = 15
# TensorFlow's start-up notes would push what matters out of the last lines.
_NOISE = re.compile(r"[IWE]0000 00:00:|WARNING: All log messages before absl::|INFO: Created TensorFlow Lite|\s*$")
_BEFORE_LOG = ("provisioning", "preparing")  # stages between submit and first line that a cloud may tell apart
_AT_ONCE = 8  # images of predict_many on their way at the same time


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
        again = "\nAn identical call is a new attempt; training goes on from its last checkpoint, if it has one"
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
        """The table of a prediction job, keyed by sample id: `dataset[id]` is the sample."""
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


class ModelVersion:
    """One version of a registered model.

    Attributes:
        backend: Whose registry.
        name: Of the registered model.
        version: "1", "2", …
        digest: SHA-256 of the model folder.
        metrics: Headline figures.
        job: The job that trained it.
        approval: "pending", "approved" or "rejected" where the registry has it, else "".
        created: Seconds since the epoch.
    """

    def __init__(self, backend: Backend, resource: Resource) -> None:
        self.backend = backend
        self.name, _, self.version = resource.id.rpartition("/")
        self.digest: str = resource.details["digest"]
        self.metrics: Mapping[str, float | None] = resource.details.get("metrics", {})
        self.job: str = resource.details.get("job", "")
        self.approval: str = resource.details.get("approval", "")
        self.created = resource.created

    @property
    def id(self) -> str:
        """The name and the version, such as chest/2."""
        return f"{self.name}/{self.version}"

    def load(self) -> ModelFolder:
        """Fetches the model and verifies it against the registered digest."""
        folder = self.backend._fetched("model", self.id)
        try:
            return ModelFolder.load(folder, digest=self.digest)
        except ModelFolderError:
            # The local copy may be the damaged one: the next call fetches it anew.
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def delete(self) -> None:
        """Deletes this version from the registry."""
        self.backend._remove("model", self.id)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items() if value is not None)
        return f"ModelVersion({self.backend.name!r}, {self.id!r}, {figures})"


class Endpoint:
    """A served model: `backend.endpoint(name)` brings it back in any process. Delete it when you are done.

    Attributes:
        backend: Where it runs.
        name: Its name.
    """

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend = backend
        self.name = name

    @property
    def _resource(self) -> Resource:
        return self.backend._describe("endpoint", self.name)

    @property
    def status(self) -> str:
        """One of "starting", "ready", "updating" (it answers) and "failed", asked anew each time."""
        return self._resource.status

    @property
    def url(self) -> str:
        """The address that takes an encoded image by POST."""
        return str(self._resource.details.get("url", ""))

    def predict(self, image: ImageLike) -> Prediction:
        """Returns the decision for one image: a path, bytes, a PIL image or uint8 (height, width[, 3]).

        Raises:
            ImageRejected: The image cannot be read.
            EndpointError: The endpoint is not ready, or failed.
        """
        from medimg.data.encode import encode
        from medimg.inference.decision import Prediction

        return Prediction.from_json(self.backend._invoke(self.name, encode(image)))

    def predict_many(self, images: Iterable[ImageLike]) -> list[Prediction]:
        """Returns the decisions for several images in their order; several are on their way at once."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.predict, images))

    def logs(self) -> Iterator[str]:
        """Yields the lines of the server's log."""
        lines, _ = self.backend._log("endpoint", self.name, 0)
        yield from lines

    def wait(self, timeout: float = 1800.0) -> Self:
        """Waits until the endpoint is ready and returns it.

        Raises:
            EndpointError: It failed; the message ends with its log.
            TimeoutError: It is still starting; it goes on.
        """
        return self._wait(timeout)

    def _wait(self, timeout: float = 1800.0, *, undo: bool = False) -> Self:
        """Waits; `undo`: the endpoint is new, so it is deleted again where it cannot be finished."""
        goes_on = (
            f"it goes on, and is billed where machines are. Wait again with backend.endpoint({self.name!r}).wait(), or "
            f"delete it with backend.endpoint({self.name!r}).delete()"
        )
        with Display(self.name) as display:
            try:
                url = self._until_ready(timeout, goes_on, display)
            except KeyboardInterrupt:
                display(Event("log", message=f"the endpoint {self.name!r} was not waited for: {goes_on}"))
                raise
            try:
                self.backend._settle(self.name)
            except MedimgError as error:
                if undo:
                    self._undo(error)
                raise
            display(Event("done", "ready", message=url))
        return self

    def _until_ready(self, timeout: float, goes_on: str, display: Display) -> str:
        """Returns the address when the endpoint is ready."""
        started = time.monotonic()
        while True:
            try:
                resource = self._resource
            except UnreachableError as error:
                display(Event("stage", "unreachable", message=str(error)))
            else:
                if resource.status == "ready":
                    return str(resource.details.get("url", ""))
                if resource.status == "failed":
                    raise EndpointError(
                        f"the endpoint {self.name!r} failed: {resource.details.get('reason', 'no reason given')}. "
                        f"Delete it with backend.endpoint({self.name!r}).delete()\n{self._last_words()}"
                    )
                display(Event("stage", resource.status, message=f"{time.monotonic() - started:.0f} s"))
            if time.monotonic() > started + timeout:
                raise TimeoutError(f"the endpoint {self.name!r} is not ready after {timeout:g} s: {goes_on}")
            time.sleep(self.backend.endpoint_poll_seconds)

    def _undo(self, error: MedimgError) -> None:
        """Deletes an endpoint that serves, but not as it was asked to: its caller takes it for failed."""
        try:
            self.delete()
        except MedimgError as another:
            error.add_note(
                f"The endpoint {self.name!r} could not be deleted ({another}), and is billed where machines are: "
                f"delete it with backend.endpoint({self.name!r}).delete()"
            )

    def _last_words(self) -> str:
        try:
            lines = [line for line in self.logs() if line.strip()][-_LAST_LINES:]
        except MedimgError as error:
            return f"Its log cannot be read: {error}"
        return "Last lines of its log:\n" + "\n".join(f"  {line}" for line in lines)

    def update(self, model: Deployable) -> Self:
        """Serves another model under the same name; the old one answers until the new one is ready.

        Args:
            model: As in `Backend.deploy`.

        Raises:
            EndpointError: The new model did not become ready; the old one goes on serving.
        """
        folder = self.backend._model_folder(model)
        before = self._resource
        if before.status in ("starting", "updating"):
            # What is served is not decided yet: it may be this model, or another than now.
            self.wait()
            before = self._resource
        if before.details["digest"] == folder.digest:
            return self.wait()
        self.backend._update(self.name, folder.path, {"digest": folder.digest, "config": before.details["config"]})
        self.wait()
        after = self._resource.details
        if after["digest"] != folder.digest:
            raise EndpointError(
                f"the new model did not become ready: {after.get('reason', 'no reason given')}. The endpoint "
                f"{self.name!r} goes on with the one before\n{self._last_words()}"
            )
        return self

    def delete(self) -> None:
        """Deletes the endpoint with all that belongs to it; deleting it twice is no error."""
        try:
            self.backend._remove("endpoint", self.name)
        except NotFoundError:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete()

    def __repr__(self) -> str:
        try:
            resource = self._resource
        except NotFoundError:
            return f"Endpoint({self.backend.name!r}, {self.name!r}, deleted)"
        return f"Endpoint({self.backend.name!r}, {self.name!r}, {resource.status}, {resource.details.get('url', '')})"
