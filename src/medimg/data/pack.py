"""The pack: a dataset as a few large files of decoded pixels beside a manifest without names.

    pack.json         what it is: classes, task, image size, the shards and their hashes
    samples-SHA.jsonl one line an image, in the order of the pixels: salted id and group, split, labels, named columns
    images-00000.u8   pixels: uint8 (images, height, width, channels), one channel where all of a shard's are grey

A pack is what a job receives, on every backend. Its address depends on what is in it and not on names or the salt: the
same content under other names is the same pack with one more manifest. Pixels are those that a server makes of the same
file (`decode` at the pack's size), so one picture as a large JPEG and as a PNG makes two packs. Up to 224 pixels they
follow from what the index hashed; of a larger pack, some JPEGs are decoded anew, and the files decide. A manifest is
named by its hash and never written again, so that a job finds the one it was submitted with, whatever is packed while
it runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medimg.config import Task
from medimg.data.shards import deciding_file, sha256_of, write_shards
from medimg.errors import DatasetError
from medimg.home import Use, atomic_write, drop, home, locked, make_folder, salt, salted, storage_errors
from medimg.progress import Report, heartbeat, silent

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample
    from medimg.data.index import PixelFacts
    from medimg.data.kept import KeptPixels

__all__ = ["Pack", "PackedSample", "address", "build", "forget"]

VERSION = 4

_AGAIN = "Remove the folder and submit the dataset again"


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
    """A pack on disk, with one of its manifests; its pixels are memory-mapped, so opening one costs little.

    Attributes:
        path: Its folder.
        manifest: Name of the file that says which image each row is.
        facts: The content of `pack.json`.
        use: Keeps the pack from being forgotten while it is being submitted; None where a job's record does.
    """

    path: Path
    manifest: str
    facts: Mapping[str, Any]
    use: Use | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path, samples: str | None = None, *, verify: bool = False) -> Pack:
        """Opens a pack.

        Args:
            path: Its folder.
            samples: Name of the manifest, as in `JobSpec.samples`; None: the only one there is.
            verify: Whether to read all pixels and compare hashes, as after a download.

        Raises:
            DatasetError: A file is missing or has the wrong length, the manifest or (with `verify`) a shard has the
                wrong content, or no manifest is named and there are several.
        """
        path = Path(path)
        facts = _read_facts(path, verify=verify)
        if samples is None:
            found = sorted(file.name for file in path.glob("samples-*.jsonl"))
            if len(found) > 1:
                raise DatasetError(f"{path} has {len(found)} manifests. Say which: Pack.open(path, {found[0]!r})")
            samples = found[0] if found else "samples-*.jsonl"
        file = path / samples
        if not file.is_file():
            raise DatasetError(f"{file} is missing or incomplete. {_AGAIN}")
        if not _is_whole(file):
            raise DatasetError(f"{file} is damaged: its hash differs from its name. {_AGAIN}")
        return cls(path, samples, facts)

    def __len__(self) -> int:
        return int(sum(shard["images"] for shard in self.facts["shards"]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or labels."""
        return tuple(self.facts["classes"])

    @property
    def fingerprint(self) -> str:
        """`Dataset.fingerprint` of what was packed."""
        return str(self.facts["fingerprint"])

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
        with (self.path / self.manifest).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    labels = row.pop("labels")
                    found.append(PackedSample(labels=tuple(labels) if isinstance(labels, list) else labels, **row))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise DatasetError(f"{lines.name}, line {number} is damaged: {error!r}. {_AGAIN}") from None
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
        each = self.facts["shards"][0]["images"] if self.facts["shards"] else 1  # the last may have fewer
        shard_of, inside = np.divmod(rows, each)
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


