"""The loop: what it keeps when training goes wrong or gets worse, and what a restarted attempt tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from medimg.config import Augment
from medimg.progress import Event
from medimg.training.augmentation import augmented
from medimg.training.checkpoints import Checkpoints
from medimg.training.features import FeatureSource
from medimg.training.loop import Diverged, Phase, Unrepeatable, fit
from medimg.training.steps import Devices, compile_for
from medimg.training.weighting import Balance, encode

pytestmark = pytest.mark.filterwarnings("ignore:.*__array__.*:DeprecationWarning")


def phase(name: str = "fitting", *, rate: float = 1e-2, epochs: int = 3, poison: int | None = None) -> Phase:
    """A logistic regression on 40 points; from epoch `poison` on, its inputs are no numbers."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
    compile_for(model, "binary", rate)

    class Poisoned(FeatureSource):
        calls = 0

        def x(self, rows: np.ndarray) -> np.ndarray:
            self.calls += 1
            found = super().x(rows)
            # Four batches an epoch.
            return found * np.nan if poison is not None and self.calls > 4 * poison else found

    return Phase(
        name=name, model=model, judged=model, train=Poisoned([x], y), val=FeatureSource([x], y), task="binary",
        epochs=epochs, batch_size=10, patience=None, balance=Balance.of(y, "binary", 1, balanced=True), seed=0,
        figures=lambda *_: {},
    )  # fmt: skip


def run(work: Phase, folder: Path, events: list[Event], earlier: list[dict[str, Any]] | None = None) -> list[Any]:
    """Trains a phase on one device."""
    return fit(work, Devices([]), Checkpoints(folder, "job"), events.append, stopping=lambda: False,
               earlier=earlier or [], every_seconds=60)  # fmt: skip


def test_the_loss_of_a_row_is_the_mean_over_its_epoch(tmp_path: Path) -> None:
    """And the validation loss is the weighted cross-entropy."""
    events: list[Event] = []
    history = run(phase(), tmp_path, events)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[0]["loss"] > history[2]["loss"]
    assert [event.values["loss"] for event in events if event.kind == "epoch"] == [row["loss"] for row in history]


def test_training_that_diverges_at_once_says_so(tmp_path: Path) -> None:
    """There is nothing to fall back to."""
    with pytest.raises(Diverged, match=r"diverged in epoch 1 of fitting.*Lower the learning rate"):
        run(phase(poison=0), tmp_path, [])


def test_training_that_diverges_later_keeps_its_best_epoch(tmp_path: Path) -> None:
    """The good epochs are not lost, and a warning tells."""
    events: list[Event] = []
    work = phase(poison=2, epochs=6)
    history = run(work, tmp_path, events)
    assert len(history) == 2
    assert all(np.isfinite(weight).all() for weight in work.model.get_weights())
    assert any("diverged in epoch 3" in event.message for event in events if event.kind == "warning")


