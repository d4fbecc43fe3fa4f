"""Thresholds are chosen on validation and nowhere else, by the policy that was asked for."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimg.config import ThresholdPolicy
from medimg.errors import DatasetError
from medimg.evaluation.thresholds import Policy, Thresholds, best, choose
from medimg.inference.predictions import Predictions


def binary(
    truth: list[int], scores: list[float], split: str | None = "val", groups: list[str] | None = None
) -> Predictions:
    """Returns a binary table."""
    p = np.array(scores)
    return Predictions(
        classes=("NORMAL", "PNEUMONIA"),
        task="binary",
        positive="PNEUMONIA",
        ids=tuple(map(str, range(len(truth)))),
        probabilities=np.stack([1 - p, p], axis=1),
        labels=tuple(truth),
        groups=None if groups is None else tuple(groups),
        split=split,
    )


def drawn(seed: int, n: int, *, patients: int | None = None) -> Predictions:
    """Returns a binary table of images that overlap; those of one patient are alike."""
    random = np.random.default_rng(seed)
    patient = np.arange(n) % (patients or n)
    truth = (patient % 3 == 0).astype(int)
    score = 1.8 * truth + random.normal(size=patients or n)[patient] + 0.2 * random.normal(size=n)
    return binary(truth.tolist(), (1 / (1 + np.exp(1 - score))).tolist(), groups=[str(name) for name in patient])


SCORES = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=60)


@settings(max_examples=80, deadline=None)
@given(SCORES)
def test_no_threshold_has_a_larger_youden_index(pairs: list[tuple[bool, int]]) -> None:
    """The oracle tries every threshold one by one."""
    truth = np.array([label for label, _ in pairs])
    scores = np.array([score / 20 for _, score in pairs])
    if truth.all() or not truth.any():
        return

    def index(threshold: float) -> float:
        return float(np.mean(scores[truth] >= threshold) + np.mean(scores[~truth] < threshold) - 1)

    largest = max(index(threshold) for threshold in np.unique(scores))
    found = best("youden", truth, scores)
    if found is None:
        assert largest <= 1e-12
    else:
        assert index(found) == pytest.approx(largest)
        assert 0 < found <= 1


@settings(max_examples=80, deadline=None)
@given(SCORES, st.sampled_from([0.05, 0.5, 0.8, 0.9, 0.95]), st.sampled_from(["sensitivity", "specificity"]))
def test_a_least_figure_is_reached_at_the_best_of_the_other(
    pairs: list[tuple[bool, int]], least: float, name: str
) -> None:
    """The oracle tries every threshold one by one: what is asked for holds, and nothing better does so too."""
    truth = np.array([label for label, _ in pairs])
    scores = np.array([score / 20 for _, score in pairs])
    if truth.all() or not truth.any():
        return

    def figures(threshold: float) -> tuple[float, float]:
        pair = float(np.mean(scores[truth] >= threshold)), float(np.mean(scores[~truth] < threshold))
        return pair if name == "sensitivity" else pair[::-1]

    allowed = [figures(threshold) for threshold in np.unique(scores)]
    other = [second for first, second in allowed if first >= least - 1e-12 and second > 0]
    found = best(ThresholdPolicy.model_validate({name: least}), truth, scores)
    if found is None:
        assert not other
    else:
        assert figures(found)[0] >= least - 1e-12
        assert figures(found)[1] == pytest.approx(max(other))


@settings(max_examples=80, deadline=None)
@given(SCORES, st.sampled_from([(1, 1), (10, 1), (0.5, 3)]))
def test_no_threshold_costs_less(pairs: list[tuple[bool, int]], costs: tuple[float, float]) -> None:
    """Not even calling all images positive, or none; where that is as cheap, there is no threshold."""
    truth = np.array([label for label, _ in pairs])
    scores = np.array([score / 20 for _, score in pairs])
    if truth.all() or not truth.any():
        return
    miss, false_alarm = costs

    def cost(threshold: float) -> float:
        return float(miss * (scores[truth] < threshold).sum() + false_alarm * (scores[~truth] >= threshold).sum())

    found = best(ThresholdPolicy(miss=miss, false_alarm=false_alarm), truth, scores)
    cheapest = min(cost(threshold) for threshold in np.unique(scores))
    blind = min(cost(0.0), cost(2.0))
    if found is None:
        assert cheapest >= blind - 1e-9
    else:
        assert cost(found) == pytest.approx(cheapest)
        assert cost(found) < blind


def test_the_threshold_is_midway_between_the_neighbouring_scores() -> None:
    """The gap between 0.4 and 0.6 separates the classes; its middle is the most stable place."""
    truth = np.array([False, False, True, True])
    assert best("youden", truth, np.array([0.1, 0.4, 0.6, 0.9])) == pytest.approx(0.5)


def test_of_equal_maxima_the_more_sensitive_one_is_taken() -> None:
    """Both 0.75 and 0.25 give an index of 0.5; the lower one misses nobody."""
    truth = np.array([False, True, False, True])
    assert best("youden", truth, np.array([0.1, 0.4, 0.6, 0.9])) == pytest.approx(0.25)


def test_neighbouring_floats_still_separate() -> None:
    """No number lies between two neighbouring floats, so the upper one is the threshold."""
    low = 0.7
    high = float(np.nextafter(low, 1))
    assert best("youden", np.array([False, True]), np.array([low, high])) == high


@pytest.mark.parametrize("split", ["test", "train", None])
def test_only_validation_may_choose(split: str | None) -> None:
    """A threshold chosen where the model is judged would flatter it."""
    with pytest.raises(DatasetError, match="chosen on validation"):
        choose(binary([0, 1], [0.1, 0.9], split), "youden")


def test_a_clear_case_needs_no_notice() -> None:
    """With 100 of each, well apart, there is nothing to warn about."""
    scores = [*np.linspace(0.1, 0.2, 100), *np.linspace(0.6, 0.7, 100)]
    found = choose(binary([0] * 100 + [1] * 100, scores), "youden")
    assert found.values == {"PNEUMONIA": pytest.approx(0.4)}
    assert "PNEUMONIA" in found.uncertain
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


# -- policies ---------------------------------------------------------------------------------------------------------


def test_a_least_sensitivity_says_how_low_the_true_one_may_be() -> None:
    """57 of 60 found: Wilson's 95% interval of 0.95 (with Student's t, of 59 independent ones) begins at 0.859."""
    scores = [0.1] * 80 + [0.3] * 20 + [0.05] * 3 + [0.6] * 57
    found = choose(binary([0] * 100 + [1] * 60, scores), ThresholdPolicy(sensitivity=0.95))
    assert found.values == {"PNEUMONIA": pytest.approx(0.45)}
    asked, few, bandless = found.notices
    assert asked == (
        "Asked for was a sensitivity of at least 0.95. Validation gives PNEUMONIA 0.950 on 60 images (the true one may "
        "be as low as 0.859)."
    )
    assert "fewer than 73 positive validation images: PNEUMONIA (60)" in few
    assert "nearly all give a threshold" in bandless  # a third of the draws have more than 3 of 60 at 0.05


def test_a_least_specificity_is_judged_by_the_negatives() -> None:
    """Sixty negatives are few, whatever the number of positives."""
    found = choose(binary([0] * 60 + [1] * 90, [0.1] * 57 + [0.7] * 3 + [0.6] * 90), ThresholdPolicy(specificity=0.9))
    assert found.values == {"PNEUMONIA": pytest.approx(0.35)}
    assert "a specificity of at least 0.9" in found.notices[0] and "0.950 on 60 images" in found.notices[0]
    assert "fewer than 73 negative validation images: PNEUMONIA (60)" in found.notices[1]


@pytest.mark.parametrize(
    ("policy", "truth", "words"),
    [
        ({"sensitivity": 0.95}, [1] * 10 + [0] * 50 + [1] * 90, "at most 0.900 can be reached"),
        ({"specificity": 0.95}, [1] * 50 + [0] * 40 + [1] * 50 + [0] * 10, "at most 0.800 can be reached"),
        ({"miss": 1000, "false_alarm": 1}, [1] * 10 + [0] * 50 + [1] * 90, "calling all images positive, or none"),
    ],
)
def test_an_aim_out_of_reach_is_one_half_and_says_what_can_be_reached(
    policy: dict[str, float], truth: list[int], words: str
) -> None:
    """The lowest score is a positive's, or the highest a negative's: nothing but calling all alike would do."""
    scores = np.linspace(0.1, 0.9, len(truth)).tolist()
    found = choose(binary(truth, scores), ThresholdPolicy.model_validate(policy))
    assert found.values == {"PNEUMONIA": 0.5} and found.chosen == () and found.uncertain == {}
    assert words in found.notices[0]


def test_an_aim_makes_no_difference_where_the_most_probable_class_is_decided() -> None:
    """And the user is told."""
    table = Predictions(
        classes=("a", "b", "c"), task="multiclass", ids=("1",), probabilities=np.eye(3)[:1], labels=(0,), split="val"
    )
    assert "no effect" in choose(table, ThresholdPolicy(sensitivity=0.9)).notices[0]


@pytest.mark.parametrize(
    "policy",
    ["youden", 0.3, *map(ThresholdPolicy.model_validate, ({"specificity": 0.9}, {"miss": 5, "false_alarm": 1}))],
)
def test_thresholds_travel_as_json(policy: Policy) -> None:
    """With policy and bands."""
    found = choose(drawn(0, 200), policy)
    assert Thresholds.model_validate_json(found.model_dump_json()) == found


# -- the band ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [{}, {"sensitivity": 0.9}, {"specificity": 0.8}, {"miss": 4, "false_alarm": 1}])
def test_the_band_is_the_policy_applied_again_to_draws_of_patients(
    policy: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle repeats each drawn patient's images and chooses among them one draw at a time."""
    from medimg.evaluation import thresholds

    kept: list[np.ndarray] = []
    original: Callable[..., np.ndarray] = thresholds._thresholds

    def keep(*given: object) -> np.ndarray:
        kept.append(original(*given))
        return kept[-1]

    monkeypatch.setattr(thresholds, "_thresholds", keep)
    asked: Policy = ThresholdPolicy.model_validate(policy) if policy else "youden"
    table = drawn(1, 150, patients=50)
    low, high = choose(table, asked).uncertain["PNEUMONIA"]
    found = np.concatenate(kept[1:])  # the first is the choice itself
    monkeypatch.undo()

    patients = thresholds.numbered(table.groups, table.ids)
    draws = np.concatenate(list(thresholds.bootstrap_weights(patients, 1000, seed=0)), axis=1).astype(int)
    truth, scores = table.truth[:, 0] == 1, table.scores[:, 0]
    wanted = []
    for times in draws.T[:100]:
        rows = np.repeat(np.arange(len(table)), times[patients])
        wanted.append(best(asked, truth[rows], scores[rows]))
    np.testing.assert_array_equal(found[:100], np.array(wanted, float))
    assert (low, high) == tuple(np.quantile(found, [0.025, 0.975], method="inverted_cdf"))


