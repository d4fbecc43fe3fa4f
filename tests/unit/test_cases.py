"""The cases that the report shows: which they are, what is said of them, and that they can be left out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medimg.artifact import ModelFolder
from medimg.data.pack import Pack
from medimg.errors import ConfigError, ModelFolderError
from medimg.evaluation.cases import Case, choose_cases, load_cases, make_cases, save_cases
from medimg.inference.predictions import Predictions


def binary(rows: list[tuple[str, int, float, str | None]]) -> Predictions:
    """Returns a table from rows of id, label, probability and patient."""
    ids, labels, scores, groups = zip(*rows, strict=True)
    p = np.array(scores)
    return Predictions(
        classes=("CLEAR", "NODULE"), task="binary", positive="NODULE", ids=ids,
        probabilities=np.stack([1 - p, p], axis=1), labels=labels, groups=groups, split="test",
    )  # fmt: skip


def chosen(table: Predictions, thresholds: dict[str, float], most: int = 2) -> dict[str, list[str]]:
    """Returns the ids by kind."""
    found: dict[str, list[str]] = {"right": [], "wrong": [], "uncertain": []}
    for choice in choose_cases(table, thresholds, most=most):
        found[choice.kind].append(choice.id)
    return found


ROWS: list[tuple[str, int, float, str | None]] = [
    ("surely found", 1, 0.99, "a"), ("found", 1, 0.9, "b"), ("just found", 1, 0.61, "c"),
    ("surely cleared", 0, 0.01, "d"), ("cleared", 0, 0.1, "e"), ("just cleared", 0, 0.55, "f"),
    ("surely missed", 1, 0.05, "g"), ("missed", 1, 0.3, "h"), ("false alarm", 0, 0.8, "i"),
]  # fmt: skip


def test_the_surest_right_and_wrong_and_the_least_sure_are_chosen() -> None:
    """Both outcomes take turns, and certainty is measured from the threshold, not from a half."""
    assert chosen(binary(ROWS), {"NODULE": 0.6}) == {
        "right": ["surely cleared", "surely found"],
        "wrong": ["surely missed", "false alarm"],
        "uncertain": ["just found", "just cleared"],
    }


def test_the_order_of_the_table_changes_nothing() -> None:
    """The same predictions in another order give the same cases."""
    assert chosen(binary(ROWS[::-1]), {"NODULE": 0.6}) == chosen(binary(ROWS), {"NODULE": 0.6})


def test_no_patient_is_shown_twice() -> None:
    """Also not as another kind; an image without a patient stands for itself."""
    rows = [(name, label, p, "one" if name != "false alarm" else None) for name, label, p, _ in ROWS]
    assert chosen(binary(rows), {"NODULE": 0.6}) == {
        "right": ["surely cleared"],
        "wrong": ["false alarm"],
        "uncertain": [],
    }


def test_few_images_and_none_wanted_give_few_and_none() -> None:
    """A table of two images has two cases; 0 of a kind is none."""
    assert sum(map(len, chosen(binary(ROWS[:2]), {"NODULE": 0.6}, most=6).values())) == 2
    assert choose_cases(binary(ROWS), {"NODULE": 0.6}, most=0) == ()


def test_a_multiclass_case_is_of_the_decided_class() -> None:
    """Certainty is the lead over the second class."""
    p = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25], [0.5, 0.1, 0.4], [0.2, 0.1, 0.7]])
    table = Predictions(("a", "b", "c"), "multiclass", tuple("vwxyz"), p, labels=(0, 1, 0, 2, 1), split="test")
    found = {choice.id: (choice.kind, choice.target) for choice in choose_cases(table, {}, most=2)}
    assert found == {
        "v": ("right", "a"), "w": ("right", "b"), "z": ("wrong", "c"), "y": ("wrong", "a"), "x": ("uncertain", "a"),
    }  # fmt: skip


def test_a_multilabel_case_is_of_one_label_whose_truth_is_known() -> None:
    """An unknown label is not judged, and a label that is absent and was not claimed is no success to show."""
    p = np.array([[0.9, 0.1], [0.1, 0.95], [0.2, 0.99], [0.05, 0.02]])
    labels = ((1, 0), (1, 1), (0, None), (0, 0))
    table = Predictions(("A", "B"), "multilabel", tuple("wxyz"), p, labels=labels, split="test")
    found = [(c.kind, c.id, c.target) for c in choose_cases(table, {"A": 0.5, "B": 0.5}, most=2)]
    assert found[:2] == [("right", "x", "B"), ("right", "w", "A")]
    assert not [row for row in found if row[0] == "wrong"], "the label that was missed is of a patient shown already"
    assert found[2:] == [("uncertain", "y", "A"), ("uncertain", "z", "B")]


# -- of a trained model -----------------------------------------------------------------------------------------------


def opened(content: bytes) -> Image.Image:
    """Returns a picture."""
    return Image.open(io.BytesIO(content))


def test_a_training_leaves_cases_in_the_report(trained: ModelFolder) -> None:
    """With their pictures, in words that the table bears out, and in well under a megabyte."""
    cases = load_cases(trained.path / "report")
    table = trained.report.predictions[trained.report.headline]
    assert 6 < len(cases) <= 18
    assert len({table[case.id].group for case in cases}) == len(cases)
    for case in cases:
        row = table[case.id]
        assert (case.truth, dict(case.probabilities)) == (row.truth, row.probabilities)
        positive = row.probabilities["NODULE"] >= trained.record.thresholds["NODULE"]
        assert case.label == ("NODULE" if positive else "CLEAR")
        assert case.kind == "uncertain" or (case.kind == "right") == (case.truth == case.label)
        assert opened(case.image).mode == "L"
        assert opened(case.image).size == opened(case.overlay).size == (64, 64)
    glow = [np.ptp(np.asarray(opened(case.overlay).convert("RGB"), float), axis=2).max() for case in cases]
    assert max(glow) > 50, "the strongest evidence is in colour"
    text = (trained.path / "report/cases.json").read_text()
    assert "patient" not in text and ".png" not in text
    assert len(text) < 1_000_000


@pytest.fixture
def pack(trained_job: tuple[Path, str]) -> Pack:
    """The pack that the model was trained with."""
    home, id = trained_job
    spec = json.loads((home / "jobs" / id / "spec.json").read_text())
    return Pack.open(home / "packs" / spec["pack"], spec["samples"])


def test_cases_can_be_left_out(trained: ModelFolder, pack: Pack) -> None:
    """`TrainConfig.cases` is how many of each kind; 0 puts no picture of a patient into the folder."""
    report = trained.report
    table, thresholds = report.predictions[report.headline], report.thresholds.values
    for most in (0, 1):
        config = trained.record.config.model_copy(update={"cases": most})
        model = ModelFolder(trained.path, trained.record.model_copy(update={"config": config}), trained.digest)
        assert len(make_cases(model, pack, table, thresholds)) <= 3 * most
    assert load_cases(trained.path) == ()


def test_no_failure_of_the_pictures_is_more_than_a_refusal(trained: ModelFolder, pack: Pack, tmp_path: Path) -> None:
    """Training and `evaluate` go on without pictures after a ConfigError; the text names no path."""
    broken = ModelFolder(tmp_path, trained.record, trained.digest)  # has no network to load
    table, thresholds = trained.report.predictions[trained.report.headline], trained.report.thresholds.values
    with pytest.raises(ConfigError, match="pictures could not be made") as refused:
        make_cases(broken, pack, table, thresholds)
    assert str(tmp_path) not in str(refused.value)


def test_a_report_without_cases_leaves_no_pictures_of_an_earlier_one(tmp_path: Path) -> None:
    """A folder that is written again holds what the new report holds."""
    save_cases(tmp_path, (Case("7f", "a", "b", {"a": 0.7, "b": 0.3}, "wrong", "b", b"1", b"2"),))
    save_cases(tmp_path, ())
    assert list(tmp_path.iterdir()) == []


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    """Bytes for bytes; a damaged file is named."""
    cases = (Case("7f", "no Ödem", "Ödem", {"Ödem": 0.7}, "wrong", "Ödem", b"\x89PNG\xff", b"\x00"),)
    assert load_cases(save_cases(tmp_path, cases).parent) == cases
    (tmp_path / "cases.json").write_text("[{}]")
    with pytest.raises(ModelFolderError, match=r"cases\.json"):
        load_cases(tmp_path)
