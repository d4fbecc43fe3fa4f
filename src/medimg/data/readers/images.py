"""Images without labels, to be predicted: a folder of any structure, or files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from medimg.data.dataset import Dataset, Sample
from medimg.data.decode import is_dicom
from medimg.data.labels import amount, clean
from medimg.data.readers.folder import entries, image_files, is_image
from medimg.errors import DatasetError
from medimg.home import salt, salted

__all__ = ["read_images"]

_MOST_NAMED = 3  # files that are not read
_SIGNATURE_BYTES = 132  # of a DICOM file, whatever its name


def read_images(images: Iterable[Path], *, recursive: bool) -> Dataset:
    """Reads images without labels: see `Dataset.from_images`."""
    given = [path.expanduser().absolute() for path in images]
    if not given:
        raise DatasetError("no image was named. Pass a folder, or files")
    left_out: list[str] = []

    def accepts(path: Path) -> bool:
        found = is_image(path) or _has_signature(path)
        if not found:
            left_out.append(path.name)
        return found

    files: dict[Path, None] = {}  # each once, in the order in which they were named
    for path in given:
        if not path.is_dir():
            found: Iterable[Path] = [path]  # one that is not there is told as any that cannot be read
        elif recursive:
            found = image_files(path, accepts)
        else:
            found = (file for file in entries(path) if not file.is_dir() and accepts(file))
        files |= dict.fromkeys(found)
    if not files:
        deeper = "" if recursive else ". Those of the folders in it are read with recursive=True (--recursive)"
        raise DatasetError(f"no images in {', '.join(map(str, given[:3]))}{deeper}")
    root = (
        given[0] if len(given) == 1 and given[0].is_dir() else Path(os.path.commonpath([path.parent for path in files]))
    )
    key = salt()
    return Dataset(
        samples=tuple(
            Sample(salted("image", clean(path.relative_to(root).as_posix()), key), path, labels=()) for path in files
        ),
        # Multilabel of no labels: nothing is said of any image.
        classes=(),
        task="multilabel",
        name=root.name or "images",
        notices=_told(left_out),
    )


def _told(left_out: list[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    more = ", …" if len(left_out) > _MOST_NAMED else ""
    named = ", ".join(sorted(map(clean, left_out))[:_MOST_NAMED])
    no_images = "that is no image" if len(left_out) == 1 else "that are no images"
    return (f"not read: {amount(len(left_out), 'file')} {no_images} by name or signature: {named}{more}",)


def _has_signature(path: Path) -> bool:
    try:
        if not path.is_file():  # opening a named pipe may never end
            return False
        with path.open("rb") as file:
            return is_dicom(file.read(_SIGNATURE_BYTES))
    except OSError:
        return False
