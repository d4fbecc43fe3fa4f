"""Datasets from TFRecord files: records of `tf.train.Example` with an encoded image and its labels.

They are read without TensorFlow: a machine with JAX has none, its import takes seconds, and its errors do not name the
damaged record.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from medimg.data.dataset import Dataset
from medimg.data.labels import amount, class_name, clean, listing, split_name
from medimg.data.readers.folder import entries
from medimg.data.readers.numbered import in_order
from medimg.data.readers.table import read_table
from medimg.data.readers.unpacked import Part, image_path, unpack
from medimg.data.records.example import Feature, decode_example
from medimg.data.records.features import COLUMN, GROUP, IMAGE, LABEL_NAMES, LABELS, NUMBER, POSITIVE, SPLIT, TEXT
from medimg.data.records.framing import read_frames
from medimg.errors import DatasetError, did_you_mean
from medimg.progress import Event, Report

__all__ = ["FeatureNames", "read_tfrecord"]

# Where nothing is named: what we write, and what others call it most.
_IMAGES = (IMAGE, "image", "image_raw", "encoded")
_LABELS = (LABELS, TEXT, NUMBER, "label", "class")
_SUFFIXES = {
    b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp", b"II*\0": ".tif",
    b"MM\0*": ".tif",
}  # fmt: skip
_FILES = re.compile(r"\.tfrec(ord)?s?(\.gz|-\d+-of-\d+)?$", re.IGNORECASE)
_EVERY = 500  # records between two reports

# Columns beside the labels. No label is called so: its name has no blank at the end.
_FILE, _GROUP, _SPLIT = "file ", "group ", "split "
_CLASS = "class"  # instead of labels that have names


@dataclass(frozen=True)
class FeatureNames:
    """Which features are read; None: those that we write, or else those that others name so.

    Attributes:
        image: The encoded picture.
        labels: The class, as text or number; a list of 1 and 0; or several features with 1 or 0 each.
        group: Whose image it is.
        split: Its split.
        columns: Others to keep.
        classes: What the numbers of the classes, or the places in the list, stand for.
    """

    image: str | None = None
    labels: str | tuple[str, ...] | None = None
    group: str | None = None
    split: str | None = None
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Record:
    """What a first reading told of a record.

    Attributes:
        row: As in a table: its file, group and split, and its labels.
        columns: Those to keep.
        numbers: What its class, or all labels, are numbered, if it says so.
    """

    row: Mapping[str, str]
    columns: Mapping[str, str]
    numbers: Mapping[str, int]


@dataclass(frozen=True)
class _File:
    """What a first reading told of a file: its path, its records, their images' bytes, kind and hash."""

    path: Path
    records: Sequence[_Record]
    size: int
    suffix: str
    digest: str


def read_tfrecord(
    paths: Sequence[Path], names: FeatureNames, *, positive: str | None, dest: Path | None, report: Report
) -> Dataset:
    """Reads a dataset: see `Dataset.from_tfrecord`."""
    found = _found(paths)
    first = next((features for path in found for _, features in _examples(path)), None)
    if first is None:
        raise DatasetError(f"there are no records in {listing(map(str, found))}")
    names = _chosen(names, first, found[0])
    files: list[_File] = []
    labels: set[str] = set()
    for part, path in enumerate(found):
        files.append(_read_records(path, f"{part:05d}", names, labels, report))
    records = [record for file in files for record in file.records]
    divided = any(record.row[_SPLIT] for record in records)
    grouped = any(record.row[_GROUP] for record in records)
    if divided:
        _refuse_undivided(files)
    if positive is None and POSITIVE in first:
        positive = _text(first, POSITIVE, str(found[0]))
    folder = _unpacked(files, names, dest, report)
    dataset = read_table(
        [(number, record.row) for number, record in enumerate(records)], name=found[0].parent.name, images=folder,
        path=_FILE, labels=_CLASS if labels == {_CLASS} else sorted(labels), group=_GROUP if grouped else None,
        separator=None, split=_SPLIT if divided else None, columns=(), positive=positive, missing="error",
        multilabel=names.labels == LABELS,
    )  # fmt: skip
    # Apart from the labels until here: a label may be a column as well, and either may have any name.
    columns = {folder / record.row[_FILE]: record.columns for record in records}
    samples = tuple(replace(sample, columns=columns[sample.path]) for sample in dataset.samples)
    numbers = {label: number for record in records for label, number in record.numbers.items()}
    dataset = in_order(replace(dataset, samples=samples, keep=names.columns), numbers)
    if grouped:
        return dataset
    notice = "the records do not say whose images they are: patients cannot be kept apart or counted"
    return replace(dataset, notices=(notice, *dataset.notices))


