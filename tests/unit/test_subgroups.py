"""Figures of subgroups at one set of thresholds, and the gaps between them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimg.evaluation.metrics import measure
from medimg.evaluation.subgroups import Subgroup, gaps, subgroups
from medimg.inference.predictions import Predictions

THRESHOLD = {"P": 0.5}


def table(
    columns: dict[str, list[str]], *, missed: np.ndarray | None = None, images: int = 1, seed: int = 0
) -> Predictions:
    """Returns predictions with a patient every `images` rows; `missed` rows that are positive get a low score."""
    n = len(next(iter(columns.values())))
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.5
    scores = np.where(truth, 0.9, 0.1) + rng.uniform(-0.05, 0.05, n)
    if missed is not None:
        scores = np.where(missed & truth, 0.2, scores)
    return Predictions(
        classes=("N", "P"), task="binary", positive="P", ids=tuple(f"s{i}" for i in range(n)), split="test",
        probabilities=np.stack([1 - scores, scores], axis=1), labels=tuple(truth.astype(int).tolist()),
        groups=tuple(f"p{i // images}" for i in range(n)),
        columns={name: tuple(values) for name, values in columns.items()},
    )  # fmt: skip


def shown(found: tuple[Subgroup, ...]) -> list[tuple[str, int]]:
    """Returns each subgroup's value and number of images."""
    return [(one.value, one.images) for one in found]


def test_every_value_of_every_column_is_a_subgroup() -> None:
    """Their figures are those of the images alone, at the same threshold."""
    predictions = table({"sex": ["F", "M"] * 30, "view": ["PA"] * 40 + [""] * 20})
    found = subgroups(predictions, THRESHOLD)
    assert shown(found) == [("F", 30), ("M", 30), ("PA", 40), ("unknown", 20)]
    women = predictions.select([name for row, name in enumerate(predictions) if row % 2 == 0])
    assert found[0].metrics == measure(women, THRESHOLD)
    assert found[0].metrics is not None and found[0].metrics.per_class[0].threshold == 0.5
    assert subgroups(replace(predictions, columns=None), THRESHOLD) == ()


def test_a_subgroup_of_few_patients_has_no_figures() -> None:
    """Patients count, not images: twenty images of five people say little of anybody else."""
    predictions = table({"site": ["A"] * 60 + ["B"] * 20}, images=4)
    a, b = subgroups(predictions, THRESHOLD)
    assert (a.patients, b.patients) == (15, 5)
    assert a.metrics is not None and a.reason is None
    assert b.metrics is None and b.reason == "fewer than 10 patients"
    assert subgroups(replace(predictions, groups=None), THRESHOLD)[1].metrics is not None


def test_patients_that_are_not_known_are_not_counted() -> None:
    """Images without a patient may be of one: their number is not that of patients."""
    predictions = table({"site": ["A"] * 40 + ["B"] * 20}, images=2)
    assert predictions.groups is not None
    some = replace(predictions, groups=(*predictions.groups[:59], None))
    assert [one.patients for one in subgroups(some, THRESHOLD)] == [20, None]
    for groups in (None, (None,) * 60):
        assert [one.patients for one in subgroups(replace(predictions, groups=groups), THRESHOLD)] == [None, None]


def test_rare_values_are_taken_together() -> None:
    """Eight values are shown; the rest would be a table of one patient a row."""
    values = [f"device {i}" for i in range(9)] * 10 + ["device 9"]
    found = subgroups(table({"device": values}), THRESHOLD)
    assert shown(found) == [*((f"device {i}", 10) for i in range(8)), ("other", 11)]


def test_ages_are_taken_in_round_bands() -> None:
    """Numbers of many values become at most five bands, which hold every image once."""
    ages = [str(age) for age in range(1, 91)]
    found = subgroups(table({"age": [*ages, " "]}), THRESHOLD)
    assert shown(found) == [
        ("under 20", 19), ("20 to under 40", 20), ("40 to under 60", 20), ("60 to under 80", 20),
        ("80 and over", 11), ("unknown", 1),
    ]  # fmt: skip


def test_an_age_that_is_missing_or_text_leaves_the_others_in_bands() -> None:
    """Empty cells are written in many ways; and one word among many numbers makes no names of them."""
    ages = [str(age) for age in range(20, 80)]
    for missing in ("NA", "n/a", "nan", "NULL"):
        found = subgroups(table({"age": [*ages, missing]}), THRESHOLD)
        assert shown(found)[-1] == ("unknown", 1) and len(found) <= 6
    found = subgroups(table({"age": [*ages, "over 89"]}), THRESHOLD)
    assert shown(found)[-1] == ("other", 1) and len(found) <= 6
    codes = subgroups(table({"site": [*map(str, range(9)), *"abcdefghi"]}), THRESHOLD)
    assert [one.value for one in codes] == ["0", "1", "2", "3", "4", "5", "6", "7", "other"]


def test_a_few_numbers_are_codes_in_their_order() -> None:
    """2 comes before 10, and no band is made of them."""
    found = subgroups(table({"site": ["10", "2", "1"] * 10}), THRESHOLD)
    assert [one.value for one in found] == ["1", "2", "10"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=9, max_size=60, unique=True))
