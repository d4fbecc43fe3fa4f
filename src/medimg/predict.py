"""`python -m medimg.predict --spec … --data … --inputs … --out … --checkpoints …`: predicts a pack as a job."""

from __future__ import annotations

from medimg.artifact import ModelFolder
from medimg.config import JobSpec
from medimg.data.pack import Pack
from medimg.data.transport import expanded
from medimg.inference.predictor import Predictor
from medimg.job import Paths, Stop, run_job
from medimg.progress import Report


def work(spec: JobSpec, paths: Paths, stop: Stop, report: Report) -> str:
    """Predicts; the result is `out/predictions.csv`, keyed by sample id."""
    predictor = Predictor(ModelFolder.load(paths.inputs / spec.inputs["model"]))
    predictor.check_golden()
    watched = stop.watched(report)
    with expanded(paths.data, spec.samples, watched) as data:
        table = predictor.predict_pack(Pack.open(data, spec.samples), split=spec.split, report=watched)
    paths.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(paths.out / "predictions.csv")
    return f"{len(table):,} predictions"


if __name__ == "__main__":
    raise SystemExit(run_job("medimg.predict", work))
