"""Two models on the same cases."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimg.errors import DatasetError
from medimg.evaluation.comparison import Comparison, compare
from medimg.evaluation.metrics import measure
from medimg.evaluation.paired import mcnemar
from medimg.inference.predictions import Predictions

Pair = tuple[dict[str, float], dict[str, float]]
AT_HALF: Pair = ({"P": 0.5}, {"P": 0.5})


def binary(signal: float, seed: int, *, n: int = 200, images: int = 1) -> Predictions:
    """Returns predictions of a model; the labels are the same for every signal and seed."""
    truth = np.repeat(np.random.default_rng(0).random(-(-n // images)) < 0.4, images)[:n].astype(int)
    noise = np.random.default_rng(seed).normal(size=n)
    scores = 1 / (1 + np.exp(-(signal * (truth - 0.5) + noise)))
    return Predictions(
        classes=("N", "P"), task="binary", positive="P", ids=tuple(f"s{row}" for row in range(n)), split="test",
        probabilities=np.stack([1 - scores, scores], axis=1), labels=tuple(truth.tolist()),
        groups=tuple(f"p{row // images}" for row in range(n)),
    )  # fmt: skip


def multiclass(sharpness: float, seed: int) -> Predictions:
    """Returns predictions of three classes for 120 images of 60 patients."""
    truth = np.random.default_rng(0).integers(0, 3, 120)
    rng = np.random.default_rng(seed)
    odds = np.exp(sharpness * (np.arange(3) == truth[:, None]) + rng.normal(size=(120, 3)))
    return Predictions(
        classes=("x", "y", "z"), task="multiclass", ids=tuple(map(str, range(120))), labels=tuple(truth.tolist()),
        probabilities=odds / odds.sum(axis=1, keepdims=True), groups=tuple(f"p{row // 2}" for row in range(120)),
    )  # fmt: skip


def multilabel(signal: float, seed: int) -> Predictions:
    """Returns predictions of three labels, one of them too rare to be estimated, some of them unknown."""
    rng = np.random.default_rng(0)
    truth = (rng.random((120, 3)) < [0.4, 0.3, 0.02]).astype(float)
    noise = np.random.default_rng(seed).normal(size=(120, 3))
    known = rng.random((120, 3)) < 0.9
    labels = tuple(
        tuple(int(value) if is_known else None for value, is_known in zip(row, row_known, strict=True))
        for row, row_known in zip(truth.tolist(), known.tolist(), strict=True)
    )
    return Predictions(
        classes=("A", "B", "rare"), task="multilabel", ids=tuple(map(str, range(120))), labels=labels,
        probabilities=1 / (1 + np.exp(-(signal * (truth - 0.5) + noise))),
        groups=tuple(f"p{row // 2}" for row in range(120)),
    )  # fmt: skip


CASES: list[tuple[Predictions, Predictions, Pair]] = [
    (binary(1.0, 1), binary(2.0, 2), ({"P": 0.4}, {"P": 0.6})),
    (multiclass(0.5, 1), multiclass(1.5, 2), ({}, {})),
    (multilabel(1.0, 1), multilabel(2.0, 2), ({"A": 0.5, "B": 0.4, "rare": 0.5}, {"A": 0.6, "B": 0.5, "rare": 0.5})),
]


@pytest.mark.parametrize(("first", "second", "thresholds"), CASES, ids=["binary", "multiclass", "multilabel"])
def test_both_sides_are_the_figures_of_the_report(first: Predictions, second: Predictions, thresholds: Pair) -> None:
    """A comparison that counted otherwise than the reports would contradict them."""
    found = compare(first, second, thresholds=thresholds, resamples=20)
    alone = measure(first, thresholds[0]), measure(second, thresholds[1])
    for one in found.differences:
        assert one.difference == pytest.approx(one.second - one.first)
        if one.quantity != "brier":
            assert one.first == pytest.approx(getattr(alone[0], one.quantity))
            assert one.second == pytest.approx(getattr(alone[1], one.quantity))
    assert [one.quantity for one in found.differences] == ["auroc", "sensitivity", "specificity", "accuracy", "brier"]
    for place, one in enumerate(found.per_class):
        of = alone[1].per_class[place]
        values = {each.quantity: each.second for each in one.differences}
        assert values.get("auroc") == pytest.approx(of.auroc)
        assert values.get("sensitivity") == pytest.approx(of.sensitivity)


@pytest.mark.parametrize(("first", "second", "thresholds"), CASES, ids=["binary", "multiclass", "multilabel"])
def test_a_model_is_no_better_than_itself(first: Predictions, second: Predictions, thresholds: Pair) -> None:
    """All differences are exactly 0, p is 1, and the words say that they are the same."""
    found = compare(first, first, thresholds=(thresholds[0], thresholds[0]), resamples=50)
    every = [*found.differences, *(one for each in found.per_class for one in each.differences)]
    assert {one.difference for one in every} == {0.0}
    assert {one.p for one in every} == {1.0}
    assert {one.better for one in every} == {None}
    assert (found.mcnemar.first_only, found.mcnemar.second_only, found.mcnemar.p) == (0, 0, 1.0)
    assert repr(found).startswith("Both models rank the cases the same.")


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(random: object) -> None:
    """The tables are joined by sample id; either may come in any order."""
    first, second = binary(1.0, 1, n=60), binary(2.0, 2, n=60)
    order = list(first.ids)
    random.shuffle(order)  # type: ignore[attr-defined]
    expected = compare(first, second, thresholds=AT_HALF, resamples=40)
    assert compare(first, second.select(order), thresholds=AT_HALF, resamples=40) == expected
    again = compare(first.select(order), second, thresholds=AT_HALF, resamples=40)
    for one, other in zip(again.differences, expected.differences, strict=True):
        assert one.difference == pytest.approx(other.difference)
        assert one.interval == pytest.approx(other.interval)


def test_changing_sides_changes_the_sign() -> None:
    """B against A is A against B the other way round."""
    first, second = binary(1.0, 1), binary(2.0, 2)
    there = compare(first, second, thresholds=AT_HALF, resamples=200)
    back = compare(second, first, thresholds=AT_HALF, resamples=200)
    for one, other in zip(there.differences, back.differences, strict=True):
        assert one.difference == -other.difference
        assert one.p == other.p
        assert one.interval is not None and other.interval is not None
        assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
        assert (one.better, other.better) in ((None, None), ("first", "second"), ("second", "first"))
    assert there["auroc"].better == "second"
    assert there["brier"].better == "second" and there["brier"].difference < 0


def test_images_of_one_patient_count_as_little_as_they_tell() -> None:
    """Each image four times over gives the interval of the images once, not half of it."""
    first, second = binary(1.0, 1, n=100), binary(1.5, 2, n=100)

    def fourfold(table: Predictions) -> Predictions:
        return Predictions(
            classes=table.classes, task="binary", positive="P", labels=(table.labels or ()) * 4,
            ids=tuple(f"{copy} {name}" for copy in range(4) for name in table.ids),
            probabilities=np.tile(table.probabilities, (4, 1)), groups=(table.groups or ()) * 4,
        )  # fmt: skip

    once = compare(first, second, thresholds=AT_HALF, resamples=400)
    four = compare(fourfold(first), fourfold(second), thresholds=AT_HALF, resamples=400)
    assert four["auroc"].interval == pytest.approx(once["auroc"].interval)
    assert four.mcnemar.p == pytest.approx(once.mcnemar.p)
    assert four.per_class[0].delong is None and once.per_class[0].delong is not None


def test_four_cases_to_none_are_no_difference_and_eight_are() -> None:
    """Where hardly any case tells the models apart the interval agrees with McNemar's exact test."""

    def missing(number: int) -> Comparison:
        truth = np.arange(200) % 2
        scores = np.where(truth, 0.9, 0.1)
        worse = np.where((truth == 1) & (np.arange(200) < 2 * number), 0.3, scores)
        tables = [
            replace(binary(1.0, 1), labels=tuple(truth.tolist()), probabilities=np.stack([1 - each, each], axis=1))
            for each in (scores, worse)
        ]
        return compare(tables[0], tables[1], thresholds=AT_HALF)

    four, eight = missing(4), missing(8)
    assert four.mcnemar.p == 0.125 and eight.mcnemar.p == pytest.approx(0.0078125)
    assert (four["sensitivity"].better, eight["sensitivity"].better) == (None, "first")
    assert (four["accuracy"].better, eight["accuracy"].better) == (None, "first")
    assert four["sensitivity"].difference == pytest.approx(-0.04)


