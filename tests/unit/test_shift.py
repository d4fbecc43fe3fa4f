"""Shift between train and test, class by class: found, named in words, and not invented."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medimg.data.audit.separation import FEATURES, plain_features
from medimg.data.audit.shift import find_shift, shift_message
from medimg.data.audit.shortcuts import find_shortcuts
from medimg.data.dataset import Dataset

DATA = Path(os.environ.get("MEDIMG_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
CHEST_GROUP = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"


def draw(count: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns features, which of two classes each image shows, which are test, and one patient an image."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, len(FEATURES)))
    first = rng.random(count) < 0.5
    return features, np.stack([first, ~first], axis=1), rng.random(count) < 0.3, np.arange(count).astype(str)


def test_the_class_that_is_darker_in_test_is_named() -> None:
    """And the other is not; the words say what differs and what follows."""
    features, shows, in_test, groups = draw()
    features[shows[:, 0] & in_test, FEATURES.index("brightness")] -= 1.5
    found = find_shift(features, shows, in_test, groups, ["NORMAL", "PNEUMONIA"])
    assert found is not None
    assert [one.name for one in found] == ["NORMAL"]
    assert found[0].differences[0][0] == "darker"
    assert found[0].differences[0][1] == pytest.approx(0.86, abs=0.04)
    message = shift_message(found)
    assert "NORMAL AUROC 0.8" in message
    assert "in test darker (alone 0.8" in message
    assert "The ranking may hold, the threshold may not" in message


def test_another_mixture_of_classes_is_no_shift() -> None:
    """The classes look different and test has more of one: within each class nothing differs."""
    features, shows, _, groups = draw(2000)
    features[shows[:, 0]] += 2
    in_test = np.random.default_rng(1).random(2000) < np.where(shows[:, 0], 0.6, 0.2)
    assert find_shift(features, shows, in_test, groups, ["NORMAL", "PNEUMONIA"]) == ()


def test_a_random_split_raises_no_alarm() -> None:
    """Twenty of them, with small tests too."""
    for seed in range(20):
        features, shows, _, groups = draw()
        rng = np.random.default_rng(seed)
        in_test = rng.random(600) < rng.choice([0.15, 0.3, 0.5])
        assert not find_shift(features, shows, in_test, groups, ["NORMAL", "PNEUMONIA"])


def test_more_spread_with_the_same_mean_is_a_shift_without_a_single_word() -> None:
    """The classifier sees it; no single fact is larger or smaller, so none is named."""
    features, shows, in_test, groups = draw(1500)
    features[in_test] *= 3
    found = find_shift(features, shows, in_test, groups, ["NORMAL", "PNEUMONIA"])
    assert found is not None
    assert len(found) == 2
    assert all(one.differences == () for one in found)
    assert "in test" not in shift_message(found)


def test_a_split_with_too_few_images_of_every_class_is_not_judged() -> None:
    """None, not "fine"."""
    features, shows, _, groups = draw()
    in_test = np.arange(600) < 20
    assert find_shift(features, shows, in_test, groups, ["NORMAL", "PNEUMONIA"]) is None


@pytest.mark.skipif(not (DATA / "MANIFEST.csv").is_file(), reason=f"no data sets in {DATA}")
def test_the_chest_set_is_given_away_and_shifted_by_the_proportions_of_its_films() -> None:
    """On every third film: pneumonia's were wider, and so are the normal films of the official test."""
    whole = Dataset.from_folder(DATA / "chestxray/kaggle224", group=CHEST_GROUP)
    dataset = replace(whole, samples=whole.samples[::3])
    facts = dataset.index()
    features = plain_features([facts[sample.id] for sample in dataset.samples])
    labels = np.array([sample.labels for sample in dataset.samples])
    in_test = np.array([sample.split == "test" for sample in dataset.samples])
    groups = np.array([str(sample.group) for sample in dataset.samples])
    shifts = find_shift(features, labels[:, None] == [0, 1], in_test, groups, dataset.classes)
    assert shifts is not None
    assert [one.name for one in shifts] == ["NORMAL"]
    assert shifts[0].separation.auroc == pytest.approx(0.87, abs=0.04)
    assert shifts[0].differences[0][0] == "squeezed more from side to side"
    truth = (labels[~in_test, None] == 1).astype(float)
    shortcuts = find_shortcuts(features[~in_test], truth, groups[~in_test], ["PNEUMONIA"])
    assert shortcuts is not None
    alone = {family: each.auroc for family, each in shortcuts[0].alone}
    assert alone["proportions"] == pytest.approx(0.90, abs=0.02)
    assert alone["brightness and contrast"] == pytest.approx(0.79, abs=0.03)
