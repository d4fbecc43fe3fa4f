"""From JPEG files to pixels for a network: how fast, how true, and beside what Keras has for it.

    python benchmarks/decoding.py DATA [stages] [peers] [--images 300] [--rounds 5]

DATA holds chestxray/originals. The timed files are generated radiographs of 1315 × 970 pixels and some 240 KB. "stages"
prints the milliseconds of processor time that each step of one image takes, the medians of turns; "peers" images a
second on all cores, each in turns over all files, and the peak signal to noise ratio against a full decoding with an
antialiased resize in floating point, of the generated files and of the originals that are large enough to be decoded at
less than their size. A pack is made once and read in every epoch; what Keras reads it reads anew in each.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from medimg.artifact import Preprocessing
from medimg.data.dataset import Dataset
from medimg.data.decode import decode, read
from medimg.data.formats.effort import check_jpeg
from medimg.data.formats.pillow import SPARE
from medimg.data.index import appearance, digest, in_parallel
from medimg.data.pack import build
from medimg.data.pixels import Pixels, as_mode, is_grey, resize
from medimg.data.synthetic import phantom

SIDE = 224
WIDTH, HEIGHT = 1315, 970
PATIENTS = 8  # the films of each differ in place and noise
BATCH = 32

Images = npt.NDArray[np.float32]
Turn = tuple[npt.NDArray[np.float64], list[npt.NDArray[Any]]]  # seconds of clock and processor, and what was read


def write_films(root: Path, count: int) -> None:
    """Writes grey JPEGs in two classes."""
    rng = np.random.default_rng(0)
    patients = [phantom(rng, finding=number % 2 == 0, size=WIDTH)[0] for number in range(PATIENTS)]
    top = (WIDTH - HEIGHT) // 2
    for number in range(count):
        film = np.roll(patients[number % PATIENTS], rng.integers(-40, 40, 2), axis=(0, 1))[top : top + HEIGHT]
        noisy = np.clip(film + rng.normal(0, 2.0, film.shape), 0, 255).astype(np.uint8)
        file = root / ("NORMAL", "PNEUMONIA")[number % 2] / f"{number:04d}.jpeg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(file, quality=87)


def films(root: Path) -> list[Path]:
    """Returns the JPEGs of a folder in the order in which all read them."""
    return sorted(root.rglob("*.jpeg"))


def reference(pixels: Pixels) -> Images:
    """Returns a grey picture resized in floating point, antialiased: float32 (224, 224)."""
    exact = Image.fromarray(pixels.astype(np.float32))
    return np.asarray(exact.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def noise_ratios(found: Sequence[npt.NDArray[Any]], files: Sequence[Path]) -> str:
    """Returns mean and least peak signal to noise ratio in dB, of pictures in the order of their files."""
    ratios = []
    for image, file in zip(found, files, strict=True):
        wanted = reference(decode(read(file), name=file.name))
        ratios.append(10 * np.log10(255**2 / np.mean((image.reshape(SIDE, SIDE).astype(float) - wanted) ** 2)))
    return f"{np.mean(ratios):.1f} ({min(ratios):.1f})"


# -- one image --------------------------------------------------------------------------------------------------------


def stages(files: Sequence[Path], rounds: int) -> None:
    """Prints what each step takes."""
    data = [read(file) for file in files]
    whole = [decode(each, name="x") for each in data]
    half = [Image.open(io.BytesIO(each)) for each in data]
    for image in half:
        image.draft(None, (SPARE * SIDE, SPARE * SIDE))
        image.load()
    colour = [np.asarray(image.convert("RGB")) for image in half]
    one, three = (Preprocessing(image_size=SIDE, channels=channels) for channels in (1, 3))
    encoded, steps = range(len(data)), dict[str, Callable[[int], object]]()
    steps["check the header"] = lambda at: check_jpeg(data[at])
    steps["decode, whole"] = lambda at: decode(data[at], name="x")
    steps["decode at 1/2 by Pillow"] = lambda at: _drafted(data[at])
    steps["resize, whole"] = lambda at: resize(whole[at], (SIDE, SIDE))
    steps["resize, half"] = lambda at: half[at].resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    steps["test for grey, half as colour"] = lambda at: is_grey(colour[at])
    steps["before: whole, resize, 3 channels"] = lambda at: as_mode(_before(data[at]), 3)
    steps["now: prepare, 1 channel"] = lambda at: one.prepare(data[at])
    steps["now: prepare, 3 channels"] = lambda at: three.prepare(data[at])
    steps["Pillow alone: draft and resize"] = lambda at: np.asarray(_drafted(data[at]).resize((SIDE, SIDE), 2))
    steps["index: hash of the pixels"] = lambda at: digest(whole[at])
    steps["index: appearance"] = lambda at: appearance(whole[at], mode="L", bits=8, orientation=1)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for at in encoded:
            for name, step in steps.items():
                started = time.process_time()
                step(at)
                taken[name].append((time.process_time() - started) * 1e3)
    print(f"{'step':36} {'ms':>6}  of {len(data[0]) / 1e3:.0f} KB")
    for name, milliseconds in taken.items():
        print(f"{name:36} {median(milliseconds):6.2f}")


def _before(data: bytes) -> Pixels:
    return resize(decode(data, name="x"), (SIDE, SIDE))


def _drafted(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.draft(None, (SPARE * SIDE, SPARE * SIDE))
    image.load()
    return image


# -- many images ------------------------------------------------------------------------------------------------------


def now() -> npt.NDArray[np.float64]:
    """Returns seconds of the clock and of the processor, of all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(images: Iterable[npt.NDArray[Any]]) -> Turn:
    """Reads all images."""
    started = now()
    found = list(images)
    return now() - started, found


