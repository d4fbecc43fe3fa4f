"""Net benefit, and predictive values at another prevalence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimg.errors import DatasetError
from medimg.evaluation.benefit import decision_curve, predictive_values

GRID = np.arange(0.01, 1, 0.01)


def cases(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Returns a truth and probabilities with ties, some of them exactly on the grid."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    return truth, np.round(1 / (1 + np.exp(-(2 * truth - 1.5 + rng.normal(size=n)))), 2)


def test_net_benefit_is_that_of_dcurves() -> None:
    """The figures of the method's authors' package, dcurves 1.1.7, on the same cases, to a millionth."""
    curve = decision_curve(*cases(0), [0.1, 0.25, 0.5, 0.75])
    model = [0.1888888888888889, 0.15333333333333338, 0.15666666666666668, 0.05333333333333334]
    treat_all = [0.1703703703703704, 0.004444444444444501, -0.49333333333333323, -1.9866666666666664]
    np.testing.assert_allclose(curve.model, model, atol=1e-6)
    np.testing.assert_allclose(curve.treat_all, treat_all, atol=1e-6)


def test_net_benefit_by_hand() -> None:
    """At 0.2 a false alarm costs a quarter: two found and one false alarm of five images."""
    truth = np.array([True, True, True, False, False])
    scores = np.array([0.9, 0.2, 0.1, 0.2, 0.1])
    curve = decision_curve(truth, scores, [0.0, 0.2])
    np.testing.assert_allclose(curve.model, [0.6, 2 / 5 - 1 / 5 / 4])
    np.testing.assert_allclose(curve.treat_all, [0.6, 3 / 5 - 2 / 5 / 4])
    np.testing.assert_array_equal(curve.treat_none, [0, 0])


@given(st.integers(0, 1000))
def test_at_the_lowest_threshold_the_model_treats_all(seed: int) -> None:
    """Where every score is called positive both curves are one, and perfect scores lose nothing at any threshold."""
    truth, scores = cases(seed, 50)
    curve = decision_curve(truth, scores, [0.0])
    np.testing.assert_allclose(curve.model, curve.treat_all)
    perfect = decision_curve(truth, truth.astype(np.float64), GRID)
    np.testing.assert_allclose(perfect.model, truth.mean())
    assert (perfect.model >= perfect.treat_all - 1e-12).all()


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_at_which_no_alarm_pays_is_refused(threshold: float) -> None:
    """At 1 the price of a false alarm is infinite."""
    with pytest.raises(DatasetError, match="from 0 to less than 1"):
        decision_curve(*cases(0), [0.5, threshold])
    with pytest.raises(DatasetError, match="at least one image"):
        decision_curve(np.array([], dtype=bool), np.array([]), [0.5])


def test_predictive_values_by_hand() -> None:
    """Of 10,000 screened at 1%, 90 of 100 are found and 990 of 9,900 are false alarms."""
    found = predictive_values(0.9, 0.9, [0.01, 0.5])
    np.testing.assert_allclose(found.ppv, [90 / 1080, 0.9])
    np.testing.assert_allclose(found.npv, [8910 / 8920, 0.9])
    assert found.ppv_low is None


def test_a_value_of_nothing_is_not_a_number() -> None:
    """A model that calls nothing positive has no PPV, and none is made up."""
    found = predictive_values(0.0, 1.0, [0.1])
    assert np.isnan(found.ppv[0])
    assert found.npv[0] == pytest.approx(0.9)
    with pytest.raises(DatasetError, match="share from 0 to 1"):
        predictive_values(0.9, 0.9, [5.0])


def test_the_band_holds_the_values_in_most_samples() -> None:
    """Built from two 95% intervals it must hold the true PPV in at least 95% of simulated studies."""
    rng = np.random.default_rng(0)
    true = predictive_values(0.8, 0.9, [0.05]).ppv[0]
    held = 0
    for _ in range(400):
        rates, intervals = [], []
        for rate, size in ((0.8, 100), (0.9, 150)):
            share = rng.binomial(size, rate) / size
            half = 1.96 * np.sqrt(share * (1 - share) / size)
            rates.append(share)
            intervals.append((share - half, share + half))
        found = predictive_values(
            *rates, [0.05], sensitivity_interval=intervals[0], specificity_interval=intervals[1]
        )  # fmt: skip
        assert found.ppv_low is not None and found.ppv_high is not None
        held += bool(found.ppv_low[0] <= true <= found.ppv_high[0])
    assert held >= 0.95 * 400


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.0, 0.3))
def test_the_band_encloses_the_values(sensitivity: float, specificity: float, half: float) -> None:
    """Both values rise with both rates, so the lower bounds give the lower edge."""
    bounds = [(max(0.0, rate - half), min(1.0, rate + half)) for rate in (sensitivity, specificity)]
    found = predictive_values(
        sensitivity, specificity, GRID, sensitivity_interval=bounds[0], specificity_interval=bounds[1]
    )
    assert found.ppv_low is not None and found.ppv_high is not None
    assert found.npv_low is not None and found.npv_high is not None
    for low, value, high in ((found.ppv_low, found.ppv, found.ppv_high), (found.npv_low, found.npv, found.npv_high)):
        inside = (low <= value + 1e-12) & (value <= high + 1e-12)
        assert (inside | np.isnan(low) | np.isnan(high)).all()
