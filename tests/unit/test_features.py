"""Features of a frozen backbone: by which engine, where they are kept, and what a later run finds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from medimg.backends.identity import forget_shared
from medimg.export.frozen import to_litert
from medimg.home import home
from medimg.job import Interrupted
from medimg.progress import Event
from medimg.training import engines, kept_features
from medimg.training.features import FeatureSource, features_of
from medimg.training.kept_features import KeptFeatures
from medimg.training.steps import Devices

pytestmark = pytest.mark.filterwarnings("ignore:.*__array__.*:DeprecationWarning")

COUNT = 1100  # two parts, and enough for LiteRT


class Images:
    """Random images in memory, which count how many of them were asked for."""

    def __init__(self, count: int = COUNT) -> None:
        self.identity = f"random {count}"
        self.asked = 0
        self._x = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1)).astype(np.float32)

    def __len__(self) -> int:
        return len(self._x)

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Returns images by position."""
        self.asked += len(rows)
        return self._x[rows]

    def y(self, rows: np.ndarray) -> np.ndarray:
        """Returns targets that tell the rows."""
        return rows[:, None].astype(np.float32)


def backbone(seed: int = 0) -> keras.Model:
    """A convolution with batch normalisation and pooling; its three features depend on the seed."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(3, 3, name="convolution")(keras.layers.Rescaling(1 / 255, name="scale")(image))
    x = keras.layers.BatchNormalization(name="normal")(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(name="features")(x), name="backbone")


def compute(
    images: Images,
    root: Path,
    network: keras.Model | None = None,
    events: list[Event] | None = None,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Returns the features of all images, and tells what happened."""
    told = [] if events is None else events
    kept = KeptFeatures(root, "pack", lambda text: told.append(Event("warning", message=text)))
    found = features_of(
        {"train": [images]}, network or backbone(), Devices([]), kept, identity={"pack": "pack"}, report=told.append,
        check=check,
    )  # fmt: skip
    return found["train"].x(np.arange(len(images)))


def by_keras(images: Images) -> np.ndarray:
    """Returns what Keras computes."""
    return np.asarray(backbone()(images.x(np.arange(len(images))), training=False))


def test_features_by_litert_equal_those_by_keras(tmp_path: Path) -> None:
    """Enough images for LiteRT, whose last bits differ; and few, which Keras computes."""
    images = Images()
    expected = by_keras(images)
    found = compute(images, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    few = Images(40)
    assert not engines.pays(Devices([]), len(few))
    np.testing.assert_allclose(compute(few, tmp_path), by_keras(few), rtol=0, atol=1e-6)


def test_a_later_run_computes_nothing_and_says_so(tmp_path: Path) -> None:
    """Same images, same backbone: no image is even read."""
    images, events = Images(), []
    first = compute(images, tmp_path)
    images.asked = 0
    np.testing.assert_array_equal(compute(images, tmp_path, events=events), first)
    assert images.asked == 0
    assert "features of 1,100 images found from an earlier run" in [event.message for event in events]
    assert events[-2].done == events[-2].total == COUNT


def test_other_weights_have_other_features(tmp_path: Path) -> None:
    """The same architecture, and all images are computed anew."""
    images = Images()
    first = compute(images, tmp_path)
    images.asked = 0
    assert np.abs(compute(images, tmp_path, backbone(seed=1)) - first).max() > 1e-3
    assert images.asked >= COUNT


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"\xff" + content[1:]])
def test_a_damaged_part_is_computed_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Cut off, or with a wrong byte; the other part is taken as it is."""
    images = Images()
    first = compute(images, tmp_path)
    (part,) = tmp_path.glob("pack/*/00001024.f32")
    whole = part.read_bytes()
    part.unlink()
    part.write_bytes(damage(whole))
    images.asked = 0
    np.testing.assert_array_equal(compute(images, tmp_path), first)
    assert images.asked == COUNT - 1024 + engines.CHECKED
    assert part.read_bytes() == whole


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """With the same bits as one that was left alone."""
    images, calls = Images(), iter(range(COUNT))

    def check() -> None:
        if next(calls) == 33:  # in the second part
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        compute(images, tmp_path / "stopped", check=check)
    images.asked = 0
    found = compute(images, tmp_path / "stopped")
    assert images.asked == COUNT - 1024 + engines.CHECKED
    np.testing.assert_array_equal(found, compute(images, tmp_path / "undisturbed"))


def test_keras_computes_what_litert_gives_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that is another network's is refused, and the log says why."""
    other = backbone(seed=1)
    monkeypatch.setattr(engines, "to_litert", lambda _: to_litert(other))
    images, events = Images(300), []
    found = compute(images, tmp_path, events=events)
    np.testing.assert_allclose(found, by_keras(images), rtol=0, atol=1e-6)
    assert any("LiteRT's features differ from Keras' by" in event.message for event in events)


