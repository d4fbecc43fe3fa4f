"""A large JPEG is decoded no larger than it is needed: nearly the same pixels, and the very same ones everywhere."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medimg.artifact import Preprocessing
from medimg.data import index, shards
from medimg.data.dataset import Dataset
from medimg.data.decode import decode, look
from medimg.data.encode import encode
from medimg.data.formats import effort, pillow
from medimg.data.kept import KeptPixels
from medimg.data.pack import Pack, build
from medimg.data.pixels import Picture, Pixels, resize
from medimg.data.synthetic import phantom
from medimg.errors import DatasetError, ImageRejected

SIDE = 24
ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has all that is said of 224 pixels hold for 24, so that films can be small."""
    for module in (pillow, index, shards):
        monkeypatch.setattr(module, "USUAL", SIDE)


def film(side: int = 229, seed: int = 0) -> Image.Image:
    """Returns a grey radiograph that is wider than tall, of odd sides."""
    pixels, _ = phantom(np.random.default_rng(seed), finding=True, size=side)
    return Image.fromarray(pixels[side // 6 :])


def photograph(side: int = 229) -> Image.Image:
    """Returns a colour picture."""
    return Image.merge("RGB", (film(side), film(side, 1), film(side, 2)))


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Returns the image as a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise_ratio(found: Pixels, wanted: Pixels) -> float:
    """Returns the peak signal to noise ratio in dB."""
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((found.astype(float) - wanted) ** 2))))


def dataset_of(root: Path, files: dict[str, bytes]) -> Dataset:
    """Returns a dataset of files by name, every second one of another class."""
    for number, (name, data) in enumerate(files.items()):
        file = root / ("ill", "well")[number % 2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return Dataset.from_folder(root, positive="ill")


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (film(), {}),
        (film().convert("RGB"), {"subsampling": 2}),
        (film(), {"progressive": True}),
        (photograph(), {"subsampling": 0}),
        (photograph(), {"subsampling": 2, "progressive": True}),
        (photograph().convert("CMYK"), {}),
    ],
    ids=["grey", "grey as colour", "progressive", "colour", "colour of half the resolution", "CMYK"],
)
def test_a_scaled_decoding_gives_nearly_the_pixels_of_a_full_one(image: Image.Image, options: dict[str, Any]) -> None:
    """And the same channels: within what a careful eye cannot see."""
    data = saved(image, quality=90, **options)
    whole, scaled = decode(data, name="x"), decode(data, name="x", size=(SIDE, SIDE + 2))
    wanted = resize(whole, (SIDE, SIDE + 2))
    assert scaled.shape == wanted.shape
    assert not np.array_equal(scaled, wanted), "it was not scaled, so this test shows nothing"
    assert noise_ratio(scaled, wanted) > 42


