"""Files that are valid, or nearly, and built to take minutes or gigabytes: each a kind of attack on a decoder."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from broken_files import PNG, chunk, dicom, encoded, run_length_bmp
from PIL import Image

TINY = Image.new("L", (8, 8), 128)


def _segments(body: bytes, size: int) -> bytes:
    """Returns a JPEG with that segment over and over."""
    picture = encoded(TINY, "JPEG")
    return picture[:2] + body * (size // len(body)) + picture[2:]


def _exif_segment(body: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def _scans(size: int) -> bytes:
    """Returns a progressive JPEG of 16 million pixels with its last scan over and over."""
    picture = encoded(Image.new("L", (4000, 4000), 128), "JPEG", progressive=True)
    at = picture.rfind(b"\xff\xda")
    scan = picture[at:-2]
    return picture[:at] + scan * (size // len(scan)) + b"\xff\xd9"


def _chunks(kind: bytes, body: bytes, size: int) -> bytes:
    picture, one = encoded(TINY, "PNG"), chunk(kind, body)
    return picture[:33] + one * (size // len(one)) + picture[33:]


def _gif_blocks(body: bytes, end: bytes, size: int) -> bytes:
    picture = encoded(TINY, "GIF")
    at = 13 + 3 * (2 << (picture[10] & 7))
    return picture[:at] + b"\x21\xfe" + body * (size // len(body)) + end + picture[at:]


def tiff(width: int, height: int, tags: dict[int, tuple[int, int, int]], body: bytes, compression: int = 1) -> bytes:
    """Returns a TIFF of 8-bit grey in strips of one row; `tags` are number → type, count, value."""
    written = {
        tag: (4, 1, value) for tag, value in ((256, width), (257, height), (258, 8), (262, 1), (277, 1), (278, 1))
    }
    written |= {259: (4, 1, compression), 279: (4, 1, 1)} | tags
    directory = b"".join(struct.pack("<HHII", tag, *value) for tag, value in sorted(written.items()))
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    return head + body + struct.pack("<H", len(written)) + directory + bytes(4)


def _strips(height: int, size: int, compression: int) -> bytes:
    count = size // 4
    return tiff(1, height or count, {273: (4, count, 8), 279: (4, count, 8)}, struct.pack("<I", 8) * count, compression)


def _tags(size: int) -> bytes:
    """Returns a TIFF of 2,000 tags that each hold the whole file."""
    return tiff(1, 1, {273: (4, 1, 8)} | dict.fromkeys(range(1000, 3000), (1, size, 8)), bytes(size))


def _exif(size: int) -> bytes:
    """Returns EXIF of 5,000 tags that each hold all of it."""
    directory = b"".join(struct.pack(">HHII", tag, 7, size, 8) for tag in range(5000))
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", 5000) + directory + bytes(size)


def _exif_jpeg(size: int) -> bytes:
    exif, picture = _exif(size), encoded(TINY, "JPEG")
    pieces = (exif[at : at + 65_000] for at in range(0, len(exif), 65_000))
    return picture[:2] + b"".join(_exif_segment(b"Exif\0\0" + piece) for piece in pieces) + picture[2:]


def _exif_png(size: int) -> bytes:
    picture = encoded(TINY, "PNG")
    return picture[:33] + chunk(b"eXIf", _exif(size)) + picture[33:]


def _text_bomb(kind: bytes, count: int) -> Callable[[int], bytes]:
    def made(size: int) -> bytes:
        body = b"a\0\0" + zlib.compress(bytes(20 * size // count), 9)
        return encoded(TINY, "PNG")[:33] + chunk(kind, body) * count + encoded(TINY, "PNG")[33:]

    return made


def _pixel_bomb(size: int) -> bytes:
    """Returns a small PNG of 8 × 8 pixels whose data unpack to 20 times `size`."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(20 * size))) + chunk(b"IEND", b"")


def _webp(size: int) -> bytes:
    return encoded(Image.new("RGB", (8, 8)), "WEBP", exif=b"Exif\0\0" + _exif(size))