def test_delong_and_the_bootstrap_agree_where_each_patient_has_one_image() -> None:
    """Two ways to the same interval, to a tenth of its width."""
    found = compare(binary(1.0, 1, n=400), binary(1.6, 2, n=400), thresholds=AT_HALF)
    (delong,) = [one.delong for one in found.per_class]
    assert delong is not None and delong.interval is not None
    boot = found["auroc"].interval
    assert boot is not None
    assert delong.difference == pytest.approx(found["auroc"].difference)
    assert delong.interval == pytest.approx(boot, abs=0.1 * (boot[1] - boot[0]))


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    # statsmodels 0.15, mcnemar(…, exact=True)
    [
        (0, 0, 1.0),
        (1, 3, 0.625),
        (5, 17, 0.01690053939819336),
        (31, 70, 0.0001308223106691452),
        (400, 450, 0.092765449971),
    ],
)
def test_mcnemar_is_the_binomial_test_with_one_image_a_patient(
    only_first: int, only_second: int, expected: float
) -> None:
    """Few or many discordant images: always the exact test."""
    n = only_first + only_second + 20
    first, second = np.ones((n, 1), dtype=bool), np.ones((n, 1), dtype=bool)
    second[:only_first] = first[only_first : only_first + only_second] = False
    found = mcnemar(first, second, np.arange(n))
    assert (found.first_only, found.second_only) == (only_first, only_second)
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_patients_is_every_exchange_counted() -> None:
    """With several images a patient the p is that of all ways to exchange the models within patients."""
    rng = np.random.default_rng(3)
    patient = rng.integers(0, 9, 40)
    first, second = rng.random((40, 2)) < 0.5, rng.random((40, 2)) < 0.7
    surplus = np.bincount(patient, weights=second.sum(axis=1) - first.sum(axis=1))
    signs = 1 - 2 * ((np.arange(2 ** len(surplus))[:, None] >> np.arange(len(surplus))) & 1)
    expected = (np.abs(signs @ surplus) >= abs(surplus.sum())).mean()
    assert mcnemar(first, second, patient).p == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("s0", *(f"t{row}" for row in range(1, 200)))}, "199 only of A, 199 only of B, 1 of both"),
        ({"labels": tuple(1 - row % 2 for row in range(200))}, "the labels of .* samples differ between A and B"),
        ({"groups": tuple(f"q{row}" for row in range(200))}, "the groups of 200 samples differ .* such as 's0'"),
        ({"classes": ("N", "Q"), "positive": "Q"}, "the classes of A is .* of B"),
        ({"positive": "N"}, "the positive of A is 'P', of B 'N'"),
        ({"labels": None}, "have no labels"),
    ],
)
def test_cases_that_are_not_the_same_are_refused(change: dict[str, object], message: str) -> None:
    """Nothing is dropped to make two tables fit, and the message says what differs."""
    with pytest.raises(DatasetError, match=message):
        compare(binary(1.0, 1), replace(binary(2.0, 2), **change), thresholds=AT_HALF, resamples=10)  # type: ignore[arg-type]


