"""The Intel scenes: natural pictures of six kinds, for trying things out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medimg.data.dataset import Dataset
from medimg.data.labels import listing
from medimg.data.readers.folder import entries, read_folder
from medimg.data.readers.layouts import existing_folder, not_this_set, outermost
from medimg.errors import DatasetError

__all__ = ["read_intel"]

_CLASSES = ("buildings", "forest", "glacier", "mountain", "sea", "street")
_UNLABELLED = "seg_pred"


def read_intel(root: Path) -> Dataset:
    """Reads the set: see `Dataset.from_intel`."""
    root = outermost(existing_folder(root, "from_intel"))
    if not (root / "seg_train").is_dir():
        raise not_this_set(root, "the set of Intel scenes", "it has no folder seg_train", "from_intel")
    try:
        dataset = read_folder(root)
    except DatasetError as error:
        raise not_this_set(root, "the set of Intel scenes", str(error).rstrip("."), "from_intel") from error
    if dataset.classes != _CLASSES:
        reason = f"it has the classes {listing(dataset.classes)}, not {listing(_CLASSES, most=6)}"
        raise not_this_set(root, "the set of Intel scenes", reason, "from_intel")
    others = [path for path in entries(root) if path.is_dir() and not path.name.startswith("seg_")]
    notices = list(dataset.notices)
    if (root / _UNLABELLED).is_dir():
        if not others:  # then the folder's reader meant this one
            notices = [notice for notice in notices if "beside the splits" not in notice]
        notices.append(f"{_UNLABELLED} has no labels: not read")
    return replace(dataset, notices=tuple(notices))
