"""MedMNIST's 2-D sets (Yang et al., Scientific Data 2023): one .npz file with images, labels and official splits.

Class names are those of MedMNIST's own table (version 3.0.2), which are not in the files.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from medimg.data.dataset import Dataset
from medimg.data.index import in_parallel
from medimg.data.labels import amount, listing
from medimg.data.readers.layouts import not_this_set
from medimg.data.readers.numbered import in_order
from medimg.data.readers.table import read_table
from medimg.data.readers.unpacked import Part, image_path, unpack
from medimg.errors import DatasetError, MedimgError
from medimg.progress import Report, heartbeat

__all__ = ["CLASSES", "read_medmnist"]

_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left", "lung-right",
    "pancreas", "spleen",
)  # fmt: skip
CLASSES: Mapping[str, Sequence[str]] = {
    "bloodmnist": (
        "basophil", "eosinophil", "erythroblast",
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)", "lymphocyte", "monocyte", "neutrophil",
        "platelet",
    ),
    "breastmnist": ("malignant", "normal, benign"),
    "chestmnist": (
        "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
        "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
        "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
        "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),  # grades of diabetic retinopathy
    "tissuemnist": (
        "Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells",
        "Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments", "Thick Ascending Limb",
    ),
}  # fmt: skip
_POSITIVE = {"breastmnist": "malignant"}  # "normal, benign" is no usual name for the negative class
_NOTICES = {
    "retinamnist": "the classes are grades: TrainConfig(ordinal=True) scores them as such",
    "dermamnist": "its official splits were drawn by image: the same lesion may be in two of them",
}

_SPLITS = ("train", "val", "test")
_FILE, _CLASS, _SPLIT = "file", "class", "split"
_MOST_HEADER = 10_000  # bytes of an array's description
_MOST_SIDE = 1024
_MOST_RATIO = 100  # of unpacked to packed size; pictures reach 10, and what is made to fill a disk 1,000
_NEVER_A_BOMB = 64_000_000  # bytes
_FORMAT_ERRORS = (
    OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class _Array:
    """An array in the file.

    Attributes:
        shape: As the file says, and as its length agrees.
        dtype: Of its numbers.
        checksum: The archive's, of its bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    checksum: int


def read_medmnist(file: Path, *, positive: str | None, dest: Path | None, report: Report) -> Dataset:
    """Reads a set: see `Dataset.from_medmnist`."""
    file = file.expanduser().absolute()
    if file.is_dir():
        raise not_this_set(file, "a MedMNIST file", "it is a folder", "from_medmnist")
    if not file.is_file():
        raise DatasetError(f"there is no file {file}")
    name = re.sub(r"_\d+$", "", file.stem.lower())
    with _reading(file):
        arrays = _describe(file)
        labels = {split: _read_labels(file, split, arrays) for split in _SPLITS}
    several = labels["train"].shape[1] > 1
    classes = _class_names(file, name, labels, several)
    folder = _unpacked(file, arrays, dest, report)

    rows: list[tuple[int, dict[str, str]]] = []
    for split in _SPLITS:
        for number, values in enumerate(labels[split].tolist()):
            answer = (
                {label: str(value) for label, value in zip(classes, values, strict=True)}
                if several
                else {_CLASS: classes[values[0]]}
            )
            rows.append((len(rows), {_FILE: image_path(split, number, ".png"), _SPLIT: split, **answer}))
    dataset = read_table(
        rows, name=file.stem, images=folder, path=_FILE, labels=classes if several else _CLASS, group=None,
        separator=None, split=_SPLIT, columns=(), positive=positive or _POSITIVE.get(name), missing="error",
        multilabel=several,
    )  # fmt: skip
    notices = ["the file does not say whose images they are: patients cannot be kept apart or counted"]
    if name in _NOTICES:
        notices.append(_NOTICES[name])
    return replace(in_order(dataset), notices=(*notices, *dataset.notices))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except MedimgError:
        raise
    except _FORMAT_ERRORS as error:
        raise DatasetError(f"{file} is no intact .npz file ({error}). Download it again") from error


def _describe(file: Path) -> dict[str, _Array]:
    """Returns what arrays the file has, without reading them; nothing in it is run, as pickled objects would be."""
    wanted = [f"{split}_{kind}" for split in _SPLITS for kind in ("images", "labels")]
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        lacking = [name for name in wanted if name not in found]
        if lacking:
            raise DatasetError(
                f"{file} is not MedMNIST's: it lacks {listing(lacking)} (it has {listing(found, most=8)}). For other "
                "arrays save the images as files and use Dataset.from_csv"
            )
        unpacked = sum(found[name].file_size for name in wanted)
        if unpacked > _NEVER_A_BOMB and unpacked > _MOST_RATIO * sum(found[name].compress_size for name in wanted):
            raise DatasetError(f"{file} unpacks to {unpacked:,} bytes, over {_MOST_RATIO} times its size: not read")
        for name in wanted:
            with archive.open(found[name]) as stream:
                shape, dtype, start = _header(stream)
            if found[name].file_size != start + math.prod(shape) * dtype.itemsize:
                raise DatasetError(f"{file}: the length of {name} is not what it says. Download it again")
            arrays[name] = _Array(shape, dtype, found[name].CRC)
    for split in _SPLITS:
        _check_images(file, split, arrays)
    return arrays


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    """Returns the shape and type of an array, and where its numbers begin."""
    top = io.BytesIO(stream.read(_MOST_HEADER))
    version = np.lib.format.read_magic(top)
    if version == (1, 0):
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(top, max_header_size=_MOST_HEADER)
    elif version == (2, 0):
        shape, in_columns, dtype = np.lib.format.read_array_header_2_0(top, max_header_size=_MOST_HEADER)
    else:
        raise ValueError(f"format {version} of arrays")
    if in_columns or dtype.kind not in "uib" or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype} that no MedMNIST file has")
    return shape, dtype, top.tell()