# -- the files ---------------------------------------------------------------------------------------------------------


def _found(paths: Sequence[Path]) -> list[Path]:
    """Returns the files that are meant: as they are named, all in a folder, or all that fit a pattern with a star."""
    found: list[Path] = []
    for given in paths:
        path = given.expanduser().absolute()
        if path.is_dir():
            files = [file for file in entries(path) if _FILES.search(file.name) and file.is_file()]
            if not files:
                raise DatasetError(f"{path} holds no TFRecord files (*.tfrecord, *.tfrec, *.tfrecord-00000-of-00004)")
        elif path.is_file():
            files = [path]
        else:
            beside = entries(path.parent) if path.parent.is_dir() else []
            files = [file for file in beside if fnmatchcase(file.name, path.name) and file.is_file()]
            if not files:
                raise DatasetError(f"there is no file {path}")
        found += files
    if not found or len(set(found)) < len(found):
        raise DatasetError("name at least one TFRecord file, and each once")
    return found


def _examples(path: Path) -> Iterator[tuple[str, dict[str, Feature]]]:
    """Yields the records' features with the words by which messages call the record."""
    for number, data in read_frames(path):
        where = f"{path}, record {number}"
        try:
            yield where, decode_example(data)
        except ValueError as error:
            raise DatasetError(f"{where}: is no tf.train.Example ({error})") from error


def _split_of(path: Path) -> str:
    """Returns the split that a file's name begins with, if it does."""
    found = re.match(r"[A-Za-z]+", path.name)
    return (split_name(found[0]) or "") if found else ""


# -- the features ------------------------------------------------------------------------------------------------------


def _chosen(names: FeatureNames, first: Mapping[str, Feature], path: Path) -> FeatureNames:
    """Returns the names with the usual ones for those not given, or says which features there are."""

    def choose(given: str | None, usual: Sequence[str], argument: str) -> str:
        chosen = given or next((name for name in usual if name in first), None)
        if chosen is None or chosen not in first:
            what = f"no feature {given!r}" if given else f"none of the usual names for {argument}="
            near = did_you_mean(given, first) if given else ""
            raise DatasetError(f"{path} has {what}.{near} Its features: {_described(first)}")
        return chosen

    image = choose(names.image, _IMAGES, "image")
    if isinstance(names.labels, tuple):
        labels: str | tuple[str, ...] = tuple(choose(label, (), "labels") for label in names.labels)
        if len(set(map(clean, labels))) < len(labels):
            raise DatasetError(f"labels= names a feature twice: {listing(labels)}")
    else:
        labels = choose(names.labels, _LABELS, "labels")
    return replace(
        names,
        image=image,
        labels=labels,
        group=choose(names.group, (), "group") if names.group else GROUP,
        split=choose(names.split, (), "split") if names.split else SPLIT,
        columns=tuple(name if f"{COLUMN}{name}" in first else choose(name, (), "columns") for name in names.columns),
    )


def _described(features: Mapping[str, Feature]) -> str:
    def kind(values: Feature) -> str:
        if not values:
            return "empty"
        of = {bytes: "bytes", float: "float", int: "int64"}[type(values[0])]
        return of if len(values) == 1 else f"{len(values):,} {of}"

    return ", ".join(f"{name!r} ({kind(features[name])})" for name in sorted(features)[:40])


def _read_records(path: Path, part: str, names: FeatureNames, labels: set[str], report: Report) -> _File:
    """Returns what a file holds; `labels` are those of the first record of all, which the others must have too."""
    records: list[_Record] = []
    size = 0
    suffix = ""
    digest = hashlib.sha256()
    for where, features in _examples(path):
        image = _image(features, names, where)
        suffix = suffix or _suffix(image, names, where)
        answers = _answers(features, names, where)
        labels.update(answers if not labels else ())
        if answers.keys() != labels:
            raise DatasetError(f"{where}: its labels are {_described(features)}, and those of the first record others")
        split = _text(features, names.split, where)
        if split and split_name(split) is None:
            raise DatasetError(f"{where}: the split {split!r} is not train, val or test. Name another feature: split=…")
        own = {
            _FILE: image_path(part, len(records), suffix),
            _GROUP: _text(features, names.group, where),
            _SPLIT: split or _split_of(path),
        }
        columns = {
            column: _text(features, f"{COLUMN}{column}" if f"{COLUMN}{column}" in features else column, where)
            for column in names.columns
        }
        records.append(_Record(own | answers, columns, _numbers(features, names, answers)))
        size += len(image)
        digest.update(hashlib.sha256(image).digest())
        if len(records) % _EVERY == 0:
            report(Event("stage", "reading", len(records), message=path.name))
    return _File(path, records, size, suffix, digest.hexdigest())


