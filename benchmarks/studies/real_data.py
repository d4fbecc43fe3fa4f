"""The README's figures: train, judge and time on real images, through the same calls a user makes.

    KERAS_HOME=… python benchmarks/studies/real_data.py DATA [chest|chest-small-cnn|intel|nih …]

DATA holds chestxray/kaggle224, intel and multilabel_cxr; `$KERAS_HOME/models` the MobileNetV2 weights (alpha 0.35).
Every job is trained anew in a temporary home. Thresholds are frozen on validation; test is scored once, by the job.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import medimg

PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"
PRETRAINED = medimg.TrainConfig(model="mobilenet_v2", model_options={"alpha": 0.35}, weights="imagenet")


def chest(data: Path) -> medimg.Dataset:
    """Paediatric pneumonia, 4,746 images, official splits."""
    return medimg.Dataset.from_folder(data / "chestxray" / "kaggle224", group=PATIENT)


def intel(data: Path) -> medimg.Dataset:
    """Natural scenes, 6 classes, 1,200 and 420 images."""
    return medimg.Dataset.from_folder(data / "intel")


def nih(data: Path) -> medimg.Dataset:
    """NIH ChestX-ray14: 698 images, 477 patients, 14 labels."""
    folder = data / "multilabel_cxr"
    return medimg.Dataset.from_csv(
        folder / "Data_Entry.csv", images=folder / "images", path="Image Index", labels="Finding Labels",
        separator="|", group="Patient ID",
    ).split()  # fmt: skip


RUNS: dict[str, tuple[Callable[[Path], medimg.Dataset], medimg.TrainConfig]] = {
    "chest": (chest, PRETRAINED.model_copy(update={"epochs": 8})),
    "chest-small-cnn": (chest, medimg.TrainConfig(model="small_cnn", weights=None, image_size=128, epochs=12)),
    "intel": (intel, PRETRAINED),
    "nih": (nih, PRETRAINED),
}


def main() -> None:
    """Runs what is named on the command line, or everything, and prints one JSON line a run."""
    data, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDIMG_HOME"] = home
        for name in names or RUNS:
            read, config = RUNS[name]
            started = time.perf_counter()
            dataset = read(Path(data))
            job = medimg.backend("local").train(dataset, config, name=name)
            seconds = time.perf_counter() - started
            report = job.report
            wanted = ("auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "accuracy")
            figures = {
                split: {key: round(value, 4) for key, value in metrics.summary().items() if key in wanted}
                for split, metrics in report.splits.items()
            }
            row = {"run": name, "seconds": round(seconds, 1), "stages": job.timings, **figures}
            print(json.dumps({**row, "threshold": report.thresholds.values if len(dataset.classes) == 2 else None}))


if __name__ == "__main__":
    main()
