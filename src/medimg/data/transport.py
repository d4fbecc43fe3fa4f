"""The pack as it travels: each shard losslessly compressed into one object whose name says what is in it.

    pack.json, samples-SHA.jsonl              as they are
    images-00000-SHA.gradient.zlib            a shard; SHA: 16 digits of the hash of its pixels

Every pixel is replaced by its difference from left + above - above left, red and blue first by theirs from green, and
the result coded by zlib with run lengths and Huffman codes alone. Photographs leave zlib nothing else to find, and this
is 3 to 10 times as fast as its usual search. Measured on two cores, with 50 MB/s between (of the chest set, HAM10000
and Intel scenes at 224 pixels, 512 images each): 42, 32 and 38% of the raw bytes, and the least seconds of compressing,
sending and expanding among raw pixels, zlib after other differences, PNG, lossless WebP and LZMA.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medimg.data.index import in_parallel
from medimg.data.pack import VERSION
from medimg.data.pixels import Pixels
from medimg.errors import DatasetError, StorageError
from medimg.progress import Event, Report, silent

__all__ = ["Parcel", "expand", "expanded", "travelling"]

CODEC = "gradient.zlib"
_CHUNK_BYTES = 1 << 20  # of pixels filtered at a time, and of a compressed file read at a time
_SHARD = re.compile(r"images-\d{5,}\.u8")
_MANIFEST = re.compile(r"samples-[0-9a-f]{16}\.jsonl")
_AGAIN = "Remove it where the pack was uploaded to, and submit the dataset again"


@dataclass(frozen=True, slots=True)
class Parcel:
    """One object of a travelling pack.

    Attributes:
        name: Its name. That of a shard depends on the shard's pixels, so an object of that name need not be sent again.
        raw_bytes: Its size before compression.
        images: How many images are in it.
        source: The pack's file that it is made of.
        shape: Of a shard: images, height, width, channels; else ().
        sha256: Of a shard: hash of its pixels; else "".
    """

    name: str
    raw_bytes: int
    images: int
    source: Path
    shape: tuple[int, ...] = ()
    sha256: str = ""

    def content(self) -> bytes:
        """Returns the bytes to send.

        Raises:
            DatasetError: The pack's file is missing or damaged.
        """
        with _reading(self.source) as file:
            return _compressed(file, self) if self.shape else file.read()


def travelling(pack: Path, manifest: str) -> tuple[Parcel, ...]:
    """Returns what a pack with one of its manifests consists of when it travels; `pack.json` is last.

    Raises:
        DatasetError: `pack.json` is missing or damaged.
    """
    shards = _shards(pack)
    plain = [pack / _checked(manifest), pack / "pack.json"]
    with suppress(FileNotFoundError):
        return (*shards, *(Parcel(path.name, path.stat().st_size, 0, path) for path in plain))
    raise DatasetError(f"{plain[0]} is missing. Remove the folder and submit the dataset again")


def expand(source: Path, target: Path, manifest: str, report: Report = silent) -> None:
    """Makes a pack of one that has travelled; every shard's hash is checked.

    Each object is read once and in order, several at a time; no more is written than `pack.json` says.

    Args:
        source: Folder with the objects.
        target: Folder to write the pack to; must not exist.
        manifest: Name of the manifest.
        report: Told of the images that are there.

    Raises:
        DatasetError: An object is missing, cut off or altered; the message names it.
        StorageError: The disk is full.
    """
    shards = _shards(source)
    total, done = sum(shard.images for shard in shards), 0
    with _told_when_full(target, sum(shard.raw_bytes for shard in shards)):
        target.mkdir(parents=True)
        report(Event("stage", "downloading", 0, total))
        with closing(in_parallel(partial(_expand_shard, source, target), shards)) as finished:
            for images in finished:
                done += images
                report(Event("stage", "downloading", done, total))
        for name in (_checked(manifest), "pack.json"):
            with _reading(source / name) as file:
                (target / name).write_bytes(file.read())


@contextmanager
def expanded(data: Path, manifest: str, report: Report = silent) -> Iterator[Path]:
    """Yields the folder of a pack: `data` itself, or where that has travelled a temporary folder, removed at the end.

    Raises:
        DatasetError: As `expand`.
        StorageError: The disk is full.
    """
    shards = _shards(data)
    if all(shard.source.is_file() for shard in shards):
        yield data
        return
    folder = Path(tempfile.mkdtemp(prefix="medimg-"))
    try:
        expand(data, folder / "pack", manifest, report)
        yield folder / "pack"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- one shard --------------------------------------------------------------------------------------------------------


def _compressed(file: BinaryIO, shard: Parcel) -> bytes:
    """Returns a shard's object; what is read is hashed, since a damaged one would be believed by its name for ever."""
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    digest = hashlib.sha256()
    parts = []
    for shape in _chunks(shard.shape):
        raw = file.read(_size(shape))
        digest.update(raw)
        if len(raw) == _size(shape):
            parts.append(packer.compress(_filtered(np.frombuffer(raw, np.uint8).reshape(shape)).data))
    if file.read(1) or digest.hexdigest() != shard.sha256:
        raise DatasetError(
            f"{shard.source} is damaged: its hash differs. Remove the folder and submit the dataset again"
        )
    return b"".join([*parts, packer.flush()])


