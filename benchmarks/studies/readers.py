"""Every folder of real images through its reader: what is read, what a pack costs, and one epoch.

    KERAS_HOME=… python benchmarks/studies/readers.py DATA ["kaggle224" "skin, malignancy" …]

DATA holds chestxray, skin, intel, multilabel_cxr and dicom; `$KERAS_HOME/models` the MobileNetV2 weights (alpha 0.35).
Names, pixels and pack are timed with nothing cached. The epoch is of a head on frozen features at 224 pixels, with the
time that the features take. Of a set that training refuses the reason is shown. The DICOM files come from many sources:
to tell their modality is a task for the reader, not for a network.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

import medimg
from medimg.data.pack import build
from medimg.data.preparation import ready_for_training

SIZE = 224
CONFIG = medimg.TrainConfig(
    model="mobilenet_v2", model_options={"alpha": 0.35}, weights="imagenet", image_size=SIZE, epochs=1,
    fine_tune_epochs=0,
)  # fmt: skip

READERS: dict[str, tuple[str, Callable[[Path], medimg.Dataset]]] = {
    "kaggle224": ("chestxray/kaggle224", medimg.Dataset.from_kermany),
    "kaggle224, by cause": ("chestxray/kaggle224", lambda root: medimg.Dataset.from_kermany(root, classes=3)),
    "native320": ("chestxray/native320", medimg.Dataset.from_kermany),
    "originals": ("chestxray/originals", medimg.Dataset.from_kermany),
    "skin": ("skin", medimg.Dataset.from_isic),
    "skin, malignancy": ("skin", lambda root: medimg.Dataset.from_isic(root, classes="malignancy")),
    "intel": ("intel", medimg.Dataset.from_intel),
    "nih": ("multilabel_cxr", medimg.Dataset.from_nih),
    "dicom, modality": ("dicom", lambda root: medimg.Dataset.from_dicom(root, labels="Modality")),
    "nih, any finding": ("multilabel_cxr", lambda root: medimg.Dataset.from_nih(root, labels="any finding")),
}


def row(name: str, data: Path) -> list[str]:
    """Returns what is said of one set."""
    folder, read = READERS[name]
    started = time.perf_counter()
    dataset = read(data / folder)
    named = time.perf_counter()
    facts = dataset.index()
    indexed = time.perf_counter()
    shown = [
        name, dataset.task, f"{len(dataset.classes)}",
        ", ".join(f"{split} {count:,}" for split, count in dataset.splits.items()) or f"{len(dataset):,}",
        f"{len({sample.group for sample in dataset.samples if sample.group}):,}",
        f"{named - started:.2f}", f"{indexed - named:.1f}",
    ]  # fmt: skip
    try:
        prepared = ready_for_training(dataset, allow=(), facts=facts).dataset
        begun = time.perf_counter()
        build(prepared, SIZE, facts=facts)
        packed = time.perf_counter() - begun
        job = medimg.backend("local").train(dataset, CONFIG, name=f"readers-{len(dataset)}-{len(dataset.classes)}")
    except medimg.errors.MedimgError as error:
        return [*shown, "–", "–", "–", str(error).splitlines()[0]]
    timings = job.timings
    epoch = timings.get("features", 0.0) + timings.get("fitting", 0.0)
    judged = "test" if "test" in job.report.splits else "val"
    sizes = ", ".join(f"{split} {count:,}" for split, count in prepared.splits.items())
    trained = f"{sizes}; {judged} AUROC {job.report.splits[judged].summary()['auroc']:.3f}"
    return [*shown, f"{packed:.1f}", f"{epoch:.1f}", f"{sum(timings.values()):.0f}", trained]


def main() -> None:
    """Prints a table with a row a set."""
    data, *names = sys.argv[1:]
    table = Table(
        "set", "task", "classes", "images as read", "groups", "names s", "pixels s", "pack s", "epoch s", "job s",
        "as trained",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDIMG_HOME"] = home
        for name in names or READERS:
            os.environ["MEDIMG_HOME"] = str(Path(home) / name.replace(", ", "-").replace(" ", "-"))
            table.add_row(*row(name, Path(data)))
    Console(width=220).print(table)


if __name__ == "__main__":
    main()
