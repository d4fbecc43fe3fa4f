"""TensorFlow and JAX side by side: do they agree, how fast are they, and what comes of a whole training.

    KERAS_HOME=… python benchmarks/studies/frameworks.py DATA [agree] [steps] [chest]

DATA holds chestxray/kaggle224, `$KERAS_HOME/models` MobileNetV2 (alpha 0.35, ImageNet). Each framework has a process of
its own. "agree" prints the largest difference of the probabilities of equal weights; "steps" the medians of training
steps and forward passes, measured in turns, with images a second, seconds until the first of both was done (the
imports and compiling are in it), and the peak memory of the process and, where there is one, of the GPU; "chest" the
AUROC and seconds of a whole job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

FRAMEWORKS = ("tensorflow", "jax")
ROUNDS, STEPS, BATCH = 5, 4, 32
AGREE = {"mobilenet_v2": {"alpha": 0.35}, "small_cnn": {}, "densenet121": {}}
# name: model, its options, image size, share of the backbone that is fine-tuned
TIMED: dict[str, tuple[str, dict[str, Any], int, float | None]] = {
    "head on features": ("mobilenet_v2", {"alpha": 0.35}, 96, 0.0),
    "fine-tuning": ("mobilenet_v2", {"alpha": 0.35}, 224, 0.3),
    "from scratch": ("small_cnn", {}, 128, None),
}


# -- in the process of a framework ------------------------------------------------------------------------------------


def outputs(folder: Path) -> None:
    """Writes the probabilities of the networks in a folder, and the networks where there are none yet."""
    import keras
    import numpy as np

    from medimg import models
    from medimg.config import TrainConfig
    from medimg.models.weights import resolve
    from medimg.training.steps import Devices

    keras.utils.set_random_seed(0)
    for model, options in AGREE.items() if not list(folder.iterdir()) else ():
        weights = "imagenet" if model == "mobilenet_v2" else None
        config = TrainConfig(model=model, model_options=options, weights=weights)
        built = models.build(config, channels=3, outputs=1, task="binary", weights=resolve(config))
        built.model.save(folder / f"{model}.keras")
    for file in sorted(folder.glob("*.keras")):
        network = keras.saving.load_model(file, compile=False)
        images = np.random.default_rng(0).uniform(0, 255, (8, *network.input_shape[1:])).astype(np.float32)
        name = f"{file.stem}.{keras.backend.backend()}.npy"
        np.save(folder / name, Devices([]).forward(network)(images))


def prepared(name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Returns one training step and one forward pass of a kind of training."""
    import keras
    import numpy as np

    from medimg import models
    from medimg.config import TrainConfig
    from medimg.training.environment import precision
    from medimg.training.steps import Devices, compile_for

    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(precision("auto"))
    model, options, size, share = TIMED[name]
    config = TrainConfig(model=model, model_options=options, weights=None, image_size=size)
    classifier = models.build(config, channels=1, outputs=1, task="binary", weights=None)
    network = classifier.model
    if share == 0:
        assert classifier.head is not None
        network = classifier.head
    elif share is not None:
        models.top_layers(classifier, share)
    compile_for(network, "binary", 1e-3)
    network.optimizer.build(network.trainable_variables)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (BATCH, *network.input_shape[1:])).astype(np.float32)
    y, weights = (rng.random((BATCH, 1)) > 0.5).astype(np.float32), np.ones((BATCH, 1), np.float32)
    devices = Devices([])
    step, forward = devices.step(network), devices.forward(network)

    def passed() -> None:
        step.settle()
        forward(x)

    return lambda: (step(x, y, weights), None)[1], passed


