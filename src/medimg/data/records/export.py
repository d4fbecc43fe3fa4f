"""Datasets written as TFRecord files: pixels, labels, splits and salted ids; no name, path or header of a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from medimg.data.encode import encode_png
from medimg.data.index import in_parallel
from medimg.data.labels import amount
from medimg.data.records.example import Feature, encode_example
from medimg.data.records.features import (
    COLUMN,
    GROUP,
    ID,
    IMAGE,
    LABEL_NAMES,
    LABELS,
    NUMBER,
    POSITIVE,
    SPLIT,
    TEXT,
)  # fmt: skip
from medimg.data.records.framing import frame
from medimg.errors import ConfigError, DatasetError, ImageRejected
from medimg.home import atomic_folder, salt, salted
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample

__all__ = ["write_records"]


def write_records(dataset: Dataset, dest: Path, *, shards: int, report: Report) -> tuple[Path, ...]:
    """Writes a dataset: see `Dataset.to_tfrecord`."""
    if shards < 1:
        raise ConfigError(f"shards={shards}: 1 or more")
    dest = dest.expanduser().absolute()
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise DatasetError(f"{dest} is there already and not empty. Name a folder that is to be made")
    # By salted id, so that each shard is a fair sample and the order tells nothing.
    samples = sorted(dataset.samples, key=lambda sample: sample.id)
    names = []
    done = rejected = 0
    with atomic_folder(dest) as folder:
        for split in dict.fromkeys(sample.split for sample in samples):
            part = [sample for sample in samples if sample.split == split]
            files = min(shards, len(part))
            for number in range(files):
                names.append(f"{split or 'images'}-{number:05d}-of-{files:05d}.tfrecord")
                with (folder / names[-1]).open("wb") as file, closing(in_parallel(_png, part[number::files])) as images:
                    for sample, image in zip(part[number::files], images, strict=True):
                        done += 1
                        if isinstance(image, ImageRejected):
                            rejected += 1
                            report(Event("warning", message=str(image)))
                            continue
                        file.write(frame(encode_example(_features(dataset, sample, image))))
                        report(Event("stage", "writing", done, len(samples)))
        if rejected == len(samples):
            raise DatasetError(f"none of {amount(rejected, 'image')} can be read")
    if rejected:
        report(Event("warning", message=f"{amount(rejected, 'image')} that cannot be read left out"))
    return tuple(dest / name for name in sorted(names))


def _png(sample: Sample) -> bytes | ImageRejected:
    try:
        return encode_png(sample.path)
    except ImageRejected as rejection:
        return rejection


def _features(dataset: Dataset, sample: Sample, image: bytes) -> dict[str, Feature]:
    def text(*values: str) -> Sequence[bytes]:
        return [value.encode() for value in values]

    features: dict[str, Feature] = {IMAGE: [image], "image/format": [b"png"], ID: text(sample.id)}
    if sample.group is not None:
        features[GROUP] = text(salted("group", sample.group, salt()))
    if sample.split is not None:
        features[SPLIT] = text(sample.split)
    if isinstance(sample.labels, int):
        features |= {TEXT: text(dataset.classes[sample.labels]), NUMBER: [sample.labels]}
        if dataset.positive is not None:
            features[POSITIVE] = text(dataset.positive)
    else:
        features[LABELS] = [-1 if value is None else value for value in sample.labels]
        features[LABEL_NAMES] = text(*dataset.classes)
    for column in dataset.keep:
        features[f"{COLUMN}{column}"] = text(sample.columns.get(column, ""))
    return features
