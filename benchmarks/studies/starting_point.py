"""A model trained on many images as the starting point on few others, beside the same network from scratch.

    python benchmarks/studies/starting_point.py [--seeds 3]

Phantoms: one set of 400 patients, and for each seed another of which a tenth of the training images is used. All are
judged on the test images of the second set.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from medimg.artifact import ModelFolder
from medimg.backends.identity import inputs_folder
from medimg.backends.submission import prepare_training
from medimg.config import Resources, TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.synthetic import write_phantoms
from medimg.job import Paths, Stop
from medimg.progress import silent
from medimg.train import work

SIDE = 64


def trained(dataset: Dataset, config: TrainConfig, folder: Path) -> ModelFolder:
    """Returns the model that a job makes, in this process."""
    submitted = prepare_training(dataset, config, Resources(), "benchmark", (), silent)
    paths = Paths(folder / "spec.json", submitted.pack, inputs_folder(), folder / "out", folder / "checkpoints")
    for path in (paths.out, paths.checkpoints):
        path.mkdir(parents=True)
    work(submitted.spec(1, submitted.base, {}), paths, Stop(), silent)
    return ModelFolder.load(paths.out / "model")


def main() -> int:
    """Prints a line a seed; returns 1 where the starting point does not help on average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        os.environ["MEDIMG_HOME"] = str(root / "home")

        def phantoms(name: str, patients: int, seed: int) -> Dataset:
            return Dataset.from_folder(
                write_phantoms(root / name, patients=patients, size=SIDE, seed=seed), group=r"(patient\d+)"
            )

        small = TrainConfig(model="small_cnn", weights=None, image_size=SIDE, epochs=20, augment=False, cases=0)
        long = {"epochs": 200, "early_stopping": 30}  # a step an epoch: few images are one batch
        first = trained(phantoms("many", 400, 1000), small, root / "first")
        print(f"first set: AUROC {first.headline['auroc']:.3f} on its own test images")
        gains = []
        for seed in range(seeds):
            few = phantoms(f"few{seed}", 200, seed).subset(fraction=0.1, seed=seed, split="train")
            scratch_config = small.model_copy(update={**long, "seed": seed})
            from_scratch = trained(few, scratch_config, root / f"scratch{seed}")
            started = TrainConfig(weights=first, augment=False, cases=0, seed=seed, **long)
            from_first = trained(few, started, root / f"started{seed}")
            one, other = (float(model.headline["auroc"] or 0) for model in (from_scratch, from_first))
            gains.append(other - one)
            count = len(few.of("train"))
            print(f"seed {seed}, {count} training images: AUROC {one:.3f} from scratch, {other:.3f} started")
        print(f"gain: {statistics.mean(gains):+.3f} on average")
    return int(statistics.mean(gains) <= 0)


if __name__ == "__main__":
    raise SystemExit(main())
