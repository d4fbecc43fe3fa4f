"""One image at a time, and many, in float32: LiteRT as medimg runs it, beside `keras.predict` and Keras' SavedModel.

    python benchmarks/prediction.py [NAME …] [--rounds 7] [--images 64]

The same network with random weights, exported from the same process; every way gets the same arrays of 224 × 224 × 3,
as the network takes them, and its answers are compared with those of Keras called directly. "one image" is a batch of
1; "many images" goes through medimg's pool of single-threaded interpreters, and through `keras.predict` in batches of
32. The SavedModel is the one that `model.export` of Keras writes; medimg's own, with constants, is a row beside.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measured import Row, Table, interleaved

SIDE = 224
SINGLE = 10  # predictions of one image in a round
GOALS = {"mobilenet_v2": (4.0, 2.0), "efficientnet_v2_b0": (4.0, 2.0), "densenet121": (4.0, 1.7)}
TOLERANCE = 1e-4


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
    images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    floats = images.astype(np.float32)
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
    expected = np.concatenate([np.asarray(network(image[None], training=False)) for image in floats[:SINGLE]])
    worst = {
        way: max(float(np.abs(ask(row) - expected[row]).max()) for row in range(SINGLE)) for way, ask in one.items()
    }
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
    if max(worst.values()) > TOLERANCE:
        raise RuntimeError(f"{name}: the answers differ from Keras' by more than {TOLERANCE:g}: {agreed}")
    return rows, f"{name}, largest difference of a probability from Keras: {agreed}"


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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=64)
    given = parser.parse_args()
    found = list(each(given.names or list(GOALS), given.rounds, max(SINGLE, given.images)))
    return Table(
        "Prediction",
        f"Arrays of {SIDE} × {SIDE} × 3 to probabilities in float32, random weights, all ways in one process. Medians "
        f"of {given.rounds} rounds of {SINGLE} single images each, in turns, and of {given.images} images at once.",
        tuple(row for rows, _ in found for row in rows),
        tuple(note for _, note in found),
    ).print()


if __name__ == "__main__":
    raise SystemExit(main())