def test_any_numbers_fall_into_one_to_five_bands(numbers: list[float]) -> None:
    """No image is lost or counted twice, whatever the scale."""
    found = subgroups(table({"dose": [repr(number) for number in numbers]}), THRESHOLD)
    assert 1 <= len(found) <= 5
    assert sum(one.images for one in found) == len(numbers)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(random: object) -> None:
    """A subgroup is a set of images."""
    predictions = table({"sex": ["F", "M", ""] * 20, "age": [str(age) for age in range(60)]}, images=2)
    order = list(predictions.ids)
    random.shuffle(order)  # type: ignore[attr-defined]
    again = predictions.select(order)
    assert subgroups(again, THRESHOLD) == subgroups(predictions, THRESHOLD)
    assert gaps(again, THRESHOLD, resamples=50) == gaps(predictions, THRESHOLD, resamples=50)


def test_rates_of_subgroups_are_those_of_fairlearn() -> None:
    """The usual library of fairness counts the same, and finds the same gap."""
    fairlearn = pytest.importorskip("fairlearn.metrics", reason="the oracle of subgroups: pip install fairlearn")
    from sklearn.metrics import recall_score

    rng = np.random.default_rng(1)
    sex = rng.choice(["F", "M", "X"], 300).tolist()
    predictions = table({"sex": sex}, missed=rng.random(300) < 0.3)
    truth, decided = predictions.truth[:, 0], predictions.decide(THRESHOLD)[:, 0]
    frame = fairlearn.MetricFrame(metrics=recall_score, y_true=truth, y_pred=decided, sensitive_features=sex)
    found = {one.value: one.metrics.sensitivity for one in subgroups(predictions, THRESHOLD) if one.metrics}
    assert found == pytest.approx(frame.by_group.to_dict(), abs=1e-6)
    gap = next(one for one in gaps(predictions, THRESHOLD, resamples=50) if one.rate == "sensitivity")
    assert gap.difference == pytest.approx(frame.difference(method="between_groups"), abs=1e-6)


def test_a_planted_gap_is_told() -> None:
    """Half of the men's findings are missed, none of the women's."""
    sex = ["F", "M"] * 150
    predictions = table({"sex": sex}, missed=np.array([row % 4 == 1 for row in range(300)]))
    sensitivity, specificity = gaps(predictions, THRESHOLD)
    assert (sensitivity.rate, sensitivity.better, sensitivity.worse) == ("sensitivity", "F", "M")
    assert sensitivity.interval[0] < sensitivity.difference < sensitivity.interval[1]
    assert sensitivity.notice is not None
    assert sensitivity.notice.startswith("Sensitivity differs by sex: 1.000 for F and 0.5")
    assert (specificity.difference, specificity.notice) == (0.0, None)


def test_no_gap_is_told_where_there_is_none() -> None:
    """The widest of 28 pairs is wide by chance; in 40 tables without any difference hardly one is reported."""
    told = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        site = rng.choice([f"site {i}" for i in range(8)], 600).tolist()
        predictions = table({"site": site}, missed=rng.random(600) < 0.3, images=2, seed=seed)
        found = gaps(predictions, THRESHOLD, resamples=300)
        told += sum(one.notice is not None for one in found if one.rate == "sensitivity")
    assert told <= 5  # at a rate of 5% six or more of 40 come in one of 70 runs; the seeds are fixed


def test_a_clear_gap_is_not_hidden_by_a_wider_one_of_few_patients() -> None:
    """Of a dozen patients more may be missed by chance; the gap between the two large sites is told all the same."""
    site = ["A"] * 300 + ["B"] * 300 + ["small"] * 26
    missed = np.random.default_rng(104).random(626) < np.array([0.1] * 300 + [0.25] * 300 + [0.33] * 26)
    predictions = table({"site": site}, missed=missed, seed=4)
    a, b, small = (one.metrics.sensitivity for one in subgroups(predictions, THRESHOLD) if one.metrics)
    assert a is not None and b is not None and small is not None and small < b < a
    sensitivity = gaps(predictions, THRESHOLD)[0]
    assert (sensitivity.better, sensitivity.worse) == ("A", "B")
    assert sensitivity.notice is not None


def test_gaps_need_two_subgroups_of_ten_patients_with_the_finding() -> None:
    """Fewer give no difference that means anything; rare and unknown values are no subgroup to compare."""
    assert gaps(table({"sex": ["F"] * 40 + ["M"] * 4}), THRESHOLD) == ()
    assert gaps(table({"sex": ["F"] * 40 + [""] * 40}), THRESHOLD) == ()
    assert gaps(replace(table({"sex": ["F", "M"]}), columns=None), THRESHOLD) == ()


def test_a_gap_over_several_labels_is_that_of_labels_which_all_subgroups_have() -> None:
    """A label that only one site has would be compared with nothing."""
    n = 80
    site = tuple("A" if row < 40 else "B" for row in range(n))
    labels = tuple((row % 2, int(row < 20)) for row in range(n))
    scores = np.array([[0.9 * (row % 2) if row < 60 else 0.0, 0.1] for row in range(n)])
    predictions = Predictions(
        classes=("common", "only A"), task="multilabel", ids=tuple(map(str, range(n))), probabilities=scores,
        labels=labels, columns={"site": site},
    )  # fmt: skip
    gap = gaps(predictions, {"common": 0.5, "only A": 0.5})[0]
    assert (gap.better, gap.better_rate, gap.worse_rate) == ("A", 1.0, 0.5)
