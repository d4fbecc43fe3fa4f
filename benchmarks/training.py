"""From a folder of images to a judged classifier: `backend.train`, beside the Keras script that people write.

    python benchmarks/training.py DATA [--rounds 2] [--alpha 0.35]

Both train a head on a frozen MobileNetV2 for 10 epochs on the chest set (4,746 images of 224 pixels, its own splits),
in fresh processes, from the start of Python to its end. The script reads with `image_dataset_from_directory`, cached
and prefetched, fits, predicts validation and test, and has scikit-learn compute AUROC, threshold, confusion and report.
`backend.train`, in a fresh home, indexes, audits, packs, trains, calibrates, exports LiteRT and SavedModel, checks both
on golden inputs, scores with intervals, and writes the report with its figures and Grad-CAM.

An alpha other than 0.35, whose ImageNet weights DATA holds, begins with random weights, the same for both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measured import Measured, Row, Table, folder_named, some, timed

EPOCHS = 10
GOAL = 3.0
SIDE = 224
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"
Found = dict[str, Any]


def with_medimg(images: Path, alpha: float, weights: Path) -> Found:
    """Trains through the call that a user makes; returns AUROC of test and the stages."""
    import medimg

    dataset = medimg.Dataset.from_folder(images, group=PATIENT)
    config = medimg.TrainConfig(
        model="mobilenet_v2", model_options={"alpha": alpha}, weights=str(weights), image_size=SIDE, epochs=EPOCHS
    )
    # The set's own validation split is small; the script takes it as it is, too.
    job = medimg.backend("local").train(dataset, config, allow=["tiny-validation"])
    stages = {name: seconds for name, seconds in job.timings.items() if not name.startswith("epoch")}
    return {"auroc": job.metrics["auroc"], "stages": stages}


def with_keras(images: Path, alpha: float, weights: Path) -> Found:
    """Trains as a user of Keras does, at its best settings on a CPU; returns AUROC of test."""
    import keras
    import numpy as np
    import tensorflow as tf
    from sklearn.metrics import classification_report, confusion_matrix, roc_auc_score, roc_curve

    keras.utils.set_random_seed(0)
    data = {
        split: keras.utils.image_dataset_from_directory(
            images / split, label_mode="binary", image_size=(SIDE, SIDE), batch_size=32, shuffle=split == "train"
        )
        .cache()
        .prefetch(tf.data.AUTOTUNE)
        for split in ("train", "val", "test")
    }
    network = _network(keras, alpha)
    network.layers[2].load_weights(weights)
    network.layers[2].trainable = False
    # XLA, which Keras would choose, is several times slower on a CPU.
    network.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    counts = np.bincount(np.concatenate([labels.numpy().ravel() for _, labels in data["train"]]).astype(int))
    balanced = {label: counts.sum() / (2 * count) for label, count in enumerate(counts)}
    network.fit(data["train"], validation_data=data["val"], epochs=EPOCHS, class_weight=balanced, verbose=0)
    truth = {
        split: np.concatenate([labels.numpy().ravel() for _, labels in data[split]]).astype(int)
        for split in ("val", "test")
    }
    scores = {split: network.predict(data[split], verbose=0).ravel() for split in truth}
    wrong, right, thresholds = roc_curve(truth["val"], scores["val"])
    decided = scores["test"] >= thresholds[np.argmax(right - wrong)]
    print(confusion_matrix(truth["test"], decided), classification_report(truth["test"], decided))
    network.save(Path(os.environ["MEDIMG_HOME"]) / "model.keras")
    return {"auroc": float(roc_auc_score(truth["test"], scores["test"]))}


def _network(keras: Any, alpha: float) -> Any:
    backbone = keras.applications.MobileNetV2(
        input_shape=(SIDE, SIDE, 3), alpha=alpha, include_top=False, weights=None, pooling="avg"
    )
    entry = keras.Input((SIDE, SIDE, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(entry)
    return keras.Model(entry, keras.layers.Dense(1, "sigmoid")(backbone(scaled, training=False)))


def write_random_weights(alpha: float, file: Path) -> None:
    """Writes random weights of a backbone; imports Keras."""
    import keras

    keras.utils.set_random_seed(0)
    _network(keras, alpha).layers[2].save_weights(file)


WAYS = {"medimg": with_medimg, "keras": with_keras}


def compare(data: Path, alpha: float, rounds: int) -> Table:
    """Runs both in turns."""
    images = data / "chestxray" / "kaggle224"
    found: dict[str, list[tuple[float, Found]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        weights = data / "weights" / WEIGHTS
        if alpha != 0.35:
            weights = Path(scratch) / "random.weights.h5"
            subprocess.run(_command("random", images, alpha, weights, weights), check=True)
        for count in range(rounds):
            for way in sorted(WAYS, reverse=bool(count % 2)):
                with tempfile.TemporaryDirectory(dir=scratch) as home:
                    os.environ["MEDIMG_HOME"] = home
                    result = Path(home) / "result.json"
                    seconds, _ = timed(_command(way, images, alpha, weights, result))
                    found[way].append((seconds, json.loads(result.read_text())))
                print(f"round {count + 1} of {rounds}: {way} {seconds:.1f} s", flush=True)
    ours, theirs = (Measured(tuple(seconds for seconds, _ in found[way])) for way in WAYS)
    stages = _medians([told["stages"] for _, told in found["medimg"]])
    aurocs = {way: statistics.median(told["auroc"] for _, told in several) for way, several in found.items()}
    row = Row(f"the whole train call, MobileNetV2 alpha {alpha:g}", ours, "a Keras script", theirs, goal=GOAL)
    return Table(
        "Training, the whole call",
        f"A folder of 4,746 chest images of {SIDE} px to a judged classifier, {EPOCHS} epochs on a frozen backbone: "
        "`backend.train` with audit, exports and report, beside Keras with scikit-learn's metrics. Fresh processes, "
        f"in turns; {'one round' if rounds == 1 else f'medians of {rounds} rounds'}.",
        (row,),
        (
            "medimg's stages: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()),
            f"AUROC on test: medimg {aurocs['medimg']:.4f}, Keras {aurocs['keras']:.4f}",
        ),
        packages=("mlflow",),
    )


def _command(way: str, images: Path, alpha: float, weights: Path, result: Path) -> list[str]:
    options = ("--as", way, "--alpha", str(alpha), "--weights", str(weights), "--result", str(result))
    return [sys.executable, __file__, str(images), *options]


def _medians(rows: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row.get(name, 0.0) for row in rows) for name in rows[0]}


def main() -> int:
    """Prints the table; returns 1 where the goal was not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=folder_named, metavar="DATA")
    parser.add_argument("--rounds", type=some, default=2)
    parser.add_argument("--alpha", type=float, default=0.35)
    for name in ("--as", "--weights", "--result"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    way = vars(given)["as"]
    if way is None:
        return compare(given.data.resolve(), given.alpha, given.rounds).print()
    if way == "random":
        write_random_weights(given.alpha, Path(given.weights))
    else:
        Path(given.result).write_text(json.dumps(WAYS[way](given.data, given.alpha, Path(given.weights))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
