"""A network that gets by without the middle of the images is told from one that needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medimg.artifact import ModelFolder
from medimg.data.dataset import Dataset
from medimg.data.pack import Pack, build
from medimg.evaluation.masking import CHECK, check_centre, without_centre
from medimg.inference.predictions import Predictions
from medimg.inference.predictor import Predictor


class Looker(Predictor):
    """A predictor whose network is the mean brightness of a part of the image."""

    def __init__(self, model: ModelFolder, part: tuple[slice, slice], rising: float = 1.0) -> None:
        super().__init__(model)
        self.part, self.rising = part, rising

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns two columns that sum to 1."""
        bright = 0.5 + self.rising * (images[:, *self.part, 0].mean(axis=(1, 2)) / 255 - 0.5)
        return np.stack([1 - bright, bright], axis=1)


MIDDLE, RIM = (slice(24, 40), slice(24, 40)), (slice(0, 6), slice(None))


@pytest.fixture
def pack(phantoms: Path) -> Pack:
    """Phantoms at 64 pixels."""
    dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
    return Pack.open(build(dataset, 64, facts=dataset.index()).path)


def table(predictor: Predictor, pack: Pack) -> Predictions:
    """Returns predictions of the whole pack, labelled by what the network sees, so that its AUROC is 1."""
    found = predictor.predict_pack(pack)
    label = (found.scores[:, 0] > np.median(found.scores[:, 0])).astype(int)
    return replace(found, labels=tuple(label.tolist()), split="val")


def test_a_network_that_looks_at_the_rim_is_warned_of(trained: ModelFolder, pack: Pack) -> None:
    """Its ranking does not change when the middle is gone."""
    predictor = Looker(trained, RIM)
    found = check_centre(predictor, pack, table(predictor, pack))
    assert (found.check, found.level) == (CHECK, "warning")
    assert "AUROC 1.000" in found.message
    assert "1.000 with the middle half painted over" in found.message


def test_a_network_that_needs_the_middle_is_fine(trained: ModelFolder, pack: Pack) -> None:
    """A quarter of the side within the middle: what is left of it is its surroundings' mean."""
    predictor = Looker(trained, MIDDLE)
    assert check_centre(predictor, pack, table(predictor, pack)).level == "fine"


def test_a_network_near_chance_is_not_judged(trained: ModelFolder, pack: Pack) -> None:
    """It has nothing to lose: neither fine nor a warning."""
    predictor = Looker(trained, RIM)
    found = table(predictor, pack)
    shuffled = replace(found, labels=tuple(np.random.default_rng(0).permutation(found.labels).tolist()))
    assert check_centre(predictor, pack, shuffled).level == "unknown"


def test_few_images_are_not_judged(trained: ModelFolder, pack: Pack) -> None:
    """One label throughout."""
    predictor = Looker(trained, RIM)
    found = table(predictor, pack)
    assert check_centre(predictor, pack, replace(found, labels=(1,) * len(found))).level == "unknown"


def test_half_of_the_area_is_painted_over_and_the_rest_untouched() -> None:
    """In each image's own mean, and the given images stay as they are."""
    images = np.random.default_rng(0).integers(0, 256, (3, 100, 60, 3), dtype=np.uint8)
    before = images.copy()
    masked = without_centre(images)
    np.testing.assert_array_equal(images, before)
    changed = (masked != images).any(axis=(0, 3))
    assert changed.mean() == pytest.approx(0.49, abs=0.01)
    assert changed[15:85, 9:51].all()
    for image, old in zip(masked, images, strict=True):
        assert len(np.unique(image[15:85, 9:51].reshape(-1, 3), axis=0)) == 1
        assert image[50, 30].tolist() == np.round(old[15:85, 9:51].mean(axis=(0, 1))).tolist()
