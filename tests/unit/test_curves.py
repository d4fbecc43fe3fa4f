"""The points of the curves in a report are scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as oracle

from medimg.evaluation.curves import precision_recall_points, roc_points
from medimg.evaluation.intervals import areas


@pytest.mark.parametrize("decimals", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_curves_and_areas_are_those_of_scikit_learn(seed: int, decimals: int) -> None:
    """With many ties and with none; the same points are left out."""
    rng = np.random.default_rng(seed)
    truth = np.append([True, False], rng.random(40) < 0.3)
    scores = rng.random(42).round(decimals)
    false_alarms, found, _ = oracle.roc_curve(truth, scores)
    np.testing.assert_array_equal(np.stack(roc_points(truth, scores)), np.stack([false_alarms, found]))
    precision, recall, _ = oracle.precision_recall_curve(truth, scores, drop_intermediate=True)
    np.testing.assert_array_equal(np.stack(precision_recall_points(truth, scores)), np.stack([recall, precision]))
    expected = (oracle.roc_auc_score(truth, scores), oracle.average_precision_score(truth, scores))
    np.testing.assert_allclose(areas(truth, scores), expected, rtol=0, atol=1e-12)
