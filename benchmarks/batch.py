"""A folder of radiographs predicted: `medimg predict` beside plain Keras, image by image and in batches.

    KERAS_HOME=… python benchmarks/batch.py DATA [--images 2000] [--rounds 3] [--model FOLDER]

DATA holds chestxray/kaggle224. Without `--model` a mobilenet_v2 (alpha 0.35, at 224 pixels) is trained on it first,
from `$KERAS_HOME/models`. Each runs in a fresh process, from its start to the written table, in turns. Printed are the
median images/s, the processor seconds of 1,000 images (which tell more than the clock where others share the machine),
the peak memory, and the ratio to medimg. The three decode and resize each in its own way, so answers differ a little;
how many decisions do is printed.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import medimg
from medimg.artifact import ModelFolder

PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"
CONFIG = medimg.TrainConfig(model="mobilenet_v2", model_options={"alpha": 0.35}, weights="imagenet", epochs=8)

LOOP = """
import csv, sys
from pathlib import Path
import keras, numpy as np
from PIL import Image
folder, model, out, mode, side = sys.argv[1:]
network = keras.saving.load_model(Path(model) / "model.keras", compile=False)
with open(out, "w", newline="") as file:
    rows = csv.writer(file)
    for path in sorted(Path(folder).iterdir()):
        image = Image.open(path).convert("L" if mode == "grayscale" else "RGB").resize((int(side), int(side)))
        pixels = np.asarray(image, np.float32).reshape(1, int(side), int(side), -1)
        rows.writerow([path, float(network.predict(pixels, verbose=0)[0, 0])])
"""
BATCHES = """
import csv, sys
from pathlib import Path
import keras
folder, model, out, mode, side = sys.argv[1:]
network = keras.saving.load_model(Path(model) / "model.keras", compile=False)
images = keras.utils.image_dataset_from_directory(
    folder, labels=None, shuffle=False, color_mode=mode, image_size=(int(side), int(side)), batch_size=32, verbose=False
)
with open(out, "w", newline="") as file:
    csv.writer(file).writerows(zip(images.file_paths, network.predict(images.prefetch(2), verbose=0)[:, 0].tolist()))
"""


@dataclass(frozen=True)
class Run:
    """What one run took.

    Attributes:
        seconds: From the start of the process to its end.
        processor: Seconds of all cores.
        megabytes: Peak memory.
    """

    seconds: float
    processor: float
    megabytes: float


def run(command: list[str]) -> Run:
    """Runs a command and measures it."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} … ended with {process.returncode}")
    return Run(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3)


def trained(data: Path) -> ModelFolder:
    """Returns a model trained on the chest set."""
    dataset = medimg.Dataset.from_folder(data / "chestxray" / "kaggle224", group=PATIENT)
    return medimg.backend("local").train(dataset, CONFIG).model


def flips(ours: Path, theirs: Path, threshold: float, positive: str) -> int:
    """Returns how many decisions of another's table differ from ours."""
    with ours.open(newline="") as file:
        known = {row["image"]: row["decision"] == positive for row in csv.DictReader(file)}
    with theirs.open(newline="") as file:
        return sum(known[image] != (float(probability) >= threshold) for image, probability in csv.reader(file))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(MEDIMG_HOME=home, TF_CPP_MIN_LOG_LEVEL="3")
        root = Path(home)
        folder = root / "images"
        folder.mkdir()
        files = sorted((given.data / "chestxray" / "kaggle224").rglob("*.jpeg"))[: given.images]
        for number, file in enumerate(files):
            (folder / f"{number:05d}.jpeg").symlink_to(file.absolute())
        model = ModelFolder.load(given.model) if given.model else trained(given.data)
        preparation = model.record.preprocessing
        plain = [folder, model.path, "grayscale" if preparation.channels == 1 else "rgb", preparation.image_size]
        commands = {
            "medimg predict": ["-c", "from medimg.cli import main; main()", "predict", folder, "--model", model.path],
            "Keras, batches of 32": ["-c", BATCHES, *plain],
            "Keras, image by image": ["-c", LOOP, *plain],
        }
        outs = {name: root / f"{number}.csv" for number, name in enumerate(commands)}
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(given.rounds):
            for name, command in commands.items():
                where = ["--out", outs[name]] if name == "medimg predict" else []
                line = [*command, *where] if where else [*command[:4], outs[name], *command[4:]]
                runs[name].append(run([sys.executable, *map(str, line)]))
        positive = str(model.record.positive)
        ours = statistics.median(one.seconds for one in runs["medimg predict"])
        print(f"{len(files)} images, {len(os.sched_getaffinity(0))} cores, median of {given.rounds}")
        for name, found in runs.items():
            seconds = statistics.median(one.seconds for one in found)
            processor = statistics.median(one.processor for one in found)
            other = flips(outs["medimg predict"], outs[name], model.record.thresholds[positive], positive) if (
                name != "medimg predict"
            ) else 0  # fmt: skip
            print(
                f"{name:22} {len(files) / seconds:7.1f} images/s  {processor / len(files) * 1e3:6.1f} s of processor a "
                f"1,000  {max(one.megabytes for one in found):6.0f} MB  {seconds / ours:5.1f} × the time  "
                f"{other} other decisions"
            )


if __name__ == "__main__":
    main()
