"""Brightness brought to a common scale: the right levels, the same bits everywhere, in training and in use."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from medimg.artifact import ModelFolder, Preprocessing
from medimg.backends import backend
from medimg.config import TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.normalise import Normalisation, normalise
from medimg.data.pack import Pack, build
from medimg.errors import ConfigError
from medimg.inference.predictor import Predictor
from medimg.training.features import PackSource

HOWS: tuple[Normalisation, ...] = ("percentile", "clahe")


def films(count: int = 5, size: int = 64, channels: int = 1) -> np.ndarray:
    """Returns smooth generated images with little contrast: uint8 (count, size, size, channels)."""
    y, x = np.mgrid[:size, :size] / size
    number = np.arange(count)[:, None, None, None] + 1
    channel = np.arange(channels) * 0.7
    waves = np.sin(7 * number * x[..., None] + channel) + np.cos(5 * y[..., None] * (number + 1) - channel)
    return np.round(110 + 25 * waves).astype(np.uint8)


def test_the_darkest_hundredth_becomes_black_and_the_brightest_white() -> None:
    """On levels 0 to 99, one pixel each per hundred: the 1st percentile is at 1, the 99th at 98."""
    ramp = np.arange(100, dtype=np.uint8).repeat(100).reshape(1, 100, 100, 1)
    found = normalise(ramp, "percentile").ravel()[::100]
    expected = np.clip(np.round((np.arange(100) - 1) * 255 / 97), 0, 255)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("how", "left"), [("percentile", 0.1), ("clahe", 0.6)])
def test_brightness_and_contrast_matter_less(how: Normalisation, left: float) -> None:
    """Of the difference between a film and itself darker and flatter, a share is left; CLAHE keeps more."""
    plain = films()
    other = np.round(plain * 0.7 + 10).astype(np.uint8)
    before = np.abs(plain.astype(int) - other).mean()
    after = np.abs(normalise(plain, how).astype(int) - normalise(other, how)).mean()
    assert after < left * before


def test_clahe_gives_what_opencv_gives() -> None:
    """Recorded from OpenCV 4's createCLAHE(2.0, (8, 8)), also where eight tiles do not fit the side; to the bit."""
    recorded = {
        64: "a8532f3c3bed81ee",
        100: "4532853ba5a7adc7",
        61: "7b8dcbce57205c20",
    }
    for size, expected in recorded.items():
        found = normalise(films(size=size), "clahe")
        assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == expected


@pytest.mark.parametrize("how", HOWS)
def test_colours_keep_their_order_of_channels_and_grey_stays_grey(how: Normalisation) -> None:
    """Grey stored three times comes out as the grey film does; in colour no channel overtakes another."""
    grey = films()
    thrice = normalise(np.repeat(grey, 3, axis=3), how)
    np.testing.assert_array_equal(thrice, np.repeat(normalise(grey, how), 3, axis=3))
    colour = films(channels=3)
    found = normalise(colour, how).astype(int)
    order = np.argsort(colour, axis=3, kind="stable")
    assert (np.diff(np.take_along_axis(found, order, axis=3), axis=3) >= 0).all()


@pytest.mark.parametrize("how", HOWS)
def test_an_image_does_not_depend_on_its_batch(how: Normalisation) -> None:
    """One by one or together, more than fit one chunk too."""
    images = films(count=40, size=256)
    together = normalise(images, how)
    np.testing.assert_array_equal(together[7], normalise(images[7:8], how)[0])
    np.testing.assert_array_equal(together[39], normalise(images[39:], how)[0])


def test_nothing_is_done_where_nothing_is_asked_or_there_is_nothing_to_do() -> None:
    """None gives back the same array, a blank image stays blank, and no images stay no images."""
    images = films()
    assert normalise(images, None) is images
    blank = np.full((1, 32, 32, 1), 90, np.uint8)
    np.testing.assert_array_equal(normalise(blank, "percentile"), blank)
    assert len(np.unique(normalise(blank, "clahe"))) == 1
    assert normalise(images[:0], "clahe").shape == (0, 64, 64, 1)


def test_an_unknown_normalisation_is_refused_with_the_nearest_name() -> None:
    """As every setting is."""
    with pytest.raises(ConfigError, match="clahe"):
        TrainConfig(normalisation="clae")  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=HOWS)
def model(request: pytest.FixtureRequest, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A small network trained with each normalisation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(tmp_path_factory.mktemp("normalised")))
        patch.setenv("MEDIMG_SALT", "salt of the tests")
        config = TrainConfig(
            model="small_cnn", weights=None, image_size=48, epochs=1, augment=False, normalisation=request.param
        )
        return backend("local").train(Dataset.from_folder(phantoms, group=r"(patient\d+)"), config).model


def test_training_packs_and_single_images_are_normalised_alike(model: ModelFolder, phantoms: Path) -> None:
    """What the trainer saw, what a pack's prediction sees and what one file's sees are the same bytes."""
    preprocessing = model.record.preprocessing
    how = preprocessing.normalisation
    assert how == model.record.config.normalisation
    dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
    pack = Pack.open(build(dataset, 48, facts=dataset.index()).path)
    rows = pack.rows("test")
    trained_on = PackSource(pack, rows, np.zeros(len(rows)), how).x(np.arange(len(rows)))
    np.testing.assert_array_equal(trained_on, preprocessing.prepare_batch(pack.images(rows)))
    predictor = Predictor(model)
    for row, image in zip(rows, trained_on, strict=True):
        np.testing.assert_array_equal(predictor.prepare(dataset[pack.samples[row].id].path), image)
    plain = Preprocessing(image_size=48, channels=1).prepare_batch(pack.images(rows))
    assert np.abs(plain - trained_on).mean() > 5
    table = predictor.predict_pack(pack, split="test")
    for id in table.ids:
        alone = model.predict(dataset[id].path).probabilities
        assert table[id].probabilities == pytest.approx(alone, abs=1e-6)


def test_golden_inputs_hold_for_a_normalised_model_on_both_runtimes(model: ModelFolder) -> None:
    """So that a server which forgot to normalise does not become ready."""
    assert Predictor(model, runtime="keras").check_golden() <= 1e-6
    assert Predictor(model, runtime="litert").check_golden() <= 1e-4