def served(root: Path) -> Iterator[Pixels]:
    """Yields what a server makes of each file, one thread a core."""
    preprocessing = Preprocessing(image_size=SIDE, channels=1)
    with closing(in_parallel(preprocessing.prepare, films(root))) as images:
        yield from images


def before(root: Path) -> Iterator[Pixels]:
    """Yields what a full decoding gives."""
    with closing(in_parallel(lambda file: _before(read(file)), films(root))) as images:
        yield from images


def packed(root: Path, *, indexed: bool) -> Turn:
    """Makes a pack in an empty home; `indexed`: the index is not timed."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDIMG_HOME"] = home
        started = now()
        dataset = Dataset.from_folder(root)
        facts = dataset.index()
        if indexed:
            started = now()
        pack = build(dataset, SIDE, facts=facts)
        taken = now() - started
        rows = {dataset[sample.id].path.name: row for row, sample in enumerate(pack.samples)}
        return taken, list(pack.images([rows[file.name] for file in films(root)]))


def generator(root: Path) -> Iterator[Images]:
    """Yields what Keras' ImageDataGenerator reads: to the nearest pixel."""
    import tensorflow as tf

    reader = tf.keras.preprocessing.image.ImageDataGenerator().flow_from_directory(
        root, (SIDE, SIDE), color_mode="grayscale", batch_size=BATCH, shuffle=False, class_mode=None
    )
    for number in range(len(reader)):
        yield from reader[number]


def directory(root: Path) -> Iterator[Images]:
    """Yields what Keras' image_dataset_from_directory reads: bilinear, not antialiased."""
    import keras
    import tensorflow as tf

    read_ahead = keras.utils.image_dataset_from_directory(
        root,
        labels=None,
        color_mode="grayscale",
        batch_size=BATCH,
        image_size=(SIDE, SIDE),
        shuffle=False,
        verbose=False,
    ).prefetch(tf.data.AUTOTUNE)
    for batch in read_ahead:
        yield from batch.numpy()


WAYS: dict[str, Callable[[Path], Turn]] = {
    "ImageDataGenerator": lambda root: timed(generator(root)),
    "image_dataset_from_directory": lambda root: timed(directory(root)),
    "medimg, whole (before)": lambda root: timed(before(root)),
    "medimg, as served": lambda root: timed(served(root)),
    "medimg, pack of indexed files": lambda root: packed(root, indexed=True),
    "medimg, index and pack": lambda root: packed(root, indexed=False),
}


def turn(way: str, root: Path) -> Turn:
    """Returns the second of two turns: the first imports and warms up."""
    WAYS[way](root)
    return WAYS[way](root)


def peers(root: Path, originals: Sequence[Path], rounds: int) -> None:
    """Prints images a second, processor time and noise ratios.

    Every turn has a process of its own, since TensorFlow's threads go on spinning when they have nothing to do.
    """
    files = films(root)
    seconds: dict[str, list[npt.NDArray[np.float64]]] = {way: [] for way in WAYS}
    ratios = {}
    for _ in range(rounds):
        for way in WAYS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                taken, images = process.submit(turn, way, root).result()
            seconds[way].append(taken)
            ratios[way] = ratios.get(way) or noise_ratios(images, files)
    print(f"{'way':32} {'images/s':>9} {'CPU ms an image':>16} {'PSNR mean (least) dB':>22}")
    for way, turns in seconds.items():
        clock, processor = np.median(turns, axis=0)
        print(f"{way:32} {len(files) / clock:9.0f} {processor / len(files) * 1e3:16.2f} {ratios[way]:>22}")
    found = [decode(read(file), name=file.name, size=(SIDE, SIDE)) for file in originals]
    print(f"{len(originals)} originals: {noise_ratios(found, originals)} dB")


def main() -> None:
    """Prints the tables."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=["stages", "peers"])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    large = [
        path for path in films(asked.data / "chestxray/originals") if min(Image.open(path).size) >= 2 * SPARE * SIDE
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_films(Path(folder), asked.images)
        if "stages" in asked.parts:
            stages(films(Path(folder))[:16], asked.rounds)
        if "peers" in asked.parts:
            peers(Path(folder), large, asked.rounds)


if __name__ == "__main__":
    main()
