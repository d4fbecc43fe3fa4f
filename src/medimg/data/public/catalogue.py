"""The public data sets that medimg knows: where they are, what they may be used for, and what to beware of.

The facts are in `catalogue.toml` beside this module, each set with the source that states them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from medimg.config import Task
from medimg.errors import DatasetError, did_you_mean

__all__ = ["PublicSet", "RemoteFile", "catalogue", "find", "one_row_a_set"]

_SIZES = ("28", "64", "128", "224")  # pixels of MedMNIST's images; 28 is in no name


class RemoteFile(BaseModel):
    """One file of a public set.

    Attributes:
        name: Under which it is kept.
        url: Where it is; for a set on Kaggle its page.
        bytes: Its length, where its source states it.
        about_gb: Its length roughly, where nobody states it.
        md5: Hash that its source states, in hexadecimal.
        sha256: The same.
        source: Who states these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    url: str = Field(pattern=r"^https://[^/\s]+/\S*$")
    bytes: int | None = Field(default=None, gt=0)
    about_gb: float | None = Field(default=None, gt=0)
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    source: str = Field(min_length=1)

    @property
    def gigabytes(self) -> float | None:
        """Its length in GB, None where it is unknown."""
        return self.bytes / 1e9 if self.bytes is not None else self.about_gb

    @property
    def size(self) -> str:
        """Its length for people."""
        return _for_people(self.gigabytes, rough=self.bytes is None)


class PublicSet(BaseModel):
    """One public data set.

    Attributes:
        name: As `Dataset.download` takes it.
        title: What it shows.
        host: "open"; "kaggle" (with your own key); "manual": needs an agreement that only you can make.
        kaggle: Its owner and name on Kaggle.
        page: Where its publisher describes it.
        licence: What it may be used for.
        task: "binary", "multiclass" or "multilabel".
        classes: Names as its reader gives them.
        images: Number in each split.
        group: What tells whose image it is.
        traps: What to beware of.
        citation: What its publisher asks to be cited.
        reader: The method of `Dataset` that reads it.
        reads_file: Whether the method takes the file and not the folder.
        files: What is downloaded; none where it is "manual".
        source: Who states all this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str = Field(min_length=1)
    host: Literal["open", "kaggle", "manual"]
    kaggle: str | None = Field(default=None, pattern=r"^[\w-]+/[\w-]+$")
    page: str = Field(pattern=r"^https://\S+$")
    licence: str = Field(min_length=1)
    task: Task
    classes: tuple[str, ...] = Field(min_length=2)
    images: Mapping[Literal["train", "val", "test", "all"], int]
    group: str = Field(min_length=1)
    traps: tuple[str, ...]
    citation: str = Field(min_length=1)
    reader: str = Field(pattern=r"^from_\w+$")
    reads_file: bool = False
    files: tuple[RemoteFile, ...] = ()
    source: str = Field(min_length=1)

    @property
    def gigabytes(self) -> float | None:
        """What is downloaded, in GB; None where a part of it is unknown."""
        sizes = [file.gigabytes for file in self.files]
        return None if not sizes or None in sizes else sum(size for size in sizes if size is not None)

    @property
    def size(self) -> str:
        """The same for people."""
        return _for_people(self.gigabytes, rough=any(file.bytes is None for file in self.files))


@cache
def catalogue() -> Mapping[str, PublicSet]:
    """Returns the sets by name, in the order of the table: single sets first, then MedMNIST's in each of its sizes."""
    table = tomllib.loads((resources.files("medimg.data.public") / "catalogue.toml").read_text(encoding="utf-8"))
    medmnist = table.pop("medmnist")
    found = [PublicSet(name=name, **facts) for name, facts in table.items()]
    for name, facts in medmnist["sets"].items():
        found += [_medmnist(name, size, facts, medmnist) for size in _SIZES]
    return {each.name: each for each in found}


def one_row_a_set(known: Mapping[str, PublicSet]) -> Iterator[tuple[str, PublicSet]]:
    """Yields what to list: each set with its name, MedMNIST's once with the endings of their other sizes."""
    for name, each in known.items():
        if not each.reads_file:
            yield name, each
        elif "-" not in name:
            yield f"{name}[-{'|-'.join(_SIZES[1:])}]", each


def find(name: str) -> PublicSet:
    """Returns a set by its name.

    Raises:
        DatasetError: There is none of that name.
    """
    known = catalogue()
    if name not in known:
        near = did_you_mean(name, known)
        hint = near if "Did" in near else ""
        raise DatasetError(f"the catalogue has no data set {name!r}.{hint} See all: medimg download")
    return known[name]


def _medmnist(name: str, size: str, facts: Mapping[str, Any], common: Mapping[str, Any]) -> PublicSet:
    from medimg.data.readers.medmnist import CLASSES

    file = f"{name}.npz" if size == "28" else f"{name}_{size}.npz"
    return PublicSet(
        name=name if size == "28" else f"{name}-{size}",
        title=f"{facts['title']}, {size} × {size}",
        host="open",
        page=common["record"],
        licence=facts["licence"],
        task=facts["task"],
        classes=tuple(CLASSES[name]),
        images=facts["images"],
        group=common["group"],
        traps=tuple(common["traps"]),
        citation=common["citation"],
        reader="from_medmnist",
        reads_file=True,
        files=(
            RemoteFile(
                name=file,
                url=f"{common['record']}/files/{file}?download=1",
                md5=facts["md5"][size],
                # The bytes of its pixels, which the file packs: at most so much.
                about_gb=sum(facts["images"].values()) * int(size) ** 2 * facts["channels"] / 1e9,
                source=common["source"],
            ),
        ),
        source=common["source"],
    )


def _for_people(gigabytes: float | None, *, rough: bool) -> str:
    if gigabytes is None:
        return "unknown"
    number = f"{gigabytes:,.1f} GB" if gigabytes >= 1 else f"{max(1, round(gigabytes * 1000)):,} MB"
    return f"about {number}" if rough else number
