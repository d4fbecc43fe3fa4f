"""Metrics equal scikit-learn's, and say so where there is nothing to measure."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as oracle

from medimg.errors import DatasetError
from medimg.evaluation.metrics import Metrics, measure
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
