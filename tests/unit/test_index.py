"""Pixels are read once; the cache may be lost, damaged or shared and changes no answer."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_folders import cut, picture, tree
from PIL import Image

from medimg.data import index
from medimg.data.dataset import Dataset
from medimg.data.pixels import GREY_TOLERANCE, Picture, Stored, as_mode, grey_if_equal
from medimg.progress import Event


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of eight images."""
    return tree(tmp_path / "images", {"normal": 4, "ill": 4})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    real = index.read

    def counting(path: Path) -> bytes:
        names.append(f"{path.parent.name}/{path.name}")
        return real(path)

    monkeypatch.setattr(index, "read", counting)
    return names


def cache(tmp_path: Path) -> Path:
    """Returns the file of the cache."""
    return tmp_path / "medimg-home/cache" / f"pixels-{index.DECODER}.sqlite"


def test_a_second_call_reads_no_file(root: Path, reads: list[str]) -> None:
    """Also by another dataset over the same files."""
    first = Dataset.from_folder(root).index()
    assert len(reads) == 8
    reads.clear()
    assert Dataset.from_folder(root).index() == first
    assert Dataset.from_folder(root).split(val=0.3, test=0.3).index() == first
    assert reads == []


def test_a_changed_file_is_read_again_and_no_other(root: Path, reads: list[str]) -> None:
    """A new time is enough, and so is a new size."""
    dataset = Dataset.from_folder(root)
    dataset.index()
    reads.clear()
    picture(root / "ill/p1.png", "new")
    os.utime(root / "ill/p2.png", ns=(0, 0))
    dataset.index()
    assert sorted(reads) == ["ill/p1.png", "ill/p2.png"]


def test_a_change_that_keeps_size_and_time_goes_unnoticed(root: Path, tmp_path: Path) -> None:
    """The price of not reading, and what the documentation says; without the cache it is seen."""
    path = root / "ill/p0.png"
    dataset = Dataset.from_folder(root)
    picture(path, "one", format="BMP")
    before, status = dataset.fingerprint, path.stat()
    picture(path, "two", format="BMP")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert dataset.fingerprint == before
    cache(tmp_path).unlink()
    assert dataset.fingerprint != before
    assert "restores both goes unnoticed" in str(Dataset.index.__doc__)


def test_a_rejection_is_looked_at_again(root: Path, reads: list[str]) -> None:
    """It may lie in permissions, which change neither size nor time."""
    cut(root / "ill/p0.png")
    dataset = Dataset.from_folder(root)
    assert [error.code for error in dataset.rejected().values()] == ["truncated"]
    reads.clear()
    assert len(dataset.rejected()) == 1
    assert reads == ["ill/p0.png"]


@pytest.mark.parametrize("damage", ["garbage", "zeros inside", "empty", "another table"])
def test_a_damaged_cache_is_made_anew(root: Path, tmp_path: Path, reads: list[str], damage: str) -> None:
    """It costs time and not the answer, and the next call is fast again."""
    before = Dataset.from_folder(root).index()
    file = cache(tmp_path)
    if damage == "garbage":
        file.write_bytes(b"this is no database" * 100)
    elif damage == "zeros inside":
        data = bytearray(file.read_bytes())
        data[4096:] = bytes(len(data) - 4096)
        file.write_bytes(data)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
        with sqlite3.connect(file) as database:
            database.execute(index._SCHEMA.replace("thumbnail BLOB", "thumbnail BLOB, more"))
        database.close()
    reads.clear()
    assert Dataset.from_folder(root).index() == before
    assert len(reads) == 8
    reads.clear()
    Dataset.from_folder(root).index()
    assert reads == []


@pytest.mark.parametrize("obstacle", ["a folder in its place", "a table without our columns", "a file for a folder"])
def test_where_no_cache_can_be_kept_the_files_are_read(
    root: Path, tmp_path: Path, reads: list[str], obstacle: str
) -> None:
    """A read-only disk or one without locks is no reason to stop."""
    dataset = Dataset.from_folder(root)
    file = cache(tmp_path)
    if obstacle == "a folder in its place":
        file.mkdir(parents=True)
    elif obstacle == "a file for a folder":
        file.parent.parent.mkdir(exist_ok=True)
        file.parent.write_text("")
    else:
        file.parent.mkdir(parents=True)
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE pixels (x)")
        database.close()
    assert len(dataset.index()) == 8
    assert len(reads) == 8


def test_two_processes_at_once_find_the_same(root: Path, tmp_path: Path) -> None:
    """They share the cache."""
    tree(root, {"more": 60})
    code = f"from medimg.data.dataset import Dataset; print(Dataset.from_folder({str(root)!r}).fingerprint)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len({output for output, _ in outputs}) == 1
    assert outputs[0][0].strip() == Dataset.from_folder(root).fingerprint