def test_a_patient_key_of_one_table_counts_for_both() -> None:
    """Without any the reader is warned; with one both are resampled by it."""
    first, second = binary(1.0, 1, images=2), replace(binary(2.0, 2, images=2), groups=None)
    assert compare(first, second, thresholds=AT_HALF, resamples=10).patients == 100
    assert compare(second, first, thresholds=AT_HALF, resamples=10).patients == 100
    neither = compare(second, second, thresholds=AT_HALF, resamples=10)
    assert neither.patients is None
    assert neither.notices[0].startswith("No patient key")


def test_patients_that_are_not_known_are_not_counted() -> None:
    """A pack has a group for every image, which may be None; a key that only some images have is told as well."""
    first, second = (
        replace(binary(strength, seed, images=2), groups=(None,) * 200) for strength, seed in ((1.0, 1), (2.0, 2))
    )
    none = compare(first, second, thresholds=AT_HALF, resamples=10)
    assert none.patients is None
    assert none.notices[0].startswith("No patient key: each image was taken")
    assert compare(first, binary(2.0, 2, images=2), thresholds=AT_HALF, resamples=10).patients == 100
    groups = (None, *(f"p{row // 2}" for row in range(199)))
    some = compare(*(replace(one, groups=groups) for one in (first, second)), thresholds=AT_HALF, resamples=10)
    assert some.patients is None
    assert some.notices[0].startswith("No patient key: each of 1 images without one was taken")