@pytest.mark.parametrize(("height", "width"), [(4 * SIDE - 1, 400), (400, 4 * SIDE - 1), (4 * SIDE, 4 * SIDE)])
def test_nothing_is_decoded_below_twice_the_size_that_is_wanted(height: int, width: int) -> None:
    """A picture that half of is less than twice the size is decoded as it is."""
    rough = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    data = saved(Image.fromarray(rough))
    found = decode(data, name="x", size=(SIDE, SIDE))
    exact = np.array_equal(found, resize(decode(data, name="x"), (SIDE, SIDE)))
    assert exact == (min(height, width) < 4 * SIDE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_scaled_to_the_size_it_has_upright(orientation: int) -> None:
    """Its last row and column, of which a scaled decoding has a fraction, lie on another side then."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    rows, columns = np.mgrid[0:101, 0:133]
    slope = Image.fromarray((rows + columns).astype(np.uint8))  # a shift of a pixel is a change of one everywhere
    data = saved(slope, quality=100, exif=exif)
    size = (12, 9) if orientation < 5 else (9, 12)
    found, wanted = decode(data, name="x", size=size), resize(decode(data, name="x"), size)
    apart = np.abs(found.astype(int) - wanted)
    assert apart.mean() < 1 and apart.max() <= 2


def test_pixels_in_a_pack_are_those_of_the_served_file(tmp_path: Path) -> None:
    """Bit for bit, of every kind of file, whatever else is in the pack."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    marked = film().convert("RGB")
    marked.putpixel((200, 150), (255, 0, 0))  # colour at full size, gone at an eighth
    files = {
        "grey.jpeg": saved(film()), "colour.jpeg": saved(photograph()), "turned.jpeg": saved(photograph(), exif=exif),
        "marked.jpeg": saved(marked), "small.jpeg": saved(film(60)), "film.png": saved(film(), "PNG"),
    }  # fmt: skip
    dataset = dataset_of(tmp_path / "set", files)
    pack = Pack.open(build(dataset, SIDE, facts=dataset.index()).path, verify=True)
    preprocessing = Preprocessing(image_size=SIDE, channels=3)
    assert pack.channels == 3
    for row, packed in enumerate(pack.samples):
        path = dataset[packed.id].path
        for image in (path, path.read_bytes(), encode(path)):
            np.testing.assert_array_equal(preprocessing.prepare(image), pack.images([row])[0], err_msg=path.name)


def test_the_same_picture_as_a_large_jpeg_and_as_png_is_other_data(tmp_path: Path) -> None:
    """One is scaled as it is decoded. A small one is not, and makes the same pack."""
    for side, packs in ((229, 2), (60, 1)):
        jpegs = {f"{seed}.jpeg": saved(film(side, seed)) for seed in range(4)}
        pngs = {
            name.replace("jpeg", "png"): saved(Image.fromarray(decode(data, name=name)), "PNG")
            for name, data in jpegs.items()
        }
        sets = [dataset_of(tmp_path / f"{side}-{number}", files) for number, files in enumerate((jpegs, pngs))]
        assert len({dataset.fingerprint for dataset in sets}) == packs
        assert len({build(dataset, SIDE, facts=dataset.index()).path for dataset in sets}) == packs


def test_a_file_whose_metadata_changed_since_it_was_indexed_is_packed(tmp_path: Path) -> None:
    """Its pixels are what they were; but for a size at which the index has not seen them, it is another file."""
    files = {f"{seed}.jpeg": saved(film(seed=seed)) for seed in range(4)}
    dataset = dataset_of(tmp_path / "set", files)
    facts = dataset.index()
    changed = next(sample.path for sample in dataset.samples if sample.path.stem == "0")
    changed.write_bytes(saved(film(), comment=b"seen by somebody"))
    assert len(build(dataset, SIDE, facts=facts)) == 4
    with pytest.raises(DatasetError, match=r"0\.jpeg has changed since the dataset was read"):
        build(dataset, 2 * SIDE, facts=facts)
    assert dataset.index()[next(iter(facts))].digest == facts[next(iter(facts))].digest


@pytest.mark.parametrize("size", [SIDE - 5, SIDE, 2 * SIDE])
def test_a_pack_of_kept_pixels_is_the_pack_of_decoded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """To the last byte; and what the index has decoded as the pack needs it is not decoded again."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    marked = film().convert("RGB")
    marked.putpixel((200, 150), (255, 0, 0))  # colour at full size, less so at a half
    files = {
        "grey.jpeg": saved(film()), "colour.jpeg": saved(photograph(), exif=exif), "marked.jpeg": saved(marked),
        "small.jpeg": saved(film(60)), "film.png": saved(film(), "PNG"), "cut.jpeg": saved(film())[:300],
    }  # fmt: skip
    dataset = dataset_of(tmp_path / "set", files)
    plain = build(dataset, size, facts=dataset.index())
    names: list[str] = []

    def counting(data: bytes, *, name: str, size: tuple[int, int] | None = None) -> Picture:
        names.append(Path(name).name)
        return look(data, name=name, size=size)

    monkeypatch.setattr(shards, "look", counting)
    monkeypatch.setattr("medimg.data.kept.MOST_IN_MEMORY", 2 * size * size)  # the others are in a file
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "other"))
    with KeptPixels(size, len(dataset)) as kept:
        facts = dataset.index(kept=kept)
        made = build(dataset, size, facts=facts, kept=kept)
    assert made.path.name == plain.path.name
    assert {file.name: file.read_bytes() for file in made.path.iterdir()} == {
        file.name: file.read_bytes() for file in plain.path.iterdir()
    }
    assert sorted(names) == ([] if size <= SIDE else ["colour.jpeg", "grey.jpeg", "marked.jpeg"])
    assert not list((tmp_path / "other/cache").glob("tmp*"))


def test_where_the_disk_is_full_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it is nearly full before, nor where it fills; what is in memory stays."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    monkeypatch.setattr("medimg.data.kept.MOST_IN_MEMORY", pixels.size)
    with KeptPixels(SIDE, 10**15) as kept:
        kept.keep("first", pixels)
        kept.keep("a", pixels)
        assert kept.has("first", SIDE)
        assert not kept.has("a", SIDE)
    with KeptPixels(SIDE, 1) as kept:
        kept.keep("first", pixels)
        kept.keep("a", pixels + 7)
        assert np.array_equal(kept.take("a"), pixels + 7)

        def full(*given: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        kept.keep("b", pixels)
        assert not kept.has("b", SIDE) and not kept.has("a", 7)


@pytest.mark.parametrize("size", [SIDE, 37, 2 * SIDE, 100])
def test_the_reduction_is_the_one_that_the_decoder_takes(size: int) -> None:
    """Of every shape around a boundary: what `reduction` says of the header is what Pillow does."""
    for height, width in [(47, 90), (48, 48), (95, 200), (96, 96), (97, 96), (191, 229), (192, 500), (399, 400)]:
        shown = pillow.picture(saved(Image.new("L", (width, height))), name="x", size=(size, size))
        part = pillow.reduction(height, width, size)
        assert shown.pixels.shape == (-(-height // part), -(-width // part))
        assert shown.size == (height, width)


def test_pictures_that_differ_only_where_a_larger_decoding_looks_make_two_large_packs(tmp_path: Path) -> None:
    """And one small one, for they are one picture there: the address says what is in a pack at every size."""
    fine = np.indices((200, 240)).sum(axis=0) % 2  # the finest waves, which a decoding at a half leaves out
    plain = np.full((200, 240), 128)
    ends = ["plain", "fine"]
    sets = []
    for name, pixels in zip(ends, (plain, plain + fine * 2 - 1), strict=True):
        other = saved(film())
        data = saved(Image.fromarray(pixels.astype(np.uint8)), quality=100)
        sets.append(dataset_of(tmp_path / name, {"a.jpeg": data, "b.jpeg": other}))
    for size, packs in ((SIDE, 1), (2 * SIDE, 2)):
        assert len({build(dataset, size, facts=dataset.index()).path for dataset in sets}) == packs


def test_a_stripped_jpeg_keeps_its_pixels_at_every_size_and_nothing_else(tmp_path: Path) -> None:
    """Comment, EXIF, thumbnail, colour profile and what follows the picture stay here; how it is turned travels."""
    canary = b"Doe^Jane 1970-01-01"
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010E] = 8, canary.decode()
    whole = saved(
        photograph().convert("CMYK"), exif=exif, comment=canary, icc_profile=canary
    ) + saved(film(50), comment=canary)  # fmt: skip
    assert whole.count(canary) == 4
    file = tmp_path / "photo.jpg"
    file.write_bytes(whole)
    sent = encode(file)
    assert sent.startswith(b"\xff\xd8\xff")
    assert canary not in sent
    for size in (None, (SIDE, SIDE), (7, 20)):
        np.testing.assert_array_equal(decode(sent, name="x", size=size), decode(whole, name="x", size=size))


def hiding(place: str, text: bytes) -> bytes:
    """Returns a JPEG with a text where no decoder looks."""
    options = {"restart": {"restart_marker_rows": 2}, "between scans": {"progressive": True}}.get(place, {})
    data = saved(photograph(), optimize=True, **options)
    tables, scan = data.index(b"\xff\xdb"), data.index(b"\xff\xda")
    if place == "end of the data":
        return data[:-2] + text + data[-2:]
    if place == "restart":
        at = data.index(b"\xff\xd1", scan)
        return data[:at] + text + data[at:]
    if place == "comment after the data":
        return data[:-2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[-2:]
    if place == "between scans":
        at = data.index(b"\xff\xda", scan + 2)
        return data[:at] + text + data[at:]
    if place == "unused table":
        return data[:tables] + b"\xff\xdb\0\x43\x03" + text.ljust(64, b".") + data[tables:]
    if place == "unused codes":
        at = next(at for at in range(scan) if data[at : at + 2] == b"\xff\xc4" and data[at + 4] == 0x10)
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        counts, symbols = data[at + 5 : at + 21], data[at + 21 : at + 2 + length]
        longer = counts[:15] + bytes([counts[15] + len(text)]) + symbols + text
        return data[: at + 2] + (length + len(text)).to_bytes(2, "big") + b"\x10" + longer + data[at + 2 + length :]
    return data[:20] + text + data[20:]


@pytest.mark.parametrize(
    ("place", "count", "kept"),
    [
        ("end of the data", 1, True), ("end of the data", 3, False), ("restart", 1, True), ("restart", 3, False),
        ("comment after the data", 3, True), ("between scans", 3, False), ("unused table", 3, True),
        ("unused codes", 1, False), ("between segments", 3, False),
    ],
)  # fmt: skip
def test_what_a_decoder_skips_is_not_sent(place: str, count: int, kept: bool) -> None:
    """It is cut out where that is sure to be right; else the pixels are sent as PNG."""
    text = b"Doe^Jane" * count
    whole = hiding(place, text)
    assert text in whole
    sent = encode(whole)
    assert text not in sent
    np.testing.assert_array_equal(decode(sent, name="x"), decode(whole, name="x"))
    assert sent.startswith(b"\xff\xd8\xff") == kept


def test_lossy_webp_of_too_many_bytes_or_chunks_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lossless pixels there are is bound by their number alone."""
    lossy, lossless = saved(photograph(), "WEBP"), saved(photograph(), "WEBP", lossless=True)
    clear = photograph()
    clear.putalpha(film())
    see_through = saved(clear, "WEBP")
    monkeypatch.setattr(effort, "MOST_LOSSY_WEBP_BYTES", len(lossy) - 21)
    assert decode(lossless, name="x").shape == decode(lossless, name="x").shape
    for data in (lossy, see_through):
        with pytest.raises(ImageRejected, match="bytes of lossy WebP") as caught:
            decode(data, name="x")
        assert caught.value.code == "too-large"
    monkeypatch.undo()
    crowded = lossless + b"none\0\0\0\0" * effort.MOST_SEGMENTS
    crowded = crowded[:4] + (len(crowded) - 8).to_bytes(4, "little") + crowded[8:]
    with pytest.raises(ImageRejected) as caught:
        decode(crowded, name="x")
    assert caught.value.code == "too-complex"
