"""What each step costs as a dataset grows from 1,000 to 100,000 images: processor time, and memory that it holds.

    python benchmarks/scale.py [--sizes 1000 10000 100000] [--task multilabel|binary] [--steps table index …]

Images are made here: grey JPEGs of 96 pixels with up to 14 findings at once in the shape of ChestX-ray14, 3.6 images a
patient, divided by patient. Each step runs in a process of its own, and training in the processes that `backend.train`
starts. Seconds are those of all cores together. Memory is the most that a process and its children held at once that
is no file's pages (RssAnon): pages of the pack are the system's to take back. Growth, of both, is that from the last
size but one to the last, where start-up hides the least: with small sizes alone the exponent flatters. Memory is to be
flat but for the bytes an image that are named below. Needs Linux.
"""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from measured import Row, Table, number, some
from PIL import Image
from watch import Cost, Watch

import medimg
from medimg.progress import Event, emit

SIZES = (1000, 10_000, 100_000)
SIDE = 96
NETWORK_SIDE = 64
LABELS = tuple(f"finding {letter}" for letter in "ABCDEFGHIJKLMN")
PREVALENCE = np.geomspace(0.01, 0.25, len(LABELS))
IMAGES_A_PATIENT = 3.6
PHANTOMS = 64
MOST_GROWTH = 1.15  # the exponent: to 1 comes what noise adds, and memory further from the processor
FOLDER = 1000  # images of one folder
ROUNDS = 3  # of the sizes up to 3,000, whose seconds are few

# Bytes an image that a step may hold. A sample (path, id, labels, patient, columns) takes 2,400, what is known of its
# pixels 1,700, 1,024 of them a thumbnail; the rest is of the step. Training holds the manifest, and neither of the two.
MOST_BYTES = {
    "table": 3000, "index": 5000, "index again": 5000, "audit": 6000, "pack": 6000, "features": 3000, "fitting": 3000,
    "exporting": 3000, "evaluating": 5000, "report": 5000,
}  # fmt: skip

WEIGHTS = """
import sys, keras, numpy as np
keras.utils.set_random_seed(0)
network = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(64, 64, 3), alpha=0.35)
for layer in network.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.0
network(np.random.default_rng(0).normal(0, 0.5, (16, 64, 64, 3)).astype("float32"), training=True)
network.save_weights(sys.argv[1])
"""


# -- the images -------------------------------------------------------------------------------------------------------


def write_images(folder: Path, start: int, labels: npt.NDArray[np.bool_]) -> None:
    """Writes images from number `start` on: a phantom, clouds of their own, and a spot a finding."""
    from medimg.data.synthetic import phantom

    grounds = [phantom(np.random.default_rng(seed), finding=False, size=SIDE)[0] for seed in range(PHANTOMS)]
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    for place, shown in enumerate(labels, start=start):
        rng = np.random.default_rng(place)
        clouds = Image.fromarray(rng.normal(0, 40, (10, 10)).astype(np.float32)).resize((SIDE, SIDE), 3)
        film = 0.5 * grounds[place % PHANTOMS] + 50 + np.asarray(clouds)
        for label in np.flatnonzero(shown):
            across, down = 0.15 + 0.7 * (label % 4) / 3, 0.15 + 0.7 * (label // 4) / 3
            film += 60 * np.exp(-((rows - down) ** 2 + (columns - across) ** 2) / 0.006)
        file = folder / _name(place)
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.clip(film, 0, 255).astype(np.uint8)).save(file, quality=85)


def write_set(folder: Path, count: int) -> None:
    """Writes `count` images and their tables: the first of more images are those of fewer."""
    rng = np.random.default_rng(0)
    labels = rng.random((count, len(LABELS))) < PREVALENCE
    step = max(FOLDER, count // 16)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        parts = [pool.submit(write_images, folder, top, labels[top : top + step]) for top in range(0, count, step)]
        for part in parts:
            part.result()
    patients = rng.integers(0, round(count / IMAGES_A_PATIENT), count)
    views = rng.choice(["PA", "AP"], count)
    ages = rng.integers(1, 90, count)
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "findings", "kind", "patient", "view", "age"])
        for place in range(count):
            found = [LABELS[label] for label in np.flatnonzero(labels[place])]
            kind = "finding" if found else "normal"
            rows.writerow(
                [_name(place), "|".join(found) or "No Finding", kind, patients[place], views[place], ages[place]]
            )


def _name(place: int) -> str:
    return f"{place // FOLDER:03d}/{place:06d}.jpeg"


