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
- DICOM goes through its own transformations, in `medimg.data.formats.dicom`, and needs the extra of that name.
- Any size from 1 × 1 to `MAX_PIXELS`: whether a picture is too small to be of use is for the audit to say.
"""

from __future__ import annotations

import os
import stat
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medimg.data.formats import dicom, pillow, portable
from medimg.data.formats.dicom import is_dicom
from medimg.data.formats.rejection import rejection
from medimg.data.pixels import MAX_BYTES, MAX_PIXELS, Picture, Pixels, Size, Stored, grey_if_equal, resize
from medimg.errors import ConfigError, ImageRejected

__all__ = ["REJECTIONS", "ImageLike", "decode", "inspect", "is_dicom", "look", "read", "to_pixels"]

ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[Any]

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # opening a pipe waits for no writer

REJECTIONS: dict[str, str] = {
    "empty": "There are no bytes. Copy or download the file again.",
    "missing": "There is no file of that name. Check the path, and the folder that the table's paths start from.",
    "unreadable": "It is a folder or a device, or may not be read. Check what it is and its permissions.",
    "not-an-image": "The bytes are not of a picture, whatever the name says. Often a web page saved as a download.",
    "unsupported": "A picture of a kind that has no plain 8-bit meaning here. Save it as 8- or 16-bit PNG, or as JPEG.",
    "truncated": "The file ends before its pixels do. Copy or download it again.",
    "corrupt": "The file contradicts itself. Copy or download it again, or save it anew from the original.",
    "too-large": f"More than {MAX_PIXELS:,} pixels or {MAX_BYTES:,} bytes. Make it smaller, or cut it into tiles.",
    "too-complex": "Built of more pieces than any program writes; reading it would take minutes. Save it anew as PNG.",
    "too-slow": "A server took too long to read it, or was too busy. Ask again; if it stays so, save it anew as PNG.",
    "multi-frame": "Several frames or pages. Save the one that the label means as a file of its own.",
    "not-pixels": "An array that is not uint8 of shape (height, width) or (height, width, 3).",
}


def decode(data: bytes, *, name: str, size: Size | None = None) -> Pixels:
    """Returns the pixels of an encoded image: JPEG, PNG, GIF, TIFF, BMP, WebP, PNM or DICOM.

    At a size, a large JPEG is decoded at 1/2, 1/4 or 1/8 of its own, never less than twice what is wanted nor than 448
    pixels, and resized from there: of radiographs of 1,300 pixels half a count from a full decoding on average, in two
    thirds of the time. All of the file is read as ever, and rejected for the same reasons. A pack and a served image
    take this same way.

    The number of pixels is read from the header before any is decoded; peak memory is at most 16 bytes a pixel, 1 GB at
    `MAX_PIXELS`, 64 MiB for what the header holds, and the file itself once more. Safe to call from several threads.

    Args:
        data: The whole file.
        name: What to call the image in an error.
        size: Height and width to bring it to, antialiased, its aspect not kept; None: the exact pixels as they are.

    Returns:
        uint8 of shape (height, width) where the picture is grey, else (height, width, 3) in the order red, green, blue.

    Raises:
        ImageRejected: With a code of `REJECTIONS`. Nothing else is raised, and no warning is given.
    """
    return inspect(data, name=name, size=size)[0]


def inspect(data: bytes, *, name: str, size: Size | None = None) -> tuple[Pixels, Stored]:
    """Returns what `decode` does, and how the file holds it; raises as `decode` does."""
    seen = look(data, name=name, size=size)
    try:
        return (np.require(seen.pixels, requirements="W") if size is None else seen.resized(size)), seen.stored
    except MemoryError as error:
        raise rejection(error, name) from error


def look(data: bytes, *, name: str, size: Size | None = None) -> Picture:
    """Returns the picture before it is brought to `decode`'s size; arguments and errors are `decode`'s."""
    if not data:
        raise ImageRejected("empty", name, "has no bytes. Copy or download it again")
    reader = dicom if is_dicom(data) else portable if portable.is_portable(data) else None
    if reader is None:
        return pillow.picture(data, name=name, size=size)
    pixels, stored = reader.picture(data, name=name)
    height, width = pixels.shape[:2]
    return Picture(pixels, (height, width), stored)


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
        descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
                raise ImageRejected("unreadable", name, "is not a file")
            if found.st_size > MAX_BYTES:
                raise ImageRejected("too-large", name, f"has {found.st_size:,} bytes, more than {MAX_BYTES:,}")
            # In one piece, which takes a fifth of the time that a file object does.
            data = os.read(descriptor, found.st_size)
            while len(data) < found.st_size and (more := os.read(descriptor, found.st_size - len(data))):
                data += more
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageRejected("missing", name, "no such file. Check the path and the folder it starts from") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageRejected("unreadable", name, f"cannot be read ({getattr(error, 'strerror', error)})") from error
    if not data:
        raise ImageRejected("empty", name, "has no bytes. Copy or download it again")
    return data


def to_pixels(image: ImageLike, *, name: str | None = None, size: Size | None = None) -> Pixels:
    """Returns the pixels of whatever a user calls an image, as `decode` gives them.

    An array and a Pillow image are pixels already: at a size, they are resized from all of them.

    Args:
        image: A path, bytes, a Pillow image, or a uint8 array of shape (height, width), (height, width, 1) or
            (height, width, 3).
        name: What to call the image in an error; None: its path, or "image".
        size: As of `decode`.

    Raises:
        ConfigError: It is none of these.
        ImageRejected: It is one, and has no pixels that can be used.
    """
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image) if name is None else name
        return decode(read(image, name=name), name=name, size=size)
    name = "image" if name is None else name
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image), name=name, size=size)
    if isinstance(image, Image.Image):
        pixels = pillow.pixels_of(image, name=name)
    elif isinstance(image, np.ndarray):
        pixels = _checked(image, name)
    else:
        raise ConfigError(
            f"{name}: {type(image).__name__} is not an image. Pass a path, bytes, a Pillow image, or a uint8 array "
            "of shape (height, width) or (height, width, 3)"
        )
    return pixels if size is None else resize(pixels, size)


def _checked(array: npt.NDArray[Any], name: str) -> Pixels:
    if array.dtype != np.uint8:
        hint = ": (255 * x).round().astype('uint8') if white is 1" if array.dtype.kind == "f" else ""
        raise ImageRejected("not-pixels", name, f"is an array of {array.dtype}. Pass uint8, 0 to 255{hint}")
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise ImageRejected(
            "not-pixels", name, f"is an array of shape {array.shape}. Pass (height, width) or (height, width, 3)"
        )
    return grey_if_equal(array) if array.shape[2:] == (3,) else array.reshape(array.shape[:2])