def test_a_disk_that_takes_nothing_costs_only_time(tmp_path: Path) -> None:
    """Features are computed all the same, and one warning says that they are not kept."""
    (tmp_path / "file").write_text("no folder")
    images, events = Images(), []
    found = compute(images, tmp_path / "file", events=events)
    np.testing.assert_array_equal(found, compute(images, tmp_path / "folder"))
    assert [event.message[:22] for event in events if event.kind == "warning"] == ["features are not kept:"]


def test_a_disk_that_is_nearly_full_is_left_to_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What earlier runs kept goes first; if that is not enough, one warning says so, and nothing is written."""
    images, events = Images(), []
    first = compute(images, tmp_path)
    monkeypatch.setattr(kept_features, "LEAST_FREE_BYTES", 2**62)
    compute(images, tmp_path, backbone(seed=1), events)
    np.testing.assert_array_equal(compute(images, tmp_path), first)
    assert not list(tmp_path.rglob("*.f32"))
    (warning,) = [event.message for event in events if event.kind == "warning"]
    assert warning.startswith(f"features are not kept: the disk of {tmp_path} has less than")


def test_a_folder_that_cannot_be_memory_mapped_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some mounted buckets are; a part that is too short is computed again there, too."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    images = Images(40)
    first = compute(images, tmp_path)
    images.asked = 0
    monkeypatch.setattr(np, "memmap", refuse)
    np.testing.assert_array_equal(compute(images, tmp_path), first)
    assert images.asked == 0
    (part,) = tmp_path.rglob("*.f32")
    part.write_bytes(part.read_bytes()[:100])
    np.testing.assert_array_equal(compute(images, tmp_path), first)
    assert images.asked == 40


def test_what_was_least_recently_used_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never what the run itself uses, though that alone may be too large."""
    images = Images(40)
    for seed in range(3):
        compute(images, tmp_path, backbone(seed))
        (newest,) = (folder for folder in tmp_path.glob("pack/*") if folder.stat().st_mtime > 1000)
        os.utime(newest, (seed, seed))
    compute(images, tmp_path, backbone(seed=0))  # it is used, so it is the newest now
    each = 40 * 3 * 4 + 32
    monkeypatch.setattr(kept_features, "MOST_BYTES", 2 * each)
    first, last = compute(images, tmp_path, backbone(seed=2)), compute(images, tmp_path, backbone(seed=0))
    assert len(list(tmp_path.glob("pack/*"))) == 2
    monkeypatch.setattr(kept_features, "MOST_BYTES", each // 2)
    images.asked = 0
    np.testing.assert_array_equal(compute(images, tmp_path, backbone(seed=0)), last)
    assert len(list(tmp_path.glob("pack/*"))) == 1
    assert images.asked == 0
    assert not np.array_equal(first, last)


def test_features_go_with_the_pack_that_nobody_needs(own_home: Path) -> None:
    """They are of patients' images; the pack of another job keeps its own."""
    assert home() == own_home
    for name in ("gone", "kept"):
        (own_home / "packs" / name).mkdir(parents=True)
        (own_home / "features" / name / "key").mkdir(parents=True)
    forget_shared({"pack": "gone"}, lambda: [{"pack": "kept"}])
    forget_shared({"pack": "kept"}, lambda: [{"pack": "kept"}])
    assert [folder.name for folder in (own_home / "features").iterdir()] == ["kept"]


def test_rows_of_several_parts_are_those_of_one_array() -> None:
    """In any order, and more than once."""
    rng = np.random.default_rng(0)
    whole = rng.random((40, 3), dtype=np.float32)
    source = FeatureSource([whole[:16], whole[16:32], whole[32:]], np.arange(40))
    rows = rng.integers(0, 40, 100)
    np.testing.assert_array_equal(source.x(rows), whole[rows])
    np.testing.assert_array_equal(source.y(rows), rows)
    assert len(source) == 40