def test_under_ten_patients_no_interval_is_made_up() -> None:
    """The difference is still shown, without a claim."""
    found = compare(binary(1.0, 1, n=36, images=4), binary(2.0, 2, n=36, images=4), thresholds=AT_HALF, resamples=50)
    assert {one.interval for one in found.differences} == {None}
    assert {one.better for one in found.differences} == {None}
    assert "Fewer than 10 patients: no intervals." in found.notices
    assert "cannot be told from these cases" in repr(found)


def test_a_label_that_is_too_rare_has_no_figures_and_no_part_in_the_mean() -> None:
    """As in the report; its decisions still count for the accuracy."""
    first, second, thresholds = CASES[2]
    found = compare(first, second, thresholds=thresholds, resamples=20)
    assert [len(one.differences) for one in found.per_class] == [5, 5, 0]
    widths = [
        one.interval[1] - one.interval[0]
        for each in (found.differences, *(one.differences for one in found.per_class))
        for one in each
        if one.quantity == "sensitivity" and one.interval is not None
    ]
    assert widths[0] < max(widths[1:])
    with pytest.raises(DatasetError, match="There are: auroc"):
        found["kappa"]  # type: ignore[index]


def test_the_words_come_first_and_say_what_was_shown() -> None:
    """A sentence a figure: who is better by how much, or that no difference could be shown."""
    shown = repr(compare(binary(0.5, 1), binary(3.0, 2), thresholds=AT_HALF, names=("small", "large")))
    assert shown.startswith("large ranks the cases better. small against large on 200 test images of 200 patients.")
    assert "large is better in AUROC by 0." in shown.replace("\n", " ")
    alike = repr(compare(binary(1.0, 1), binary(1.0, 2), thresholds=AT_HALF)).replace("\n", " ")
    assert alike.startswith("No difference in AUROC could be shown.")
    assert "No difference in sensitivity could be shown:" in alike


def test_a_page_is_one_file_and_escapes_names(tmp_path: Path) -> None:
    """Whatever a model or class is called, the page stays a page; nothing is loaded from elsewhere."""
    first, second, _ = CASES[1]
    found = compare(first, second, thresholds=({}, {}), names=("<b>A</b>", "B & C"), resamples=50)
    text = found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>A</b>" not in text and "&lt;b&gt;A&lt;/b&gt;" in text
    assert "By class" in text and text.count("<svg") == 1
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert found._repr_html_().startswith("<p><strong>")


def test_a_comparison_survives_its_file(tmp_path: Path) -> None:
    """The JSON holds every figure, and numbers only."""
    found = compare(binary(1.0, 1), binary(2.0, 2), thresholds=AT_HALF, resamples=50)
    path = found.to_json(tmp_path / "compared.json")
    assert Comparison.model_validate_json(path.read_bytes()) == found
    auroc = json.loads(path.read_text())["differences"][0]
    assert auroc["quantity"] == "auroc" and math.isfinite(auroc["difference"])