def test_fine_tuning_cannot_end_worse_than_it_began(tmp_path: Path) -> None:
    """A step size that ruins the network leaves the weights of the phase before."""
    work = phase("fine-tuning", rate=50.0)
    before = [weight.copy() for weight in work.model.get_weights()]
    events: list[Event] = []
    earlier = [{"phase": "fitting", "epoch": 1, "loss": 0.1, "val_loss": 0.01, "seconds": 1.0}]
    history = run(work, tmp_path, events, earlier)
    assert len(history) == 4
    for found, expected in zip(work.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any("weights from before are kept" in event.message for event in events)


def test_a_restarted_attempt_tells_the_epochs_before(tmp_path: Path) -> None:
    """Its log and its tracking hold the whole history."""
    history = run(phase(), tmp_path, [])
    events: list[Event] = []
    again = run(phase(epochs=3), tmp_path, events)
    assert again == history
    assert [event.values["val_loss"] for event in events if event.kind == "epoch"] == [r["val_loss"] for r in history]


def test_weights_balance_the_classes_and_mask_the_unknown() -> None:
    """Every class has the same total weight; an unknown label has none."""
    y = np.array([0, 0, 0, 1], np.int64)
    encoded = encode(y, "binary", ("normal", "sick"), "sick")
    _, weights = Balance.of(encoded, "binary", 1, balanced=True).weigh(encoded, "binary")
    assert weights[encoded == 1].sum() == pytest.approx(weights[encoded == 0].sum())
    several = np.array([[1, np.nan], [0, 1], [0, 0]], np.float32)
    filled, weights = Balance.of(several, "multilabel", 2, balanced=True).weigh(several, "multilabel")
    assert not np.isnan(filled).any()
    assert weights[0, 1] == 0
    assert (weights[~np.isnan(several)] > 0).all()
    classes = np.array([0, 1, 1, 2, 2, 2], np.int64)
    _, weights = Balance.of(classes, "multiclass", 3, balanced=True).weigh(classes, "multiclass")
    assert [weights[classes == index].sum() for index in range(3)] == pytest.approx([2, 2, 2])


def test_a_rare_label_does_not_rule_training() -> None:
    """One image in a thousand would otherwise weigh five hundred times its neighbour."""
    y = np.zeros((1000, 1), np.float32)
    y[0] = 1
    _, weights = Balance.of(y, "binary", 1, balanced=True).weigh(y, "binary")
    assert weights.max() == 10


def test_without_balance_every_image_weighs_the_same() -> None:
    """`class_weight=None`."""
    y = np.array([[0], [0], [1]], np.float32)
    _, weights = Balance.of(y, "binary", 1, balanced=False).weigh(y, "binary")
    assert (weights == 1).all()


class Noise(keras.layers.Layer):
    """Noise on every call, or only in training: a user's own layer."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always = always
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x: Any, training: bool = False) -> Any:
        """Returns the pictures with noise."""
        return x + 50 * keras.random.normal((16, 16, 1), seed=self.seeds) if training or self.always else x


def images_phase(layer: keras.Layer | None = None) -> Phase:
    """A small network on 24 pictures, augmented; with a layer of its own in front where one is given."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (24, 16, 16, 1)).astype(np.float32)
    y = (x.mean(axis=(1, 2)) > np.median(x.mean(axis=(1, 2)))).astype(np.float32)
    entry = keras.Input((16, 16, 1))
    changed = entry if layer is None else layer(entry)
    rest = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dropout(0.5)]
    network = keras.Sequential([*rest, keras.layers.Dense(1, activation="sigmoid")])
    network = keras.Model(entry, network(changed))
    model = augmented(network, Augment())
    compile_for(model, "binary", 1e-2)
    return Phase(
        name="fitting", model=model, judged=network, train=FeatureSource([x], y), val=FeatureSource([x], y),
        task="binary", epochs=1, batch_size=10, patience=None, balance=Balance.of(y, "binary", 1, balanced=True),
        seed=0, figures=lambda *_: {},
    )  # fmt: skip


def test_two_passes_over_validation_are_equal_to_the_bit(tmp_path: Path) -> None:
    """Augmentation and dropout act on the images of training alone."""
    work = images_phase()
    run(work, tmp_path, [])
    devices = Devices([])
    images = work.val.x(np.arange(24))
    passes = [devices.forward(network)(images) for network in (work.judged, work.judged, work.model)]
    np.testing.assert_array_equal(passes[0], passes[1])
    np.testing.assert_array_equal(passes[0], passes[2])
    changed = [np.asarray(work.model(images, training=True)) for _ in range(2)]
    assert np.abs(changed[0] - changed[1]).max() > 1e-3


def test_a_network_that_is_random_on_validation_is_refused(tmp_path: Path) -> None:
    """A user's own architecture may hold a layer that never looks whether it is trained."""
    with pytest.raises(
        Unrepeatable, match=r"two passes over the same validation images differ by .*call\(training=…\)"
    ):
        run(images_phase(Noise(always=True)), tmp_path, [])
    run(images_phase(Noise(always=False)), tmp_path / "plain", [])
