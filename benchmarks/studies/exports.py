"""Which networks ONNX gets right, and what int8 costs a trained model.

    python benchmarks/studies/exports.py onnx [NAME …] [--size 96]
    python benchmarks/studies/exports.py int8 MODEL_FOLDER CHEST_XRAY_FOLDER

`onnx` builds every registered network (or any that `TrainConfig.model` takes) with random weights, one process each, on
one thread. After one step of training, which lets batch normalisation learn its statistics, it is exported.
"difference" is the largest between a probability of ONNX Runtime and of Keras on noise, of images whose probabilities
differ by "spread". What is off by more than 1e-4 is what `model.export("onnx")` refuses.

`int8` exports a copy of a model that `benchmarks/studies/real_data.py` trained, through the call that a user makes, and
scores test in float32 and in int8. The gate itself looks at validation and training alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIMED = 30
FAINT = 1e-3


def onnx(name: str, size: int) -> dict[str, Any]:
    """Returns the figures of one network; imports Keras."""
    import keras
    import numpy as np

    from medimg import models
    from medimg.config import TrainConfig
    from medimg.inference.runtimes import LiteRTRuntime, ONNXRuntime

    keras.utils.set_random_seed(0)
    config = TrainConfig(model=name, weights=None, image_size=size)
    network = models.build(config, channels=3, outputs=3, task="multiclass", weights=None).model
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    network.compile(keras.optimizers.SGD(1e-4), "categorical_crossentropy", run_eagerly=True, jit_compile=False)
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    network.fit(noise.astype(np.float32), np.eye(4, 3, dtype=np.float32), verbose=0)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    expected = np.concatenate([np.asarray(network(image[None], training=False)) for image in noise.astype(np.float32)])
    figures: dict[str, Any] = {"spread": float(np.ptp(expected, axis=0).max())}
    with tempfile.TemporaryDirectory() as scratch:
        file, tflite = Path(scratch) / "model.onnx", Path(scratch) / "model.tflite"
        network.export(str(tflite), format="litert", verbose=False)
        figures["LiteRT ms"] = _ms(LiteRTRuntime(tflite, workers=1), noise)
        try:
            network.export(str(file), format="onnx", verbose=False)
            runtime = ONNXRuntime(file, workers=1)
            figures["difference"] = float(np.abs(runtime.outputs(noise) - expected).max())
        except Exception as error:  # which networks fail, and how, is the question
            figures["why"] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
            return figures
        figures["ONNX MB"] = file.stat().st_size / 1e6
        figures["ONNX ms"] = _ms(runtime, noise)
    return figures


def _ms(runtime: Any, images: Any) -> float:
    """Returns the shortest time of one image, which others on the machine disturb least."""
    seconds = []
    for _ in range(TIMED):
        started = time.perf_counter()
        runtime.outputs(images[:1])
        seconds.append(time.perf_counter() - started)
    return min(seconds) * 1e3


def print_networks(names: list[str], size: int) -> int:
    """Prints a row a network; returns 1 where one is not right."""
    from medimg import models

    environment = os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
    }  # fmt: skip
    print(f"| {size} pixels | ONNX | difference | spread | ONNX MB | ONNX ms | LiteRT ms |\n" + "|---" * 7 + "|")
    failed = False
    for name in names or models.available():
        command = [sys.executable, __file__, "onnx", name, "--one", "--size", str(size)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| `{name}` | {done.stderr.strip().splitlines()[-1]} |", flush=True)
            failed = True
            continue
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        right = figures.get("difference", 1) <= 1e-4
        failed |= not right
        said = figures.get("why", "wrong")
        if right:  # outputs that are the same for all images agree whatever the file computes
            said = "right" if figures["spread"] > FAINT else "cannot tell: try another --size"
        numbers = [
            format(figures[key], form) if key in figures else "–"
            for key, form in (
                ("difference", ".0e"), ("spread", ".0e"), ("ONNX MB", ".1f"), ("ONNX ms", ".1f"), ("LiteRT ms", ".1f")
            )
        ]  # fmt: skip
        print(f"| `{name}` | {said} | " + " | ".join(numbers) + " |", flush=True)
    return int(failed)


def print_int8(folder: Path, data: Path) -> None:
    """Prints what the gate found, and the same of test."""
    import numpy as np

    import medimg
    from medimg.artifact import ModelFolder
    from medimg.data.pack import build
    from medimg.evaluation.comparison import compare
    from medimg.export import Agreement
    from medimg.inference.predictor import Predictor

    patient = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"
    dataset = medimg.Dataset.from_folder(data, group=patient)
    with tempfile.TemporaryDirectory() as scratch:
        model = ModelFolder.load(shutil.copytree(folder, Path(scratch) / "model", copy_function=shutil.copyfile))
        model.export("int8", dataset, most_lost=1, most_flipped=1)
        report = Agreement.of(model)
        refused = report.refusal(most_lost=0.01, most_flipped=0.02)
        print(f"{model.record.config.model}, the gate: {refused or 'passed'}\n{report}")
        pack = build(dataset, model.record.preprocessing.image_size, facts=dataset.index())
        tables = [Predictor(model, runtime=name).predict_pack(pack, split="test") for name in ("litert", "int8")]
        thresholds = model.record.thresholds
        auroc = compare(tables[0], tables[1], thresholds=(thresholds, thresholds))["auroc"]
        flips = np.mean(tables[0].decide(thresholds) != tables[1].decide(thresholds))
        largest = np.abs(tables[0].probabilities - tables[1].probabilities).max()
        print(
            f"test, {len(tables[0]):,} images: AUROC {auroc.first:.4f} → {auroc.second:.4f}, 95% of the difference "
            f"{auroc.interval}; {flips:.1%} of the decisions flip; a probability differs by {largest:.3f} at most"
        )


def main() -> int:
    """Prints the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("onnx", "int8"))
    parser.add_argument("given", nargs="*")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(onnx(given.given[0], given.size)))
        return 0
    if given.what == "onnx":
        return print_networks(given.given, given.size)
    print_int8(*map(Path, given.given))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