def dataset(folder: Path, task: str) -> medimg.Dataset:
    """Returns the images, divided by patient."""
    many = task == "multilabel"
    return medimg.Dataset.from_csv(
        folder / "table.csv", images=folder, path="image", labels="findings" if many else "kind", group="patient",
        separator="|" if many else None, columns=("view", "age"),
    ).split()  # fmt: skip


# -- the steps, each in a process of its own --------------------------------------------------------------------------


def run_table(folder: Path, task: str) -> None:
    """Reads the table and divides the images."""
    emit(Event("stage", "table"))
    dataset(folder, task)


def run_index(folder: Path, task: str) -> None:
    """Reads all images, and then what was kept of them."""
    images = dataset(folder, task)
    emit(Event("stage", "index"))
    facts = images.index()
    emit(Event("stage", "other"))
    del facts
    emit(Event("stage", "index again"))
    images.index()


def run_audit(folder: Path, task: str) -> None:
    """Checks the images and writes the page."""
    from medimg.data.preparation import audited

    images = dataset(folder, task)
    facts = images.index()
    emit(Event("stage", "audit"))
    audited(images, facts).to_html(folder / "audit.html")


def run_pack(folder: Path, task: str) -> None:
    """Packs the images."""
    from medimg.data.pack import build

    images = dataset(folder, task)
    facts = images.index()
    emit(Event("stage", "pack"))
    build(images, NETWORK_SIDE, facts=facts)


def run_train(folder: Path, task: str) -> None:
    """Trains a head on frozen features; what it costs is seen from outside."""
    config = medimg.TrainConfig(
        model="mobilenet_v2", model_options={"alpha": 0.35}, weights=str(folder / "random.weights.h5"),
        image_size=NETWORK_SIDE, epochs=5, fine_tune_epochs=0, augment=False,
    )  # fmt: skip
    medimg.backend("local").train(dataset(folder, task), config, allow=["constant-predictions"])


def run_report(folder: Path, task: str) -> None:
    """Measures made-up predictions of as many images, with intervals, subgroups, figures and the page."""
    from medimg.evaluation.report import Report
    from medimg.evaluation.thresholds import choose
    from medimg.inference.predictions import Predictions

    images = dataset(folder, task)
    rng = np.random.default_rng(1)
    many = task == "multilabel"

    def table(split: str, samples: Sequence[medimg.data.dataset.Sample]) -> Predictions:
        truth = np.array([sample.labels for sample in samples], np.float64).reshape(len(samples), -1)
        scores = 1 / (1 + np.exp(-rng.normal(1.5 * truth - 1, 1)))
        return Predictions(
            classes=images.classes, task=images.task, ids=tuple(f"{split} {sample.id}" for sample in samples),
            probabilities=scores if many else np.hstack([1 - scores, scores]), positive=images.positive,
            labels=tuple(sample.labels for sample in samples), groups=tuple(f"{split} {s.group}" for s in samples),
            split=split, columns={name: tuple(s.columns[name] for s in samples) for name in ("view", "age")},
        )  # fmt: skip

    tables = {"val": table("val", images.of("val")), "test": table("test", images.samples)}
    emit(Event("stage", "report"))
    report = Report.build(tables, choose(tables["val"], "youden"), test_looks=1)
    report.save(folder / "report")
    print(f"report.html: {(folder / 'report' / 'report.html').stat().st_size:,} bytes")


STEPS: dict[str, Callable[[Path, str], None]] = {
    "table": run_table, "index": run_index, "audit": run_audit, "pack": run_pack, "train": run_train,
    "report": run_report,
}  # fmt: skip


# -- seen from outside ------------------------------------------------------------------------------------------------


def measured_step(step: str, folder: Path, task: str) -> dict[str, Cost]:
    """Runs a step and returns what its stages cost."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--task", task]
    environment = os.environ | {"MEDIMG_HOME": str(folder / "home"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (folder / f"{step}.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        watch = Watch((lambda: _job(folder)) if step == "train" else lambda: process.pid)
        watch.start()
        code = process.wait()
        watch.end()
        log.seek(0)
        said = log.read()
    if code:
        raise RuntimeError(f"the step {step} ended with {code}:\n{said[-3000:]}")
    for line in said.splitlines():
        if line.startswith("report.html"):
            print(f"  {line}", flush=True)
    if step == "train":
        (file,) = (folder / "home" / "jobs").glob("*/log")
        said = file.read_text()
    return {name: cost for name, cost in watch.costs(said.splitlines()).items() if name in MOST_BYTES}


def _job(folder: Path) -> int | None:
    """Returns the process that trains, once it was started."""
    for file in (folder / "home" / "jobs").glob("*/pids"):
        words = file.read_text().split()
        return int(words[1]) if len(words) == 2 else None
    return None


# -- the table --------------------------------------------------------------------------------------------------------


def growth(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Returns k of the n^k by which the seconds grow from the last size but one to the last."""
    return math.log(max(seconds[-1], 0.01) / max(seconds[-2], 0.01)) / math.log(sizes[-1] / sizes[-2])


