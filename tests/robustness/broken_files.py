"""Valid files of every format, and the thousands of broken ones that seeded changes make of them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PNM")
KINDS = (*PICTURES, "DICOM")

PNG = b"\x89PNG\r\n\x1a\n"

# Of pydicom's own test files: stored pixels in both byte orders, deflated, RLE, JPEG, JPEG-LS and JPEG 2000.
DICOM_SEEDS = (
    "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "SC_rgb_small_odd.dcm", "image_dfl.dcm", "MR_small_RLE.dcm",
    "SC_rgb_rle_16bit.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jls_lossy_sample.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_jp2klossless.dcm", "693_J2KI.dcm",
)  # fmt: skip

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Returns the image as a file of that kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def seeds(kind: str) -> tuple[bytes, ...]:
    """Returns small valid files of a kind, of several modes and compressions."""
    if kind == "DICOM":
        return _dicom_seeds()
    rng = np.random.default_rng(0)
    grey = Image.fromarray(
        (np.add.outer(np.arange(32), np.arange(40)) * 3 + rng.integers(0, 20, (32, 40))).astype("u1")
    )
    colour = Image.merge("RGB", (grey, grey.rotate(180), grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    saved: dict[str, list[tuple[Image.Image, dict[str, object]]]] = {
        "JPEG": [(grey, {}), (colour, {"progressive": True, "exif": exif}), (colour.convert("CMYK"), {})],
        "PNG": [(grey, {"exif": exif}), (wide, {}), (colour.convert("RGBA"), {}), (colour.convert("P"), {})],
        "GIF": [(grey, {}), (colour.quantize(16), {"transparency": 3, "interlace": 0})],
        "TIFF": [
            (grey, {}), (wide, {"compression": "tiff_lzw"}), (colour, {"compression": "jpeg", "exif": exif}),
            (colour.convert("RGBA"), {"compression": "tiff_adobe_deflate"}),
            (grey.convert("1"), {"compression": "group4"}),
        ],
        "BMP": [(grey, {}), (colour, {}), (grey.convert("1"), {})],
        "WEBP": [(colour, {"exif": exif}), (colour.convert("RGBA"), {"lossless": True})],
        "PNM": [(grey, {}), (colour, {}), (grey.convert("1"), {}), (wide, {})],
    }  # fmt: skip
    files = [encoded(image, {"PNM": "PPM"}.get(kind, kind), **options) for image, options in saved[kind]]
    if kind == "PNM":
        files.append(b"P2\n# a comment\n3 2 100\n0 50 100\n7 8 9\n")
    if kind == "BMP":
        files.append(run_length_bmp(16, 4, b"\x08\x05\x08\x09\0\0" * 4 + b"\0\1"))
    return tuple(files)


def _dicom_seeds() -> tuple[bytes, ...]:
    from pydicom.data import get_testdata_file

    found = [get_testdata_file(name, download=False) for name in DICOM_SEEDS]
    return (*(Path(str(path)).read_bytes() for path in found), palette_dicom(), lossless_dicom())


def run_length_bmp(width: int, height: int, body: bytes) -> bytes:
    """Returns an 8-bit BMP in run-length encoding."""
    start = 14 + 40 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + bytes(1024) + body


def palette_dicom() -> bytes:
    """Returns a DICOM file with a palette of 16 colours."""
    colours = {
        f"{name}PaletteColorLookupTable{part}": value
        for name in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [16, 0, 8]), ("Data", bytes(range(0, 256, 16))))
    }
    pixels = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16) % 16
    return dicom(pixels, pixels.tobytes(), "1.2.840.10008.1.2.1", PhotometricInterpretation="PALETTE COLOR", **colours)


def lossless_dicom() -> bytes:
    """Returns a DICOM file whose pixels are in lossless JPEG."""
    from pydicom.encaps import encapsulate

    pixels = np.add.outer(np.arange(12), np.arange(20)).astype(np.uint8) * 7
    return dicom(pixels, encapsulate([lossless_jpeg(pixels)]), "1.2.840.10008.1.2.4.70")


def dicom(pixels: np.ndarray, stored: bytes, syntax: str, **elements: object) -> bytes:
    """Returns a DICOM file with those pixels as stored, grey unless `elements` say else."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = UID(syntax)
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    for name, value in elements.items():
        setattr(file, name, value)
    file.PixelData = stored
    file["PixelData"].VR = "OB"
    stream = io.BytesIO()
    file.save_as(stream, enforce_file_format=False, implicit_vr=False, little_endian=True)
    return bytes(128) + b"DICM" + stream.getvalue().removeprefix(bytes(128) + b"DICM")


