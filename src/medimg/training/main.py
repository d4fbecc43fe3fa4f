"""The trainer: from a job's specification and a pack to a sealed model folder. It knows no cloud."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from medimg.config import JobSpec
from medimg.errors import MedimgError
from medimg.progress import Event, emit, heartbeat

__all__ = ["Paths", "Stop", "arguments", "main"]

STOPPED = 143  # what a shell reports for a process ended by SIGTERM


@dataclass(frozen=True)
class Paths:
    """The folders of a job.

    Attributes:
        spec: The specification's file.
        data: The pack.
        inputs: Weights, a base model: by role, see `JobSpec.inputs`.
        out: Where results go.
        checkpoints: Where state survives a restart.
    """

    spec: Path
    data: Path
    inputs: Path
    out: Path
    checkpoints: Path


class Stop:
    """Whether the job was asked to end: SIGTERM sets it, the work looks at it between steps."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __call__(self) -> bool:
        """Tells whether the job was asked to end."""
        return self.asked

    def check(self) -> None:
        """Raises `Interrupted` if the job was asked to end."""
        if self.asked:
            from medimg.training.loop import Interrupted

            raise Interrupted("stopped; what was finished is saved")


def arguments(module: str, argv: Sequence[str] | None = None) -> Paths:
    """Returns the folders named on the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    for name in ("spec", "data", "inputs", "out", "checkpoints"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return Paths(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a training job and returns its exit status: 0 done, 1 failed, 143 stopped with its state saved."""
    # TensorFlow's start-up notes would drown the log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    paths = arguments("medimg.train", argv)
    stop = Stop()
    try:
        spec = JobSpec.model_validate_json(paths.spec.read_bytes())
        with heartbeat("importing", emit, message="TensorFlow and Keras"):
            import keras  # noqa: F401
            import sklearn.metrics  # noqa: F401

            from medimg.training.loop import Interrupted
            from medimg.training.run import train
        try:
            train(spec, paths, stop)
        except Interrupted as interruption:
            emit(Event("log", message=str(interruption)))
            return STOPPED
    except MedimgError as error:
        emit(Event("error", message=str(error)))
        return 1
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        emit(Event("error", message=f"{type(error).__name__}: {error}"))
        return 1
    emit(Event("done", message="the model is ready"))
    return 0
