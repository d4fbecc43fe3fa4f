"""Files that Pillow reads: JPEG, PNG, GIF, TIFF, BMP and WebP; and Pillow's images themselves."""

from __future__ import annotations

import re

import numpy as np
from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from medimg.data.formats.effort import Bmp, Metered, Tiff, WebP, check_jpeg, check_webp
from medimg.data.formats.rejection import check_size, rejection
from medimg.data.formats.strictness import strict_decoders
from medimg.data.pixels import Box, Picture, Pixels, Size, Stored, bands, without_colour
from medimg.errors import ImageRejected

__all__ = ["USUAL", "is_jpeg", "picture", "pixels_of", "reduction"]

# Opened by class and not by Image.open, whose choice of plug-ins and limits belongs to the host program.
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), Tiff),
    (re.compile(rb"BM"), Bmp),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebP),
)
_STRANGERS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"....ftyp(avif|avis|hei|mif1|msf1)", re.DOTALL), "unsupported", "is an AVIF or HEIF picture"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "unsupported", "is a JPEG 2000 picture"),
    (re.compile(rb"P[fF]\s"), "unsupported", "has floating-point pixels and does not say which value is white"),
    (re.compile(rb"(\xef\xbb\xbf)?\s*<"), "not-an-image", "is a web page, SVG or XML, not a picture"),
    (re.compile(rb"%PDF"), "not-an-image", "is a PDF document, not a picture"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b"), "not-an-image", "is an archive, not a picture"),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106  # of EXIF and TIFF

# A JPEG is decoded at least so many times as large as it is wanted; the antialiased resize does the rest.
SPARE = 2
# The side that most networks take. Whatever is smaller is made of the same pixels, which are therefore all that has to
# be known of a file to know a pack of it.
USUAL = 224


def is_jpeg(data: bytes) -> bool:
    """Tells whether the first bytes of a file are a JPEG's."""
    return _READERS[0][0].match(data) is not None


def reduction(height: int, width: int, size: int) -> int:
    """Returns 8, 4, 2 or 1: a JPEG is decoded at one such part of its height and width for a square of `size`."""
    most = min(height, width) // (SPARE * max(size, USUAL))
    return next((part for part in (8, 4, 2) if part <= most), 1)


def picture(data: bytes, *, name: str, size: Size | None = None) -> Picture:
    """Returns what a file shows.

    Args:
        data: The whole file.
        name: What to call the image in an error.
        size: Height and width that it is wanted at: a JPEG is decoded no larger than that asks. None: whole.

    Raises:
        ImageRejected: With a code of `medimg.data.decode.REJECTIONS`.
    """
    stream = Metered(data)
    opened = False
    try:
        with strict_decoders():
            reader = _reader(data, name)
            if reader is JpegImagePlugin.JpegImageFile:
                check_jpeg(data)
            elif reader is WebP:
                check_webp(data)
            image = reader(stream)
            opened = True
            if getattr(image, "is_animated", False):
                raise ImageRejected(
                    "multi-frame",
                    name,
                    "has several frames or pages. Save the one that the label means by itself",
                )
            mode, bits = image.mode, _bits(image, data)
            return _picture(image, name, mode, bits, size)
    except ImageRejected:
        raise
    except Exception as error:
        # A reader of headers that fails at the very end wanted more; WebP's reader takes all at once.
        cut = not opened and stream.tell() >= len(data)
        if data[:4] == b"RIFF":
            cut = int.from_bytes(data[4:8], "little") + 8 > len(data)
        raise rejection(error, name, cut=cut) from error


def pixels_of(image: Image.Image, *, name: str) -> Pixels:
    """Returns the pixels of a Pillow image: of its current frame.

    Raises:
        ImageRejected: It has none that can be used.
    """
    try:
        with strict_decoders():
            return _picture(image, name, image.mode, 8).pixels.copy()
    except ImageRejected:
        raise
    except Exception as error:
        raise rejection(error, name) from error


def _reader(data: bytes, name: str) -> type[ImageFile.ImageFile]:
    for signature, reader in _READERS:
        if signature.match(data):
            return reader
    for signature, code, what in _STRANGERS:
        if signature.match(data):
            raise ImageRejected(code, name, f"{what}. Save it as PNG or JPEG")
    raise ImageRejected("not-an-image", name, "is no JPEG, PNG, GIF, TIFF, BMP, WebP or PNM file, whatever its name")


def _picture(image: Image.Image, name: str, mode: str, bits: int, size: Size | None = None) -> Picture:
    check_size(image.width, image.height, name)
    width, height = image.size
    box = None if size is None else _scaled(image, size)
    image.load()
    # Not before the pixels: Pillow loads a PNG to find its EXIF, and would hide that it is corrupt.
    orientation = _orientation(image)
    whole = (height, width) if orientation < 5 else (width, height)
    stored = Stored(mode, bits, orientation)
    white_is_zero, depth = False, 16
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode.startswith("I"):
        # Pillow inverts WhiteIsZero for 8 bits only, and leaves 12 bits in the low end of 16.
        white_is_zero = image.tag_v2.get(_PHOTOMETRIC) == 0
        depth = 12 if image.tag_v2.get(_BITS) == (12,) else 16
    turn = _TURNS.get(orientation)
    if turn is not None:
        box = None if box is None else _turned(box, image.width, image.height, orientation)
        image = image.transpose(turn)
    if image.mode.startswith("I"):
        wide = _from_wide(image, name, white=2**depth - 1, white_is_zero=white_is_zero)
        return Picture(wide, whole, stored)
    if image.mode == "F":
        raise ImageRejected("unsupported", name, "has floating-point pixels and does not say which value is white")
    if image.has_transparency_data and image.mode in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"):
        image = _over_black(image)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if image.mode == "RGB":
        image = without_colour(image)
    return Picture(image, whole, stored, box)


def _scaled(image: Image.Image, size: Size) -> Box | None:
    """Lets a JPEG be decoded at 1/2, 1/4 or 1/8: the smallest that is `SPARE` times the size wanted, and of `USUAL`.

    libjpeg then leaves out the finest waves of each block of 8 × 8 pixels (ISO 10918-1 A.3.3), and reads no less of
    the file.

    Returns:
        The part of what will be decoded that the picture covers: the last row and column may be a fraction of one.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return None
    height, width = size if _orientation(image) < 5 else size[::-1]
    drafted = image.draft(None, (SPARE * max(width, USUAL), SPARE * max(height, USUAL)))
    return None if drafted is None else drafted[1]


def _turned(box: Box, width: int, height: int, orientation: int) -> Box:
    """Returns where a part of a picture is once the picture is turned upright."""
    left, top, right, bottom = box
    if orientation >= 5:
        left, top, right, bottom, width, height = top, left, bottom, right, height, width
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata is no reason to lose an image, and Pillow fails on it in many ways
        return 1
    # Cameras that do not know write 0, which EXIF does not define.
    return (value if 0 < value <= 8 else 0 if value else 1) if isinstance(value, int) else 0


def _bits(image: Image.Image, data: bytes) -> int:
    if isinstance(image, PngImagePlugin.PngImageFile):
        return data[24]  # of the first chunk: Pillow narrows 16-bit colour as it opens it
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_BITS, (1,))))
    return 1 if image.mode == "1" else 16 if image.mode.startswith("I") else 8


def _over_black(image: Image.Image) -> Image.Image:
    grey = image.mode in ("1", "L", "LA", "La")
    kind = "LA" if grey else "RGBA"
    layered = image if image.mode == kind else image.convert(kind)  # of a large picture every copy counts
    opaque = layered.convert("L" if grey else "RGB")
    if layered.getchannel("A").getextrema() == (255, 255):
        return opaque
    ground = Image.new(opaque.mode, opaque.size)
    ground.paste(opaque, mask=layered)
    return ground


def _from_wide(image: Image.Image, name: str, white: int, white_is_zero: bool) -> Pixels:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > white:
        raise ImageRejected(
            "unsupported", name, f"has values from {low} to {high} and does not say which is white. Scale it to 16 bits"
        )
    key = image.info.get("transparency")
    pixels = np.empty(values.shape, np.uint8)
    for band in bands(values):
        part = values[band].astype(np.uint32)
        if white_is_zero:
            part = white - part
        if isinstance(key, int):
            part[values[band] == key] = 0
        pixels[band] = (part * 255 + white // 2) // white
    return pixels
