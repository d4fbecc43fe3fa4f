"""Augmentation: what changes, what stays, and views that are the same however often they are asked for."""

from __future__ import annotations

import numpy as np

from medimg.config import Augment
from medimg.training.augmentation import View, augmentation

STILL = Augment(rotation=0, translation=0, zoom=0, brightness=0, contrast=0)


class Films:
    """Twelve films with a white frame, so that what is cut off or added is seen."""

    identity = "films"

    def __init__(self) -> None:
        self.images = np.full((12, 48, 48, 1), 100, np.float32)
        self.images[:, [0, -1]] = self.images[:, :, [0, -1]] = 255

    def __len__(self) -> int:
        return len(self.images)

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Returns images."""
        return self.images[rows]

    def y(self, rows: np.ndarray) -> np.ndarray:
        """Returns targets."""
        return rows


def test_a_view_is_the_same_for_the_same_rows_whatever_was_asked_before() -> None:
    """As after an interruption; another number or seed is another view."""
    first, again = np.arange(4), np.arange(4, 8)
    view = View(Films(), Augment(), (0, 1))
    expected = view.x(first), view.x(again)
    resumed = View(Films(), Augment(), (0, 1))
    np.testing.assert_array_equal(resumed.x(again), expected[1])
    np.testing.assert_array_equal(resumed.x(first), expected[0])
    assert not np.array_equal(expected[0], expected[1])
    for key in ((0, 2), (1, 1)):
        assert not np.array_equal(View(Films(), Augment(), key).x(first), expected[0])
    np.testing.assert_array_equal(view.y(again), again)
    assert len(view) == 12


def test_every_image_of_a_view_is_changed_in_its_own_way_and_stays_a_film() -> None:
    """Values from 0 to 255, float32, no two alike."""
    found = View(Films(), Augment(), (0, 0)).x(np.arange(12))
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 255
    assert len({image.tobytes() for image in found}) == 12


def test_stretching_cuts_off_and_never_adds() -> None:
    """Of the white frame less is left or as much, nothing black comes in, and the two directions differ."""
    films = Films()
    films.images[:, 8:-8, 8:-8] = 200
    found = View(films, STILL.model_copy(update={"stretch": 0.3}), (0, 0)).x(np.arange(12))
    assert found.min() >= 99
    high, wide = (found[..., 0] > 190).mean(axis=(1, 2)), (found[:, 24, :, 0] > 190).mean(axis=1)
    assert (high >= (films.images[0] > 190).mean() - 0.1).all()
    ratio = wide / (found[:, :, 24, 0] > 190).mean(axis=1)
    assert ratio.max() > 1.1
    assert ratio.min() < 0.9


def test_nothing_asked_is_nothing_changed() -> None:
    """All settings 0."""
    films = Films()
    np.testing.assert_array_equal(View(films, STILL, (0, 0)).x(np.arange(3)), films.x(np.arange(3)))


def test_outside_training_images_stay_as_they_are() -> None:
    """What validation and test see."""
    images = Films().images
    np.testing.assert_array_equal(augmentation((48, 48, 1), Augment(stretch=0.3))(images, training=False), images)
