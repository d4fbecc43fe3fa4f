"""What the suite does in another process: `python -m medimg.testing.elsewhere JSON` runs one of these functions."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from medimg.backends.base import Backend
from medimg.config import JobSpec, ServeConfig, TrainConfig
from medimg.progress import Report
from medimg.testing.workspace import RESULT, phantom_dataset

__all__ = ["deploy", "look", "predict", "results", "submit", "versions"]


def look(backend: Backend, job: str) -> dict[str, Any]:
    """Returns the status of a job and its log as they are now, and the ids of all jobs."""
    handle = backend.job(job)
    return {"status": handle.status, "lines": list(handle.logs()), "jobs": [other.id for other in backend.jobs()]}


def results(backend: Backend, job: str) -> dict[str, Any]:
    """Returns what a completed training job left behind, fetched anew."""
    handle = backend.job(job)
    return {
        "status": handle.status,
        "digest": handle.model.digest,
        "metrics": handle.metrics,
        "history": handle.history,
        "lines": list(handle.logs()),
    }


def submit(
    backend: Backend, dataset: str, config: dict[str, Any], threads: int, gate: str, processes: int
) -> dict[str, Any]:
    """Submits the same job from several threads at the moment when as many do so in the other processes.

    Returns:
        The ids of the jobs that the callers got, and how many of the submits the backend accepted.
    """
    images, settings = phantom_dataset(dataset), TrainConfig.model_validate(config)
    accepted: list[str] = []

    def meet() -> None:
        (Path(gate) / str(os.getpid())).touch()
        while len(list(Path(gate).iterdir())) < processes:
            time.sleep(0.005)

    together = threading.Barrier(threads, action=meet, timeout=60)
    original = backend._submit

    def at_once(spec: JobSpec, pack: Path, inputs: Path, report: Report) -> None:
        # All have looked for a running job by now and found none.
        together.wait()
        original(spec, pack, inputs, report)
        accepted.append(spec.id)

    backend._submit = at_once  # type: ignore[method-assign]
    with ThreadPoolExecutor(threads) as pool:
        jobs = list(pool.map(lambda _: backend.train(images, settings, wait=False), range(threads)))
    return {"ids": [job.id for job in jobs], "accepted": len(accepted)}


def deploy(backend: Backend, model: str, name: str, config: dict[str, Any]) -> str:
    """Deploys a model folder, returns the endpoint's name when it is ready, and ends."""
    return backend.deploy(model, ServeConfig.model_validate(config), name=name).name


def predict(backend: Backend, endpoint: str, image: str) -> dict[str, Any]:
    """Returns the answer of an endpoint that this process did not make."""
    return backend.endpoint(endpoint).predict(image).to_json()


def versions(backend: Backend, name: str) -> dict[str, str]:
    """Returns the versions of a registered model in their order, each with the digest of what it loads."""
    return {version.version: version.load().digest for version in backend.models(name)}


_TASKS: dict[str, Callable[..., Any]] = {
    task.__name__: task for task in (deploy, look, predict, results, submit, versions)
}


def main() -> None:
    """Runs the function that the command line names and prints its answer."""
    given = json.loads(sys.argv[1])
    backend = resolve_name(given["factory"])(**given["options"])
    answer = _TASKS[given["task"]](backend, **given["arguments"])
    sys.stdout.write(f"\n{RESULT}{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
