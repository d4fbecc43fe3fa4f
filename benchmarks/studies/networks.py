"""Every registered network with random weights, from building to an answer: its size, its times and its agreement.

    python benchmarks/studies/networks.py [NAME …] [--size 224]

Any name that `TrainConfig.model` takes can be given. One process a network, on one thread; all times but that of LiteRT
are the processor's, so that others on the machine do not count. "one step" is of the whole network on two images, and
lets batch normalisation learn their statistics: features vanish without. "difference" is the largest between a
probability of LiteRT and of Keras, of images whose probabilities differ by "spread".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

IMAGES = 20


def measure(name: str, size: int) -> dict[str, Any]:
    """Returns the figures of one network; imports Keras."""
    import keras
    import numpy as np

    from medimg import models
    from medimg.artifact import ModelRecord, Preprocessing
    from medimg.config import TrainConfig
    from medimg.data.synthetic import golden_files
    from medimg.evaluation.explain import grad_cam
    from medimg.export import export
    from medimg.inference.runtimes import LiteRTRuntime

    keras.utils.set_random_seed(0)
    config = TrainConfig(model=name, weights=None, image_size=size)
    figures: dict[str, Any] = {"name": name}

    def timed(what: str, started: float) -> None:
        figures[what] = time.process_time() - started

    started = time.process_time()
    network = models.build(config, channels=3, outputs=3, task="multiclass", weights=None).model
    timed("build s", started)
    figures["parameters"] = network.count_params()
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    # Adam's first step moves every weight alike: probabilities are 0 and 1 after it, and anything agrees.
    network.compile(keras.optimizers.SGD(1e-4), "categorical_crossentropy", run_eagerly=True, jit_compile=False)
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    started = time.process_time()
    network.fit(noise.astype(np.float32), np.eye(2, 3, dtype=np.float32), verbose=0)
    timed("one step s", started)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch)
        started = time.process_time()
        network.save(draft / "model.keras")
        loaded = keras.saving.load_model(draft / "model.keras", compile=False, safe_mode=True)
        timed("save and load s", started)
        (draft / "golden").mkdir()
        for file, content in golden_files().items():
            (draft / "golden" / file).write_bytes(content)
        record = ModelRecord(
            classes=("a", "b", "c"),
            task="multiclass",
            preprocessing=Preprocessing(image_size=size, channels=3),
            config=config,
        )
        (draft / "medimg.json").write_text(record.model_dump_json())
        started = time.process_time()
        runtimes, missing = export(draft, check=lambda: None)
        timed("exports s", started)
        figures["missing"] = missing
        if "litert" in runtimes:
            runtime = LiteRTRuntime(draft / runtimes["litert"], workers=1)
            figures["LiteRT MB"] = (draft / runtimes["litert"]).stat().st_size / 1e6
            times = []
            for _ in range(IMAGES):
                started = time.perf_counter()
                found = runtime.outputs(noise[:1])
                times.append(time.perf_counter() - started)
            figures["LiteRT ms"] = min(times) * 1e3
            expected = np.asarray(loaded(noise.astype(np.float32), training=False))
            figures["difference"] = float(np.abs(found - expected[:1]).max())
            figures["spread"] = float(np.abs(np.diff(expected, axis=0)).max())
        started = time.process_time()
        grad_cam(loaded, noise.astype(np.float32), 0)
        timed("Grad-CAM s", started)
    return figures


def main() -> int:
    """Prints the table; returns 1 where a network cannot be exported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.names[0], given.size)))
        return 0
    from medimg import models

    environment = os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    columns = {
        "parameters": ",d", "build s": ".1f", "one step s": ".1f", "save and load s": ".1f", "exports s": ".1f",
        "Grad-CAM s": ".1f", "LiteRT MB": ".1f", "LiteRT ms": ".1f", "difference": ".0e", "spread": ".0e",
    }  # fmt: skip
    print(f"| {given.size} pixels | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    failed = False
    for name in given.names or models.available():
        command = [sys.executable, __file__, name, "--one", "--size", str(given.size)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| `{name}` | failed: {done.stderr.strip().splitlines()[-1]} |", flush=True)
            failed = True
            continue
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        cells = [format(figures[column], form) if column in figures else "–" for column, form in columns.items()]
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)
        for runtime, why in figures["missing"].items():
            print(f"  no {runtime}: {why}", flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
