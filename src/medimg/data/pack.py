"""The pack: a dataset as a few large files of decoded pixels beside a manifest without names.

    pack.json        what it is: classes, task, image size, the shards and their hashes
    samples.jsonl    one line an image, in the order of the pixels: salted id and group, split, labels, named columns
    images-00000.u8  pixels: uint8 (images, height, width, channels), one channel where all of a shard's images are grey

A pack is what a job receives, on every backend. Its address depends on what is in it and not on names or the salt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medimg.config import Task
from medimg.data.decode import as_mode, decode, read, resize
from medimg.errors import DatasetError
from medimg.home import atomic_write, home, locked, salt, storage_errors
from medimg.progress import Event, Report, silent

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample
    from medimg.data.index import PixelFacts

__all__ = ["Pack", "PackedSample", "address", "build"]

VERSION = 1
SHARD_IMAGES = 512  # 25 MB of grey 224-pixel images: large enough for sequential reads, small enough to redo


@dataclass(frozen=True, slots=True)
class PackedSample:
    """One image of a pack, as it leaves the machine.

    Attributes:
        id: Salted id: the same as the sample's in the dataset.
        labels: The class's index; for multilabel a tuple of 1, 0 or None for each class.
        split: "train", "val" or "test".
        group: Salted group, or None.
        columns: The columns that the user named.
    """

    id: str
    labels: int | tuple[int | None, ...]
    split: str | None
    group: str | None
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Pack:
    """A pack on disk; its pixels are memory-mapped, so opening one costs nothing.

    Attributes:
        path: Its folder.
        facts: The content of `pack.json`.
    """

    path: Path
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Pack:
        """Opens a pack.

        Args:
            path: Its folder.
            verify: Whether to read everything and compare hashes, as after a download.

        Raises:
            DatasetError: A file is missing, has the wrong length, or (with `verify`) the wrong content.
        """
        path = Path(path)
        try:
            facts = json.loads((path / "pack.json").read_text())
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} is not a complete pack: {error}") from None
        if facts["version"] != VERSION:
            raise DatasetError(f"{path} was packed by another version of medimg. Submit the dataset again")
        size = facts["image_size"]
        for shard in facts["shards"]:
            file = path / shard["file"]
            expected = shard["images"] * size * size * shard["channels"]
            if not file.is_file() or file.stat().st_size != expected:
                raise DatasetError(f"{file} is missing or incomplete. Remove {path} and submit the dataset again")
            if verify and _digest(file) != shard["sha256"]:
                raise DatasetError(f"{file} is damaged: its hash differs. Remove {path} and submit the dataset again")
        return cls(path, facts)

    def __len__(self) -> int:
        return int(sum(shard["images"] for shard in self.facts["shards"]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or labels."""
        return tuple(self.facts["classes"])

    @property
    def task(self) -> Task:
        """The task that the labels are for."""
        task: Task = self.facts["task"]
        return task

    @property
    def channels(self) -> int:
        """1 if every image is grey, else 3."""
        return max((int(shard["channels"]) for shard in self.facts["shards"]), default=1)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return int(self.facts["image_size"])

    @cached_property
    def samples(self) -> tuple[PackedSample, ...]:
        """The images, in the order of the pixels."""
        found = []
        with (self.path / "samples.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                labels = row.pop("labels")
                found.append(PackedSample(labels=tuple(labels) if isinstance(labels, list) else labels, **row))
        return tuple(found)

    @cached_property
    def _shards(self) -> tuple[np.ndarray, ...]:
        size = self.image_size
        return tuple(
            np.memmap(self.path / shard["file"], np.uint8, "r", shape=(shard["images"], size, size, shard["channels"]))
            for shard in self.facts["shards"]
        )

    def rows(self, split: str | None) -> np.ndarray:
        """Returns the positions of a split's images (None: of all): int64 (n,)."""
        return np.array(
            [row for row, sample in enumerate(self.samples) if split is None or sample.split == split], np.int64
        )

    def images(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns images by position: uint8 (n, height, width, channels)."""
        rows = np.asarray(rows, np.int64)
        size = self.image_size
        out = np.empty((len(rows), size, size, self.channels), np.uint8)
        shard_of, inside = np.divmod(rows, SHARD_IMAGES)
        for number in np.unique(shard_of):
            chosen = shard_of == number
            out[chosen] = self._shards[number][inside[chosen]]  # a grey shard is repeated over three channels
        return out

    def targets(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns labels by position: float32 (n, labels) with NaN for unknown, or for exclusive classes int64 (n,)."""
        labels = [self.samples[row].labels for row in rows]
        if self.task == "multilabel":
            values = [[np.nan if value is None else value for value in label] for label in labels]  # type: ignore[union-attr]
            return np.array(values, np.float32).reshape(len(labels), len(self.classes))
        return np.array(labels, np.int64)


def address(dataset: Dataset, fingerprint: str, image_size: int) -> str:
    """Returns the pack's name: a hash of all that decides its content."""
    content = [VERSION, fingerprint, dataset.classes, dataset.task, dataset.positive, image_size, dataset.keep]
    # Named columns are no part of the fingerprint, but they are in the pack.
    content.append(sorted(repr(sorted(sample.columns.items())) for sample in dataset.samples) if dataset.keep else [])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def build(
    dataset: Dataset, image_size: int, *, facts: Mapping[str, PixelFacts], report: Report = silent
) -> Path:
    """Returns the folder of the dataset's pack, building what is missing of it.

    A build that was cut off goes on where it stopped; two at once make one pack.

    Args:
        dataset: What to pack; images that cannot be read are left out.
        image_size: Side in pixels.
        facts: What `dataset.index()` returned.
        report: Told of each finished shard.

    Raises:
        StorageError: The disk is full; finished shards are kept.
    """
    name = address(dataset, dataset.fingerprint_of(facts), image_size)
    final = home() / "packs" / name
    # The order is that of the pixels' hashes: the same content gives the same pack, however the files are called.
    samples = sorted(
        (sample for sample in dataset.samples if facts[sample.id].rejection is None),
        key=lambda sample: (facts[sample.id].digest, repr(sample.labels), sample.split or "", sample.group or ""),
    )
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        with locked(final.parent / f".{name}.lock"):
            if not (final / "pack.json").exists():
                building = final.parent / f".{name}.building"
                building.mkdir(exist_ok=True)
                shards = _write_shards(building, samples, facts, image_size, report)
                _write_manifest(building, dataset, samples, shards, image_size)
                building.rename(final)
            elif _ids_of(final) != [sample.id for sample in samples]:
                # The same pixels under other names, or with another salt: only the manifest's ids differ.
                atomic_write(final / "samples.jsonl", _manifest_lines(dataset, samples))
    return final


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_shards(
    folder: Path, samples: Sequence[Sample], facts: Mapping[str, PixelFacts], size: int, report: Report
) -> list[dict[str, Any]]:
    from medimg.data.index import workers

    shards = []
    report(Event("stage", "packing", 0, len(samples)))
    with ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(samples), SHARD_IMAGES):
            part = samples[start : start + SHARD_IMAGES]
            note = folder / f"images-{start // SHARD_IMAGES:05d}.json"
            if note.exists():
                shards.append(json.loads(note.read_text()))
            else:
                shards.append(_write_shard(note, part, facts, size, pool, report, start, len(samples)))
            report(Event("stage", "packing", start + len(part), len(samples)))
    return shards


def _write_shard(
    note: Path, part: Sequence[Sample], facts: Mapping[str, PixelFacts], size: int, pool: ThreadPoolExecutor,
    report: Report, before: int, total: int,
) -> dict[str, Any]:  # fmt: skip
    channels = max(facts[sample.id].channels for sample in part)
    pixels = np.empty((len(part), size, size, channels), np.uint8)

    def fill(position: int) -> None:
        sample = part[position]
        decoded = resize(decode(read(sample.path), name=sample.path.name), (size, size))
        pixels[position] = as_mode(decoded, 3 if channels == 3 else 1)

    for number, _ in enumerate(pool.map(fill, range(len(part)), chunksize=8), start=1):
        if number % 64 == 0:
            report(Event("stage", "packing", before + number, total))
    file = note.with_suffix(".u8")
    atomic_write(file, pixels.data)
    shard = {"file": file.name, "images": len(part), "channels": channels, "sha256": hashlib.sha256(pixels).hexdigest()}
    # The note is written after the pixels: where it is, the shard is whole.
    atomic_write(note, json.dumps(shard))
    return shard


def _manifest_lines(dataset: Dataset, samples: Sequence[Sample]) -> str:
    from medimg.data.folder import salted

    key = salt()
    lines = []
    for sample in samples:
        packed = PackedSample(
            id=sample.id,
            labels=sample.labels,
            split=sample.split,
            group=None if sample.group is None else salted("group", sample.group, key),
            columns={name: sample.columns[name] for name in dataset.keep},
        )
        lines.append(json.dumps(asdict(packed), ensure_ascii=False))
    return "\n".join(lines) + "\n"


def _write_manifest(
    folder: Path, dataset: Dataset, samples: Sequence[Sample], shards: list[dict[str, Any]], size: int
) -> None:
    atomic_write(folder / "samples.jsonl", _manifest_lines(dataset, samples))
    facts = {
        "version": VERSION,
        "classes": dataset.classes,
        "task": dataset.task,
        "positive": dataset.positive,
        "image_size": size,
        "shards": shards,
    }
    for note in folder.glob("images-*.json"):
        note.unlink()
    atomic_write(folder / "pack.json", json.dumps(facts, ensure_ascii=False, indent=1))


def _ids_of(folder: Path) -> list[str]:
    with (folder / "samples.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["id"] for line in lines]
