"""Metrics equal scikit-learn's, and say so where there is nothing to measure."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as oracle

from medimg.errors import DatasetError
from medimg.evaluation.intervals import bootstrap_weights
from medimg.evaluation.metrics import Metrics, measure
from medimg.evaluation.resampling import resample
from medimg.inference.predictions import Predictions


def binary(truth: np.ndarray, scores: np.ndarray, **more: object) -> Predictions:
    """Returns a binary table whose positive class comes first: the order of classes must not matter."""
    return Predictions(
        classes=("ABNORMAL", "HEALTHY"),
        task="binary",
        positive="ABNORMAL",
        ids=tuple(map(str, range(len(truth)))),
        probabilities=np.stack([scores, 1 - scores], axis=1),
        labels=tuple(np.where(truth, 0, 1)),
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Returns 200 labels and scores, with ties."""
    rng = np.random.default_rng(1)
    truth = rng.random(200) < 0.3
    return truth, np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1).round(2)


def test_binary_figures_are_those_of_scikit_learn(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """All headline figures, and the confusion matrix with true classes as rows."""
    truth, scores = pairs
    decided = scores >= 0.45
    found = measure(binary(truth, scores), {"ABNORMAL": 0.45})
    assert found.summary() == pytest.approx(
        {
            "auroc": oracle.roc_auc_score(truth, scores),
            "auprc": oracle.average_precision_score(truth, scores),
            "accuracy": oracle.accuracy_score(truth, decided),
            "baseline_accuracy": max(truth.mean(), 1 - truth.mean()),
            "balanced_accuracy": oracle.balanced_accuracy_score(truth, decided),
            "sensitivity": oracle.recall_score(truth, decided),
            "specificity": oracle.recall_score(~truth, ~decided),
            "mcc": oracle.matthews_corrcoef(truth, decided),
            "brier": oracle.brier_score_loss(truth, scores),
            "ece": found.ece,  # scikit-learn has none: tests/unit/test_calibration.py
            "prevalence": truth.mean(),
        },
        abs=1e-12,
    )
    matrix = oracle.confusion_matrix(~truth, ~decided)
    assert [list(row.values()) for row in found.confusion.values()] == matrix.tolist()
    assert found.majority == "HEALTHY"
    (notice,) = found.notices  # at this threshold the model is indeed worse than no model
    assert notice == "Accuracy 68.5% is no better than always answering HEALTHY (71.5%)."


def test_the_order_of_rows_does_not_matter(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Predictions in any order, labels in another, joined by id: the same figures."""
    truth, scores = pairs
    table = binary(truth, scores)
    labels = dict(zip(table.ids, table.labels or (), strict=True))
    rng = np.random.default_rng(2)
    order = rng.permutation(len(table))
    shuffled = replace(
        table,
        ids=tuple(table.ids[row] for row in order),
        probabilities=table.probabilities[order],
        labels=None,
    ).join({name: labels[name] for name in rng.permutation(table.ids).tolist()})
    assert measure(shuffled, {"ABNORMAL": 0.45}) == measure(table, {"ABNORMAL": 0.45})


def test_multiclass_figures_are_those_of_scikit_learn() -> None:
    """One-vs-rest per class, plain means over classes, the most probable class decided."""
    rng = np.random.default_rng(3)
    truth = rng.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05])
    p = rng.dirichlet(np.ones(4), 300) + 0.4 * np.eye(4)[truth]
    p /= p.sum(axis=1, keepdims=True)
    classes = ("a", "b", "c", "d")
    table = Predictions(
        classes=classes, task="multiclass", ids=tuple(map(str, range(300))), probabilities=p, labels=tuple(truth)
    )
    found, decided = measure(table, {}), p.argmax(axis=1)
    assert found.accuracy == pytest.approx(oracle.accuracy_score(truth, decided))
    assert found.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(truth, decided))
    assert found.auroc == pytest.approx(oracle.roc_auc_score(truth, p, multi_class="ovr"))
    assert found.auprc == pytest.approx(oracle.average_precision_score(np.eye(4)[truth], p))
    assert found.sensitivity == pytest.approx(oracle.recall_score(truth, decided, average="macro"))
    matrix = oracle.confusion_matrix(truth, decided)
    assert [list(row.values()) for row in found.confusion.values()] == matrix.tolist()
    for index, one in enumerate(found.per_class):
        assert one.specificity == pytest.approx(oracle.recall_score(truth != index, decided != index))
        assert one.prevalence == pytest.approx((truth == index).mean())
        assert one.threshold is None


def test_a_class_that_does_not_occur_is_left_out_with_a_reason() -> None:
    """No image of class c: its figures are None, not 0 or 1, and the means are over the others."""
    rng = np.random.default_rng(4)
    truth = rng.choice(2, 100)
    p = rng.dirichlet(np.ones(3), 100)
    table = Predictions(
        classes=("a", "b", "c"),
        task="multiclass",
        ids=tuple(map(str, range(100))),
        probabilities=p,
        labels=tuple(truth),
    )
    found = measure(table, {})
    missing = found.per_class[2]
    assert (missing.auroc, missing.auprc, missing.sensitivity) == (None, None, None)
    assert missing.specificity is not None and missing.reason
    assert found.auroc == pytest.approx(np.mean([one.auroc for one in found.per_class[:2]]))
    with pytest.warns(UserWarning, match="not in y_true"):
        assert found.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(truth, p.argmax(axis=1)))
    assert any("Not estimable: c" in notice for notice in found.notices)


@pytest.mark.parametrize("only", [True, False])
def test_one_class_alone_gives_no_area_and_no_balanced_accuracy(only: bool) -> None:
    """With images of one class there is nothing to rank."""
    found = measure(binary(np.full(20, only), np.linspace(0, 1, 20)), {"ABNORMAL": 0.5})
    assert found.auroc is None and found.auprc is None and found.balanced_accuracy is None
    assert (found.sensitivity is None) != only and (found.specificity is None) == only
    assert found.accuracy == 0.5
    assert None not in found.summary().values() and "auroc" not in found.summary()


def multilabel(n: int = 120) -> tuple[Predictions, np.ndarray, np.ndarray]:
    """Returns a table of three labels, a fifth unknown, the third with 9 positives; its truth and scores."""
    rng = np.random.default_rng(5)
    truth = (rng.random((n, 3)) < 0.4).astype(float)
    truth[:, 2] = np.arange(n) < 9
    scores = np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1)
    truth[n // 2 :, 0] = np.nan
    labels = tuple(tuple(None if np.isnan(value) else int(value) for value in row) for row in truth)
    ids = tuple(map(str, range(n)))
    table = Predictions(classes=("A", "B", "C"), task="multilabel", ids=ids, probabilities=scores, labels=labels)
    return table, truth, scores


def test_unknown_labels_are_masked() -> None:
    """Label A is known for half of the images: only those count, for it alone."""
    table, truth, scores = multilabel()
    found = measure(table, {"A": 0.5, "B": 0.5, "C": 0.5})
    first, second, _ = found.per_class
    known = slice(None, 60)
    assert first.unknown == 60 and second.unknown == 0
    assert first.auroc == pytest.approx(oracle.roc_auc_score(truth[known, 0], scores[known, 0]))
    assert second.auroc == pytest.approx(oracle.roc_auc_score(truth[:, 1], scores[:, 1]))
    assert found.decisions == 60 + 120 + 120
    right = (scores >= 0.5) == (truth == 1)
    assert found.correct == right[~np.isnan(truth)].sum()


def test_a_label_under_ten_positives_is_not_estimable() -> None:
    """Nine positives: no figure at all, the counts stay, and the means leave the label out."""
    table, _, _ = multilabel()
    found = measure(table, {"A": 0.5, "B": 0.5, "C": 0.5})
    rare = found.per_class[2]
    assert (rare.auroc, rare.auprc, rare.sensitivity, rare.specificity) == (None, None, None, None)
    assert rare.positives == 9 and rare.negatives == 111
    assert rare.reason is not None and "9 images with it" in rare.reason
    for name in ("auroc", "auprc", "sensitivity", "specificity"):
        assert getattr(found, name) == pytest.approx(np.mean([getattr(one, name) for one in found.per_class[:2]]))


def test_labels_that_are_all_unknown_give_no_figures() -> None:
    """Nothing known is no error and no 0."""
    table, _, _ = multilabel()
    found = measure(replace(table, labels=((None,) * 3,) * len(table)), {"A": 0.5, "B": 0.5, "C": 0.5})
    assert found.summary() == {}


def test_constant_probabilities_are_flagged(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """A model that says the same of every image has an accuracy, but has learnt nothing."""
    truth, _ = pairs
    found = measure(binary(truth, np.full(200, 0.4)), {"ABNORMAL": 0.5})
    assert found.auroc == 0.5
    assert any("same probability of ABNORMAL" in notice for notice in found.notices)
    assert any("decided to be HEALTHY" in notice for notice in found.notices)
    assert any("no better than always answering HEALTHY" in notice for notice in found.notices)


def test_constant_decisions_are_flagged_though_scores_differ(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """A threshold below all scores calls everything positive."""
    truth, scores = pairs
    found = measure(binary(truth, 0.5 + scores / 2), {"ABNORMAL": 0.5})
    assert any("decided to be ABNORMAL" in notice for notice in found.notices)
    assert not any("same probability" in notice for notice in found.notices)
    table, _, _ = multilabel()
    stuck = measure(table, {"A": 0.5, "B": 1.0, "C": 0.5})
    assert any(notice.startswith("Constant") and "B" in notice for notice in stuck.notices)


def test_a_ranking_the_wrong_way_round_is_flagged(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """An AUROC under one half, and even 0, asks about the labels."""
    truth, scores = pairs
    for inverted in (1 - scores, np.where(truth, 0.1, 0.9)):
        found = measure(binary(truth, inverted), {"ABNORMAL": 0.5})
        assert any("worse than chance" in notice for notice in found.notices)


def test_few_images_of_a_class_are_flagged() -> None:
    """Five positives give figures, with a warning."""
    truth = np.arange(50) < 5
    found = measure(binary(truth, np.where(truth, 0.9, np.linspace(0, 0.8, 50))), {"ABNORMAL": 0.85})
    assert found.auroc == 1.0
    assert any("ABNORMAL (5 with, 45 without)" in notice for notice in found.notices)


def test_patients_are_counted_where_all_are_known(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Four images a patient; one unknown patient makes the number unknown."""
    truth, scores = pairs
    groups: list[str | None] = [str(row // 4) for row in range(200)]
    assert measure(binary(truth, scores, groups=tuple(groups)), {"ABNORMAL": 0.5}).patients == 50
    groups[7] = None
    assert measure(binary(truth, scores, groups=tuple(groups)), {"ABNORMAL": 0.5}).patients is None


def test_metrics_survive_json_and_need_labels(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """The wire is JSON, and None stays None."""
    table, _, _ = multilabel()
    found = measure(table, {"A": 0.5, "B": 0.5, "C": 0.5})
    assert Metrics.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(DatasetError, match="no labels"):
        measure(replace(table, labels=None), {"A": 0.5, "B": 0.5, "C": 0.5})


def test_the_binary_block_is_that_of_scikit_learn(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Predictive values, likelihood ratios, balanced accuracy, Matthews correlation and Brier score of the class."""
    truth, scores = pairs
    decided = scores >= 0.45
    (one,) = measure(binary(truth, scores), {"ABNORMAL": 0.45}).per_class
    ratios = oracle.class_likelihood_ratios(truth, decided)
    expected = {
        "ppv": oracle.precision_score(truth, decided),
        "npv": oracle.precision_score(~truth, ~decided),
        "lr_positive": ratios[0],
        "lr_negative": ratios[1],
        "balanced_accuracy": oracle.balanced_accuracy_score(truth, decided),
        "mcc": oracle.matthews_corrcoef(truth, decided),
        "brier": oracle.brier_score_loss(truth, scores),
    }
    assert {name: getattr(one, name) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert one.calibration_slope is not None and one.calibration_intercept is not None and one.ece is not None
    assert one.reasons == {} and one.intervals == {}


def multiclass(n: int = 300) -> tuple[Predictions, np.ndarray, np.ndarray]:
    """Returns a table of four classes, two images a patient, its truth and probabilities."""
    rng = np.random.default_rng(3)
    truth = rng.choice(4, n, p=[0.4, 0.3, 0.15, 0.15])
    p = rng.dirichlet(np.ones(4), n) + 0.4 * np.eye(4)[truth]
    p /= p.sum(axis=1, keepdims=True)
    ids = tuple(map(str, range(n)))
    groups = tuple(f"p{row // 2}" for row in range(n))
    table = Predictions(("a", "b", "c", "d"), "multiclass", ids, p, labels=tuple(truth.tolist()), groups=groups)
    return table, truth, p


def test_figures_of_all_classes_together_are_those_of_scikit_learn() -> None:
    """Matthews correlation and Brier score of several classes; kappa only where these were said to be in order."""
    table, truth, p = multiclass()
    found, decided = measure(table, {}, ordinal=True), p.argmax(axis=1)
    assert found.mcc == pytest.approx(oracle.matthews_corrcoef(truth, decided), abs=1e-12)
    assert found.kappa == pytest.approx(oracle.cohen_kappa_score(truth, decided, weights="quadratic"), abs=1e-12)
    assert found.brier == pytest.approx(oracle.brier_score_loss(truth, p), abs=1e-12)
    for index, one in enumerate(found.per_class):
        assert one.mcc == pytest.approx(oracle.matthews_corrcoef(truth == index, decided == index), abs=1e-12)
        assert one.brier == pytest.approx(oracle.brier_score_loss(truth == index, p[:, index]), abs=1e-12)
    assert found.ece == pytest.approx(np.mean([one.ece for one in found.per_class]))
    assert measure(table, {}).kappa is None


def test_a_figure_without_a_denominator_is_none_with_a_reason() -> None:
    """Nothing called positive: no PPV, no correlation, and no made-up 0; no false alarm: a ratio without bound."""
    truth = np.arange(40) < 20
    (silent,) = measure(binary(truth, np.full(40, 0.1)), {"ABNORMAL": 0.5}).per_class
    assert (silent.ppv, silent.mcc, silent.lr_positive, silent.ece) == (None, None, None, None)
    assert silent.sensitivity == 0 and silent.npv == 0.5 and silent.lr_negative == 1
    assert silent.reasons["ppv"] == "no image was called positive" and "alike" in silent.reasons["mcc"]
    assert "at least 100" in silent.reasons["ece"] and "all the same" in silent.reasons["calibration_slope"]
    (careful,) = measure(binary(truth, np.where(np.arange(40) < 10, 0.9, 0.1)), {"ABNORMAL": 0.5}).per_class
    assert careful.lr_positive is None and "no false alarm" in careful.reasons["lr_positive"]
    (few,) = measure(binary(np.arange(40) < 9, np.linspace(1, 0, 40)), {"ABNORMAL": 0.5}).per_class
    assert few.calibration_slope is None and "9 images with it" in few.reasons["calibration_slope"]


def test_every_figure_without_a_value_or_an_interval_has_a_reason() -> None:
    """In a table where one label has nine positives, one is ranked almost perfectly, and one is half unknown."""
    table, truth, scores = multilabel(300)
    table = replace(table, probabilities=np.where(truth[:, [1]] == 1, [0, 1, 0], [0, 0, 0]) * 0.3 + scores * 0.5)
    found = measure(table, dict.fromkeys("ABC", 0.3), resamples=100)
    figures = set(found.per_class[0].model_dump()) & {
        "auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "lr_positive", "lr_negative",
        "balanced_accuracy", "mcc", "brier", "calibration_slope", "calibration_intercept", "ece",
    }  # fmt: skip
    assert len(figures) == 14
    for one in found.per_class:
        missing = {name for name in figures if getattr(one, name) is None or name not in one.intervals}
        assert set(one.reasons) == missing
        assert all(name in figures and getattr(one, name) is not None for name in one.intervals)
    assert set(found.per_class[2].reasons) == figures


def test_resamples_are_those_of_scikit_learn() -> None:
    """Each figure of each draw equals scikit-learn's with the draws as weights, for classes with and without ties."""
    _, truth, p = multiclass()
    p, patients = p.round(1), np.arange(300) // 2
    decided = np.eye(4, dtype=bool)[p.argmax(axis=1)]
    drawn = resample(np.eye(4)[truth], p, decided, patients, multiclass=True, resamples=5, seed=1)
    (weights,) = bootstrap_weights(patients, 5, 1)
    answers = decided.argmax(axis=1)
    for column in range(5):
        weight = weights[patients, column]
        assert drawn.whole["mcc"][column] == pytest.approx(
            oracle.matthews_corrcoef(truth, answers, sample_weight=weight), abs=1e-12
        )
        assert drawn.whole["kappa"][column] == pytest.approx(
            oracle.cohen_kappa_score(truth, answers, weights="quadratic", sample_weight=weight), abs=1e-12
        )
        for one in range(4):
            here, called = truth == one, decided[:, one]
            expected = {
                "auroc": oracle.roc_auc_score(here, p[:, one], sample_weight=weight),
                "auprc": oracle.average_precision_score(here, p[:, one], sample_weight=weight),
                "sensitivity": oracle.recall_score(here, called, sample_weight=weight),
                "specificity": oracle.recall_score(~here, ~called, sample_weight=weight),
                "ppv": oracle.precision_score(here, called, sample_weight=weight),
                "npv": oracle.precision_score(~here, ~called, sample_weight=weight),
                "balanced_accuracy": oracle.balanced_accuracy_score(here, called, sample_weight=weight),
                "mcc": oracle.matthews_corrcoef(here, called, sample_weight=weight),
                "brier": oracle.brier_score_loss(here, p[:, one], sample_weight=weight),
            }
            found = {name: drawn.targets[name][one, column] for name in expected}
            assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_intervals_hold_their_figures_and_do_not_depend_on_the_order_of_rows(
    task: str, pairs: tuple[np.ndarray, np.ndarray]
) -> None:
    """Every headline figure but ECE has one; the same seed gives the same; JSON keeps them."""
    truth, scores = pairs
    tables: dict[str, tuple[Predictions, dict[str, float]]] = {
        "binary": (binary(truth, scores), {"ABNORMAL": 0.45}),
        "multiclass": (multiclass()[0], {}),
    }
    tables["multilabel"] = (multilabel(400)[0], dict.fromkeys("ABC", 0.5))
    table, thresholds = tables[task]
    found = measure(table, thresholds, ordinal=True, resamples=200)
    expected = {"auroc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "mcc", "brier"}
    assert set(found.intervals) == expected | ({"kappa"} if task == "multiclass" else set())
    for one in (found, *found.per_class):
        for name, (low, high) in one.intervals.items():
            assert low < getattr(one, name) < high
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = replace(
        table,
        ids=tuple(table.ids[row] for row in order),
        probabilities=table.probabilities[order],
        labels=tuple(table.labels[row] for row in order),  # type: ignore[index]
        groups=None if table.groups is None else tuple(table.groups[row] for row in order),
    )
    assert measure(shuffled, thresholds, ordinal=True, resamples=200) == found
    assert Metrics.model_validate_json(found.model_dump_json()) == found
    assert measure(table, thresholds, ordinal=True, resamples=200, seed=1).intervals != found.intervals


def test_the_method_says_what_was_drawn(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Patients, images, or both; without resamples there is nothing to say."""
    groups: list[str | None] = [str(row // 4) for row in range(200)]
    told = [
        measure(binary(*pairs, groups=some), {"ABNORMAL": 0.5}, resamples=20).interval_method or ""
        for some in (tuple(groups), None, (None, *groups[1:]))
    ]
    assert "20 resamples of 50 patients, each with all" in told[0]
    assert "200 images; patients are not known" in told[1]
    assert "51 patients; an image without" in told[2]
    assert measure(binary(*pairs), {"ABNORMAL": 0.5}).interval_method is None


def test_intervals_are_wider_where_patients_have_several_alike_images(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """The same images, four copies each: as patients of their own they seem to say twice as much."""
    truth, scores = (np.repeat(values, 4) for values in pairs)
    groups = tuple(str(row // 4) for row in range(800))
    whole = measure(binary(truth, scores, groups=groups), {"ABNORMAL": 0.45}, resamples=300)
    naive = measure(binary(truth, scores), {"ABNORMAL": 0.45}, resamples=300)
    for name in ("auroc", "auprc", "sensitivity", "accuracy", "mcc", "brier"):
        ratio = np.ptp(whole.intervals[name]) / np.ptp(naive.intervals[name])
        assert 1.6 < ratio < 2.4, name


def test_perfect_figures_are_not_certain() -> None:
    """20 of 20 found and all ranked rightly: bounds as of 20 patients; figures without such bounds have none."""
    truth = np.arange(120) < 20
    scores = np.where(truth, 0.9, np.linspace(0.01, 0.7, 120))
    (one,) = measure(binary(truth, scores), {"ABNORMAL": 0.5}, resamples=200).per_class
    assert one.sensitivity == one.auroc == one.auprc == 1
    assert one.intervals["sensitivity"] == pytest.approx((0.8203, 1), abs=1e-4)
    assert one.intervals["auroc"] == one.intervals["sensitivity"]
    assert not {"auprc", "mcc"} & set(one.intervals)
    assert one.lr_negative == 0 and one.intervals["lr_negative"][1] > 0.18 / (one.specificity or 1)
    assert "perfect" in one.reasons["auprc"] and "perfect" in one.reasons["mcc"]
    # Half of the doubt about the sensitivity is part of that about the mean of both.
    assert one.balanced_accuracy is not None and one.intervals["balanced_accuracy"][0] < one.balanced_accuracy - 0.09


def test_why_a_figure_has_no_interval_is_what_is_the_case() -> None:
    """A constant model's figures are the same in each resample; a rare alarm rests on few patients."""
    truth = np.arange(60) % 2
    constant = measure(binary(truth, np.full(60, 0.5)), {"ABNORMAL": 0.5}, resamples=50).per_class[0]
    for name in ("auroc", "brier"):
        assert constant.reasons[name] == "no interval: all resamples of the patients give the same figure"
    scores = np.where(np.arange(60) < 8, 0.9, 0.1 + np.arange(60) / 1000)
    rare = measure(binary(truth, scores), {"ABNORMAL": 0.5}, resamples=50).per_class[0]
    assert rare.reasons["ppv"] == "no interval: it rests on fewer than 10 patients"
    saturated = truth.astype(float)
    saturated[[0, 1]] = 1.0, 0.0
    certain = measure(binary(truth, saturated), {"ABNORMAL": 0.5}, resamples=50).per_class[0]
    assert "near 0 and 1" in certain.reasons["calibration_intercept"]


def test_an_average_takes_no_perfect_part_for_certain() -> None:
    """Three labels, one with a perfect sensitivity of ten patients: the mean's lower bound lies lower for it."""
    rng = np.random.default_rng(7)
    truth = rng.random((600, 3)) < [0.5, 0.5, 10 / 600]
    truth[:, 2] = np.arange(600) < 10
    scores = np.clip(rng.normal(0.3 + 0.4 * truth, 0.15), 0, 1)
    scores[:, 2] = np.where(truth[:, 2], 0.8, scores[:, 2])
    labels = tuple(tuple(map(int, row)) for row in truth)
    table = Predictions(("A", "B", "C"), "multilabel", tuple(map(str, range(600))), scores, labels=labels)
    found = measure(table, dict.fromkeys("ABC", 0.5), resamples=300)
    perfect = found.per_class[2]
    assert perfect.sensitivity == 1 and perfect.intervals["sensitivity"][0] < 0.7
    assert found.sensitivity is not None
    assert found.sensitivity - found.intervals["sensitivity"][0] > (1 - perfect.intervals["sensitivity"][0]) / 3
    assert "mcc" not in found.intervals


def test_under_ten_patients_there_are_no_intervals() -> None:
    """Two hundred images of nine patients do not show how patients differ."""
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.5
    scores = np.clip(rng.normal(0.3 + 0.4 * truth, 0.2), 0, 1)
    found = measure(
        binary(truth, scores, groups=tuple(str(row % 9) for row in range(200))), {"ABNORMAL": 0.5}, resamples=50
    )
    assert found.intervals == {} and found.per_class[0].intervals == {}
    assert "9 patients" in found.per_class[0].reasons["auroc"]


def test_reports_of_before_still_read() -> None:
    """Figures that were added later are None in what was written earlier."""
    content = measure(binary(np.arange(20) < 8, np.linspace(1, 0, 20)), {"ABNORMAL": 0.5}).model_dump(mode="json")
    for name in ("mcc", "kappa", "brier", "ece", "intervals", "interval_method"):
        del content[name]
    for name in ("ppv", "lr_positive", "brier", "calibration_slope", "intervals", "reasons"):
        del content["per_class"][0][name]
    found = Metrics.model_validate(content)
    assert found.mcc is None and found.intervals == {} and found.per_class[0].ppv is None


def test_the_interval_of_a_ratio_is_fiellers_where_the_parts_are_even() -> None:
    """Symmetric intervals of both parts give Fieller's limits: where (above - r · below)² = d² + r² · e²."""
    truth = np.arange(4000) < 2000
    decided = np.concatenate([np.arange(2000) < 1000, np.arange(2000) < 500])
    (one,) = measure(binary(truth, decided * 1.0), {"ABNORMAL": 0.5}, resamples=2).per_class
    above, below = one.intervals["sensitivity"], one.intervals["specificity"]
    d, e = np.ptp(above) / 2, np.ptp(below) / 2
    for limit in one.intervals["lr_positive"]:
        assert (0.5 - limit * 0.25) ** 2 == pytest.approx(d**2 + limit**2 * e**2, rel=0.05)
    assert one.lr_positive == pytest.approx(2)