def test_the_band_holds_the_threshold_and_shrinks_with_more_patients() -> None:
    """And images of the same patients do not count as more patients."""
    width = {}
    for name, table in {"few": drawn(2, 90), "many": drawn(2, 3000), "repeated": drawn(2, 3000, patients=90)}.items():
        found = choose(table, "youden")
        low, high = found.uncertain["PNEUMONIA"]
        assert low <= found.values["PNEUMONIA"] <= high
        width[name] = high - low
    assert width["many"] < width["few"] / 2
    assert width["repeated"] > width["many"] * 2


@pytest.mark.parametrize("patients", [1, 2, 8])
def test_few_patients_give_no_band_and_say_so(patients: int) -> None:
    """Two hundred images of them do not tell how far another hospital's patients would move the threshold."""
    truth = [row // patients % 2 for row in range(200)]
    scores = np.clip(np.array(truth) * 0.2 + np.random.default_rng(0).random(200) * 0.7, 0, 1).tolist()
    found = choose(binary(truth, scores, groups=[str(row % patients) for row in range(200)]), "youden")
    assert found.chosen == ("PNEUMONIA",) and found.uncertain == {}
    assert found.notices[-1].startswith("No decision will be called uncertain for PNEUMONIA")


def test_a_threshold_that_never_moves_has_no_band_and_says_so() -> None:
    """Two scores alone: every draw puts the threshold between them, which shows nothing about the next patient."""
    found = choose(binary([0] * 100 + [1] * 100, [0.2] * 100 + [0.6] * 100), "youden")
    assert found.uncertain == {}
    assert found.notices == (
        "No decision will be called uncertain for PNEUMONIA: how far the threshold may be off is not known. It takes "
        "10 validation patients with and 10 without, whose draws nearly all give a threshold, and not all the same.",
    )


def test_the_order_of_the_images_changes_nothing() -> None:
    """Threshold and band follow the patients' names, not their places."""
    table = drawn(3, 300, patients=100)
    order = np.random.default_rng(0).permutation(len(table))
    assert table.labels is not None and table.groups is not None
    shuffled = Predictions(
        classes=table.classes,
        task="binary",
        positive=table.positive,
        ids=tuple(table.ids[row] for row in order),
        probabilities=table.probabilities[order],
        labels=tuple(table.labels[row] for row in order),
        groups=tuple(table.groups[row] for row in order),
        split="val",
    )
    assert choose(shuffled, "youden") == choose(table, "youden")


def test_a_fixed_probability_has_no_band() -> None:
    """No data chose it, so no other data would have chosen otherwise."""
    assert choose(drawn(4, 300), 0.3).uncertain == {}


def test_conformal_sets_hold_the_true_class_in_nine_images_of_ten() -> None:
    """On new images of the same kind; over 200 validations of 99 images the mean is between 0.9 and 0.91 in theory."""
    random = np.random.default_rng(0)

    def table(n: int) -> Predictions:
        truth = random.integers(0, 3, n)
        odds = np.exp(1.5 * np.eye(3)[truth] + random.normal(size=(n, 3)))
        return Predictions(
            classes=("a", "b", "c"), task="multiclass", ids=tuple(map(str, range(n))),
            probabilities=odds / odds.sum(axis=1, keepdims=True), labels=tuple(truth.tolist()), split="val",
        )  # fmt: skip

    new = table(5000)
    of_truth = new.probabilities[new.truth == 1]
    held = [float(np.mean(of_truth >= choose(table(99), "youden").conformal)) for _ in range(200)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.01)


def test_eight_images_are_too_few_for_a_conformal_set() -> None:
    """With eight, no probability is low enough to be sure of nine in ten; with nine the lowest is."""
    found = []
    for n in (8, 9):
        p = np.linspace(0.5, 0.9, n)
        table = Predictions(
            classes=("a", "b", "c"), task="multiclass", ids=tuple(map(str, range(n))),
            probabilities=np.stack([p, 1 - p, 0 * p], axis=1), labels=(0,) * n, split="val",
        )  # fmt: skip
        found.append(choose(table, "youden").conformal)
    assert found == [None, 0.5]