def told(sizes: Sequence[int], costs: dict[int, dict[str, Cost]]) -> tuple[list[Row], list[str]]:
    """Returns the rows and the notes of all stages."""
    rows, notes = [], []
    for stage in costs[sizes[0]]:
        each = [costs[size][stage] for size in sizes]
        seconds = [cost.processor_s for cost in each]
        if len(sizes) > 1:
            power = growth(sizes, seconds)
            rows.append(Row(f"scale, {stage}: growth of time, exponent", power, unit="", goal=MOST_GROWTH))
        slope = (each[-1].peak - each[-2].peak) / (sizes[-1] - sizes[-2]) if len(sizes) > 1 else 0.0
        rows.append(Row(f"scale, {stage}: memory", max(slope, 0.0), unit="bytes an image", goal=MOST_BYTES[stage]))
        a_thousand = ", ".join(number(one / size * 1000) for one, size in zip(seconds, sizes, strict=True))
        clock = ", ".join(number(cost.clock_s) for cost in each)
        peaks = ", ".join(f"{cost.peak / 1e6:,.0f}" for cost in each)
        notes.append(f"{stage}: {a_thousand} s a thousand images (by the clock {clock} s in all); {peaks} MB at most")
    return rows, notes


def main() -> int:
    """Measures all sizes and prints the table, or runs one step."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=some, nargs="+", default=SIZES)
    parser.add_argument("--task", choices=("multilabel", "binary"), default="multilabel")
    parser.add_argument("--steps", nargs="+", choices=tuple(STEPS), default=tuple(STEPS))
    parser.add_argument("--step", choices=tuple(STEPS))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.step:
        STEPS[given.step](given.folder, given.task)
        emit(Event("stage", "other"))
        time.sleep(0.1)  # for the last look
        return 0
    costs: dict[int, dict[str, Cost]] = {}
    with tempfile.TemporaryDirectory() as root:
        weights = Path(root) / "random.weights.h5"
        if "train" in given.steps:
            subprocess.run([sys.executable, "-c", WEIGHTS, str(weights)], check=True, stderr=subprocess.DEVNULL)
        for size in sorted(given.sizes):
            print(f"{size:,} images", flush=True)
            costs[size] = _measured(Path(root), size, given.steps, given.task, weights)
    rows, notes = told(sorted(given.sizes), costs)
    sizes = ", ".join(f"{size:,}" for size in sorted(given.sizes))
    compared = (
        f"Made images of {SIDE} pixels, {given.task}, {sizes} of them; MobileNetV2 at alpha 0.35 and {NETWORK_SIDE} "
        "pixels with random weights. Processor seconds; the exponent is that of the last step. Memory is no file's "
        "pages, and its growth in bytes an image that of the last step too."
    )
    return Table("Scale", compared, tuple(rows), tuple(notes)).print()


def _measured(root: Path, size: int, steps: Sequence[str], task: str, weights: Path) -> dict[str, Cost]:
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        write_set(folder, size)
        if weights.exists():
            (folder / weights.name).symlink_to(weights)
        found: dict[str, Cost] = {}
        for step in steps:
            rounds = ROUNDS if size <= 3000 and step in ("table", "report", "audit") else 1
            several = [measured_step(step, folder, task) for _ in range(rounds)]
            for stage in several[0]:
                parts = [one[stage] for one in several]
                found[stage] = Cost(
                    median(one.processor_s for one in parts),
                    median(one.clock_s for one in parts),
                    max(one.peak for one in parts),
                )
                cost = found[stage]
                print(
                    f"  {stage}: {cost.processor_s:.2f} s of processor, {cost.clock_s:.2f} s by the clock, "
                    f"{cost.peak / 1e6:.0f} MB", flush=True,
                )  # fmt: skip
        return found


if __name__ == "__main__":
    raise SystemExit(main())
