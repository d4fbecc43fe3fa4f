"""What 2,000 resamples of the patients cost, with every figure, beside a loop over scikit-learn.

    python benchmarks/bootstrap.py [--rounds 3] [--loops 2]

The tables are made up in the shape of ChestX-ray14's test set: 25,000 images, 14 labels, 2,797 patients or each image
its own. Seconds are of processor, which others on the same machine hardly change; where it is idle the clock shows no
more. The loop computes AUROC and AUPRC alone, of a few resamples, and is extrapolated: it takes the same for each.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from measured import Measured, Row, Table, some
from sklearn.metrics import average_precision_score, roc_auc_score

from medimg.evaluation.intervals import bootstrap_weights, numbered
from medimg.evaluation.metrics import measure
from medimg.inference.predictions import Predictions

LIMIT_SECONDS = 20.0
RESAMPLES = 2000
IMAGES = 25_000
PATIENTS = 2_797
# ChestX-ray14's own prevalences of its 14 labels lie in this range.
PREVALENCE = np.geomspace(0.003, 0.25, 14)


def table(images: int, patients: int) -> Predictions:
    """Returns made-up predictions of 14 labels."""
    rng = np.random.default_rng(0)
    labels = (rng.random((images, 14)) < PREVALENCE).astype(int)
    scores = 1 / (1 + np.exp(-rng.normal(1.5 * labels - 1, 1)))
    groups = tuple(map(str, rng.integers(0, patients, images))) if patients < images else None
    return Predictions(
        classes=tuple(f"label {number}" for number in range(14)),
        task="multilabel",
        ids=tuple(map(str, range(images))),
        probabilities=scores,
        labels=tuple(map(tuple, labels.tolist())),
        groups=groups,
    )


def seconds(predictions: Predictions) -> float:
    """Returns how many seconds of processor `measure` takes."""
    thresholds = dict.fromkeys(predictions.classes, 0.5)
    started = time.process_time()
    measure(predictions, thresholds, resamples=RESAMPLES)
    return time.process_time() - started


def plain_loop(predictions: Predictions, resamples: int) -> float:
    """Returns how many seconds of processor scikit-learn takes for AUROC and AUPRC of a few resamples."""
    patients = numbered(predictions.groups, predictions.ids)
    (weights,) = bootstrap_weights(patients, resamples, 0)
    started = time.process_time()
    for column in weights.T:
        drawn = np.repeat(np.arange(len(patients)), column[patients].astype(int))
        for truth, scores in zip(predictions.truth[drawn].T, predictions.scores[drawn].T, strict=True):
            roc_auc_score(truth, scores)
            average_precision_score(truth, scores)
    return time.process_time() - started


def main() -> int:
    """Prints the table; returns 1 where the limit was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=some, default=3)
    parser.add_argument("--loops", type=int, default=2, help="resamples of the plain loop, a round")
    given = parser.parse_args()
    seconds(table(1000, 100))  # imports
    rows: list[Row] = []
    for work, patients in ((f"{PATIENTS:,} patients", PATIENTS), ("each image a patient", IMAGES)):
        predictions = table(IMAGES, patients)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(given.rounds):
            ours.append(seconds(predictions))
            theirs.append(plain_loop(predictions, given.loops) / given.loops * RESAMPLES)
        rows += [
            Row(f"patient bootstrap, {work}", Measured(tuple(ours)), goal=LIMIT_SECONDS),
            Row(f"patient bootstrap, {work}", Measured(tuple(ours)), "scikit-learn in a loop", Measured(tuple(theirs))),
        ]
    compared = (
        f"{IMAGES:,} images × 14 labels, {RESAMPLES:,} resamples, all figures with their intervals; seconds of "
        f"processor, medians of {given.rounds} rounds. The loop has AUROC and AUPRC alone and is extrapolated from "
        f"{given.loops} resamples a round."
    )
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Table("Bootstrap", compared, tuple(rows), (f"largest memory {largest:,.0f} MiB",)).print()


if __name__ == "__main__":
    raise SystemExit(main())
