"""The ways from image files to batches: medimg's, Pillow's alone, and those that Keras has."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medimg.data.dataset import Dataset
from medimg.data.index import in_parallel
from medimg.data.kept import KeptPixels
from medimg.data.pack import Pack, build

SIDE = 224
BATCH = 32

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Folder:
    """Files to read.

    Attributes:
        root: A folder of folders, one a class.
        grey: Whether Keras is told to read one channel.
    """

    root: Path
    grey: bool

    @property
    def files(self) -> list[Path]:
        """The images in the order in which all read them."""
        return sorted(path for path in self.root.rglob("*") if path.suffix in (".jpeg", ".jpg", ".png"))


@dataclass(frozen=True)
class Turn:
    """What one turn took.

    Attributes:
        seconds: By the clock.
        processor_s: Of all threads.
        private_mb: Memory that it added.
        mapped_mb: Pages of files that it added.
        found: The pictures in the order of the files, where they were asked for.
    """

    seconds: float
    processor_s: float
    private_mb: float
    mapped_mb: float
    found: tuple[npt.NDArray[Any], ...] = ()


def memory() -> npt.NDArray[np.float64]:
    """Returns private memory and resident pages of files, MB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    held = {words[0]: float(words[1]) / 1e3 for words in lines if words[0] in ("RssAnon:", "RssFile:")}
    return np.array([held["RssAnon:"], held["RssFile:"]])


def timed(work: Callable[[], object], found: tuple[npt.NDArray[Any], ...] = ()) -> Turn:
    """Does something once."""
    before, started, used = memory(), time.perf_counter(), time.process_time()
    work()
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    private, mapped = memory() - before
    return Turn(seconds, processor, float(private), float(mapped), found)


def drain(batches: Iterable[object]) -> None:
    """Reads all batches and keeps none."""
    for _ in batches:
        pass


def packed(folder: Folder, home: str, *, name: str) -> Pack:
    """Reads a folder's facts and makes its pack, as the first training of a dataset does."""
    os.environ["MEDIMG_HOME"] = str(Path(home) / name)
    dataset = dataset_of(folder)
    with KeptPixels(SIDE, len(dataset)) as kept:
        facts = dataset.index(kept=kept)
        return build(dataset, SIDE, facts=facts, kept=kept)


def dataset_of(folder: Folder) -> Dataset:
    """Returns medimg's dataset of a folder of classes."""
    classes = sorted(path.name for path in folder.root.iterdir() if path.is_dir())
    return Dataset.from_folder(folder.root, positive=classes[-1] if len(classes) == 2 else None)


def first_by_medimg(folder: Folder, *, pictures: bool = False) -> Turn:
    """Makes facts and pack of files that were never seen."""
    with tempfile.TemporaryDirectory() as home:
        packed(folder, home, name="first")
        turn = timed(partial(packed, folder, home, name="second"))
        if not pictures:
            return turn
        pack, dataset = packed(folder, home, name="second"), dataset_of(folder)
        rows = {dataset[sample.id].path: row for row, sample in enumerate(pack.samples)}
        return Turn(turn.seconds, turn.processor_s, 0, 0, tuple(pack.images([rows[path] for path in folder.files])))


def pack_alone(folder: Folder) -> Turn:
    """Makes the pack of files that were read before, such as by an audit."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDIMG_HOME"] = home
        dataset = dataset_of(folder)
        facts = dataset.index()
        build(dataset, SIDE - 1, facts=facts)
        return timed(lambda: build(dataset, SIDE, facts=facts))


def floor(folder: Folder) -> Turn:
    """Decodes and resizes with Pillow alone, one thread a core, and keeps nothing."""

    def run() -> None:
        with closing(in_parallel(lambda file: resized(drafted(file.read_bytes())), folder.files)) as images:
            drain(images)

    run()
    return timed(run)


def drafted(data: bytes) -> Image.Image:
    """Returns a JPEG decoded at the least that is twice as large as it is wanted."""
    image = Image.open(io.BytesIO(data))
    image.draft(None, (2 * SIDE, 2 * SIDE))
    image.load()
    return image


def resized(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Returns an image as it is wanted."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def generator(folder: Folder, *, pictures: bool = False) -> Turn:
    """Reads with Keras' ImageDataGenerator."""
    import tensorflow as tf

    def batches() -> Iterator[Images]:
        mode = "grayscale" if folder.grey else "rgb"
        reader = tf.keras.preprocessing.image.ImageDataGenerator().flow_from_directory(
            folder.root, (SIDE, SIDE), color_mode=mode, batch_size=BATCH, shuffle=False, class_mode=None
        )
        return (reader[number] for number in range(len(reader)))

    found = tuple(image for batch in batches() for image in batch) if pictures else drain(batches()) or ()
    return timed(lambda: drain(batches()), found)


def directory(folder: Folder, *, pictures: bool = False) -> Turn:
    """Reads with Keras' image_dataset_from_directory."""
    batches = _batches(folder, cache=False)
    found = tuple(image for batch in batches for image in batch.numpy()) if pictures else drain(batches) or ()
    return timed(lambda: drain(batches), found)


def _batches(folder: Folder, *, cache: bool) -> Any:
    import keras
    import tensorflow as tf

    batches = keras.utils.image_dataset_from_directory(
        folder.root, labels=None, color_mode="grayscale" if folder.grey else "rgb", batch_size=BATCH,
        image_size=(SIDE, SIDE), shuffle=False, verbose=False,
    )  # fmt: skip
    return (batches.cache() if cache else batches).prefetch(tf.data.AUTOTUNE)


def later_by_cache(folder: Folder) -> Turn:
    """Reads a second epoch of image_dataset_from_directory with `.cache()`; the memory is what the first one added."""
    drain(_batches(folder, cache=False).take(2))
    batches = _batches(folder, cache=True)
    filled, turn = timed(lambda: drain(batches)), timed(lambda: drain(batches))
    return Turn(turn.seconds, turn.processor_s, filled.private_mb + turn.private_mb, filled.mapped_mb)


def later_by_medimg(folder: Folder) -> Turn:
    """Reads an epoch of a pack, as the trainer does."""
    from medimg.training.features import PackSource

    with tempfile.TemporaryDirectory() as home:
        pack = packed(folder, home, name="pack")
        rows = pack.rows(None)
        source = PackSource(pack, rows, rows)
        order = np.random.default_rng(0).permutation(len(rows))
        starts, mapped = range(0, len(order), BATCH), memory()[1]
        drain(source.x(order[:BATCH]) for _ in range(3))  # as of Keras' batches, what one takes is there before
        turn = timed(lambda: drain(source.x(order[start : start + BATCH]) for start in starts))
        return replace(turn, mapped_mb=float(memory()[1] - mapped))
