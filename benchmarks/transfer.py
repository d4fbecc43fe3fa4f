"""Ten epochs of a head on a frozen backbone, from the pack: medimg beside `model.fit`, on the children's chest films.

    python benchmarks/transfer.py DATA [--networks mobilenet_v2 …] [--images 300] [--rounds 1]

Both sides have the pack open and TensorFlow loaded; both build the network, load the same weights and train its head
on the same images of 224 pixels, balanced, and keep the epoch with the best validation loss. The peer is what Keras'
guide to transfer learning says, at its best: a frozen `keras.applications` network, its images as bytes in memory, in
`tf.data` with prefetching. medimg computes each feature once, with the conversion of the network in its time; "again"
is a second training with another learning rate, which finds the features of the first.

MobileNetV2 at alpha 0.35 has its ImageNet weights from DATA/weights and takes all images. The others have random
weights, with batch normalisation settled on the images so that features do not vanish, and fewer images, as said in
their rows; what medimg pays once for each network then weighs more: `--images` raises their number.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measured import Row, Table, folder_named, interleaved, some
from random_network import settle

IMAGES = {
    "mobilenet_v2 0.35": 10**6, "mobilenet_v2": 1000, "efficientnetv2-b0": 400, "densenet121": 260, "resnet50": 260,
    "inception_v3": 260,
}  # fmt: skip
"""Network to images of train and validation together, at most."""

DEFAULT = ("mobilenet_v2 0.35", "efficientnetv2-b0", "densenet121")  # six minutes on two quiet cores

EPOCHS, BATCH, RATE, SIDE = 10, 32, 1e-3, 224
GROUP = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"


def main() -> int:
    """Prints the table; returns 1 where a goal was not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=folder_named)
    parser.add_argument("--networks", nargs="+", choices=IMAGES, default=DEFAULT)
    parser.add_argument("--images", type=some, help="of train and validation together, for each network")
    parser.add_argument("--rounds", type=some, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medimg-transfer-") as folder:
        root = Path(folder)
        os.environ |= {
            "MEDIMG_HOME": str(root / "home"), "KERAS_HOME": str(root / "keras"), "TF_CPP_MIN_LOG_LEVEL": "3",
        }  # fmt: skip
        shutil.copytree(given.data / "weights", root / "keras" / "models")
        work = Work(given.data, root)
        rows = [
            row
            for network in given.networks
            for row in compared(work, network, given.images or IMAGES[network], given.rounds)
        ]
    text = (
        f"{EPOCHS} epochs, batch {BATCH}, {SIDE} pixels: seconds from the open pack to the fitted head. "
        f"{'One round' if given.rounds == 1 else f'Medians of {given.rounds} interleaved rounds'} each."
    )
    return Table("Transfer learning", text, tuple(rows)).print()


@dataclass(frozen=True)
class Fitted:
    """A trained head, by what it says of validation."""

    auroc: float


class Work:
    """The pack, and what both sides do with it."""

    def __init__(self, data: Path, root: Path) -> None:
        from medimg.data.dataset import Dataset
        from medimg.data.pack import build
        from medimg.training.environment import make_exact

        self.root = root
        dataset = Dataset.from_folder(data / "chestxray" / "kaggle224", group=GROUP).split(val=0.15, test=0.15)
        self.pack = build(dataset, SIDE, facts=dataset.index())
        make_exact()

    def rows(self, split: str, images: int) -> object:
        """Returns the positions of a share of a split, so that train and validation together have so many images."""
        rows, both = self.pack.rows(split), len(self.pack.rows("train")) + len(self.pack.rows("val"))
        wanted = round(len(rows) * min(1.0, images / both))
        import numpy as np

        return np.sort(np.random.default_rng(0).permutation(rows)[:wanted])


def compared(work: Work, network: str, images: int, rounds: int) -> list[Row]:
    """Returns the rows of one network."""
    import keras

    name, _, alpha = network.partition(" ")
    options = {"alpha": float(alpha)} if alpha else {}
    weights = "imagenet" if alpha else str(settled(work, name))
    train, val = work.rows("train", images), work.rows("val", images)
    found: dict[str, Fitted] = {}
    kept = work.root / "features" / network

    def first() -> None:
        shutil.rmtree(kept, ignore_errors=True)
        found["medimg"] = ours(work, name, options, weights, (train, val), kept, RATE)

    def again() -> None:
        found["again"] = ours(work, name, options, weights, (train, val), kept, RATE / 3)

    def peer() -> None:
        found["model.fit"] = theirs(work, name, options, weights, (train, val))

    measured = interleaved({"medimg": first, "model.fit": peer}, rounds, warm=0)
    measured |= interleaved({"again": again}, rounds, warm=0)
    keras.backend.clear_session()
    goal = 10 if name == "mobilenet_v2" else 5
    label = f"{EPOCHS} epochs, {network}, {len(train) + len(val):,} images"
    peers = "`model.fit`, frozen"
    # Two runs of the same network differ in the order of images and in dropout, so "not lower" is within a hundredth.
    reached = [found[side].auroc for side in ("medimg", "model.fit")]
    kind = f"AUROC of {len(val):,} validation images{'' if alpha else ', random weights'}"
    return [
        Row(label, measured["medimg"], peers, measured["model.fit"], goal=goal),
        Row(f"{label}, again", measured["again"], peers, measured["model.fit"]),
        Row(f"{network}: {kind}", reached[0], peers, reached[1], "", 0.99 if alpha else None, more=True),
    ]


def ours(
    work: Work, name: str, options: dict[str, float], weights: str, parts: tuple[object, object], kept: Path,
    rate: float,
) -> Fitted:  # fmt: skip
    """Trains as medimg's trainer does."""
    import keras

    from medimg import models
    from medimg.config import TrainConfig
    from medimg.models.weights import resolve
    from medimg.training.checkpoints import Checkpoints
    from medimg.training.features import PackSource, features_of
    from medimg.training.kept_features import KeptFeatures
    from medimg.training.loop import Phase, fit
    from medimg.training.steps import Devices, compile_for
    from medimg.training.weighting import Balance, encode

    keras.backend.clear_session()  # names of layers count from one, as in a job's own process
    keras.utils.set_random_seed(0)
    config = TrainConfig(model=name, model_options=options, weights=weights, image_size=SIDE)
    pack, devices = work.pack, Devices()
    classifier = models.build(config, channels=1, outputs=1, task="binary", weights=resolve(config))
    assert classifier.backbone is not None
    assert classifier.head is not None
    models.freeze(classifier)
    positive = pack.facts["positive"]
    sources = {
        split: [PackSource(pack, rows, encode(pack.targets(rows), "binary", pack.classes, positive))]
        for split, rows in zip(("train", "val"), parts, strict=True)
    }
    features = features_of(
        sources, classifier.backbone, devices, KeptFeatures(kept, "pack", print), identity={},
        report=lambda _: None, check=lambda: None,
    )  # fmt: skip
    y = features["train"].y(slice(None))
    compile_for(classifier.head, "binary", rate)
    scores: list[dict[str, float]] = []

    def figures(truth: object, probabilities: object) -> dict[str, float]:
        scores.append({"val_auroc": auroc(truth, probabilities)})
        return scores[-1]

    with tempfile.TemporaryDirectory() as folder:
        history = fit(
            Phase(
                name="fitting", model=classifier.head, judged=classifier.head, train=features["train"],
                val=features["val"], task="binary", epochs=EPOCHS, batch_size=BATCH, patience=None,
                balance=Balance.of(y, "binary", 1, balanced=True), seed=0, figures=figures,
            ),
            devices, Checkpoints(Path(folder), "benchmark"), lambda _: None, stopping=lambda: False, earlier=[],
            every_seconds=30,
        )  # fmt: skip
    return Fitted(min(history, key=lambda row: row["val_loss"])["val_auroc"])


def theirs(
    work: Work, name: str, options: dict[str, float], weights: str, parts: tuple[object, object]
) -> Fitted:  # fmt: skip
    """Trains as a user of Keras does."""
    import keras
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    pack = work.pack
    positive = pack.classes.index(pack.facts["positive"])
    sets = []
    for rows, shuffled in zip(parts, (True, False), strict=True):
        images, y = pack.images(rows), (pack.targets(rows) == positive).astype(np.float32)
        data = tf.data.Dataset.from_tensor_slices((images, y))
        data = data.shuffle(len(y), seed=0) if shuffled else data
        sets.append((data.batch(BATCH).map(as_rgb, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE), y))
    (train, y), (val, truth) = sets
    image = keras.Input((SIDE, SIDE, 3))
    module, backbone = application(name, options, weights)
    backbone.trainable = False
    # Some have their own preprocessing inside, and this does nothing then.
    x = backbone(module.preprocess_input(image), training=False)
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(keras.optimizers.Adam(RATE), "binary_crossentropy")
    share = float(y.mean())
    best = keras.callbacks.EarlyStopping(patience=EPOCHS, restore_best_weights=True)
    model.fit(
        train, validation_data=val, epochs=EPOCHS, verbose=0, callbacks=[best], shuffle=False,
        class_weight={0: 0.5 / (1 - share), 1: 0.5 / share},
    )  # fmt: skip
    return Fitted(auroc(truth, model.predict(val, verbose=0)))


def as_rgb(images: object, y: object) -> tuple[object, object]:
    """Returns a batch as the networks take it."""
    import tensorflow as tf

    images = tf.cast(images, tf.float32)
    return (tf.image.grayscale_to_rgb(images) if images.shape[-1] == 1 else images), y


def application(name: str, options: dict[str, float], weights: str | None) -> tuple[object, object]:
    """Returns the module of `keras.applications` with a network's preprocessing, and the network without its top."""
    import keras

    functions: dict[str, tuple[str, str]] = {
        "mobilenet_v2": ("mobilenet_v2", "MobileNetV2"),
        "efficientnetv2-b0": ("efficientnet_v2", "EfficientNetV2B0"),
        "densenet121": ("densenet", "DenseNet121"),
        "resnet50": ("resnet50", "ResNet50"),
        "inception_v3": ("inception_v3", "InceptionV3"),
    }
    module, function = functions[name]
    network = getattr(keras.applications, function)(
        include_top=False, weights="imagenet" if weights == "imagenet" else None, input_shape=(SIDE, SIDE, 3),
        **options,
    )  # fmt: skip
    if weights not in (None, "imagenet"):
        network.load_weights(weights)
    return getattr(keras.applications, module), network


def settled(work: Work, name: str) -> Path:
    """Returns a file of random weights whose batch normalisation has seen the images."""
    import keras

    keras.utils.set_random_seed(0)
    module, network = application(name, {}, None)
    images, _ = as_rgb(work.pack.images(work.rows("train", 40)), None)
    settle(network, module.preprocess_input(images))
    path = work.root / f"{name}.weights.h5"
    network.save_weights(path)
    return path


def auroc(truth: object, probabilities: object) -> float:
    """Returns the area under the curve of one output."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, probabilities))


if __name__ == "__main__":
    raise SystemExit(main())
