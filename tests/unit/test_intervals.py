"""Intervals know that images of one patient are alike, and never claim a certainty that the data do not give."""

import math

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from medimg.errors import DatasetError
from medimg.evaluation.intervals import (
    Ranking,
    bootstrap_weights,
    delong,
    delong_paired,
    extreme,
    numbered,
    on_logit_scale,
    percentiles,
    proportion,
)


def sample(seed: int, n: int = 60, patients: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns truth with both values, scores with ties, and the patient of each sample."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    truth[:2] = True, False
    scores = rng.normal(truth, 1).round(1)
    return truth, scores, np.concatenate([np.arange(patients), rng.integers(0, patients, n - patients)])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_weighted_areas_are_those_of_scikit_learn(seed: int) -> None:
    """AUROC and average precision of every resample, ties included, though nothing is sorted again."""
    truth, scores, patients = sample(seed)
    (weights,) = bootstrap_weights(patients, 4, seed)
    auroc, precision = Ranking(truth, scores, patients, 15).areas(weights)
    for column in range(4):
        drawn = weights[patients, column]
        if drawn[truth].any() and drawn[~truth].any():
            assert auroc[column] == pytest.approx(oracle.roc_auc_score(truth, scores, sample_weight=drawn), abs=1e-12)
            expected = oracle.average_precision_score(truth, scores, sample_weight=drawn)
            assert precision[column] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(auroc[column]) and np.isnan(precision[column])


def test_a_resample_without_one_of_the_classes_has_no_areas() -> None:
    """Only negatives drawn, or only positives: there is nothing to rank."""
    ranking = Ranking(np.array([True, False]), np.array([0.9, 0.1]), np.array([0, 1]), 2)
    auroc, precision = ranking.areas(np.array([[1.0, 0.0, 2.0], [1.0, 2.0, 0.0]]))
    assert auroc[0] == precision[0] == 1
    assert np.isnan(auroc[1:]).all() and np.isnan(precision[1:]).all()


def test_samples_are_numbered_by_patient_whatever_their_order() -> None:
    """A sample without a patient is its own, even where its id is another's patient."""
    groups, ids = ["b", "a", None, "b"], ["1", "2", "a", "4"]
    found = numbered(groups, ids)
    assert found[0] == found[3] and len(set(found.tolist())) == 3
    order = [2, 0, 3, 1]
    assert numbered([groups[row] for row in order], [ids[row] for row in order]).tolist() == found[order].tolist()
    assert sorted(numbered(None, ids).tolist()) == [0, 1, 2, 3]


def test_every_resample_draws_as_many_patients_as_there_are_and_the_seed_decides() -> None:
    """Also where the resamples come in several pieces."""
    patients = np.arange(70_000)
    pieces = list(bootstrap_weights(patients, 20, 7))
    assert len(pieces) > 1
    weights = np.concatenate(pieces, axis=1)
    assert weights.shape == (70_000, 20) and (weights.sum(axis=0) == 70_000).all()
    assert weights.var() == pytest.approx(1, abs=0.02)  # a Poisson number of draws each, nearly
    again = np.concatenate(list(bootstrap_weights(patients, 20, 7)), axis=1)
    other = np.concatenate(list(bootstrap_weights(patients, 20, 8)), axis=1)
    assert (weights == again).all() and (weights != other).any()


def test_memory_grows_neither_with_the_images_nor_with_the_resamples() -> None:
    """A video of many frames and few patients: what a ranking keeps for each frame and resample comes in pieces."""
    frames, patients = 60_000, np.arange(60_000) % 20
    widest = max(weights.shape[1] for weights in bootstrap_weights(patients, 200, 0))
    assert widest * frames * 8 <= 4 * 2**20


def test_percentiles_need_nine_tenths_of_the_resamples_and_some_spread() -> None:
    """A figure that often cannot be computed, never moves, or has no bound has no interval."""
    values = np.arange(1000.0)
    assert percentiles(values) == (24, 974)
    some = np.where(values % 10 == 0, np.nan, values)
    assert percentiles(some) is not None
    some[1] = np.nan
    assert percentiles(some) is None
    assert percentiles(np.ones(1000)) is None
    assert percentiles(np.where(values < 900, values, np.inf)) is None
    assert percentiles(np.full(3, np.nan)) is None


def test_the_logit_scale_keeps_an_interval_inside_0_and_1() -> None:
    """Where value ± 2 standard errors would leave the range, and not under ten patients."""
    values = np.random.default_rng(0).normal(0.98, 0.02, 1000).clip(0.5, 1)
    low, high = on_logit_scale(0.98, values, 50) or (0, 0)
    assert 0.85 < low < 0.98 < high < 1
    assert on_logit_scale(0.98, values, 9) is None
    assert on_logit_scale(1.0, values, 50) is None


def test_a_share_of_independent_images_has_wilsons_interval() -> None:
    """One image a patient: the textbook's formula, with Student's t for the normal quantile."""
    hits = np.arange(200) < 160
    low, high = proportion(hits.astype(float), np.ones(200), np.arange(200)) or (0, 0)
    t, n, p = 1.971957, 199, 0.8  # n / (n - 1) of the variance makes 200 images worth 199
    middle, half = (p + t**2 / (2 * n)) / (1 + t**2 / n), t * math.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    assert (low, high) == pytest.approx((middle - half / (1 + t**2 / n), middle + half / (1 + t**2 / n)), abs=1e-5)


def test_images_of_one_patient_that_agree_count_as_one() -> None:
    """Four copies of each image change neither the share nor its interval, where each copy were new it would shrink."""
    hits = (np.random.default_rng(3).random(50) < 0.8).astype(float)
    once = proportion(hits, np.ones(50), np.arange(50))
    copied = proportion(np.repeat(hits, 4), np.ones(200), np.repeat(np.arange(50), 4))
    as_new = proportion(np.repeat(hits, 4), np.ones(200), np.arange(200))
    assert once is not None and copied == pytest.approx(once) and as_new is not None
    assert as_new[1] - as_new[0] < 0.6 * (once[1] - once[0])


def test_a_perfect_share_is_no_certainty() -> None:
    """20 of 20 found: the true sensitivity may well be under 0.85; the same for none of 20."""
    low, high = proportion(np.ones(20), np.ones(20), np.arange(20)) or (0, 0)
    assert high == 1 and low == pytest.approx(20 / (20 + 2.093024**2), abs=1e-6)
    assert proportion(np.zeros(20), np.ones(20), np.arange(20)) == pytest.approx((0, 1 - low))
    assert proportion(np.ones(80), np.ones(80), np.repeat(np.arange(20), 4)) == pytest.approx((low, 1))
    assert extreme(1.0, 20) == pytest.approx((low, 1)) and extreme(1.0, 1) is None


def test_a_share_needs_ten_patients() -> None:
    """A hundred images of nine patients give none; samples that do not count bring no patient."""
    patients = np.repeat(np.arange(10), 10)
    hits = np.arange(100) % 3 == 0
    assert proportion(hits.astype(float), np.ones(100), patients) is not None
    assert proportion(hits.astype(float), (patients > 0).astype(float), patients) is None


def slow_delong(truth: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Returns the area of a, its variance, and the variance of the difference, straight from the paper of 1988."""
    x, y = [s[truth][:, None] for s in (a, b)], [s[~truth][None] for s in (a, b)]
    wins = [(one > other) + (one == other) / 2 for one, other in zip(x, y, strict=True)]
    m, n = wins[0].shape
    s10, s01 = np.cov([w.mean(axis=1) for w in wins]), np.cov([w.mean(axis=0) for w in wins])
    s = s10 / m + s01 / n
    return float(wins[0].mean()), float(s[0, 0]), float(s[0, 0] + s[1, 1] - 2 * s[0, 1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_delong_by_ranks_is_delong_by_pairs(seed: int) -> None:
    """With ties; and a model does not differ from itself."""
    truth, a, _ = sample(seed)
    b = np.random.default_rng(seed).normal(a, 0.7).round(1)
    area, variance, of_difference = slow_delong(truth, a, b)
    assert delong(truth, a) == pytest.approx((area, variance), abs=1e-12)
    difference, found = delong_paired(truth, a, b)
    assert difference == pytest.approx(oracle.roc_auc_score(truth, b) - area, abs=1e-12)
    assert found == pytest.approx(of_difference, abs=1e-12)
    assert delong_paired(truth, a, a) == pytest.approx((0, 0), abs=1e-12)


def test_delong_is_that_of_mlstatkit() -> None:
    """An independent program gives the same areas and the same z."""
    mlstatkit = pytest.importorskip("MLstatkit", reason="MLstatkit, in medimg[dev], is the oracle")
    for seed in range(5):
        truth, a, _ = sample(seed, n=300)
        b = np.random.default_rng(seed).normal(a, 0.7)
        z, p, first, second = mlstatkit.Delong_test(truth.astype(int), a, b, return_ci=False)
        difference, variance = delong_paired(truth, a, b)
        assert (delong(truth, a)[0], delong(truth, b)[0]) == pytest.approx((first, second), abs=1e-6)
        assert difference / math.sqrt(variance) == pytest.approx(z, abs=1e-6)
        assert math.erfc(abs(difference) / math.sqrt(2 * variance)) == pytest.approx(p, abs=1e-6)


def test_delong_needs_two_of_each_kind() -> None:
    """One positive has no variance."""
    with pytest.raises(DatasetError, match="1 with and 2 without"):
        delong(np.array([True, False, False]), np.array([0.3, 0.2, 0.1]))


def test_the_interval_of_patients_covers_and_that_of_images_does_not() -> None:
    """60 patients with 4 alike images, 200 draws: AUROC is inside 95% intervals of patients, not in those of images."""
    held = {"patients": 0, "images": 0}
    whose, draws = np.repeat(np.arange(60), 4), 200
    true = 0.5 * (1 + math.erf(0.5))  # two normal distributions, one standard deviation apart
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        truth = (rng.random(60) < 0.5)[whose]
        scores = truth + math.sqrt(0.7) * rng.normal(size=60)[whose] + math.sqrt(0.3) * rng.normal(size=240)
        for name, patients in (("patients", whose), ("images", np.arange(240))):
            ranking = Ranking(truth, scores, patients, patients.max() + 1)
            area = float(ranking.areas(np.ones((patients.max() + 1, 1)))[0][0])
            drawn = np.concatenate([ranking.areas(weights)[0] for weights in bootstrap_weights(patients, 150, seed)])
            rarer = min(len(set(patients[truth].tolist())), len(set(patients[~truth].tolist())))
            low, high = on_logit_scale(area, drawn, rarer) or (0, 0)
            held[name] += low <= true <= high
    # Three standard errors of 200 draws of 95% are 4.6%.
    assert 0.904 < held["patients"] / draws < 0.996
    assert held["images"] / draws < 0.85
