"""The elements of a DICOM file that are asked for, and no more: hostile files cost bounded time and memory."""

from __future__ import annotations

import io
import logging
import re
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from medimg.data.formats.effort import TooComplex
from medimg.data.pixels import MAX_BYTES

__all__ = ["LUTS", "PIXELS", "Unreadable", "parse", "quiet"]

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
LUTS = (
    "ModalityLUTSequence", "VOILUTSequence", "BluePaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "RedPaletteColorLookupTableData",
)  # fmt: skip

# A header of a thousand elements takes some two thousand reads; a file made of empty ones is told after half a second.
MOST_READS = 100_000
MOST_VALUE_BYTES = 65_536
MOST_LUT_BYTES = 1_000_000
MOST_UNPACKED_BYTES = 256_000_000  # 32 bits for each pixel of the largest picture
_PIECE = 65_536  # of what is deflated: it unpacks to a thousand times as much at most

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PLAIN = b"1.2.840.10008.1.2.1\0\0\0"
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI\x16\x00" + re.escape(_DEFLATED))

# Their records quote headers. Those of a host's own use of pydicom, in other threads and at other times, pass.
_LOGGERS = (
    "pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils", "pylibjpeg.utils", "openjpeg.utils", "_openjpeg",
)  # fmt: skip
_muted = threading.local()


class _Mute(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_muted, "inside", False)


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_Mute())


class Unreadable(Exception):  # noqa: N818 - becomes an ImageRejected where the image's name is known
    """What is wrong with a DICOM file: a code of `medimg.data.decode.REJECTIONS` and words without a header's value."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what pydicom logs in this thread from the host's log."""
    _muted.inside = True
    try:
        yield
    finally:
        _muted.inside = False


class _Metered:
    """A stream that stops whoever reads it too often."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read, self.seek, self.tell = stream.read, stream.seek, stream.tell
        self._left = MOST_READS

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # what is deflated and does not say where: see `_inflated`
            raise Unreadable("unsupported", "is deflated, without a header that says where. Export it again")
        self._left -= 1
        if self._left < 0:
            raise TooComplex(f"more than {MOST_READS:,} elements")
        return self._read(size)


def parse(stream: BinaryIO, keywords: Iterable[str], *, pixels: bool) -> FileDataset:
    """Returns the named elements of a DICOM file, with or without a Part-10 header.

    Args:
        stream: The file.
        keywords: Names of the elements, such as "Rows".
        pixels: Whether to read the pixel data too, as they are stored; else reading stops before them.

    Raises:
        TooComplex: It has too many elements.
        Unreadable: An element is far too long, or the file unpacks to more than `MOST_UNPACKED_BYTES`.
        Exception: Whatever pydicom raises of damaged files.
    """
    at_pixels = {tag_for_keyword(name) for name in PIXELS}
    long = {tag_for_keyword(name) for name in LUTS}
    wanted = {cast(int, tag_for_keyword(name)) for name in (*keywords, *(PIXELS if pixels else ()))}

    def stop(tag: BaseTag, _: str | None, length: int) -> bool:
        if tag in at_pixels and not pixels:
            return True
        most = MOST_LUT_BYTES if tag in long else MOST_VALUE_BYTES
        if tag in wanted and tag not in at_pixels and most < length < 0xFFFFFFFF:
            raise Unreadable("corrupt", "has a header with an element that is far too long. Export it again")
        return False

    metered = cast(BinaryIO, _Metered(_inflated(stream)))
    return read_partial(metered, stop_when=stop, force=True, specific_tags=list(wanted))


def _inflated(stream: BinaryIO) -> BinaryIO:
    """Returns the stream, unpacked where all after the header is deflated: pydicom would unpack without a limit."""
    start = stream.tell()
    head = stream.read(4096)
    stream.seek(start)
    found = _SYNTAX.search(head, 0, 1024)
    if found is None or head[128:132] != b"DICM":
        return stream
    # The header ends where its group length says: (0002,0000) UL, 4 bytes after the prefix.
    length = int.from_bytes(head[140:144], "little")
    data = stream.read(MAX_BYTES)
    body = 144 + length
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacked = io.BytesIO()
    unpacked.write(data[:body].replace(_DEFLATED, _PLAIN))
    for at in range(body, len(data), _PIECE):
        unpacked.write(unpacker.decompress(data[at : at + _PIECE]))
        if unpacked.tell() > MOST_UNPACKED_BYTES:
            raise Unreadable("too-large", f"unpacks to more than {MOST_UNPACKED_BYTES:,} bytes")
    if not unpacker.eof:
        raise Unreadable("truncated", "ends before its pixels do. Copy or export it again")
    unpacked.seek(0)
    return unpacked