def lossless_jpeg(pixels: np.ndarray) -> bytes:
    """Returns a grey picture as lossless JPEG, each value told by the one before it (ISO 10918-1 annex H)."""
    bits = []
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            before = pixels[row, column - 1] if column else pixels[row - 1, 0] if row else 128
            difference = int(pixels[row, column]) - int(before)
            length = abs(difference).bit_length()
            bits.append(f"{length:04b}")
            if length:
                bits.append(f"{difference + (2**length - 1 if difference < 0 else 0):0{length}b}")
    packed = "".join(bits)
    packed += "1" * (-len(packed) % 8)
    content = int(packed, 2).to_bytes(len(packed) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">HBHHBBBB", 11, 8, *pixels.shape, 1, 1, 0x11, 0)
    codes = struct.pack(">HB16B9B", 28, 0, *(9 if length == 4 else 0 for length in range(1, 17)), *range(9))
    scan = struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8\xff\xc3" + frame + b"\xff\xc4" + codes + b"\xff\xda" + scan + content + b"\xff\xd9"


def mutations(kind: str, numbers: Sequence[int], files: Sequence[bytes] = ()) -> Iterator[tuple[str, bytes]]:
    """Yields broken files by their names: number n of a kind is the same on every machine.

    Args:
        kind: One of `KINDS`.
        numbers: Which of them.
        files: Further valid files to change.
    """
    valid = (*seeds(kind), *files)
    for number in numbers:
        name = f"{kind}-{number}"
        data, rng = valid[number % len(valid)], random.Random(name)
        pixels = data.rfind(b"\xe0\x7f\x10\0") + 12 if kind == "DICOM" else 0
        if pixels > 12 and rng.random() < 0.5:  # changes of the header seldom reach the decoders
            yield name, data[:pixels] + mutated(data[pixels:], rng, [other[-2000:] for other in valid])
        else:
            yield name, mutated(data, rng, valid)


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Returns the file with one to eight changes: of bits, bytes, whole numbers, pieces, or its end."""
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not broken:
            break
        # Half of the changes hit where headers are, which steer readers; pixels rarely do.
        at = int(len(broken) * rng.random() ** rng.choice((1, 1, 2, 3)))
        piece = rng.randrange(1, 65)
        change = rng.randrange(16)
        if change < 4:
            broken[at] ^= 1 << rng.randrange(8)
        elif change < 8:
            broken[at] = rng.choice((*_EXTREMES[:5], rng.randrange(256)))
        elif change < 11:
            length = rng.choice((2, 4))
            value = rng.choice(_EXTREMES) % 256**length
            broken[at : at + length] = value.to_bytes(length, rng.choice(("big", "little")))
        elif change == 11:
            del broken[at : at + piece]
        elif change == 12:
            broken[at:at] = broken[at : at + piece] * rng.choice((1, 1, 50))
        elif change == 13:
            broken[at:at] = rng.randbytes(piece)
        elif change == 14:
            other = rng.choice(others)
            broken[at:] = other[min(at, len(other)) :]
        else:
            del broken[at:]
    if broken.startswith(PNG) and rng.random() < 0.7:
        return with_right_sums(bytes(broken))  # else almost every change ends at a sum that does not match
    return bytes(broken)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Returns a chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_right_sums(data: bytes) -> bytes:
    """Returns a PNG file whose chunks have the check sums of what is in them."""
    right, place = [PNG], len(PNG)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if place + 12 + length > len(data):
            break
        right.append(chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return b"".join(right) + data[place:]
