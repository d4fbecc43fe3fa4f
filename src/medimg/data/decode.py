"""The one way from bytes to pixels: at training, in the web app and in every serving environment.

Needs NumPy and Pillow only. What the bytes are is decided by their signature, never by a file's name.

Policy, the same everywhere:

- Grey pictures are (height, width), also when they are stored as RGB, RGBA or a palette with equal channels.
- 16 bits become 8 over the full range: round(value / 257). A picture that uses 12 bits of 16 comes out dark; window it
  before. Pillow itself keeps the high byte only of 16-bit RGB, RGBA and grey with alpha: one count at most from ours.
- Transparent pixels become black: the picture is laid over a black ground.
- The EXIF orientation is applied; an unreadable one leaves the pixels as they are stored. Colour profiles are ignored.
- Several frames or pages are rejected, for nobody can tell which one the label means. Two exceptions: of an MPO (a
  photo with a preview or a depth map behind it) the first picture is taken, and of a Pillow image the current frame.
- Any size from 1 × 1 to `MAX_PIXELS`: whether a picture is too small to be of use is for the audit to say.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from medimg.errors import ConfigError, ImageRejected

__all__ = [
    "GREY_TOLERANCE",
    "MAX_BYTES",
    "MAX_PIXELS",
    "REJECTIONS",
    "ImageLike",
    "Pixels",
    "Stored",
    "as_mode",
    "decode",
    "inspect",
    "read",
    "resize",
    "to_pixels",
]

Pixels = npt.NDArray[np.uint8]
ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[Any]

MAX_PIXELS = 64_000_000
MAX_BYTES = 512 * 1024 * 1024

# Radiographs stored as colour, ours and the public sets', have exactly equal channels. Two counts is what one count of
# JPEG's chroma can add to a grey picture; the mutest of the colour photographs we looked at spread by five.
GREY_TOLERANCE = 2

REJECTIONS: dict[str, str] = {
    "empty": "There are no bytes. Copy or download the file again.",
    "missing": "There is no file of that name. Check the path, and the folder that the table's paths start from.",
    "unreadable": "It is a folder or a device, or may not be read. Check what it is and its permissions.",
    "not-an-image": "The bytes are not of a picture, whatever the name says. Often a web page saved as a download.",
    "unsupported": "A picture of a kind that has no plain 8-bit meaning here. Save it as 8- or 16-bit PNG, or as JPEG.",
    "truncated": "The file ends before its pixels do. Copy or download it again.",
    "corrupt": "The file contradicts itself. Copy or download it again, or save it anew from the original.",
    "too-large": f"More than {MAX_PIXELS:,} pixels or {MAX_BYTES:,} bytes. Make it smaller, or cut it into tiles.",
    "multi-frame": "Several frames or pages. Save the one that the label means as a file of its own.",
    "not-pixels": "An array that is not uint8 of shape (height, width) or (height, width, 3).",
}

# Opened by class and not by Image.open, whose choice of plug-ins and limits belongs to the host program.
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
    (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"P[1-6f]\s"), PpmImagePlugin.PpmImageFile),
)
_STRANGERS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb".{128}DICM", re.DOTALL), "unsupported", "is a DICOM file, not a picture file"),
    (re.compile(rb"....ftyp(avif|avis|hei|mif1|msf1)", re.DOTALL), "unsupported", "is an AVIF or HEIF picture"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "unsupported", "is a JPEG 2000 picture"),
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

_lock = threading.Lock()
_inside = 0
_host_takes_truncated = False
_silence = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True, slots=True)
class Stored:
    """How a file holds its pixels, before `decode` makes them one kind.

    Attributes:
        mode: Pillow's name: "L" is grey, "RGB" colour, "P" a palette, "I;16" wide grey.
        bits: Of one channel: 1, 8, 12 or 16.
        orientation: EXIF's 1 to 8, which `decode` applies; 1 where nothing is said, 0 where what is said means nothing.
    """

    mode: str
    bits: int
    orientation: int


def decode(data: bytes, *, name: str) -> Pixels:
    """Returns the pixels of an encoded image: JPEG, PNG, GIF, TIFF, BMP, WebP or PNM.

    The number of pixels is read from the header before any is decoded; peak memory is at most 14 bytes a pixel, 0.9 GB
    at `MAX_PIXELS`. Safe to call from several threads.

    Args:
        data: The whole file.
        name: What to call the image in an error.

    Returns:
        uint8 of shape (height, width) where the picture is grey, else (height, width, 3) in the order red, green, blue.

    Raises:
        ImageRejected: With a code of `REJECTIONS`. Nothing else is raised, and no warning is given.
    """
    return inspect(data, name=name)[0]


def inspect(data: bytes, *, name: str) -> tuple[Pixels, Stored]:
    """Returns what `decode` does, and how the file holds it; raises as `decode` does."""
    if not data:
        raise ImageRejected("empty", name, "has no bytes. Copy or download it again")
    stream = io.BytesIO(data)
    opened = False
    try:
        with _strict_pillow():
            image = _reader(data, name)(stream)
            opened = True
            if getattr(image, "is_animated", False):
                raise ImageRejected(
                    "multi-frame",
                    name,
                    "has several frames or pages. Save the one that the label means by itself",
                )
            mode, bits = image.mode, _bits(image, data)
            pixels = _pixels(image, name)
            # Not before the pixels: Pillow loads a PNG to find its EXIF, and would hide that it is corrupt.
            return pixels, Stored(mode, bits, _orientation(image))
    except ImageRejected:
        raise
    except Exception as error:
        # A reader of headers that fails at the very end wanted more; WebP's reader takes all at once.
        cut = not opened and stream.tell() >= len(data)
        if data[:4] == b"RIFF":
            cut = int.from_bytes(data[4:8], "little") + 8 > len(data)
        raise _rejection(error, name, cut) from error


def read(path: str | os.PathLike[str], *, name: str | None = None) -> bytes:
    """Returns the bytes of an image file.

    Args:
        path: The file.
        name: What to call the image in an error; None: the path.

    Raises:
        ImageRejected: "missing", "unreadable", "empty" or, beyond `MAX_BYTES`, "too-large".
    """
    name = os.fspath(path) if name is None else name
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise ImageRejected("unreadable", name, "is not a file")
        if found.st_size > MAX_BYTES:
            raise ImageRejected("too-large", name, f"has {found.st_size:,} bytes, more than {MAX_BYTES:,}")
        data = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageRejected("missing", name, "no such file. Check the path and the folder it starts from") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageRejected("unreadable", name, f"cannot be read ({getattr(error, 'strerror', error)})") from error
    if not data:
        raise ImageRejected("empty", name, "has no bytes. Copy or download it again")
    return data


def to_pixels(image: ImageLike, *, name: str | None = None) -> Pixels:
    """Returns the pixels of whatever a user calls an image, as `decode` gives them.

    Args:
        image: A path, bytes, a Pillow image, or a uint8 array of shape (height, width), (height, width, 1) or
            (height, width, 3).
        name: What to call the image in an error; None: its path, or "image".

    Raises:
        ConfigError: It is none of these.
        ImageRejected: It is one, and has no pixels that can be used.
    """
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image) if name is None else name
        return decode(read(image, name=name), name=name)
    name = "image" if name is None else name
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image), name=name)
    if isinstance(image, Image.Image):
        try:
            with _strict_pillow():
                return _pixels(image, name)
        except ImageRejected:
            raise
        except Exception as error:
            raise _rejection(error, name, cut=False) from error
    if isinstance(image, np.ndarray):
        return _checked(image, name)
    raise ConfigError(
        f"{name}: {type(image).__name__} is not an image. Pass a path, bytes, a Pillow image, or a uint8 array "
        "of shape (height, width) or (height, width, 3)"
    )


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Returns the image at another size, antialiased where it shrinks; at its own size, the same array.

    Args:
        pixels: uint8, (height, width) or (height, width, 3).
        size: Height and width to reach; the aspect ratio is not kept.
    """
    if pixels.shape[:2] == tuple(size):
        return pixels
    height, width = size
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def as_mode(pixels: Pixels, channels: Literal[1, 3]) -> Pixels:
    """Returns the image with 1 or 3 channels: uint8, (height, width, channels).

    Grey is repeated; colour becomes grey by the luma of ITU-R BT.601, 0.299 red + 0.587 green + 0.114 blue, as
    Pillow's `convert("L")` has it.
    """
    if channels not in (1, 3):
        raise ConfigError(f"channels={channels!r}: an image has 1 (grey) or 3 (red, green, blue)")
    if pixels.ndim == 3 and pixels.shape[2] == channels:
        return pixels
    grey = pixels.reshape(pixels.shape[:2]) if pixels.size == pixels.shape[0] * pixels.shape[1] else _luma(pixels)
    return grey[..., np.newaxis] if channels == 1 else np.repeat(grey[..., np.newaxis], 3, axis=2)


