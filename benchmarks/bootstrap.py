"""What 2,000 resamples of the patients cost, with every figure, beside a loop over scikit-learn.

The table is made up in the shape of ChestX-ray14's test set: 25,000 images, 14 labels, about 9 images a patient. The
loop computes AUROC and AUPRC alone, of a few resamples, and is extrapolated.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from medimg.evaluation.intervals import bootstrap_weights, numbered
from medimg.evaluation.metrics import measure
from medimg.inference.predictions import Predictions

LIMIT_SECONDS = 20.0
RESAMPLES = 2000
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


def seconds(predictions: Predictions, resamples: int) -> float:
    """Returns how many seconds of processor `measure` takes."""
    thresholds = dict.fromkeys(predictions.classes, 0.5)
    started = time.process_time()
    measure(predictions, thresholds, resamples=resamples)
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
    """Prints the table; returns 1 where it takes longer than the limit.

    Seconds of processor, which others on the same machine do not change; where it is idle the clock shows no more.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=3, help="resamples of the plain loop")
    loops = parser.parse_args().loops
    seconds(table(1000, 100), 10)  # imports
    slowest = 0.0
    for name, patients in (("2,797 patients", 2797), ("each its own patient", 25_000)):
        predictions = table(25_000, patients)
        clock = time.perf_counter()
        ours = seconds(predictions, RESAMPLES)
        clock = time.perf_counter() - clock
        alone = seconds(predictions, 0)
        loop = plain_loop(predictions, loops) / loops * RESAMPLES
        print(
            f"25,000 images × 14 labels, {name}, all figures with intervals: {ours:.1f} s (by the clock {clock:.1f} s)"
        )
        print(f"  without intervals: {alone:.1f} s")
        print(f"  scikit-learn's AUROC and AUPRC in a loop, from {loops} resamples: {loop:.0f} s, {loop / ours:.0f} ×")
        slowest = max(slowest, ours)
    print(
        f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB; limit {LIMIT_SECONDS} s"
    )
    return int(slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