def serve() -> None:
    """Answers the name of a training with how long its step and forward pass take, until there are no more."""
    ready: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {}
    for line in sys.stdin:
        name = line.strip()
        started = time.perf_counter()
        if name not in ready:
            ready[name] = prepared(name)
            for run in ready[name]:
                run()
        first = time.perf_counter() - started
        row: dict[str, Any] = {"first": first}
        for kind, run in zip(("step", "forward"), ready[name], strict=True):
            run()
            started = time.perf_counter()
            for _ in range(STEPS):
                run()
            row[kind] = (time.perf_counter() - started) / STEPS
        print(json.dumps({**row, **memory()}), flush=True)


def memory() -> dict[str, float]:
    """Returns the peak memory of this process, and of its GPU where it has one, in MB."""
    import resource

    import keras

    found = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if keras.backend.backend() == "jax":
        import jax

        used = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    else:
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")
        used = tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpu else None
    return found if used is None else {**found, "GPU memory": used / 2**20}


# -- the comparison ---------------------------------------------------------------------------------------------------


def process(framework: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts this script in a framework's process."""
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"MEDIMG_BENCHMARK": framework},
    )  # fmt: skip


def agree(_: Path) -> None:
    """Prints the largest difference of each network's probabilities."""
    import numpy as np

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for framework in FRAMEWORKS:
            assert process(framework, "outputs", folder).wait() == 0
        for model in AGREE:
            one, other = (np.load(folder / f"{model}.{framework}.npy") for framework in FRAMEWORKS)
            print(json.dumps({"agree": model, "largest difference": float(f"{np.abs(one - other).max():.2g}")}))


def steps(_: Path) -> None:
    """Prints each framework's medians of every kind of training, and the ratio of the steps."""
    running = {framework: process(framework, "serve") for framework in FRAMEWORKS}
    for name in TIMED:
        rows: dict[str, list[dict[str, float]]] = {framework: [] for framework in FRAMEWORKS}
        for _ in range(ROUNDS):
            for framework, one in running.items():
                assert one.stdin is not None
                assert one.stdout is not None
                print(name, file=one.stdin, flush=True)
                rows[framework].append(json.loads(one.stdout.readline()))
        middle = {}
        for framework, found in rows.items():
            step, forward = (median(row[kind] for row in found) for kind in ("step", "forward"))
            middle[framework] = step
            more = {key: round(value) for key, value in found[-1].items() if "memory" in key}
            print(
                json.dumps(
                    {
                        "steps": name, "framework": framework, "step_ms": round(step * 1e3, 2),
                        "images_per_second": round(BATCH / step), "forward_ms": round(forward * 1e3, 2),
                        "first_s": round(found[0]["first"], 1), **more,
                    }
                )
            )  # fmt: skip
        print(json.dumps({"steps": name, "jax / tensorflow": round(middle["jax"] / middle["tensorflow"], 2)}))
    for one in running.values():
        one.communicate()


def chest(data: Path) -> None:
    """Prints the figures of a whole job: a head on frozen MobileNetV2, 8 epochs."""
    import real_data

    import medimg

    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDIMG_HOME"] = home
        for framework in FRAMEWORKS:
            os.environ["KERAS_BACKEND"] = framework
            read, config = real_data.RUNS["chest"]
            dataset = read(data)
            started = time.perf_counter()
            job = medimg.backend("local").train(dataset, config, name=framework)
            seconds = time.perf_counter() - started
            figures = {split: round(metrics.summary()["auroc"] or 0, 4) for split, metrics in job.report.splits.items()}
            print(json.dumps({"chest": framework, "auroc": figures, "seconds": round(seconds, 1), **job.timings}))


def main() -> None:
    """Does what is named on the command line, or everything."""
    if framework := os.environ.pop("MEDIMG_BENCHMARK", None):
        from medimg import framework as frameworks

        frameworks.use(framework)  # type: ignore[arg-type]
        if sys.argv[1] == "serve":
            serve()
        else:
            outputs(Path(sys.argv[2]))
        return
    data, *names = sys.argv[1:]
    for name, run in {"agree": agree, "steps": steps, "chest": chest}.items():
        if not names or name in names:
            run(Path(data))


if __name__ == "__main__":
    main()
