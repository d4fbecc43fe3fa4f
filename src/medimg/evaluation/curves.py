"""The points of the curves that a report draws, as scikit-learn gives them, whose import takes a second."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["precision_recall_points", "roc_points"]


def _called(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns how many with it, and without, reach each score that occurs, the highest first."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = np.cumsum(truth[order])[ends]
    return found, ends + 1 - found


def roc_points(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns 1 - specificity and sensitivity at the corners of the curve, float64 (corners,), from (0, 0) to (1, 1).

    Args:
        truth: bool (n,), with both values in it.
        scores: float64 (n,); higher is more positive.
    """
    found, false_alarms = _called(truth, scores)
    corners = np.ones(len(found), dtype=bool)
    corners[1:-1] = (np.diff(found, 2) != 0) | (np.diff(false_alarms, 2) != 0)
    found, false_alarms = found[corners], false_alarms[corners]
    return np.insert(false_alarms / false_alarms[-1], 0, 0), np.insert(found / found[-1], 0, 0)


def precision_recall_points(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns sensitivity and precision where the sensitivity changes, float64 (points,), down to (0, 1).

    Args:
        truth: bool (n,), with a positive in it.
        scores: float64 (n,); higher is more positive.
    """
    found, false_alarms = _called(truth, scores)
    changes = np.diff(found) != 0
    kept = np.append(True, changes) | np.append(changes, True)
    kept[[0, -1]] = True
    found, false_alarms = found[kept][::-1], false_alarms[kept][::-1]
    return np.append(found / found[0], 0.0), np.append(found / (found + false_alarms), 1.0)
