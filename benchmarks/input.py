"""From image files to a network's input: how fast, how true, and beside what Keras has for it.

    python benchmarks/input.py [DATA] [--images 300] [--rounds 3] [--stages]

The first epoch: from files to what can be trained on, on all cores, files in the system's cache. medimg hashes every
image, learns what its audit asks and makes a pack of 224 pixels, with an empty home; Keras' ImageDataGenerator
(nearest pixel) and image_dataset_from_directory (bilinear, not antialiased; prefetch) read batches of 32. The files are
generated radiographs of 1315 × 970 pixels and some 240 KB; with DATA also 600 each of its chest films of 224 and scenes
of 150, which say what one image costs beside its decoding.
Beside it the peak signal to noise ratio of the pixels against a whole decoding resized in floating point with
antialiasing, of the generated files and, with DATA, of the untouched radiographs that are large enough to be decoded at
less than their size.

Later epochs: batches of 32 in float32, medimg's from the pack in the order of a shuffle; Keras reads the files anew in
each, or keeps what it has read in memory with `.cache()`. Memory is what an epoch adds: private memory, and apart from
it the pages of the pack's file, which the system gives back when somebody needs them.

Every turn has a process of its own, since TensorFlow's threads go on spinning when they have nothing to do; what is
timed is the second of two turns in it, for the first imports. "--stages" prints the milliseconds of processor time
that each step of one image takes, too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from measured import Measured, Row, Table, folder_named, some
from PIL import Image
from reading import (
    SIDE,
    Folder,
    Turn,
    directory,
    drafted,
    first_by_medimg,
    floor,
    generator,
    later_by_cache,
    later_by_medimg,
    pack_alone,
    resized,
)

from medimg.artifact import Preprocessing
from medimg.data.decode import decode, look, read
from medimg.data.formats.effort import check_jpeg
from medimg.data.formats.pillow import reduction
from medimg.data.index import appearance, digest
from medimg.data.synthetic import phantom

WIDTH, HEIGHT = 1315, 970
MOST = 600  # small files of a folder
PATIENTS = 8  # the films of each differ in place and noise
GENERATOR, DIRECTORY, CACHED = "ImageDataGenerator", "image_dataset_from_directory", "image_dataset + .cache()"


def write_radiographs(root: Path, count: int) -> Path:
    """Writes large grey JPEGs in two classes and returns their folder."""
    rng = np.random.default_rng(0)
    patients = [phantom(rng, finding=number % 2 == 0, size=WIDTH)[0] for number in range(PATIENTS)]
    top = (WIDTH - HEIGHT) // 2
    for number in range(count):
        film = np.roll(patients[number % PATIENTS], rng.integers(-40, 40, 2), axis=(0, 1))[top : top + HEIGHT]
        noisy = np.clip(film + rng.normal(0, 2.0, film.shape), 0, 255).astype(np.uint8)
        file = root / ("NORMAL", "PNEUMONIA")[number % 2] / f"{number:04d}.jpeg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(file, quality=87)
    return root


def part_of(folder: Folder, root: Path) -> Folder:
    """Returns a folder of links to `MOST` of the files, as many of each class as it has of all."""
    for file in folder.files[:: max(1, len(folder.files) // MOST)]:
        link = root / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return Folder(root, folder.grey)


def turns(
    ways: dict[str, Callable[..., Turn]], folder: Folder, rounds: int, pictures: Sequence[str] = ()
) -> dict[str, list[Turn]]:
    """Returns the turns of every way, in rounds; in the first with the pictures of those that are named."""
    found: dict[str, list[Turn]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in np.random.default_rng(number).permutation(list(ways)).tolist():
            given = {"pictures": True} if number == 0 and name in pictures else {}
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found[name].append(process.submit(ways[name], folder, **given).result())
    return found


def speed(found: Sequence[Turn], count: int) -> Measured:
    """Returns images a second."""
    return Measured(tuple(count / turn.seconds for turn in found), tuple(turn.processor_s for turn in found))


# -- how true ---------------------------------------------------------------------------------------------------------


def noise_ratios(found: Sequence[npt.NDArray[Any]], files: Sequence[Path]) -> tuple[float, float]:
    """Returns mean and least peak signal to noise ratio in dB, of grey pictures in the order of their files."""
    ratios = []
    for image, file in zip(found, files, strict=True):
        whole = Image.fromarray(decode(read(file), name=file.name).astype(np.float32))
        wanted = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        ratios.append(10 * np.log10(255**2 / np.mean((image.reshape(SIDE, SIDE).astype(float) - wanted) ** 2)))
    return float(np.mean(ratios)), float(min(ratios))


# -- one image --------------------------------------------------------------------------------------------------------


def stages(files: Sequence[Path], rounds: int) -> str:
    """Returns what each step takes."""
    data = [read(file) for file in files]
    seen = [look(each, name="x", size=(SIDE, SIDE)) for each in data]
    one = Preprocessing(image_size=SIDE, channels=1)
    steps: dict[str, Callable[[int], object]] = {
        "read the file": lambda at: read(files[at]),
        "check the header": lambda at: check_jpeg(data[at]),
        "Pillow alone: decode at 1/2": lambda at: drafted(data[at]),
        "Pillow alone: decode at 1/2, resize": lambda at: resized(drafted(data[at])),
        "decode whole": lambda at: decode(data[at], name="x"),
        "decode at 1/2": lambda at: look(data[at], name="x", size=(SIDE, SIDE)),
        "resize": lambda at: seen[at].resized((SIDE, SIDE)),
        "what a server does: decode, resize": lambda at: one.prepare(data[at]),
        "index: hash of the pixels": lambda at: digest(seen[at]),
        "index: hash of the file": lambda at: hashlib.sha256(data[at]).hexdigest(),
        "index: appearance": lambda at: appearance(seen[at]),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for at in range(len(data)):
            for name, step in steps.items():
                started = time.process_time()
                step(at)
                taken[name].append((time.process_time() - started) * 1e3)
    lines = [f"{name:36} {median(milliseconds):6.2f}" for name, milliseconds in taken.items()]
    return "\n".join([f"{'step':36} {'ms':>6}  of {len(data[0]) / 1e3:.0f} KB", *lines])


# -- the table --------------------------------------------------------------------------------------------------------


def first_epoch(folder: Folder, rounds: int, work: str, goals: tuple[float, float] | None = None) -> list[Row]:
    """Returns the rows of a folder's first epoch; goals: against ImageDataGenerator, image_dataset_from_directory."""
    against_generator, against_directory = goals or (None, None)
    ways = {"medimg": first_by_medimg, "alone": pack_alone, GENERATOR: generator, DIRECTORY: directory, "floor": floor}
    found = turns(ways, folder, rounds, ("medimg", GENERATOR, DIRECTORY) if goals else ())
    count = len(folder.files)
    rates = {name: speed(each, count) for name, each in found.items()}

    def row(what: str, ours: Measured, against: str, goal: float | None = None) -> Row:
        return Row(f"{work}: {what}", ours, against, rates[against], unit="images/s", goal=goal, more=True)

    rows = [
        row("files → facts and pack", rates["medimg"], GENERATOR, against_generator),
        row("files → facts and pack", rates["medimg"], DIRECTORY, against_directory),
        row("files → pack, facts known", rates["alone"], DIRECTORY),
        Row(f"{work}: decoding and resizing by Pillow alone, the floor", rates["floor"], unit="images/s", more=True),
    ]
    pictures = {name: next((turn.found for turn in each if turn.found), ()) for name, each in found.items()}
    if pictures["medimg"]:
        ratios = {name: noise_ratios(pictures[name], folder.files) for name in ("medimg", GENERATOR, DIRECTORY)}
        for place, (what, goal) in enumerate((("mean", 50.0), ("least", 42.0))):
            theirs = ", ".join(f"{ratios[name][place]:.1f} dB {name}" for name in (GENERATOR, DIRECTORY))
            rows.append(
                Row(f"{work}: PSNR, {what} ({theirs})", ratios["medimg"][place], unit="dB", goal=goal, more=True)
            )
    return rows


