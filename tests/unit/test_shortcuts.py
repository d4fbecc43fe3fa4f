"""Shortcuts: what gives a class away is found and named, chance is not, and patients are not split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from medimg.data.audit.separation import FEATURES, FEWEST, plain_features, ranking, separation
from medimg.data.audit.shortcuts import find_shortcuts, shortcut_message
from medimg.data.dataset import Dataset


def draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features without meaning, truth, and one patient an image."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, len(FEATURES)))
    return features, rng.random(count) < 0.5, np.arange(count).astype(str)


def test_what_two_sets_differ_in_is_measured_as_theory_says() -> None:
    """Two normal distributions one standard deviation apart have an AUROC of 0.760."""
    features, positive, groups = draw(6000)
    features[positive, 2] += 1
    found = separation(features, positive, groups)
    assert found is not None
    assert found.auroc == pytest.approx(0.760, abs=0.015)
    assert found.low < 0.760 < found.high
    assert found.high - found.low < 0.03


def test_a_class_in_the_middle_of_a_range_is_found_too() -> None:
    """Sizes of one class between those of the other: no line separates them, a square does."""
    features, positive, groups = draw(400)
    features[:, 0] = np.where(positive, 0, np.random.default_rng(1).choice([-1.0, 1.0], 400))
    found = separation(features, positive, groups)
    assert found is not None
    assert found.auroc > 0.95


def test_chance_raises_no_alarm() -> None:
    """Forty sets without meaning, from the smallest that is judged to middling ones: none is reported."""
    alarms = 0
    for seed in range(40):
        count = 4 * FEWEST if seed % 2 else 300
        features, positive, groups = draw(count, seed)
        alarms += bool(find_shortcuts(features, positive[:, None].astype(float), groups, ["NODULE"]))
    assert alarms == 0


def test_images_of_one_patient_are_never_on_both_sides() -> None:
    """Ten near-identical images of each patient and labels by patient: without groups they are told, with them not."""
    rng = np.random.default_rng(2)
    patient = np.arange(1000) // 10
    features = rng.normal(size=(100, len(FEATURES)))[patient] + 0.01 * rng.normal(size=(1000, len(FEATURES)))
    positive = (rng.random(100) < 0.5)[patient]
    alone = separation(features, positive, np.arange(1000).astype(str))
    grouped = separation(features, positive, patient.astype(str))
    assert alone is not None
    assert grouped is not None
    assert alone.auroc > 0.65
    assert grouped.auroc < 0.6
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_the_interval_covers_under_clustering() -> None:
    """A fixed score, three images a patient: about 95% of the intervals hold the true area."""
    from medimg.data.audit.separation import _auroc

    rng = np.random.default_rng(3)
    patient = np.arange(300) // 3
    covered = 0
    for _ in range(400):
        positive = (rng.random(100) < 0.5)[patient]
        scores = rng.normal(size=100)[patient] + 0.3 * rng.normal(size=300) + positive * np.sqrt(1.09)
        found = _auroc(positive, scores, patient.astype(str))
        covered += found.low <= 0.7602 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_too_few_images_or_patients_are_not_judged() -> None:
    """None is no answer, neither "fine" nor a warning."""
    features, positive, groups = draw(2 * FEWEST - 10)
    assert separation(features, positive, groups) is None
    features, positive, groups = draw(400)
    assert separation(features, positive, (np.arange(400) % 8).astype(str)) is None
    assert find_shortcuts(features, positive[:, None].astype(float), (np.arange(400) % 8).astype(str), ["A"]) is None


def test_unknown_labels_are_left_out_and_each_label_is_judged_alone() -> None:
    """Of three labels one is given away by size; half of its values are unknown."""
    features, _, groups = draw(900)
    truth = (np.random.default_rng(4).random((900, 3)) < 0.4).astype(float)
    features[truth[:, 1] == 1, 0] += 2
    truth[::2, 1] = np.nan
    found = find_shortcuts(features, truth, groups, ["Edema", "Mass", "Nodule"])
    assert found is not None
    assert [one.name for one in found] == ["Mass"]
    assert [family for family, _ in found[0].alone] == ["size"]
    message = shortcut_message(found)
    assert "Mass AUROC 0.9" in message
    assert "size alone 0.9" in message


def test_a_large_set_is_sampled_by_patient_and_gives_the_same_answer() -> None:
    """20,000 images take no longer than 8,000, and nothing that is said changes."""
    features, positive, groups = draw(20_000)
    features[positive, 3] += 0.8
    found = separation(features, positive, groups)
    assert found is not None
    assert found.auroc == pytest.approx(roc_auc_score(positive, features[:, 3]), abs=0.012)


def test_single_features_are_ranked_by_what_they_tell() -> None:
    """As scikit-learn measures them, ties counted half."""
    features, positive, _ = draw(300)
    features[:, 5] = np.round(features[:, 5] - 2 * positive)
    ranked = ranking(features, positive)
    assert ranked[0][1] == 5
    for auroc, column in ranked:
        assert auroc == pytest.approx(roc_auc_score(positive, features[:, column]))


def test_squashed_pictures_betray_their_proportions(tmp_path: Path) -> None:
    """Round spots on a square, a wide and a high film, all squashed to one square: `stretch` has the order."""
    rng = np.random.default_rng(5)
    for name, (height, width) in {"b": (240, 240), "c": (240, 360), "a": (360, 240)}.items():
        noise = Image.fromarray(rng.integers(0, 256, (height // 6, width // 6), dtype=np.uint8))
        smooth = noise.resize((width, height), Image.Resampling.BICUBIC)
        (tmp_path / name).mkdir()
        smooth.resize((224, 224), Image.Resampling.BILINEAR).save(tmp_path / name / "0.png")
    dataset = Dataset.from_folder(tmp_path)
    facts = dataset.index()
    high, square, wide = plain_features([facts[sample.id] for sample in dataset.samples])[:, FEATURES.index("stretch")]
    assert high < -0.2 < square < 0.2 < wide
    assert abs(square) < 0.05