def test_progress_is_told_while_reading(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0 to all, at least once a second; what is known already is not counted."""
    monkeypatch.setattr(index, "EVERY", 0.0)
    dataset = Dataset.from_folder(root)
    events: list[Event] = []
    dataset.index(events.append)
    assert [(event.stage, event.done, event.total) for event in events] == [("reading", n, 8) for n in range(9)]
    events.clear()
    dataset.index(events.append)
    assert events == []


def test_an_interruption_keeps_what_was_read_and_drops_the_rest(
    root: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C returns at once, and the next call goes on."""
    tree(root, {"more": 200})
    dataset = Dataset.from_folder(root)
    monkeypatch.setattr(index, "EVERY", 0.0)
    counting = index.read

    def slow(path: Path) -> bytes:
        time.sleep(0.02)
        return counting(path)

    monkeypatch.setattr(index, "read", slow)

    def interrupt(event: Event) -> None:
        if event.done == 20:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as caught:  # kept, as a notebook keeps its last traceback
        dataset.index(interrupt)
    assert time.monotonic() - started < 2
    count = len(reads)
    assert count < 100
    time.sleep(0.2)
    assert len(reads) == count
    assert caught.traceback
    reads.clear()
    dataset.index()
    assert len(reads) == 208 - 20


@pytest.mark.parametrize(
    ("mode", "name", "expected"),
    [("L", "x.png", ("L", 8)), ("RGB", "x.jpeg", ("RGB", 8)), ("P", "x.gif", ("P", 8)), ("1", "x.png", ("1", 1)),
     ("1", "x.tiff", ("1", 1)), ("I;16", "x.png", ("I;16", 16)), ("I;16", "x.tiff", ("I;16", 16)),
     ("RGBA", "x.webp", ("RGBA", 8))],
)  # fmt: skip
def test_how_a_file_holds_its_pixels_is_kept(tmp_path: Path, mode: str, name: str, expected: tuple[str, int]) -> None:
    """Before decoding made them one kind; the second look comes from the cache."""
    grey = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "RGBA":
        image = Image.fromarray(np.dstack([grey, grey // 2, grey, grey]))
    else:
        image = Image.fromarray(np.dstack([grey, grey // 2, grey]) if mode == "RGB" else grey).convert(mode)
    (tmp_path / "i/a").mkdir(parents=True)
    image.save(tmp_path / "i/a" / name)
    picture(tmp_path / "i/b/other.png")
    dataset = Dataset.from_folder(tmp_path / "i", positive="b")
    (sample,) = (sample for sample in dataset.samples if sample.path.name == name)
    for _ in range(2):
        looks = dataset.index()[sample.id].appearance
        assert looks is not None
        assert (looks.mode, looks.bits, looks.orientation) == (*expected, 1)


def test_brightness_is_that_of_the_grey_picture() -> None:
    """Mean, spread and percentiles of all pixels, and of the outer twentieth; the thumbnail is the whole picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300), np.uint8)
    pixels[:10], pixels[-10:], pixels[:, :15], pixels[:, -15:] = 7, 9, 8, 8
    looks = index.appearance(Picture(pixels, (200, 300), Stored("L", 8, 1)))
    assert looks.mean == pytest.approx(pixels.mean())
    assert looks.std == pytest.approx(pixels.std())
    assert looks.low == np.quantile(pixels, 0.01, method="inverted_cdf")
    assert looks.high == np.quantile(pixels, 0.99, method="inverted_cdf")
    outer = np.ones(pixels.shape, bool)
    outer[10:-10, 15:-15] = False
    assert looks.border_mean == pytest.approx(pixels[outer].mean())
    assert looks.border_std == pytest.approx(pixels[outer].std())
    thumbnail = np.frombuffer(looks.thumbnail, np.uint8)
    assert thumbnail.shape == (32 * 32,)
    assert thumbnail.mean() == pytest.approx(pixels.mean(), abs=1)


def test_the_smallest_picture_has_an_appearance() -> None:
    """One pixel is its own border."""
    looks = index.appearance(Picture(np.full((1, 1), 77, np.uint8), (1, 1), Stored("L", 8, 1)))
    assert (looks.mean, looks.std, looks.low, looks.high, looks.border_mean) == (77, 0, 77, 77, 77)


@pytest.mark.parametrize("shape", [(300, 401), (300, 401, 3), (20, 30), (1, 70_000)])
def test_the_hash_does_not_ask_who_holds_the_pixels(shape: tuple[int, ...]) -> None:
    """Pillow's image, of which it copies a piece at a time, and an array have the same; it is that of all bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    size, stored = (shape[0], shape[1]), Stored("L", 8, 1)
    ways = [Picture(content, size, stored) for content in (pixels, Image.fromarray(pixels))]
    assert ways[0].shape == ways[1].shape == shape
    expected = hashlib.sha256(f"{size} {shape}".encode() + pixels.tobytes()).hexdigest()
    assert [index.digest(way) for way in ways] == [expected, expected]


@pytest.mark.parametrize("spread", [0, 2, 3])
def test_a_picture_is_grey_if_its_channels_differ_by_two_at_most(spread: int) -> None:
    """One pixel that is not among those looked at first decides; grey is the luma of what there was."""
    pixels = np.repeat(np.random.default_rng(0).integers(0, 250, (40, 50, 1), np.uint8), 3, axis=2)
    pixels[33, 41, 2] += spread
    grey = grey_if_equal(pixels)
    assert grey.ndim == (3 if spread > GREY_TOLERANCE else 2)
    assert np.array_equal(as_mode(grey, 1), np.array(Image.fromarray(pixels).convert("L"))[..., np.newaxis])
