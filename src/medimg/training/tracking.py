"""MLflow tracking, where `MLFLOW_TRACKING_URI` is set; a tracking server that fails never stops training."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from medimg.home import locked
from medimg.progress import Event, Report

__all__ = ["Tracker"]

EXPERIMENT = "medimg"


class Tracker:
    """Writes parameters and metrics of one job to MLflow; metrics only, never a model.

    Args:
        job: The job's name; a restarted attempt goes on in the same run.
        report: Told once if tracking fails.
    """

    def __init__(self, job: str, report: Report) -> None:
        self._client: Any = None
        self._run = ""
        self._report = report
        if uri := os.environ.get("MLFLOW_TRACKING_URI", ""):
            self._try(self._start, job, uri)

    def _start(self, job: str, uri: str) -> None:
        database = Path(uri.removeprefix("sqlite:///"))
        # Two jobs that make the database's tables at once would each fail half-way.
        with locked(database.with_name(".mlflow.lock")) if uri.startswith("sqlite:///") else nullcontext():
            self._open(job)

    def _open(self, job: str) -> None:
        # No figures about the user's work leave the machine.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        client = MlflowClient()
        self._run = os.environ.get("MLFLOW_RUN_ID", "")
        if not self._run:
            found = client.get_experiment_by_name(EXPERIMENT)
            experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
            runs = client.search_runs([experiment], f"tags.`medimg.job` = '{job}'", max_results=1)
            tags = {"medimg.job": job, "mlflow.runName": job}
            self._run = runs[0].info.run_id if runs else client.create_run(experiment, tags=tags).info.run_id
        self._client = client

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Records parameters; a resumed job gives the same ones again."""
        if self._client is not None:
            self._try(self._record, values, {}, 0)

    def metrics(self, values: Mapping[str, float | None], *, step: int = 0) -> None:
        """Records numbers of one step; what is not estimable is left out."""
        if self._client is not None:
            known = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
            self._try(self._record, {}, known, step)

    def _record(self, parameters: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric, Param

        # In one request: where the server is in a cloud, training waits a while for each.
        self._client.log_batch(
            self._run,
            params=[Param(name, str(value)) for name, value in parameters.items()],
            metrics=[Metric(name, value, int(time.time() * 1000), step) for name, value in metrics.items()],
        )

    def end(self, status: str) -> None:
        """Ends the run: FINISHED, FAILED or KILLED."""
        if self._client is not None:
            self._try(lambda: self._client.set_terminated(self._run, status))

    def _try(self, action: Any, *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:  # whatever a tracking server does, the training goes on
            self._client = None
            text = str(error).strip().splitlines()
            self._report(
                Event("warning", message=f"MLflow tracking stopped: {text[0] if text else type(error).__name__}")
            )