def address(dataset: Dataset, facts: Mapping[str, PixelFacts], image_size: int, fingerprint: str) -> str:
    """Returns the pack's name: a hash of all that decides its content, but not of names or the salt."""
    # Named columns are no part of the fingerprint, but they are in the pack.
    named = [
        [facts[sample.id].digest, _named(dataset, sample)]
        for sample in dataset.samples
        if dataset.keep and facts[sample.id].rejection is None
    ]
    files = [deciding_file(facts[sample.id], image_size) for sample in dataset.samples]
    content = [
        VERSION, fingerprint, dataset.classes, dataset.task, dataset.positive, image_size,
        dataset.keep, sorted(named, key=repr), sorted(filter(None, files)),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def build(
    dataset: Dataset,
    image_size: int,
    *,
    facts: Mapping[str, PixelFacts],
    report: Report = silent,
    kept: KeptPixels | None = None,
) -> Pack:
    """Returns the dataset's pack with the dataset's manifest, building what is missing of it.

    A build that was cut off goes on where it stopped; two at once make one pack.

    Args:
        dataset: What to pack; images that cannot be read are left out.
        image_size: Side in pixels.
        facts: What `dataset.index()` returned.
        report: Told of progress.
        kept: What the index was given to keep: those images are not decoded again.

    Raises:
        DatasetError: An image has changed since it was indexed.
        ImageRejected: It can no longer be read.
        StorageError: The disk is full; finished shards are kept.
    """
    fingerprint = dataset.fingerprint_of(facts)
    final = _folder(address(dataset, facts, image_size, fingerprint))
    building = final.with_name(f".{final.name}.building")
    # The order is that of the pixels' hashes: the same content gives the same shards, however the files are called.
    samples = sorted(
        (sample for sample in dataset.samples if facts[sample.id].rejection is None),
        key=lambda sample: (
            facts[sample.id].digest, deciding_file(facts[sample.id], image_size),
            repr(sample.labels), sample.split or "", sample.group or "",
        ),
    )  # fmt: skip
    lines = _manifest_lines(dataset, samples)
    manifest = f"samples-{hashlib.sha256(lines).hexdigest()[:16]}.jsonl"
    use = Use(final)
    with storage_errors(final), ExitStack() as held:
        with heartbeat("packing", report):  # another process may be building the same pack
            held.enter_context(locked(final.with_name(f".{final.name}.lock")))
        try:
            described = _read_facts(final)
        except DatasetError:
            make_folder(building)
            for half in building.glob(".*"):  # what a killed build was writing
                half.unlink()
            for other in filter(_is_whole, final.glob("samples-*.jsonl")):
                other.replace(building / other.name)  # of jobs that may still run: manifests outlive damaged pixels
            shutil.rmtree(final, ignore_errors=True)
            shards = write_shards(building, samples, facts, image_size, kept, report)
            atomic_write(building / manifest, lines)
            described = _describe(dataset, image_size, fingerprint, shards)
            atomic_write(building / "pack.json", json.dumps(described, ensure_ascii=False, indent=1))
            building.rename(final)
        if not (final / manifest).is_file() or not _is_whole(final / manifest):
            atomic_write(final / manifest, lines)  # other names or another salt: only the ids differ
    return Pack(final, manifest, described, use)


def forget(name: str, *, wanted: Callable[[], bool]) -> bool:
    """Removes a pack, unless a job still names it (`wanted`) or is being submitted with it; returns whether it did."""
    return drop(_folder(name), wanted=wanted)


def _folder(name: str) -> Path:
    return home() / "packs" / name


def _read_facts(path: Path, *, verify: bool = False) -> Mapping[str, Any]:
    """Returns the content of `pack.json` if all shards are there.

    Raises:
        DatasetError: They are not, or (with `verify`) have other content.
    """
    try:
        facts: dict[str, Any] = json.loads((path / "pack.json").read_text(encoding="utf-8"))
        version, size, shards = facts["version"], facts["image_size"], facts["shards"]
        files = {
            shard["file"]: (shard["images"] * size * size * shard["channels"], shard["sha256"]) for shard in shards
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not a complete pack: {error!r}. {_AGAIN}") from None
    if version != VERSION:
        raise DatasetError(f"{path} was packed by another version of medimg. {_AGAIN}")
    for name, (length, sha256) in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != length:
            raise DatasetError(f"{file} is missing or incomplete. {_AGAIN}")
        if verify and sha256_of(file) != sha256:
            raise DatasetError(f"{file} is damaged: its hash differs. {_AGAIN}")
    return facts


def _is_whole(manifest: Path) -> bool:
    return manifest.name == f"samples-{sha256_of(manifest)[:16]}.jsonl"


def _named(dataset: Dataset, sample: Sample) -> dict[str, str]:
    return {name: sample.columns.get(name, "") for name in dataset.keep}


def _manifest_lines(dataset: Dataset, samples: Sequence[Sample]) -> bytes:
    key = salt()
    lines = []
    for sample in samples:
        packed = {
            "id": sample.id,
            "labels": sample.labels,
            "split": sample.split,
            "group": None if sample.group is None else salted("group", sample.group, key),
            "columns": _named(dataset, sample),
        }
        lines.append(json.dumps(packed) + "\n")
    return "".join(lines).encode()


def _describe(dataset: Dataset, size: int, fingerprint: str, shards: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "fingerprint": fingerprint,
        "classes": dataset.classes,
        "task": dataset.task,
        "positive": dataset.positive,
        "image_size": size,
        "shards": shards,
    }
