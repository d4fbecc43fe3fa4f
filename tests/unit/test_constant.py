"""A network that says the same of every image is refused, and one that decides the same is told of."""

from __future__ import annotations

import numpy as np
import pytest

from medimg.errors import AuditError
from medimg.evaluation.constant import check_varied
from medimg.evaluation.thresholds import Thresholds
from medimg.inference.predictions import Predictions

HALF = Thresholds(values={"ILL": 0.5}, policy=0.5)
NONE = Thresholds(values={}, policy="youden")


def binary(scores: list[float]) -> Predictions:
    """Returns predictions of validation."""
    p = np.array(scores)
    return Predictions(
        classes=("CLEAR", "ILL"), task="binary", positive="ILL", ids=tuple(map(str, range(len(p)))),
        probabilities=np.stack([1 - p, p], axis=1), split="val",
    )  # fmt: skip


def several(task: str, rows: list[list[float]]) -> Predictions:
    """Returns predictions of three classes or labels."""
    return Predictions(
        classes=("a", "b", "c"), task=task, ids=tuple(map(str, range(len(rows)))),  # type: ignore[arg-type]
        probabilities=np.array(rows), split="val",
    )  # fmt: skip


def test_the_same_probabilities_for_every_image_stop_the_training() -> None:
    """Rounding apart; the message says what to try, and how to go on."""
    for constant, thresholds in (
        (binary([0.74, 0.74 + 1e-8, 0.74]), HALF), (several("multiclass", [[0.2, 0.3, 0.5]] * 4), NONE),
        (several("multilabel", [[0.2, 0.3, 0.4]] * 4), NONE),
    ):  # fmt: skip
        with pytest.raises(AuditError, match=r"the same probabilities: it has learnt nothing\. Lower") as caught:
            check_varied(constant, thresholds, allow=())
        assert caught.value.check == "constant-predictions"
        allowed = check_varied(constant, thresholds, allow=("constant-predictions",))
        assert (allowed.level, allowed.message.endswith("(allowed)")) == ("error", True)


def test_a_network_that_always_decides_the_same_is_told_of() -> None:
    """Such as one that always says "no finding", however its probabilities differ."""
    always = check_varied(binary([0.1, 0.2, 0.4]), HALF, allow=())
    assert always.level == "warning"
    assert "all 3 validation images are decided alike ('CLEAR')" in always.message
    assert "('ILL')" in check_varied(binary([0.5, 0.6]), HALF, allow=()).message
    same = several("multiclass", [[0.2, 0.3, 0.5], [0.3, 0.1, 0.6]])
    assert "decided alike ('c')" in check_varied(same, NONE, allow=()).message


def test_a_label_that_was_not_learnt_is_named() -> None:
    """The others may be of use."""
    found = check_varied(several("multilabel", [[0.2, 0.3, 0.4], [0.2, 0.5, 0.6]]), NONE, allow=())
    assert found.level == "warning"
    assert "the same probability of 'a'" in found.message


def test_predictions_that_differ_are_fine() -> None:
    """In probabilities and in decisions."""
    for varied, thresholds in ((binary([0.1, 0.9]), HALF),
                               (several("multiclass", [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]), NONE)):  # fmt: skip
        assert check_varied(varied, thresholds, allow=()).level == "fine"