def _pnm(head: bytes, body: bytes) -> Callable[[int], bytes]:
    return lambda size: head + body * (size // len(body))


def _deflated_dicom(size: int) -> bytes:
    """Returns a DICOM file that unpacks to a hundred times its size."""
    from pydicom.data import get_testdata_file

    data = Path(str(get_testdata_file("image_dfl.dcm", download=False))).read_bytes()
    body = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return data[:body] + packer.compress(bytes(100 * size)) + packer.flush()


def _run_length_dicom(size: int) -> bytes:
    """Returns a DICOM picture in RLE whose packets hold one byte each."""
    from pydicom.encaps import encapsulate

    side = int((size // 2) ** 0.5)
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\0\7" * (side * side)
    return dicom(np.zeros((side, side), np.uint8), encapsulate([frame]), "1.2.840.10008.1.2.5")


def _scans_dicom(size: int) -> bytes:
    from pydicom.encaps import encapsulate

    blank = np.zeros((4000, 4000), np.uint8)
    return dicom(blank, encapsulate([_scans(size)]), "1.2.840.10008.1.2.4.50")


# Name → what makes it, given about how many bytes it may have.
BURDENS: dict[str, Callable[[int], bytes]] = {
    "JPEG of many scans": _scans,
    "JPEG of empty segments": lambda size: _segments(b"\xff\xe5\0\2", size),
    "JPEG of EXIF segments": lambda size: _segments(_exif_segment(b"Exif\0\0a"), size),
    "JPEG with junk between segments": lambda size: _segments(b"\xff\xe5\0\2" + b"a" * 9996, size),
    "JPEG of EXIF tags that hold all of it": _exif_jpeg,
    "PNG of empty chunks": lambda size: _chunks(b"teSt", b"", size),
    "PNG of texts": lambda size: _chunks(b"tEXt", b"a\0b", size),
    "PNG with texts that unpack": _text_bomb(b"zTXt", 40),
    "PNG with a profile that unpacks": _text_bomb(b"iCCP", 1),
    "PNG whose pixels unpack": _pixel_bomb,
    "PNG of EXIF tags that hold all of it": _exif_png,
    "WebP of EXIF tags that hold all of it": _webp,
    "GIF of one long comment": lambda size: _gif_blocks(b"\1a", b"\0", size),
    "GIF of short comments": lambda size: _gif_blocks(b"\1a\0\x21\xfe", b"\0", size),
    "BMP of runs of one": lambda size: run_length_bmp(4000, size // 8000, b"\1\5" * (size // 2)),
    "BMP of moves": lambda size: run_length_bmp(8000, 8000, b"\0\2\1\0" * (size // 4)),
    "BMP of ends of rows": lambda size: run_length_bmp(1, 64_000_000, b"\0\0" * (size // 2)),
    "BMP of one row": lambda size: run_length_bmp(2 * size, 1, b"\1\5\0\0\0\1"),
    "BMP of one longer row": lambda _: run_length_bmp(64_000_000, 1, b"\1\5\0\0\0\1"),
    "TIFF of raw strips": lambda size: _strips(0, size, 1),
    "TIFF of more strips than rows": lambda size: _strips(1, size, 1),
    "TIFF of packed strips": lambda size: _strips(0, size, 32773),
    "TIFF of tags that hold all of it": _tags,
    "PPM as text": lambda size: _pnm(b"P3 1000 %d 255\n" % (size // 6000), b"1 ")(size),
    "PPM of 7 bits": lambda size: _pnm(b"P6 1000 %d 127\n" % (size // 3000), b"\1")(size),
    "PPM with a long comment": lambda size: b"P6\n#" + b"a" * size + b"\n8 8 255\n" + bytes(192),
    "PPM of spaces": lambda size: b"P6" + b" " * size + b"8 8 255\n" + bytes(192),
}
DICOM_BURDENS: dict[str, Callable[[int], bytes]] = {
    "DICOM that unpacks": _deflated_dicom,
    "DICOM of packets of one byte": _run_length_dicom,
    "DICOM of a JPEG of many scans": _scans_dicom,
}