def later_epochs(folder: Folder, rounds: int) -> tuple[list[Row], str]:
    """Returns the rows of later epochs, and a note on memory."""
    ways = {"medimg": later_by_medimg, CACHED: later_by_cache, GENERATOR: generator, DIRECTORY: directory}
    found = turns(ways, folder, rounds)
    rates = {name: speed(each, len(folder.files)) for name, each in found.items()}
    goals = {GENERATOR: 10.0, DIRECTORY: 5.0, CACHED: None}
    rows = [
        Row("a later epoch", rates["medimg"], name, rates[name], unit="images/s", goal=goal, more=True)
        for name, goal in goals.items()
    ]
    private = {name: Measured(tuple(max(turn.private_mb, 0.1) for turn in found[name])) for name in ("medimg", CACHED)}
    rows.append(Row("private memory of a later epoch", private["medimg"], CACHED, private[CACHED], unit="MB", goal=10))
    mapped = median(turn.mapped_mb for turn in found["medimg"])
    return rows, (
        f"Of the pack's file, {mapped:.0f} MB were mapped after the epoch: the system's cache, which it takes back "
        "when it is short of memory, and which all who read the pack share. Private memory below 0.1 MB counts as that."
    )


def main() -> int:
    """Prints the table; returns 1 where a goal was not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=folder_named, nargs="?")
    parser.add_argument("--images", type=some, default=300)
    parser.add_argument("--rounds", type=some, default=3)
    parser.add_argument("--stages", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as scratch:
        films = Folder(write_radiographs(Path(scratch) / "films", given.images), grey=True)
        if given.stages:
            print(stages(films.files[:16], given.rounds), flush=True)
        rows = first_epoch(films, given.rounds, f"{given.images} films of {WIDTH} × {HEIGHT}", (2.0, 1.0))
        later, memory_note = later_epochs(films, given.rounds)
        notes = [memory_note]
        if given.data is not None:
            chest = part_of(Folder(given.data / "chestxray/kaggle224/train", grey=True), Path(scratch) / "chest")
            scenes = part_of(Folder(given.data / "intel/seg_train", grey=False), Path(scratch) / "scenes")
            for folder, work in ((chest, "chest films of 224"), (scenes, "scenes of 150, in colour")):
                rows += first_epoch(folder, given.rounds, f"{len(folder.files):,} {work}")
            originals = [
                path for path in Folder(given.data / "chestxray/originals", grey=True).files if _is_large(path)
            ]
            found = [decode(read(path), name=path.name, size=(SIDE, SIDE)) for path in originals]
            mean, least = noise_ratios(found, originals)
            notes.append(
                f"Of {len(originals)} untouched radiographs that are decoded at less: {mean:.1f} dB ({least:.1f})."
            )
    compared = (
        f"Files to {SIDE} pixels on all cores, in processes of their own; medimg's first epoch includes hashes, all "
        "that the audit asks of pixels, and the pack on disk. PSNR is against a whole decoding, resized in floating "
        "point with antialiasing."
    )
    return Table("Input", compared, (*rows, *later), tuple(notes)).print()


def _is_large(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode == "L" and reduction(image.height, image.width, SIDE) > 1


if __name__ == "__main__":
    raise SystemExit(main())
