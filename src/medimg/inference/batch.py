"""Batch prediction: from a pack and a model folder to a table keyed by sample id."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from medimg.artifact import ModelFolder
from medimg.config import JobSpec
from medimg.data.pack import Pack
from medimg.errors import MedimgError
from medimg.inference.predictor import Predictor
from medimg.progress import Event, emit

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a prediction job, writes `out/predictions.csv` and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m medimg.predict")
    for name in ("spec", "data", "inputs", "out", "checkpoints"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(argv)
    try:
        emit(Event("stage", "importing"))
        spec = JobSpec.model_validate_json(given.spec.read_bytes())
        predictor = Predictor(ModelFolder.load(given.inputs / spec.inputs["model"]))
        predictor.check_golden()
        table = predictor.predict_pack(Pack.open(given.data), split=spec.split, report=emit)
        given.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(given.out / "predictions.csv")
    except MedimgError as error:
        emit(Event("error", message=str(error)))
        return 1
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        emit(Event("error", message=f"{type(error).__name__}: {error}"))
        return 1
    emit(Event("done", message=f"{len(table):,} predictions"))
    return 0
