"""The figures of subgroups and of patients on real films: where an overall figure hides that some are served worse.

    KERAS_HOME=… python benchmarks/studies/subgroups.py DATA

The films, the frozen network and the logistic head of leakage.py; "any finding", five-fold by patient, threshold 0.5.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from leakage import features, logistic, scores

from medimg.evaluation.intervals import numbered
from medimg.evaluation.metrics import Metrics, measure
from medimg.evaluation.patients import measure_patients
from medimg.evaluation.subgroups import gaps, subgroups
from medimg.inference.predictions import Predictions

THRESHOLD = {"finding": 0.5}


def line(name: str, images: int, patients: int | None, metrics: Metrics | None) -> str:
    """Returns a row of the table."""
    if metrics is None:
        return f"{name} | {images} | {patients} | too few patients"
    shown = []
    for figure in ("auroc", "sensitivity", "specificity"):
        low, high = metrics.intervals[figure]
        shown.append(f"{getattr(metrics, figure):.3f} ({low:.3f}–{high:.3f})")
    return " | ".join([name, str(images), str(patients), str(metrics.per_class[0].positives), *shown])


def main() -> None:
    """Prints a row a subgroup, then the gaps."""
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"MEDIMG_HOME": home, "MEDIMG_SALT": "leakage"}
        x, labels, samples = features(Path(sys.argv[1]))
    y = labels["any finding"]
    patient = numbered([sample.group for sample in samples], [sample.id for sample in samples])
    score = next(scores(x, y, patient, logistic, grouped=True, seeds=1))
    table = Predictions(
        classes=("No Finding", "finding"), task="binary", positive="finding", split="test",
        ids=tuple(sample.id for sample in samples), probabilities=np.stack([1 - score, score], axis=1),
        labels=tuple(y.astype(int).tolist()), groups=tuple(sample.group for sample in samples),
        columns={name: tuple(sample.columns[name] for sample in samples) for name in samples[0].columns},
    )  # fmt: skip
    print(line("all", len(table), int(patient.max()) + 1, measure(table, THRESHOLD, resamples=2000)))
    for one in subgroups(table, THRESHOLD, resamples=2000):
        print(line(f"{one.column}: {one.value}", one.images, one.patients, one.metrics))
    for how, metrics in measure_patients(table, THRESHOLD, resamples=2000).items():
        print(line(f"by patient, {how}", metrics.n, metrics.n, metrics))
    for gap in gaps(table, THRESHOLD):
        low, high = gap.interval
        print(f"{gap.column}, {gap.rate}: {gap.better} less {gap.worse} {gap.difference:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