def _reader(data: bytes, name: str) -> type[ImageFile.ImageFile]:
    for signature, reader in _READERS:
        if signature.match(data):
            return reader
    for signature, code, what in _STRANGERS:
        if signature.match(data):
            raise ImageRejected(code, name, f"{what}. Save it as PNG or JPEG")
    raise ImageRejected("not-an-image", name, "is no JPEG, PNG, GIF, TIFF, BMP, WebP or PNM file, whatever its name")


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Keeps Pillow's warnings in and truncated files out while any thread is inside.

    `warnings.catch_warnings` swaps the whole list of filters and is not safe over threads; this adds one entry that
    concerns Pillow's own modules and takes it away when the last thread leaves. A host that has set
    `LOAD_TRUNCATED_IMAGES` would otherwise get half a radiograph on grey, and a confident prediction of it.
    """
    global _inside, _host_takes_truncated
    filters = cast("list[Any]", warnings.filters)
    with _lock:
        if _inside == 0:
            _host_takes_truncated = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        if _silence not in filters:
            filters.insert(0, _silence)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            filters = cast("list[Any]", warnings.filters)
            if _inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _host_takes_truncated
                if _silence in filters:
                    filters.remove(_silence)


def _rejection(error: Exception, name: str, cut: bool) -> ImageRejected:
    """Returns the rejection that says in our words what Pillow said in one of its many ways."""
    words = str(error)
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return ImageRejected("too-large", name, f"is too large to decode ({words or 'out of memory'})")
    if cut or re.search(r"truncated|not enough|EOF", words, re.IGNORECASE) or isinstance(error, EOFError):
        return ImageRejected("truncated", name, "ends before its pixels do. Copy or download it again")
    if isinstance(error, NotImplementedError) or re.search(
        r"unsupported|not (yet )?supported|unknown (pixel mode|compression|raw mode)|cannot handle|not available",
        words,
        re.IGNORECASE,
    ):
        return ImageRejected("unsupported", name, f"is of a kind that cannot be read ({words}). Save it as 8-bit PNG")
    return ImageRejected(
        "corrupt", name, f"cannot be decoded ({type(error).__name__}: {words}). Copy or download it again"
    )


def _pixels(image: Image.Image, name: str) -> Pixels:
    if image.width * image.height > MAX_PIXELS:
        raise ImageRejected(
            "too-large", name, f"has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}. Make it smaller"
        )
    image.load()
    white_is_zero, bits = False, 16
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode.startswith("I"):
        # Pillow inverts WhiteIsZero for 8 bits only, and leaves 12 bits in the low end of 16.
        white_is_zero = image.tag_v2.get(_PHOTOMETRIC) == 0
        bits = 12 if image.tag_v2.get(_BITS) == (12,) else 16
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):
        return _from_wide(image, name, white=2**bits - 1, white_is_zero=white_is_zero)
    if image.mode == "F":
        raise ImageRejected("unsupported", name, "has floating-point pixels and does not say which value is white")
    if image.has_transparency_data and image.mode in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"):
        image = _over_black(image)
    if image.mode == "1":
        image = image.convert("L")
    return np.array(image) if image.mode == "L" else _grey_if_equal(np.array(image.convert("RGB")))


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
    layered = image.convert("LA" if grey else "RGBA")
    opaque = layered.convert("L" if grey else "RGB")
    if layered.getchannel("A").getextrema() == (255, 255):
        return opaque
    ground = Image.new(opaque.mode, opaque.size)
    ground.paste(opaque, mask=layered.getchannel("A"))
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
    for band in _bands(values):
        part = values[band].astype(np.uint32)
        if white_is_zero:
            part = white - part
        if isinstance(key, int):
            part[values[band] == key] = 0
        pixels[band] = (part * 255 + white // 2) // white
    return pixels


def _bands(pixels: npt.NDArray[Any]) -> Iterator[slice]:
    """Yields bands of rows of about a million pixels, so that temporaries stay small beside the picture."""
    rows = max(1, 2**20 // pixels.shape[1])
    yield from (slice(top, top + rows) for top in range(0, pixels.shape[0], rows))


def _grey_if_equal(pixels: Pixels) -> Pixels:
    for band in _bands(pixels):
        red, green, blue = (pixels[band, :, channel] for channel in range(3))
        lowest = np.minimum(np.minimum(red, green), blue)
        if int((np.maximum(np.maximum(red, green), blue) - lowest).max()) > GREY_TOLERANCE:
            return pixels
    return _luma(pixels)


def _luma(pixels: Pixels) -> Pixels:
    return np.array(Image.fromarray(pixels).convert("L"))


def _checked(array: npt.NDArray[Any], name: str) -> Pixels:
    if array.dtype != np.uint8:
        hint = ": (255 * x).round().astype('uint8') if white is 1" if array.dtype.kind == "f" else ""
        raise ImageRejected("not-pixels", name, f"is an array of {array.dtype}. Pass uint8, 0 to 255{hint}")
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise ImageRejected(
            "not-pixels", name, f"is an array of shape {array.shape}. Pass (height, width) or (height, width, 3)"
        )
    return _grey_if_equal(array) if array.shape[2:] == (3,) else array.reshape(array.shape[:2])
