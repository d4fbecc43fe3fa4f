"""What every job's process shares: its folders, its end on SIGTERM, its pulse, and how its failure is told."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from medimg.config import JobSpec
from medimg.errors import MedimgError
from medimg.progress import Event, Report, emit, pulse

__all__ = ["Interrupted", "Paths", "Stop", "run_job"]

STOPPED = 143  # what a shell reports for a process ended by SIGTERM


class Interrupted(MedimgError):  # noqa: N818 - it is no error
    """The job was told to stop; its state is saved."""


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
            raise Interrupted("stopped; what was finished is saved")

    def watched(self, report: Report) -> Report:
        """Returns a `report` that first looks whether the job was asked to end, for work that takes nothing else."""

        def checked(event: Event) -> None:
            self.check()
            report(event)

        return checked


def run_job(module: str, work: Callable[[JobSpec, Paths, Stop, Report], str], argv: Sequence[str] | None = None) -> int:
    """Does a job's work and returns the process's exit status: 0 done, 1 failed, 143 stopped with its state saved.

    Args:
        module: The module that was started, for the usage message.
        work: Does it and returns what to say at the end; it imports what is heavy, so that the bar moves meanwhile.
        argv: The command line; None: the process's own.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    for name in ("spec", "data", "inputs", "out", "checkpoints"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = Paths(**vars(parser.parse_args(argv)))
    # TensorFlow's start-up notes would drown the log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    stop = Stop()
    with pulse(emit) as report:
        try:
            report(Event("stage", "importing"))
            told = work(JobSpec.model_validate_json(paths.spec.read_bytes()), paths, stop, report)
        except Interrupted as interruption:
            report(Event("log", message=str(interruption)))
            return STOPPED
        except MedimgError as error:
            report(Event("error", message=str(error)))
            return 1
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            report(Event("error", message=f"{type(error).__name__}: {error}"))
            return 1
        report(Event("done", message=told))
    return 0