def _refuse_undivided(files: Sequence[_File]) -> None:
    """Refuses records without a split beside others with one."""
    for file in files:
        without = [number for number, record in enumerate(file.records, start=1) if not record.row[_SPLIT]]
        if without:
            raise DatasetError(
                f"{file.path}, record {without[0]}: no split, and other records have one. Name the feature that holds "
                "it (split=…), or begin the file's name with train, val or test"
            )


def _image(features: Mapping[str, Feature], names: FeatureNames, where: str) -> bytes:
    values = features.get(str(names.image), ())
    if len(values) != 1 or not isinstance(values[0], bytes):
        raise DatasetError(f"{where}: {names.image!r} is not one encoded picture. Its features: {_described(features)}")
    return values[0]


def _suffix(image: bytes, names: FeatureNames, where: str) -> str:
    for start, suffix in _SUFFIXES.items():
        if image.startswith(start):
            return suffix
    raise DatasetError(
        f"{where}: {names.image!r} holds no JPEG, PNG, GIF, BMP, WebP or TIFF. Raw numbers do not say their shape: "
        "write the records with tf.io.encode_png"
    )


def _text(features: Mapping[str, Feature], name: str | None, where: str) -> str:
    """Returns a feature's one value as text; nothing where it is absent or has none."""
    values = features.get(name or "", ())
    if len(values) > 1:
        raise DatasetError(f"{where}: {name!r} has {len(values):,} values, not one")
    return _as_text(values[0], str(name), where) if values else ""


def _as_text(value: bytes | float, name: str, where: str) -> str:
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
        raise DatasetError(f"{where}: {name!r} is not UTF-8 text")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _answers(features: Mapping[str, Feature], names: FeatureNames, where: str) -> dict[str, str]:
    """Returns a record's labels as the columns of a table: the class, or a 1, a 0 or nothing for each label."""
    if isinstance(names.labels, tuple):
        return {clean(label): _text(features, label, where) for label in names.labels}
    feature = str(names.labels)
    values = features.get(feature, ())
    if feature != LABELS and len(values) <= 1:
        text = _text(features, feature, where)
        if not text:
            raise DatasetError(f"{where}: {feature!r} is empty")
        return {_CLASS: text if isinstance(values[0], bytes) else _called(text, names.classes, where)}
    if not values or isinstance(values[0], bytes):
        raise DatasetError(f"{where}: {feature!r} is no list of 1 and 0. Its features: {_described(features)}")
    known = features.get(LABEL_NAMES, ()) if feature == LABELS else ()
    labels = (
        [clean(_as_text(name, LABEL_NAMES, where)) for name in known]
        or [clean(name) for name in names.classes]
        or [str(number) for number in range(len(values))]
    )
    if len(labels) != len(values) or len(set(labels)) < len(labels):
        what = amount(len(set(labels)), "label")
        raise DatasetError(f"{where}: {feature!r} has {len(values):,} values for {what}")
    return {label: _as_text(value, feature, where) for label, value in zip(labels, values, strict=True)}


def _numbers(features: Mapping[str, Feature], names: FeatureNames, answers: Mapping[str, str]) -> dict[str, int]:
    """Returns the numbers of the labels in the dataset that a record of ours was written from."""
    if names.labels == LABELS:
        return {class_name(label): place for place, label in enumerate(answers)}
    number = features.get(NUMBER, ())
    if names.labels != TEXT or len(number) != 1 or not isinstance(number[0], int):
        return {}
    return {class_name(answers[_CLASS]): number[0]}


def _called(number: str, classes: Sequence[str], where: str) -> str:
    """Returns the name of a class, given its number."""
    if not classes:
        return number
    if not number.isdigit() or int(number) >= len(classes):
        raise DatasetError(f"{where}: the class {number} is none of the {len(classes)} in classes=, which count from 0")
    return classes[int(number)]


# -- the images --------------------------------------------------------------------------------------------------------


def _unpacked(files: Sequence[_File], names: FeatureNames, dest: Path | None, report: Report) -> Path:
    """Returns the folder with the images as files, which is named by their content."""

    def images(path: Path) -> Generator[bytes]:
        for where, features in _examples(path):
            yield _image(features, names, where)

    content = "".join(f"{file.digest}{file.suffix}" for file in files).encode()
    parts = [
        Part(f"{number:05d}", len(file.records), file.size, file.suffix, partial(images, file.path))
        for number, file in enumerate(files)
    ]
    return unpack(parts, "tfrecord", "", content, dest=dest, check=None, report=report)
