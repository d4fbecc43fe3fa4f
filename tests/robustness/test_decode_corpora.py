"""Files that break readers, and files that we break: each gives pixels or one coded rejection, and soon."""

from __future__ import annotations

import io
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medimg.data.decode import MAX_PIXELS, REJECTIONS, decode, read
from medimg.errors import ImageRejected

SHARED = Path(os.environ.get("MEDIMG_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
CORPORA = SHARED / "corpora"
LONGEST_S = 5.0
MUTATIONS = int(os.environ.get("MEDIMG_MUTATIONS", "300"))
KINDS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP")


def outcomes(files: Iterable[tuple[str, bytes]]) -> tuple[Counter[str], float]:
    """Returns how many files gave pixels and how many each rejection, and the slowest in seconds."""
    counts: Counter[str] = Counter()
    slowest = 0.0
    for name, data in files:
        start = time.perf_counter()
        try:
            pixels = decode(data, name=name)
        except ImageRejected as rejected:
            assert rejected.code in REJECTIONS, name
            assert name in str(rejected)
            counts[rejected.code] += 1
        else:
            assert pixels.dtype == np.uint8, name
            assert pixels.shape[2:] in ((), (3,)), name
            assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS, name
            counts["pixels"] += 1
        elapsed_s = time.perf_counter() - start
        assert elapsed_s < LONGEST_S, name
        slowest = max(slowest, elapsed_s)
    return counts, slowest


def originals(kind: str) -> list[bytes]:
    """Returns small valid files of that kind, of several modes and compressions."""
    rng = np.random.default_rng(0)
    grey = Image.fromarray(
        (np.add.outer(np.arange(32), np.arange(40)) * 3 + rng.integers(0, 20, (32, 40))).astype("u1")
    )
    colour = Image.merge("RGB", (grey, grey.rotate(180), grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    saved = {
        "JPEG": [(grey, {}), (colour, {"progressive": True, "exif": exif}), (colour.convert("CMYK"), {})],
        "PNG": [(grey, {"exif": exif}), (wide, {}), (colour.convert("RGBA"), {}), (colour.convert("P"), {})],
        "GIF": [(grey, {}), (colour.quantize(16), {"transparency": 3, "interlace": 0})],
        "TIFF": [(grey, {}), (wide, {"compression": "tiff_lzw"}), (colour, {"compression": "jpeg", "exif": exif})],
        "BMP": [(grey, {}), (colour, {}), (grey.convert("1"), {})],
        "WEBP": [(colour, {"exif": exif}), (colour.convert("RGBA"), {"lossless": True})],
    }
    files = []
    for image, options in saved[kind]:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        files.append(stream.getvalue())
    return files


def mutations(kind: str, count: int) -> Iterable[tuple[str, bytes]]:
    """Yields valid files with one to eight bytes changed, one in four also cut, doubled or with a piece removed."""
    rng = np.random.default_rng(KINDS.index(kind))
    files = originals(kind)
    for number in range(count):
        data = bytearray(files[number % len(files)])
        # Half of the changes hit the first 128 bytes: headers steer readers, pixels rarely do.
        for _ in range(rng.integers(1, 9)):
            reach = len(data) if rng.random() < 0.5 else min(128, len(data))
            data[rng.integers(reach)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        place = int(rng.integers(len(data)))
        action = rng.integers(12)
        if action == 0:
            del data[place:]
        elif action == 1:
            data[place:place] = data[max(0, place - 64) : place]
        elif action == 2:
            del data[place : place + 16]
        yield f"{kind}-{number}", bytes(data)


def test_every_file_of_the_corpora_gives_pixels_or_a_rejection(capsys: pytest.CaptureFixture[str]) -> None:
    """Pillow's own test images, fuzzers' findings, archives and DICOM files."""
    if not CORPORA.is_dir():
        pytest.skip(f"no corpora at {CORPORA}; set MEDIMG_SHARED_DATA to the folder that holds corpora/")
    for corpus in sorted(folder for folder in CORPORA.iterdir() if folder.is_dir()):
        files = sorted(path for path in corpus.rglob("*") if path.is_file())
        counts, slowest = outcomes((path.name, read(path)) for path in files if path.stat().st_size)
        with capsys.disabled():
            print(f"\n{corpus.name}: {len(files)} files, {dict(counts)}, slowest {slowest:.3f} s", end="")
        if corpus.name == "pillow":
            assert counts["pixels"] > 0.7 * len(files)
        if corpus.name in ("gofuzz-archives", "pydicom"):
            assert counts["pixels"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_mutation_gives_pixels_or_a_rejection(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeded changes of generated files; MEDIMG_MUTATIONS sets how many."""
    assert outcomes((kind, data) for data in originals(kind))[0] == {"pixels": len(originals(kind))}
    counts, slowest = outcomes(mutations(kind, MUTATIONS))
    with capsys.disabled():
        print(f"\n{kind}: {MUTATIONS} mutations, {dict(counts)}, slowest {slowest:.3f} s", end="")
    assert counts.total() == MUTATIONS
    assert len(counts) > 2
