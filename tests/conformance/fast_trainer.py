"""An honest trainer in a second, in place of TensorFlow: `python -m fast_trainer`, with medimg.train's command line.

It keeps every promise of the contract (events, checkpoints, SIGTERM, exit status, a sealed model folder); only the
network is not trained but copied from `FAST_TRAINER_MODEL`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from medimg.artifact import ModelFolder
from medimg.config import JobSpec
from medimg.data.pack import Pack
from medimg.home import atomic_write
from medimg.progress import Event, emit

EPOCH_SECONDS = 0.05


def main() -> int:
    """Runs a training job and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fast_trainer")
    for name in ("spec", "data", "inputs", "out", "checkpoints"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = parser.parse_args()
    asked: list[object] = []
    signal.signal(signal.SIGTERM, lambda *signalled: asked.append(signalled))
    emit(Event("stage", "importing"))
    try:
        return train(paths, asked)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        emit(Event("error", message=f"{type(error).__name__}: {error}"))
        return 1


def train(paths: argparse.Namespace, asked: list[object]) -> int:
    """Goes through the stages; returns 143 when asked to stop, with what was finished saved."""
    spec = JobSpec.model_validate_json(paths.spec.read_bytes())
    assert spec.config is not None
    pack = Pack.open(paths.data, spec.samples, verify=True)
    pack.targets(pack.rows("train"))
    state = paths.checkpoints / "state.json"
    history = json.loads(state.read_text()) if state.exists() else []
    for row in history:
        tell(row, spec.config.epochs)
    while len(history) < spec.config.epochs:
        started = time.perf_counter()
        emit(Event("stage", "fitting", len(history), spec.config.epochs))
        time.sleep(EPOCH_SECONDS)
        values = {"loss": 1 / (1 + len(history)), "seconds": time.perf_counter() - started}
        history.append({"phase": "fitting", "epoch": len(history) + 1, **values})
        tell(history[-1], spec.config.epochs)
        atomic_write(state, json.dumps(history))
        if asked:
            emit(Event("log", message="stopped; what was finished is saved"))
            return 143
    emit(Event("stage", "evaluating"))
    base = ModelFolder.load(os.environ["FAST_TRAINER_MODEL"])
    draft = paths.out / ".model"
    shutil.copytree(base.path, draft)
    atomic_write(draft / "history.json", json.dumps(history))
    record = base.record.model_copy(update={"job": spec.id, "config": spec.config})
    ModelFolder.seal(draft, record)
    draft.rename(paths.out / "model")
    for split, figures in record.metrics.items():
        emit(Event("epoch", "evaluating", message=split, values=figures))
    emit(Event("done", message="the model is ready"))
    return 0


def tell(row: dict[str, Any], epochs: int) -> None:
    """Reports one row of the history."""
    values = {name: value for name, value in row.items() if name not in ("phase", "epoch")}
    emit(Event("epoch", row["phase"], row["epoch"], epochs, values=values))


if __name__ == "__main__":
    raise SystemExit(main())
