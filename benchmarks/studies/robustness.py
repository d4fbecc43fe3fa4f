"""What becomes of files that go wrong: by format and outcome, with the peak memory and the slowest file.

    python benchmarks/studies/robustness.py DATA [corpora|mutations|burdens|largest …] [--count 10000]

DATA holds corpora/ and dicom/. Decoding is done in child processes, so that a crash or a hang is seen and counted;
seconds are of processor time. What is counted as a broken promise is said in tests/robustness/watched.py, where the
tests take it from too; the exit status is 1 where there is one.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.encaps import encapsulate

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "robustness"))

from broken_files import KINDS, dicom, encoded, mutations
from burdens import BURDENS, DICOM_BURDENS
from watched import Outcome, Watched

MIB = 2**20
UPLOAD_BYTES = 10_000_000  # what a server takes at once
LARGEST_SEED_BYTES = 40_000

Files = Iterable[tuple[str, bytes]]


class Table:
    """One line for each set of files, as they are done."""

    def __init__(self) -> None:
        self.breaches: list[Outcome] = []
        print(f"{'set':16} {'files':>7} {'pixels':>7}  rejected")

    def add(self, title: str, files: Files) -> None:
        """Decodes a set of files and prints what became of them."""
        found = self._outcomes(files)
        codes = Counter(each.code for each in found)
        taken = codes.pop("pixels", 0)
        rejected = ", ".join(f"{code} {number:,}" for code, number in codes.most_common())
        slowest, largest = max(found, key=lambda each: each.seconds), max(found, key=lambda each: each.peak_bytes)
        spoken = sum(bool(each.output) for each in found)
        print(f"{title:16} {len(found):7,} {taken:7,}  {rejected or '-'}")
        print(f"{'':16} slowest {slowest.seconds:.2f} s: {slowest.name}, {slowest.size:,} bytes, {slowest.code}")
        print(f"{'':16} peak {largest.peak_bytes / MIB:.0f} MiB: {largest.name}, {largest.pixels:,} pixels")
        if spoken:
            print(f"{'':16} libtiff wrote of {spoken:,} files to the standard error", flush=True)

    def add_each(self, files: Files) -> None:
        """Decodes each file in a process of its own, since one that has grown grows less, and prints a line for it."""
        for each in (outcome for file in files for outcome in self._outcomes([file])):
            size, peak = each.size / 1e6, each.peak_bytes / MIB
            print(f"{each.name:38} {size:6.1f} MB {each.seconds:6.2f} s {peak:6.0f} MiB  {each.code}", flush=True)

    def _outcomes(self, files: Files) -> list[Outcome]:
        with Watched() as watched:
            found = list(watched.outcomes(files))
        for each in found:
            if each.breach:
                print(f"  {each.breach.upper()} {each.name}: {each.told} {each.output}", flush=True)
                self.breaches.append(each)
        return found


def corpora(data: Path) -> Iterator[tuple[str, Files]]:
    """Yields each folder of files that break readers."""
    for folder in sorted(path for path in (data / "corpora").iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        yield folder.name, ((path.name, path.read_bytes()) for path in files)
    files = sorted((data / "dicom").glob("*.dcm"))
    yield "dicom", ((path.name, path.read_bytes()) for path in files)


def largest() -> Iterator[tuple[str, bytes]]:
    """Yields pictures of noise of as many pixels as are taken, or nearly: the dearest of each format."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8000, 8000), np.uint8))
    turned = noise.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    colour = Image.merge("RGB", (noise, turned, noise.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))
    clear = Image.merge("RGBA", (*colour.split(), turned))
    wide = Image.fromarray(np.asarray(noise).astype(np.uint16) * 257)
    yield "JPEG, grey", encoded(noise, "JPEG")
    yield "JPEG, colour", encoded(colour, "JPEG", quality=95)
    yield "JPEG, progressive", encoded(colour, "JPEG", quality=95, progressive=True)
    yield "JPEG, CMYK", encoded(Image.merge("CMYK", clear.split()), "JPEG", quality=95)
    yield "PNG, colour", encoded(colour, "PNG", compress_level=1)
    yield "PNG, transparent", encoded(clear, "PNG", compress_level=1)
    yield "PNG, 16 bits", encoded(wide, "PNG", compress_level=1)
    yield "GIF", encoded(noise.point(lambda level: level // 16), "GIF")
    yield "TIFF, LZW", encoded(colour, "TIFF", compression="tiff_lzw")
    yield "TIFF, transparent", encoded(clear, "TIFF", compression="tiff_adobe_deflate")
    yield "BMP", encoded(colour, "BMP")
    yield "WebP", encoded(colour, "WEBP", method=0, quality=18)
    masked = colour.copy()
    masked.putalpha(noise.point(lambda level: 255 * (level > 127)))
    yield "WebP, transparent", encoded(masked, "WEBP", method=0, quality=2)
    yield "WebP, lossless", encoded(colour, "WEBP", lossless=True, method=0, quality=0)
    yield "PPM, 12 bits", b"P6 8000 8000 4095\n" + np.asarray(wide).tobytes() * 3
    explicit, jpeg_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
    pixels = np.asarray(wide)
    yield "DICOM, 16 bits", dicom(pixels, pixels.tobytes(), explicit, BitsAllocated=16, BitsStored=16, HighBit=15)
    pixels = np.ascontiguousarray(np.asarray(noise)[:4270, :4270])
    stream = bytes(encode_array(pixels, photometric_interpretation=2))
    yield "DICOM, 20 MB of JPEG 2000", dicom(pixels, encapsulate([stream]), jpeg_2000)


def seeds_of(kind: str, data: Path) -> list[bytes]:
    """Returns what DATA adds to the seeds of a kind: small DICOM files of real machines."""
    files = sorted((data / "dicom").glob("*.dcm")) if kind == "DICOM" else []
    return [path.read_bytes() for path in files if path.stat().st_size <= LARGEST_SEED_BYTES]


def main() -> int:
    """Prints the tables; returns 1 where a promise is broken."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=["corpora", "mutations", "burdens", "largest"])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    asked = parser.parse_args()
    table = Table()
    if "corpora" in asked.parts:
        for title, files in corpora(asked.data):
            table.add(title, files)
    if "mutations" in asked.parts:
        kinds = asked.kinds.split(",")
        with ThreadPool(2) as pool:
            pool.map(
                lambda kind: table.add(kind, mutations(kind, range(asked.count), seeds_of(kind, asked.data))), kinds, 1
            )
    if "burdens" in asked.parts:
        table.add_each((name, made(UPLOAD_BYTES)) for name, made in (BURDENS | DICOM_BURDENS).items())
    if "largest" in asked.parts:
        table.add_each(largest())
    print(f"broken promises: {len(table.breaches)}")
    return 1 if table.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
