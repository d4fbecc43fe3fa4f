"""`python -m medimg.predict --spec … --data … --inputs … --out … --checkpoints …`: predicts a pack as a job."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from medimg.artifact import ModelFolder
from medimg.config import JobSpec
from medimg.data.pack import Pack
from medimg.data.transport import expanded
from medimg.inference.decision import decided
from medimg.inference.predictor import Predictor
from medimg.job import Paths, Stop, run_job
from medimg.progress import Event, Report
from medimg.training.checkpoints import Checkpoint, Checkpoints

EVERY = 5.0  # seconds between two checkpoints


class Kept:
    """The probabilities that survive the end of the process.

    Args:
        checkpoints: Where they are kept.
        stop: Asked whether the process is about to end.
    """

    def __init__(self, checkpoints: Checkpoints, stop: Stop) -> None:
        self._checkpoints = checkpoints
        self._stop = stop
        self._saved = time.monotonic()

    def known(self) -> np.ndarray | None:
        """Returns what an earlier attempt kept, float64 (n, classes), or None."""
        latest = self._checkpoints.latest()
        return None if latest is None else latest.arrays["probabilities"][0]

    def keep(self, probabilities: np.ndarray) -> None:
        """Saves what there is, if the last time is long ago or the process was told to end.

        Raises:
            StorageError: The disk is full; what was saved before is there.
        """
        if self._stop() or time.monotonic() - self._saved >= EVERY:
            self._checkpoints.save(Checkpoint({}, {"probabilities": [probabilities]}))
            self._saved = time.monotonic()


def work(spec: JobSpec, paths: Paths, stop: Stop, report: Report) -> str:
    """Predicts; the result is `out/predictions.csv`, keyed by sample id."""
    model = ModelFolder.load(paths.inputs / spec.inputs["model"])
    predictor = Predictor(model)
    predictor.check_golden()
    watched = stop.watched(report)
    kept = Kept(Checkpoints(paths.checkpoints, spec.base), stop)
    known = kept.known()
    if known is not None:
        report(Event("log", message=f"goes on after the {len(known):,} images that an earlier attempt predicted"))
    with expanded(paths.data, spec.samples, watched) as data:
        pack = Pack.open(data, spec.samples)
        table = predictor.predict_pack(pack, split=spec.split, report=watched, known=known, keep=kept.keep)
    table = replace(decided(model.record, table), rejected=spec.rejected)
    paths.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(paths.out / "predictions.csv")
    return f"{len(table):,} predictions" + (f", {len(table.rejected):,} rejected" if table.rejected else "")


if __name__ == "__main__":
    raise SystemExit(run_job("medimg.predict", work))
