"""One image at a time, and many, in float32: LiteRT as medimg runs it, beside `keras.predict` and Keras' SavedModel.

    python benchmarks/prediction.py [NAME …] [--rounds 7] [--images 64]

The same network with random weights, exported from the same process, with batch normalisation settled on the images so
that its answers differ between them. Every way gets the same made films of 224 × 224 × 3, as the network takes them,
and its answers are compared with those of Keras called directly. "one image" is a batch of 1; "many images" goes
through medimg's pool of single-threaded interpreters, and through `keras.predict` in batches of 32. The SavedModel is
the one that `model.export` of Keras writes; medimg's own, with constants, is a row beside.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measured import Row, Table, interleaved, some
from random_network import SIDE, films, settle

SETTLED = 32  # images whose statistics batch normalisation takes
SINGLE = 10  # predictions of one image in a round
GOALS = {"mobilenet_v2": (4.0, 2.0), "efficientnetv2-b0": (4.0, 2.0), "densenet121": (4.0, 1.7)}
TOLERANCE = 1e-4
SPREAD = 0.05  # of the probabilities, at least: equal answers would agree whatever was computed


def measure(name: str, rounds: int, count: int) -> tuple[list[Row], str]:
    """Returns the rows of one network, and how far its answers differ."""
    import tensorflow as tf

    from medimg import models
    from medimg.config import TrainConfig
    from medimg.export.frozen import to_litert, write_saved_model
    from medimg.inference.runtimes import LiteRTRuntime

    config = TrainConfig(model=name, weights=None, image_size=SIDE)
    network: Any = models.build(config, channels=3, outputs=1, task="binary", weights=None).model
    network.compile(jit_compile=False)  # XLA, which `predict` would choose, is slower on a CPU
    images = films(count)
    floats = images.astype(np.float32)
    settle(network, floats[:SETTLED])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model.tflite").write_bytes(to_litert(network))
        network.export(str(folder / "keras"), format="tf_saved_model", verbose=False)
        write_saved_model(network, folder / "medimg")
        runtime = LiteRTRuntime(folder / "model.tflite")
        served = {kind: tf.saved_model.load(str(folder / kind)) for kind in ("keras", "medimg")}

    one = {
        "medimg": lambda row: runtime.outputs(images[row : row + 1]),
        "keras.predict": lambda row: network.predict(floats[row : row + 1], verbose=0),
        "SavedModel": lambda row: served["keras"].serve(tf.constant(floats[row : row + 1])).numpy(),
        "medimg's SavedModel": lambda row: served["medimg"].serve(tf.constant(floats[row : row + 1])).numpy(),
    }
    many = {
        "medimg": lambda: runtime.outputs(images),
        "keras.predict": lambda: network.predict(floats, batch_size=32, verbose=0),
    }
    expected = np.concatenate([np.asarray(network(image[None], training=False)) for image in floats])
    singly = {way: np.concatenate([ask(row) for row in range(count)]) for way, ask in one.items()}
    worst = {way: float(np.abs(found - expected).max()) for way, found in singly.items()}
    worst |= {f"{way}, many": float(np.abs(ask() - expected).max()) for way, ask in many.items()}
    singles = interleaved({way: lambda ask=ask: list(map(ask, range(SINGLE))) for way, ask in one.items()}, rounds)
    ms = {way: found.times(1e3 / SINGLE) for way, found in singles.items()}
    rates = {way: found.rate(count) for way, found in interleaved(many, max(3, rounds // 2)).items()}
    goals = GOALS.get(name, (None, None))
    rows = [
        Row(f"prediction, {name}, one image", ms["medimg"], "keras.predict", ms["keras.predict"], "ms", goals[0]),
        Row(f"prediction, {name}, one image", ms["medimg"], "SavedModel", ms["SavedModel"], "ms", goals[1]),
        Row(f"prediction, {name}, one image", ms["medimg's SavedModel"], "SavedModel", ms["SavedModel"], "ms"),
        Row(
            f"prediction, {name}, many images",
            rates["medimg"],
            "keras.predict, 32",
            rates["keras.predict"],
            "images/s",
            more=True,
        ),
    ]
    agreed = ", ".join(f"{way} {difference:.1g}" for way, difference in worst.items())
    least, most = float(expected.min()), float(expected.max())
    if most - least < SPREAD:
        raise RuntimeError(f"{name}: all probabilities lie from {least:.4f} to {most:.4f}: nothing could disagree")
    if not max(worst.values()) <= TOLERANCE:
        raise RuntimeError(f"{name}: the answers differ from Keras' by more than {TOLERANCE:g}: {agreed}")
    return rows, (
        f"{name}, {count} images with probabilities from {least:.3f} to {most:.3f}; largest difference from Keras "
        f"called directly: {agreed}"
    )


def each(names: list[str], rounds: int, count: int) -> Iterator[tuple[list[Row], str]]:
    """Yields what `measure` finds of one network after another."""
    import keras

    for name in names:
        keras.utils.set_random_seed(0)
        yield measure(name, rounds, count)
        print(f"{name}: measured", flush=True)
        keras.backend.clear_session()
        gc.collect()


def main() -> int:
    """Prints the table; returns 1 where a goal was not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"networks; {', '.join(GOALS)} if left out")
    parser.add_argument("--rounds", type=some, default=7)
    parser.add_argument("--images", type=some, default=64)
    given = parser.parse_args()
    count = max(SINGLE, SETTLED, given.images)
    found = list(each(given.names or list(GOALS), given.rounds, count))
    return Table(
        "Prediction",
        f"Made films of {SIDE} × {SIDE} × 3 to probabilities in float32, random weights, all ways in one process. "
        f"Medians of {given.rounds} rounds of {SINGLE} single images each, in turns, and of {count} images at once.",
        tuple(row for rows, _ in found for row in rows),
        tuple(note for _, note in found),
    ).print()


if __name__ == "__main__":
    raise SystemExit(main())
