"""Calibration: equal to scikit-learn's and netcal's figures, and None where there is nothing to fit."""

import math

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from medimg.evaluation.calibration import (
    brier,
    ece,
    fit_temperature,
    log_odds,
    negative_log_likelihood,
    reliability,
    slope_intercept,
)

# netcal 1.4.0 drags in PyTorch, so its figure is recorded, not computed here. It was made with an empty module for
# torch, which this figure does not use: ECE(10, equal_intervals=False).measure(scores, truth) of `netcals_table`.
NETCAL_ECE = 0.10965771839462221


def netcals_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns truth and 500 different scores."""
    rng = np.random.default_rng(11)
    scores = rng.random(500)
    return rng.random(500) < scores**1.5, scores


def sample(seed: int = 0, n: int = 400, stretch: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns truth drawn from probabilities, and those probabilities with their log-odds stretched and moved."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-0.5, 1.2, n)
    return rng.random(n) < 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-stretch * odds - shift))


def test_brier_is_that_of_scikit_learn() -> None:
    """Of one column from 0 to 1, of several classes the sum of squares."""
    truth, scores = sample()
    assert brier(truth.astype(float), scores) == pytest.approx(oracle.brier_score_loss(truth, scores), abs=1e-12)
    rng = np.random.default_rng(1)
    classes, p = rng.integers(0, 3, 200), rng.dirichlet(np.ones(3), 200)
    assert brier(np.eye(3)[classes], p) == pytest.approx(oracle.brier_score_loss(classes, p), abs=1e-12)


@pytest.mark.parametrize("digits", [16, 1])
def test_the_reliability_curve_is_that_of_scikit_learn(digits: int) -> None:
    """Bins of equal mass, also where ties leave some of them empty."""
    truth, scores = sample()
    scores = scores.round(digits)
    share, score = sklearn.calibration.calibration_curve(truth, scores, n_bins=10, strategy="quantile")
    bins = reliability(truth, scores)
    assert [one.share for one in bins] == pytest.approx(share, abs=1e-12)
    assert [one.score for one in bins] == pytest.approx(score, abs=1e-12)
    assert sum(one.n for one in bins) == 400
    expected = sum(one.n / 400 * abs(s - p) for one, s, p in zip(bins, share, score, strict=True))
    assert ece(truth, scores) == pytest.approx(expected, abs=1e-12)


def test_ece_is_that_of_netcal() -> None:
    """The recorded figure of an independent program."""
    truth, scores = netcals_table()
    assert ece(truth, scores) == pytest.approx(NETCAL_ECE, abs=1e-6)


def test_equal_scores_fall_into_one_bin() -> None:
    """A constant model has one bin, whose distance is the ECE."""
    truth = np.arange(100) < 30
    (only,) = reliability(truth, np.full(100, 0.5))
    assert (only.n, only.score, only.share) == (100, 0.5, 0.3)
    assert ece(truth, np.full(100, 0.5)) == pytest.approx(0.2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_slope_and_intercept_are_those_of_scikit_learns_logistic_regression(seed: int) -> None:
    """Without penalty. The intercept has the slope held at 1, so its residuals sum to 0."""
    truth, scores = sample(seed, n=150, stretch=1.5, shift=0.4)
    line = slope_intercept(truth, scores)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(log_odds(scores)[:, None], truth)
    assert line.slope == pytest.approx(fitted.coef_[0, 0], abs=1e-6)
    assert line.intercept is not None
    moved = 1 / (1 + np.exp(-log_odds(scores) - line.intercept))
    assert moved.mean() == pytest.approx(truth.mean(), abs=1e-9)
    assert line.slope_interval is None  # no patients were given


def test_what_was_stretched_and_moved_is_found_again() -> None:
    """Log-odds doubled and one too high: slope 1/2, and with intervals that hold the truth."""
    truth, scores = sample(n=20_000, stretch=2.0)
    line = slope_intercept(truth, scores, np.arange(20_000))
    assert line.slope == pytest.approx(0.5, abs=0.03)
    assert line.slope_interval is not None and line.slope_interval[0] < 0.5 < line.slope_interval[1]
    truth, scores = sample(n=20_000, shift=1.0)
    line = slope_intercept(truth, scores, np.arange(20_000))
    assert line.intercept == pytest.approx(-1, abs=0.05)
    assert line.intercept_interval is not None and line.intercept_interval[0] < -1 < line.intercept_interval[1]


def test_intervals_of_slope_and_intercept_know_patients() -> None:
    """Four copies of each image say no more than one: the intervals stay, where as new images they would halve."""
    truth, scores = sample(n=300)
    once = slope_intercept(truth, scores, np.arange(300))
    four = [np.repeat(values, 4) for values in (truth, scores, np.arange(300))]
    copied, as_new = slope_intercept(*four), slope_intercept(four[0], four[1], np.arange(1200))
    for name in ("slope_interval", "intercept_interval"):
        low, high = getattr(once, name)
        assert getattr(copied, name) == pytest.approx((low, high), abs=1e-6)
        assert np.diff(getattr(as_new, name)) == pytest.approx((high - low) / 2, rel=0.02)
    assert slope_intercept(truth, scores, np.arange(300) % 9).slope_interval is None


def test_separated_classes_have_no_slope() -> None:
    """Either way round, touching in a tie, or with constant scores; the intercept stays. One class: neither."""
    truth = np.arange(40) < 20
    apart = np.where(truth, 0.6, 0.4)
    for scores in (apart, 1 - apart, np.where(np.arange(40) < 25, apart, 0.6), np.full(40, 0.3)):
        line = slope_intercept(truth, scores)
        assert line.slope is None and line.intercept is not None and math.isfinite(line.intercept)
    assert slope_intercept(np.ones(40, dtype=bool), apart).intercept is None


def test_probabilities_of_exactly_0_and_1_are_fitted() -> None:
    """A saturated network: log-odds stay finite."""
    truth, scores = sample()
    scores[:3], scores[3:6] = 0.0, 1.0
    line = slope_intercept(truth, scores)
    assert line.slope is not None and math.isfinite(line.slope)


def test_saturated_probabilities_have_no_interval_of_hundreds_of_thousands() -> None:
    """All at 0 or 1, with one error on each side: only rounding would be left to tell the intercept by."""
    truth = np.arange(100) < 50
    scores = truth.astype(float)
    scores[[0, 99]] = 0.0, 1.0
    line = slope_intercept(truth, scores, np.arange(100))
    assert line.intercept == pytest.approx(0, abs=1e-6)
    assert line.intercept_interval is None


def test_the_temperature_gives_the_smallest_loss() -> None:
    """Binary: log-odds tripled come back; any other temperature is worse, and the order stays."""
    truth, scores = sample(n=5000, stretch=3.0)
    logits, y = log_odds(scores)[:, None], truth.astype(float)[:, None]
    best = fit_temperature(logits, y, "binary")
    assert best == pytest.approx(3.0, rel=0.1)
    losses = [oracle.log_loss(truth, 1 / (1 + np.exp(-logits[:, 0] / t))) for t in (best, best * 1.01, best / 1.01)]
    assert losses[0] < min(losses[1:])
    assert negative_log_likelihood(logits[:, 0] / best, y[:, 0]) == pytest.approx(5000 * losses[0])


def test_a_multiclass_task_has_one_temperature_and_logits_up_to_a_constant() -> None:
    """Logarithms of probabilities serve as logits."""
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (3000, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.eye(4)[[rng.choice(4, p=row) for row in p]]
    best = fit_temperature(logits * 2.5, truth, "multiclass")
    assert best == pytest.approx(2.5, rel=0.1)
    assert fit_temperature(2.5 * np.log(p), truth, "multiclass") == pytest.approx(best, rel=1e-6)
    losses = [negative_log_likelihood(2.5 * logits / t, truth) for t in (best, best * 1.01, best / 1.01)]
    assert losses[0] < min(losses[1:])


def test_a_multilabel_task_has_a_temperature_for_each_label_and_masks_the_unknown() -> None:
    """An unknown label takes no part; what is said of one label changes no other."""
    (one, first), (two, second) = sample(0, stretch=2.0), sample(1, stretch=0.5)
    truth = np.stack([one, two], axis=1).astype(float)
    logits = log_odds(np.stack([first, second], axis=1))
    truth[:200, 1] = np.nan
    found = fit_temperature(logits, truth, "multilabel")
    assert isinstance(found, np.ndarray) and found.shape == (2,)
    assert found[0] == pytest.approx(fit_temperature(logits[:, :1], truth[:, :1], "binary"))
    assert found[1] == pytest.approx(fit_temperature(logits[200:, 1:], truth[200:, 1:], "binary"))


def test_where_no_temperature_is_best_it_is_1() -> None:
    """All on the right side (the best would be 0), ranked the wrong way round (infinite), or nothing known."""
    truth = (np.arange(40) < 20).astype(float)[:, None]
    right = np.where(truth == 1, 1.0, -1.0)
    assert fit_temperature(right, truth, "binary") == 1
    assert fit_temperature(-right, truth, "binary") == 1
    assert fit_temperature(np.zeros((40, 1)), truth, "binary") == 1
    assert fit_temperature(right, np.full((40, 1), np.nan), "multilabel") == pytest.approx([1])
    three = np.eye(3)[np.arange(30) % 3]
    assert fit_temperature(three * 5, three, "multiclass") == 1
