"""Thresholds are chosen on validation and nowhere else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimg.errors import DatasetError
from medimg.evaluation.thresholds import choose, youden
from medimg.inference.predictions import Predictions


def binary(truth: list[int], scores: list[float], split: str | None = "val") -> Predictions:
    """Returns a binary table."""
    p = np.array(scores)
    return Predictions(
        classes=("NORMAL", "PNEUMONIA"),
        task="binary",
        positive="PNEUMONIA",
        ids=tuple(map(str, range(len(truth)))),
        probabilities=np.stack([1 - p, p], axis=1),
        labels=tuple(truth),
        split=split,
    )


SCORES = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=60)


@settings(max_examples=200, deadline=None)
@given(SCORES)
def test_no_threshold_has_a_larger_youden_index(pairs: list[tuple[bool, int]]) -> None:
    """The oracle tries every threshold one by one."""
    truth = np.array([label for label, _ in pairs])
    scores = np.array([score / 20 for _, score in pairs])
    if truth.all() or not truth.any():
        return

    def index(threshold: float) -> float:
        return float(np.mean(scores[truth] >= threshold) + np.mean(scores[~truth] < threshold) - 1)

    best = max(index(threshold) for threshold in np.unique(scores))
    found = youden(truth, scores)
    if found is None:
        assert best <= 1e-12
    else:
        assert index(found) == pytest.approx(best)
        assert 0 < found <= 1


def test_the_threshold_is_midway_between_the_neighbouring_scores() -> None:
    """The gap between 0.4 and 0.6 separates the classes; its middle is the most stable place."""
    truth = np.array([False, False, True, True])
    assert youden(truth, np.array([0.1, 0.4, 0.6, 0.9])) == pytest.approx(0.5)


def test_of_equal_maxima_the_more_sensitive_one_is_taken() -> None:
    """Both 0.75 and 0.25 give an index of 0.5; the lower one misses nobody."""
    truth = np.array([False, True, False, True])
    assert youden(truth, np.array([0.1, 0.4, 0.6, 0.9])) == pytest.approx(0.25)


def test_neighbouring_floats_still_separate() -> None:
    """No number lies between two neighbouring floats, so the upper one is the threshold."""
    low = 0.7
    high = float(np.nextafter(low, 1))
    assert youden(np.array([False, True]), np.array([low, high])) == high


@pytest.mark.parametrize("split", ["test", "train", None])
def test_only_validation_may_choose(split: str | None) -> None:
    """A threshold chosen where the model is judged would flatter it."""
    with pytest.raises(DatasetError, match="chosen on validation"):
        choose(binary([0, 1], [0.1, 0.9], split), "youden")


def test_a_clear_case_needs_no_notice() -> None:
    """With 100 of each, well apart, there is nothing to warn about."""
    found = choose(binary([0] * 100 + [1] * 100, [0.2] * 100 + [0.6] * 100), "youden")
    assert found.values == {"PNEUMONIA": pytest.approx(0.4)}
    assert found.chosen == ("PNEUMONIA",)
    assert found.notices == ()


@pytest.mark.parametrize(
    ("negatives", "positives", "scores", "word"),
    [(50, 9, (0.2, 0.6), "fewer than 10"), (9, 50, (0.2, 0.6), "fewer than 10"), (50, 50, (0.3, 0.3), "chance")],
)
def test_what_cannot_be_chosen_is_one_half_and_says_so(
    negatives: int, positives: int, scores: tuple[float, float], word: str
) -> None:
    """Too few images, or scores that say nothing: 0.5, a notice, and not counted as chosen."""
    low, high = scores
    found = choose(binary([0] * negatives + [1] * positives, [low] * negatives + [high] * positives), "youden")
    assert found.values == {"PNEUMONIA": 0.5}
    assert found.fallback == ("PNEUMONIA",) and found.chosen == ()
    assert word in found.notices[0] and "PNEUMONIA" in found.notices[0]


def test_few_positives_make_an_uncertain_threshold() -> None:
    """Under 73 positives the choice stands, with a warning."""
    found = choose(binary([0] * 80 + [1] * 72, [0.2] * 80 + [0.6] * 72), "youden")
    assert found.values == {"PNEUMONIA": pytest.approx(0.4)}
    assert "PNEUMONIA (72)" in found.notices[0]


def test_a_fixed_policy_is_taken_as_it_is() -> None:
    """A probability from the configuration is no choice on validation."""
    found = choose(binary([0, 1], [0.1, 0.9]), 0.3)
    assert found.values == {"PNEUMONIA": 0.3}
    assert found.chosen == () and found.notices == ()


def test_each_label_has_its_own_threshold_and_unknown_labels_do_not_count() -> None:
    """Label A is separated at 0.5; of label B only 9 positives are known, though 30 images score high."""
    n = 60
    table = Predictions(
        classes=("A", "B"),
        task="multilabel",
        ids=tuple(map(str, range(n))),
        probabilities=np.array([[0.4 if i < 30 else 0.6, 0.1 if i < 30 else 0.9] for i in range(n)]),
        labels=tuple((int(i >= 30), 0 if i < 30 else 1 if i < 39 else None) for i in range(n)),
        split="val",
    )
    found = choose(table, "youden")
    assert found.values == {"A": pytest.approx(0.5), "B": 0.5}
    assert found.chosen == ("A",)
    assert any("B (9 with, 30 without)" in notice for notice in found.notices)


def test_multiclass_decides_without_thresholds() -> None:
    """The most probable class is decided."""
    table = Predictions(
        classes=("a", "b", "c"), task="multiclass", ids=("1",), probabilities=np.eye(3)[:1], labels=(0,), split="val"
    )
    assert choose(table, "youden").values == {}
