"""Predictions by patient."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimg.errors import DatasetError
from medimg.evaluation.metrics import measure
from medimg.evaluation.patients import by_patient, measure_patients, mixed_patients
from medimg.inference.predictions import Label, Predictions

BINARY = Predictions(
    classes=("PNEUMONIA", "NORMAL"),
    task="binary",
    positive="PNEUMONIA",
    ids=("a", "b", "c", "d"),
    probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]]),
    labels=(1, 0, 1, 1),
    groups=("p1", "p1", None, "p2"),
    split="test",
    columns={"view": ("PA", "AP", "PA", "PA")},
)


def multiclass(labels: tuple[int, ...]) -> Predictions:
    """Returns four images of two patients."""
    table = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]])
    return Predictions(
        classes=("x", "y", "z"), task="multiclass", ids=tuple("abcd"), probabilities=table, labels=labels,
        groups=("p", "p", "q", "q"),
    )  # fmt: skip


@pytest.mark.parametrize(("how", "expected"), [("mean", 0.55), ("max", 0.9)])
def test_a_patient_is_positive_where_one_image_is(how: str, expected: float) -> None:
    """Their probabilities are averaged or the most suspicious counts; an image without a patient stays alone."""
    table = by_patient(BINARY, how)  # type: ignore[arg-type]
    assert table.ids == table.groups == ("p1", "c", "p2")
    assert [row.truth for row in map(table.__getitem__, table)] == ["PNEUMONIA", "NORMAL", "NORMAL"]
    assert table["p1"].probabilities == pytest.approx({"PNEUMONIA": expected, "NORMAL": 1 - expected})
    assert (table.split, table.positive, table.columns) == ("test", "PNEUMONIA", None)


def test_a_label_is_unknown_only_where_no_image_tells() -> None:
    """Shown once is shown; known to be absent in one image is absent; never known stays unknown."""
    labels: tuple[Label, ...] = ((1, 0, None), (None, None, None), (0, None, 1))
    table = Predictions(
        classes=("A", "B", "C"), task="multilabel", ids=tuple("abc"), labels=labels, groups=("p", "p", "q"),
        probabilities=np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.1], [0.5, 0.5, 0.5]]),
    )  # fmt: skip
    merged = by_patient(table, "max")
    assert merged.labels == ((1, 0, None), (0, None, 1))
    np.testing.assert_allclose(merged.probabilities, [[0.3, 0.2, 0.3], [0.5, 0.5, 0.5]])


def test_patients_of_several_classes_are_left_out_and_counted() -> None:
    """No class is invented for them, and the reader is told how many they are."""
    table = multiclass((0, 2, 1, 1))
    assert mixed_patients(table) == ("p",)
    assert by_patient(table, "mean").ids == ("q",)
    found = measure_patients(table, {})
    assert set(found) == {"mean", "max"}
    assert found["mean"].n == 1
    assert found["max"].notices[0] == "1 of 2 patients have images of different classes and were left out."
    with pytest.raises(DatasetError, match="every patient has images of different classes"):
        by_patient(multiclass((0, 2, 1, 0)), "mean")
    assert measure_patients(multiclass((0, 2, 1, 0)), {}) == {}


def test_an_image_called_like_a_patient_stays_apart() -> None:
    """It is another patient: no row is lost, and the one's contradiction does not leave out the other."""
    table = replace(BINARY, ids=("x", "p1", "y", "z"), groups=("p1", None, "p1", "z"))
    assert by_patient(table, "mean").ids == ("p1", "p1 (image)", "z")
    assert measure_patients(table, {"PNEUMONIA": 0.5})["max"].n == 3
    several = replace(multiclass((0, 1, 2, 1)), ids=("x", "p", "y", "z"), groups=("p", None, "p", "q"))
    assert mixed_patients(several) == ("p",)
    assert by_patient(several, "mean").ids == ("p (image)", "q")


def test_the_largest_of_several_classes_is_still_a_distribution() -> None:
    """Of each class the largest, divided by their sum."""
    merged = by_patient(multiclass((0, 0, 1, 1)), "max")
    np.testing.assert_allclose(merged.probabilities[0], np.array([0.6, 0.3, 0.6]) / 1.5)


def test_where_each_patient_has_one_image_there_is_nothing_to_add() -> None:
    """The figures by patient would repeat those by image."""
    assert measure_patients(replace(BINARY, groups=None), {"PNEUMONIA": 0.5}) == {}
    assert by_patient(replace(BINARY, groups=None), "mean").ids == BINARY.ids


def test_figures_by_patient_use_the_frozen_threshold() -> None:
    """p1 is found at 0.5 by the mean of 0.9 and 0.2; the two others have nothing and are cleared."""
    found = measure_patients(BINARY, {"PNEUMONIA": 0.5})
    assert (found["mean"].n, found["mean"].patients) == (3, 3)
    assert (found["mean"].sensitivity, found["mean"].specificity) == (1.0, 1.0)
    assert found["mean"] == measure(by_patient(BINARY, "mean"), {"PNEUMONIA": 0.5})


def test_another_way_is_refused() -> None:
    """The message names the two there are."""
    with pytest.raises(DatasetError, match='"mean" or "max"'):
        by_patient(BINARY, "median")  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(st.permutations(list(BINARY.ids)), st.sampled_from(["mean", "max"]))
def test_the_order_of_the_images_does_not_matter(order: list[str], how: str) -> None:
    """Rows are found by name, so any order gives every patient the same."""
    merged, again = by_patient(BINARY, how), by_patient(BINARY.select(order), how)  # type: ignore[arg-type]
    assert set(merged) == set(again)
    for patient in merged:
        assert merged[patient].truth == again[patient].truth
        assert merged[patient].probabilities == pytest.approx(again[patient].probabilities)
