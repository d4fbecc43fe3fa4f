"""What keeps a small file from taking minutes: bounds on the pieces that a picture file is built of.

Pillow goes through segments, chunks, comments and strips one by one, and libjpeg goes over the whole picture once for
every scan: ten megabytes of nothing but pieces are minutes of work. The bounds are counts, not seconds, so that a file
is taken or rejected alike on every machine.
"""

from __future__ import annotations

import io
import re
from typing import Any

from PIL import BmpImagePlugin, Image, TiffImagePlugin, WebPImagePlugin

__all__ = ["Bmp", "Metered", "Tiff", "TooComplex", "WebP", "check_jpeg", "check_webp"]

# A PNG of 512 MB takes some 260,000 reads, and so does a GIF of 64 MB.
MOST_READS = 500_000
MOST_SEGMENTS = 10_000
# Pillow joins them, copying what it has each time.
MOST_EXIF_SEGMENTS = 64
# Programs write about ten scans; so many are allowed to the largest picture, and to smaller ones in proportion.
MOST_SCANNED_PIXELS = 16 * 64_000_000
MOST_RUN_LENGTH_PIXELS = 20_000_000
MOST_LOSSY_WEBP_BYTES = 24_000_000  # some three seconds of libwebp; a photograph of 64 million pixels takes half of it
MOST_OFFSET_BYTES = 800_000  # of a TIFF's list of strips or tiles: 200,000 of them in the usual four bytes each

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # what is none of it is data, or a restart within
_NO_BODY = (0x01, 0xD8)
_EXIF, _SCAN, _END = 0xE1, 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_LOSSY_WEBP = (b"VP8 ", b"ALPH", b"ANMF")


class TooComplex(Exception):  # noqa: N818 - becomes an ImageRejected where the image's name is known
    """A file is built of more pieces than any program writes."""


class Metered(io.BytesIO):
    """A file in memory that stops whoever reads it in too many pieces."""

    _left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Returns the next bytes, as any file does.

        Raises:
            TooComplex: It has been read `MOST_READS` times.
        """
        self._left -= 1
        if self._left < 0:
            raise TooComplex(f"more than {MOST_READS:,} pieces")
        return super().read(size)


class Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's reader of TIFF, which makes a list of all strips before it looks at any."""

    def _setup(self) -> None:
        for tag in (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.TILEOFFSETS):
            if len(self.tag_v2._tagdata.get(tag, b"")) > MOST_OFFSET_BYTES:
                raise TooComplex("hundreds of thousands of strips or tiles")
        super()._setup()


class Bmp(BmpImagePlugin.BmpImageFile):
    """Pillow's reader of BMP, which unpacks run lengths in Python: twenty million pixels in two seconds."""

    def load_prepare(self) -> None:
        """Checks that the picture is small enough for that.

        Raises:
            TooComplex: It is not.
        """
        packed = any(tile.codec_name == "bmp_rle" for tile in self.tile)
        if packed and self.width * self.height > MOST_RUN_LENGTH_PIXELS:
            raise TooComplex(f"run lengths of more than {MOST_RUN_LENGTH_PIXELS:,} pixels")
        super().load_prepare()


class WebP(WebPImagePlugin.WebPImageFile):
    """Pillow's reader of WebP, which keeps two canvases of four bytes a pixel for frames that never come."""

    def load(self) -> Any:
        """Decodes the picture, and lets go of what is only of use for further frames."""
        loaded = super().load()
        self._decoder = None
        return loaded


def check_jpeg(data: bytes) -> None:
    """Checks that a JPEG is built of a sensible number of segments and scans (ISO 10918-1 annex B).

    Raises:
        TooComplex: It is not.
    """
    place, segments, exif, scans, pixels, components, progressive = 2, 0, 0, 0, 0, 0, False
    while found := _MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == _END:
            return
        if marker in _NO_BODY:
            continue
        segments += 1
        exif += marker == _EXIF and data.startswith(b"Exif\0\0", place + 2)
        if segments > MOST_SEGMENTS or exif > MOST_EXIF_SEGMENTS:
            raise TooComplex(f"more than {MOST_SEGMENTS:,} segments, or {MOST_EXIF_SEGMENTS} of EXIF")
        if marker in _FRAMES and place + 8 <= len(data):
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (3, 5))
            pixels, components = max(pixels, height * width), data[place + 7]
            progressive = marker in _PROGRESSIVE
        elif marker == _SCAN and place + 2 < len(data):
            if not progressive and data[place + 2] >= components:
                return  # one scan has it all: what follows is not looked at
            scans += 1
            if scans * pixels > MOST_SCANNED_PIXELS:
                raise TooComplex(f"{scans} scans of {pixels:,} pixels")
        place += max(2, int.from_bytes(data[place : place + 2], "big"))


def check_webp(data: bytes) -> None:
    """Checks that a WebP has a sensible number of chunks, and of lossy pixels and their transparency (RFC 9649).

    Raises:
        TooComplex: It has more chunks.
        DecompressionBombError: It has more pixels.
    """
    place, chunks, lossy = 12, 0, 0
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        chunks += 1
        if data[place : place + 4] in _LOSSY_WEBP:
            lossy += min(length, len(data) - place - 8)
        if chunks > MOST_SEGMENTS:
            raise TooComplex(f"more than {MOST_SEGMENTS:,} chunks")
        place += 8 + length + length % 2
    if lossy > MOST_LOSSY_WEBP_BYTES:
        raise Image.DecompressionBombError(f"more than {MOST_LOSSY_WEBP_BYTES:,} bytes of lossy WebP")
