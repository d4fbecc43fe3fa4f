"""MLflow tracking, where `MLFLOW_TRACKING_URI` is set; a tracking server that fails never stops training.

MLflow lives in a process of its own (`python -m medimg.training.tracking JOB`): its import and the making of its
database take as long as TensorFlow's import and go on beside it, and a server that is slow to answer holds nothing up.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from medimg.home import locked
from medimg.job import Interrupted
from medimg.progress import Event, Report

__all__ = ["Tracker"]

EXPERIMENT = "medimg"
_MOST_SECONDS = 120.0  # to write what is left when training has ended
_STOPPED_SECONDS = 10.0  # the same when it was stopped: whoever takes a machine away does not wait long


class Tracker:
    """Writes parameters and metrics of one job to MLflow; metrics only, never a model.

    As a context manager it ends the run: finished, killed where the job was asked to end, or failed.

    Args:
        job: The job's name; a restarted attempt goes on in the same run.
        report: Told once if tracking fails.
    """

    def __init__(self, job: str, report: Report) -> None:
        self._report = report
        self._process: subprocess.Popen[bytes] | None = None
        self._failed = False
        # A thread of its own writes: the pipe holds little, and its other end may be slow.
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        if os.environ.get("MLFLOW_TRACKING_URI", ""):
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, job], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._listener = self._beside(self._listen, self._process.stdout)
            self._beside(self._write, self._process.stdin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end("FINISHED" if kind is None else "KILLED" if issubclass(kind, Interrupted) else "FAILED")

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Records parameters; a resumed job gives the same ones again."""
        self._tell(parameters={name: str(value) for name, value in values.items()})

    def metrics(self, values: Mapping[str, float | None], *, step: int = 0) -> None:
        """Records numbers of one step; what is not estimable is left out."""
        known = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
        self._tell(metrics=known, step=step, time=int(time.time() * 1000))

    def end(self, status: str) -> None:
        """Ends the run: FINISHED, FAILED or KILLED. Returns when all is written, or after two minutes."""
        self._tell(status=status)
        self._lines.put(None)
        process, self._process = self._process, None
        if process is None:
            return
        seconds = _STOPPED_SECONDS if status == "KILLED" else _MOST_SECONDS
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            # It goes on by itself: killed while it makes its database, it would leave half of one.
            self._warn(f"what is left was not written within {seconds:.0f} s")
            return
        self._listener.join()
        if process.returncode:  # it was killed, and could not say why
            self._warn(f"its process ended with {process.returncode}")

    def _tell(self, **told: Any) -> None:
        if self._process is not None and not self._failed:
            self._lines.put(json.dumps(told).encode() + b"\n")

    def _write(self, pipe: IO[bytes]) -> None:
        # A broken pipe: the process has ended, and `_listen` or `end` says why.
        with suppress(BrokenPipeError), pipe:
            for line in iter(self._lines.get, None):
                pipe.write(line)
                pipe.flush()

    def _listen(self, said: IO[bytes]) -> None:
        with said:
            for line in said:
                self._warn(line.decode(errors="replace").strip())

    def _warn(self, text: str) -> None:
        if not self._failed:
            self._failed = True
            self._report(Event("warning", message=f"MLflow tracking stopped: {text}"))

    def _beside(self, work: Callable[[IO[bytes]], None], pipe: IO[bytes] | None) -> threading.Thread:
        thread = threading.Thread(target=work, args=(pipe,), daemon=True)
        thread.start()
        return thread


class _Run:
    """A job's run in MLflow, from within the process that writes it."""

    def __init__(self, job: str) -> None:
        # No figures about the user's work leave the machine.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        uri = os.environ["MLFLOW_TRACKING_URI"]
        database = Path(uri.removeprefix("sqlite:///"))
        # Two jobs that make the database's tables at once would each fail half-way.
        with locked(database.with_name(".mlflow.lock")) if uri.startswith("sqlite:///") else nullcontext():
            self._client = MlflowClient()
            self._id = os.environ.get("MLFLOW_RUN_ID", "") or self._found(job)

    def _found(self, job: str) -> str:
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        runs = self._client.search_runs([experiment], f"tags.`medimg.job` = '{job}'", max_results=1)
        tags = {"medimg.job": job, "mlflow.runName": job}
        run = runs[0] if runs else self._client.create_run(experiment, tags=tags)
        return str(run.info.run_id)

    def write(self, told: Mapping[str, Any]) -> None:
        """Writes one line of what the job tells."""
        from mlflow.entities import Metric, Param

        if status := told.get("status"):
            self._client.set_terminated(self._id, status)
            return
        # In one request: a server in a cloud answers each after a while.
        self._client.log_batch(
            self._id,
            params=[Param(name, value) for name, value in told.get("parameters", {}).items()],
            metrics=[
                Metric(name, value, told["time"], told["step"]) for name, value in told.get("metrics", {}).items()
            ],
        )


def main() -> int:
    """Writes what standard input tells, a JSON object a line; if that fails, says why and returns 1."""
    # The job is asked to end, and its last line is to be written: this process ends with standard input.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # What MLflow prints, such as a run's address, is for the log: the job takes each line it is sent for a failure.
    failure, sys.stdout = sys.stdout, sys.stderr
    try:
        run = _Run(sys.argv[1])
        for line in sys.stdin:
            run.write(json.loads(line))
    except Exception as error:  # whatever a tracking server does, the training goes on
        text = str(error).strip().splitlines()
        failure.write(f"{text[0] if text else type(error).__name__}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
