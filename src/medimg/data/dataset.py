"""`Dataset`: which images there are, what they show, whose they are and which split they are in."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medimg.config import Task
from medimg.data.sources import Sources
from medimg.errors import DatasetError, ImageRejected, NotFoundError
from medimg.progress import Display, Report, silent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medimg.data.audit.report import AuditReport
    from medimg.data.index import PixelFacts
    from medimg.data.kept import KeptPixels

__all__ = ["Dataset", "Sample", "Split"]

Split = Literal["train", "val", "test"]
Labels = int | tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset.

    Attributes:
        id: Salted hash of the path inside the dataset: what leaves the machine in place of a name.
        path: The image file.
        labels: The class's index; for multilabel a tuple with 1, 0 or None (unknown) for each class.
        split: "train", "val", "test", or None where no split has been made.
        group: Patient, lesion or whatever must not be in two splits; None: the image is its own group.
        columns: Extra columns of the table it came from; they leave the machine only when named.
    """

    id: str
    path: Path
    labels: Labels
    split: Split | None = None
    group: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset(Sources):
    """Images with labels, or those of `from_images` without; immutable: `split` and `subset` return new ones.

    Make one with a method that starts with `from_`.

    Attributes:
        samples: The images, in the order of their paths.
        classes: Names, sorted; for multilabel the names of the labels.
        task: "binary", "multiclass" or "multilabel".
        positive: For binary, the class to detect.
        name: For people.
        notices: What its reader should know. They go into the model's record: no path or patient is named in them.
        keep: Extra columns that may leave the machine.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    task: Task
    positive: str | None = None
    name: str = "dataset"
    notices: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self._by_id) < len(self.samples):
            ids = Counter(sample.id for sample in self.samples)
            twice = [sample.path.name for sample in self.samples if ids[sample.id] > 1]
            raise DatasetError(
                f"{self.name}: {twice[0]!r} and {twice[1]!r} have the same id. If the names differ in how an accent is "
                "stored only, rename one"
            )

    # -- what it holds ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, id: str) -> Sample:
        try:
            return self._by_id[id]
        except KeyError:
            raise NotFoundError(f"no image with the id {id!r} in {self.name}") from None

    @cached_property
    def _by_id(self) -> dict[str, Sample]:
        return {sample.id: sample for sample in self.samples}

    @property
    def splits(self) -> dict[str, int]:
        """Number of images in each split that has any, in the order train, val, test."""
        counts = Counter(sample.split for sample in self.samples)
        return {name: counts[name] for name in ("train", "val", "test") if counts[name]}

    def of(self, split: str | None) -> tuple[Sample, ...]:
        """Returns the samples of one split."""
        return tuple(sample for sample in self.samples if sample.split == split)

    def label_names(self, sample: Sample) -> tuple[str, ...]:
        """Returns the names of the classes that a sample shows."""
        if isinstance(sample.labels, int):
            return (self.classes[sample.labels],)
        return tuple(name for name, value in zip(self.classes, sample.labels, strict=True) if value)

    def counts(self, split: str | None) -> dict[str, int]:
        """Returns how many images of a split show each class."""
        found = Counter(name for sample in self.of(split) for name in self.label_names(sample))
        return {name: found[name] for name in self.classes}

    def groups_in_two_splits(self) -> dict[str, tuple[str, ...]]:
        """Returns each group that is in more than one split, with those splits."""
        seen: dict[str, set[str]] = {}
        for sample in self.samples:
            if sample.group is not None and sample.split is not None:
                seen.setdefault(sample.group, set()).add(sample.split)
        order = ("train", "val", "test")
        return {
            group: tuple(name for name in order if name in splits)
            for group, splits in sorted(seen.items())
            if len(splits) > 1
        }

    # -- pixels -------------------------------------------------------------------------------------------------------

    def index(self, report: Report = silent, kept: KeptPixels | None = None) -> Mapping[str, PixelFacts]:
        """Returns what is known of every image's pixels, by id: hash, size, channels, or why it cannot be read.

        What was read once is not read again until the file's size or its time of last change differ. A program that
        changes pixels and restores both goes unnoticed.

        Args:
            report: Told of progress.
            kept: Given the pixels of what is read, for `medimg.data.pack.build`.
        """
        from medimg.data.index import pixel_facts

        return pixel_facts(self.samples, report, kept)

    def rejected(self, report: Report = silent) -> dict[str, ImageRejected]:
        """Returns the images that cannot be read, by id, each with its reason."""
        facts = self.index(report)
        return {id: fact.rejection for id, fact in facts.items() if fact.rejection is not None}

    def audit(self) -> AuditReport:
        """Returns what is wrong with the images, labels and splits, as training would have them.

        Training runs it too: its errors stop a job unless `allow` names them. It names files: it is for you.

        Raises:
            DatasetError: Nothing to train on.
        """
        from medimg.data.preparation import audited

        with Display(self.name) as display:
            return audited(self, self.index(display), report=display)

    def without(self, ids: Iterable[str]) -> Dataset:
        """Returns the dataset without some images."""
        dropped = set(ids)
        return replace(self, samples=tuple(sample for sample in self.samples if sample.id not in dropped))

    @property
    def fingerprint(self) -> str:
        """A hash that changes if and only if pixels, labels, splits or groups change.

        Names of files and of groups, the order and the salt do not matter. Images that cannot be read do not count.
        Pixels are those of `PixelFacts.digest`: of a large JPEG all that a network of 224 pixels is given.
        """
        with Display(self.name) as display:
            return self.fingerprint_of(self.index(display))

    def fingerprint_of(self, facts: Mapping[str, PixelFacts]) -> str:
        """Returns the fingerprint, given what `index` returned."""
        # A group is the set of its images, however it is called: no patient's name is in the hash.
        groups: dict[str | None, list[str]] = {}
        for sample in self.samples:
            fact = facts[sample.id]
            if fact.rejection is None:
                line = json.dumps([fact.digest, self._label_facts(sample), sample.split])
                groups.setdefault(sample.group, []).append(line)
        alone = sorted(groups.pop(None, []))
        content = json.dumps([alone, sorted(sorted(lines) for lines in groups.values())])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def _label_facts(self, sample: Sample) -> list[tuple[str, int | None]]:
        if isinstance(sample.labels, int):
            return [(self.classes[sample.labels], 1)]
        return list(zip(self.classes, sample.labels, strict=True))

    # -- new datasets from this one -----------------------------------------------------------------------------------

    def split(self, val: float = 0.15, test: float | None = 0.15, seed: int = 0) -> Dataset:
        """Returns the dataset with new splits: whole groups, each class in the same share everywhere.

        Args:
            val: Share of the images for validation.
            test: Share for test; None keeps the test split there is and divides only the rest.
            seed: Of the draw.

        Raises:
            DatasetError: A share that cannot be, or too few groups to divide; with `test=None`, also a patient of test
                who has images outside it.
        """
        from medimg.data.splits import split

        return split(self, val=val, test=test, seed=seed)

    def subset(self, fraction: float = 0.1, seed: int = 0, split: Split | None = "train") -> Dataset:
        """Returns the dataset with a share of one split's groups (None: of all); the other splits stay whole.

        A smaller fraction of the same seed is contained in a larger one, so that learning curves compare like with
        like. However small the fraction, each class keeps a group.
        """
        from medimg.data.splits import subset

        return subset(self, fraction=fraction, seed=seed, split=split)

    # -- for other programs -------------------------------------------------------------------------------------------

    def to_tfrecord(self, dest: str | Path, *, shards: int = 1) -> tuple[Path, ...]:
        """Writes the dataset as TFRecord files of `tf.train.Example` and returns their paths.

        Each record has the pixels as PNG (`image/encoded`), the labels, the split, the salted id and group, and the
        columns that were named: no file name, path or header. `from_tfrecord` reads them; the fingerprint is the same,
        unless there are JPEGs of 896 pixels and more a side: as PNG they are not decoded at less than their size.
        Images that cannot be read are left out, with a warning.

        Args:
            dest: A folder that is to be made: it is there whole or not at all.
            shards: Files for each split.

        Raises:
            DatasetError: The folder is there already, or no image can be read.
            StorageError: The disk is full.
        """
        from medimg.data.records.export import write_records

        with Display(self.name) as display:
            return write_records(self, Path(dest), shards=shards, report=display)

    # -- for people ---------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Returns the classes, splits, counts, groups, sizes and warnings as text."""
        from medimg.data.summary import text

        return text(self)

    def show(self, count: int = 4, *, split: str | None = None, seed: int = 0) -> Figure:
        """Returns a figure with `count` random images of each class, of one split or of all."""
        from medimg.data.summary import figure

        return figure(self, count=count, split=split, seed=seed)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from medimg.data.summary import html

        return html(self)