def _check_images(file: Path, split: str, arrays: Mapping[str, _Array]) -> None:
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if len(images.shape) == 4 and images.shape[3] != 3:
        raise DatasetError(
            f"{file} holds volumes of {' × '.join(map(str, images.shape[1:]))} voxels, and medimg classifies pictures. "
            "Take one of the 2-D sets, such as organamnist.npz"
        )
    sides = images.shape[1:3]
    if images.dtype != np.uint8 or len(images.shape) not in (3, 4) or not all(0 < side <= _MOST_SIDE for side in sides):
        raise DatasetError(
            f"{file}: {split}_images is {images.dtype} {images.shape}, not uint8 (n, height, width[, 3])"
        )
    if len(labels.shape) not in (1, 2) or labels.shape[0] != images.shape[0] or 0 in labels.shape:
        raise DatasetError(f"{file}: {split}_labels is {labels.shape} for {amount(images.shape[0], 'image')}")


def _read_labels(file: Path, split: str, arrays: Mapping[str, _Array]) -> np.ndarray:
    """Returns int64 (n, labels): the class's number, or a 1 for each label that an image has."""
    about = arrays[f"{split}_labels"]
    with zipfile.ZipFile(file) as archive, archive.open(f"{split}_labels.npy") as stream:
        content = stream.read()
    values = np.frombuffer(content[len(content) - math.prod(about.shape) * about.dtype.itemsize :], about.dtype)
    return values.reshape(about.shape[0], -1).astype(np.int64)


def _class_names(file: Path, name: str, labels: Mapping[str, np.ndarray], several: bool) -> Sequence[str]:
    widths = {values.shape[1] for values in labels.values()}
    lowest = min(int(values.min()) for values in labels.values())
    highest = max(int(values.max()) for values in labels.values())
    if len(widths) > 1 or lowest < 0 or (several and highest > 1):
        raise DatasetError(f"{file}: its labels are neither numbers of classes nor a 0 or 1 for each label")
    count = widths.pop() if several else highest + 1
    known = CLASSES.get(name)
    if known is None:
        return [str(number) for number in range(count)]
    if count > len(known) or several != (name == "chestmnist"):
        raise DatasetError(
            f"{file} is named as {name}, which has {len(known)} classes, and its labels are others. Rename the file to "
            "have the classes called by their numbers"
        )
    return known


# -- the images --------------------------------------------------------------------------------------------------------


def _unpacked(file: Path, arrays: Mapping[str, _Array], dest: Path | None, report: Report) -> Path:
    """Returns the folder with the images as files, which is named by their content."""
    # The archive's own checksums: to hash the 12 GB of the largest set again would take longer than all the rest.
    content = {split: [arrays[f"{split}_images"].shape, arrays[f"{split}_images"].checksum] for split in _SPLITS}

    def part(split: str) -> Part:
        shape = arrays[f"{split}_images"].shape
        size = shape[0] * (math.prod(shape[1:]) + 100)  # what pictures that cannot be compressed take
        return Part(split, shape[0], size, ".png", lambda: _pngs(file, split, shape))

    def check() -> None:
        with heartbeat("checking", report):
            _check_sums(file)  # before anything is written: what is kept is found again by these sums

    with _reading(file):
        return unpack(
            [part(split) for split in _SPLITS], "medmnist", f"{file.stem}-", json.dumps(content).encode(), dest=dest,
            check=check, report=report,
        )  # fmt: skip


def _check_sums(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for split in _SPLITS:
            with archive.open(f"{split}_images.npy") as stream:
                while stream.read(1 << 22):
                    pass


def _pngs(file: Path, split: str, shape: tuple[int, ...]) -> Generator[bytes]:
    each = math.prod(shape[1:])

    def png(pixels: bytes) -> bytes:
        buffer = io.BytesIO()
        picture = Image.frombytes("RGB" if len(shape) == 4 else "L", (shape[2], shape[1]), pixels)
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    with zipfile.ZipFile(file) as archive, archive.open(f"{split}_images.npy") as stream:
        _skip_header(stream)
        pictures = iter(lambda: stream.read(each), b"")  # one at a time: the largest set has 12 GB
        while part := list(islice(pictures, 256)):
            yield from in_parallel(png, part)


def _skip_header(stream: IO[bytes]) -> None:
    magic = stream.read(8)
    stream.read(int.from_bytes(stream.read(2 if magic[6] == 1 else 4), "little"))