def _expand_shard(source: Path, target: Path, shard: Parcel) -> int:
    """Writes a shard's pixels and returns how many images they are."""
    path = source / shard.name
    digest = hashlib.sha256()
    with _reading(path) as stream, (target / shard.source.name).open("xb") as file:
        unpacker = _Unpacker(stream)
        try:
            for shape in _chunks(shard.shape):
                pixels = _restored(np.frombuffer(unpacker.take(_size(shape)), np.uint8), shape)
                digest.update(pixels.data)
                file.write(pixels.data)
            unpacker.end()
        except (zlib.error, EOFError) as error:
            raise DatasetError(f"{path} is damaged: {error}. {_AGAIN}") from None
    if digest.hexdigest() != shard.sha256:
        raise DatasetError(f"{path} is damaged: its pixels have another hash. {_AGAIN}")
    return shard.images


class _Unpacker:
    """Gives out what a compressed file holds, and never more of it than was asked for."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._zlib = zlib.decompressobj()

    def take(self, length: int) -> bytearray:
        """Returns the next `length` bytes."""
        out = bytearray()
        while len(out) < length:
            waiting = self._zlib.unconsumed_tail or self._stream.read(_CHUNK_BYTES)
            if not waiting or self._zlib.eof:
                raise EOFError("it ends too early")
            out += self._zlib.decompress(waiting, length - len(out))
        return out

    def end(self) -> None:
        """Checks that nothing follows."""
        while not self._zlib.eof:
            waiting = self._zlib.unconsumed_tail or self._stream.read(_CHUNK_BYTES)
            if not waiting or self._zlib.decompress(waiting, 1):
                raise EOFError("it does not end where it should")
        if self._zlib.unused_data or self._stream.read(1):
            raise EOFError("something follows its end")


def _filtered(images: Pixels) -> Pixels:
    """Returns differences that compress well: uint8 (n, channels, height, width), modulo 256."""
    planes = np.moveaxis(images, 3, 1).copy()
    if planes.shape[1] == 3:
        planes[:, ::2] -= planes[:, 1:2]
    planes[..., 1:] -= planes[..., :-1]
    planes[..., 1:, :] -= planes[..., :-1, :]
    return planes


def _restored(differences: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Returns the images, uint8 of a shape, that `_filtered` was given."""
    count, height, width, channels = shape
    planes = differences.reshape(count, channels, height, width)
    planes = np.cumsum(np.cumsum(planes, axis=2, dtype=np.uint8), axis=3, dtype=np.uint8)
    if channels == 3:
        planes[:, ::2] += planes[:, 1:2]
    return np.ascontiguousarray(np.moveaxis(planes, 1, 3))


def _chunks(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yields the shapes of the parts that a shard is worked on in."""
    step = max(1, _CHUNK_BYTES // max(1, _size(shape[1:])))
    for start in range(0, shape[0], step):
        yield (min(step, shape[0] - start), *shape[1:])


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


# -- files ------------------------------------------------------------------------------------------------------------


def _shards(folder: Path) -> tuple[Parcel, ...]:
    """Returns the shards of a pack, travelling or not."""
    path = folder / "pack.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise DatasetError(f"{path} was packed by another version of medimg. {_AGAIN}")
        size = int(facts["image_size"])
        found = []
        for shard in facts["shards"]:
            shape = (int(shard["images"]), size, size, int(shard["channels"]))
            file, sha256 = str(shard["file"]), str(shard["sha256"])
            # The names become paths, and this file may have been written by somebody else.
            if not _SHARD.fullmatch(file) or not re.fullmatch("[0-9a-f]{64}", sha256) or min(shape) < 1:
                raise ValueError(f"{shard!r} describes no shard")
            name = f"{file.removesuffix('.u8')}-{sha256[:16]}.{CODEC}"
            found.append(Parcel(name, _size(shape), shape[0], folder / file, shape, sha256))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is missing or damaged: {error!r}. {_AGAIN}") from None
    return tuple(found)


def _checked(manifest: str) -> str:
    if not _MANIFEST.fullmatch(manifest):
        raise DatasetError(f"{manifest!r} cannot be the name of a pack's manifest")
    return manifest


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing. Submit the dataset again") from None
    with file:
        yield file


@contextmanager
def _told_when_full(target: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or isinstance(error, StorageError):
            raise
        raise StorageError(
            f"the disk is full: the pixels take {size / 1e9:,.1f} GB in {target.parent}. Give the job more disk "
            "(resources=medimg.Resources(disk_gb=…)), or set TMPDIR to a folder on a larger one"
        ) from error
