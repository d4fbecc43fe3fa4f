"""The pixels of a pack, in files of a few hundred images each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medimg.data.decode import look, read
from medimg.data.formats.pillow import USUAL
from medimg.data.index import digest, in_parallel, is_decoded_anew
from medimg.data.pixels import Pixels, as_mode
from medimg.errors import DatasetError
from medimg.home import atomic_write
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.data.dataset import Sample
    from medimg.data.index import PixelFacts
    from medimg.data.kept import KeptPixels

__all__ = ["deciding_file", "sha256_of", "write_shards"]

SHARD_BYTES = 80_000_000  # of colour, 512 images of 224 pixels: large enough for sequential reads, small enough to redo
MOST_IN_SHARD = 512


def _images_a_shard(size: int) -> int:
    """Returns how many images each shard but the last has."""
    return max(1, min(MOST_IN_SHARD, SHARD_BYTES // (3 * size * size)))


def write_shards(
    folder: Path,
    samples: Sequence[Sample],
    facts: Mapping[str, PixelFacts],
    size: int,
    kept: KeptPixels | None,
    report: Report,
) -> list[dict[str, Any]]:
    """Writes the shards that are not there, each whole or not at all, and returns what `pack.json` says of every one.

    Args:
        folder: Where they go.
        samples: What to pack, in the order of the pixels.
        facts: Of each sample by its id.
        size: Side in pixels.
        kept: What the index was given to keep.
        report: Told of progress.

    Raises:
        DatasetError: An image has changed since it was indexed.
        ImageRejected: It can no longer be read.
    """
    step = _images_a_shard(size)
    parts = {
        folder / f"images-{start // step:05d}.u8": samples[start : start + step]
        for start in range(0, len(samples), step)
    }
    todo = [(file, part) for file, part in parts.items() if not file.exists()]  # written whole or not at all
    hashes: dict[Path, str] = {}
    done = len(samples) - sum(len(part) for _, part in todo)
    report(Event("stage", "packing", done, len(samples)))
    wanted = (sample for _, part in todo for sample in part if kept is None or not kept.has(sample.id, size))
    # Threads decode on while a shard is written.
    with closing(in_parallel(lambda sample: _image(sample, facts[sample.id], size), wanted)) as decoded:
        for file, part in todo:
            channels = max(facts[sample.id].channels for sample in part)
            pixels = np.empty((len(part), size, size, channels), np.uint8)
            for number, sample in enumerate(part):
                image = next(decoded) if kept is None or not kept.has(sample.id, size) else kept.take(sample.id)
                if image.ndim == 3 and pixels.shape[3] == 1:  # colour that only a larger decoding shows
                    pixels = np.repeat(pixels, 3, axis=3)
                pixels[number] = as_mode(image, 3 if pixels.shape[3] == 3 else 1)
                done += 1
                if done % 16 == 0:
                    report(Event("stage", "packing", done, len(samples)))
            atomic_write(file, pixels.data)
            hashes[file] = hashlib.sha256(pixels.data).hexdigest()
    report(Event("stage", "packing", len(samples), len(samples)))
    return [
        {
            "file": file.name,
            "images": len(part),
            "channels": file.stat().st_size // (len(part) * size * size),
            "sha256": hashes.get(file) or sha256_of(file),
        }
        for file, part in parts.items()
    ]


def _image(sample: Sample, fact: PixelFacts, size: int) -> Pixels:
    data, name = read(sample.path), str(sample.path)
    square = (size, size)
    picture = look(data, name=name, size=square)
    if hashlib.sha256(data).hexdigest() != fact.content:
        # Other bytes may hold the same pixels, such as when metadata was changed meanwhile.
        usual = picture if size <= USUAL else look(data, name=name, size=(USUAL, USUAL))
        if deciding_file(fact, size) or digest(usual) != fact.digest:
            raise DatasetError(f"{name} has changed since the dataset was read. Submit the dataset again")
    return picture.resized(square)


def deciding_file(fact: PixelFacts, size: int) -> str:
    """Returns the SHA-256 of the file where the facts do not decide the pixels at a size, else ""."""
    return fact.content if is_decoded_anew(fact, size) else ""


def sha256_of(file: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
