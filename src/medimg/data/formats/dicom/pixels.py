"""The stored values of a DICOM file: its pixels as the modality wrote them."""

from __future__ import annotations

import io
from typing import Any

import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder

from medimg.data.formats.dicom.codestream import frame_of, unpack_rle
from medimg.data.formats.dicom.file import LUTS, PIXELS, Unreadable, parse
from medimg.data.formats.effort import check_jpeg
from medimg.data.pixels import MAX_PIXELS

__all__ = ["Values", "frames_of", "open_picture", "stored_values"]

Values = npt.NDArray[Any]

_FIELDS = (
    "BitsAllocated", "BitsStored", "Columns", "HighBit", "NumberOfFrames", "PhotometricInterpretation",
    "PixelPaddingRangeLimit", "PixelPaddingValue", "PixelRepresentation", "PlanarConfiguration", "PresentationLUTShape",
    "RescaleIntercept", "RescaleSlope", "Rows", "SOPClassUID", "SamplesPerPixel", "VOILUTFunction", "WindowCenter",
    "WindowWidth", "BluePaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableDescriptor", *LUTS,
)  # fmt: skip

# One decoder for each kind of compression, named, so that what else a machine has installed changes no pixel. Pillow's
# is the stricter for JPEG; for JPEG-LS CharLS would be, but four changed bytes of a small file kept it busy for 5 s.
_DECODERS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "pylibjpeg",
    uid.JPEGLosslessSV1: "pylibjpeg",
    uid.JPEGLSLossless: "pylibjpeg",
    uid.JPEGLSNearLossless: "pylibjpeg",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}
_JPEG_2000 = tuple(syntax for syntax in _DECODERS if syntax.name.startswith(("JPEG 2000", "High-Throughput")))
MOST_JPEG_2000_BYTES = 20_000_000  # some three seconds of OpenJPEG; lossless mammograms take less
_NATIVE = (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
)  # fmt: skip

_CUT = Unreadable("truncated", "ends before its pixels do. Copy or export it again")


def open_picture(data: bytes) -> FileDataset:
    """Returns what a DICOM file says of its pixels, and the pixels as they are stored.

    Raises:
        TooComplex: It has too many elements.
        Unreadable: It has no pixels, too many, or contradicts itself.
        Exception: Whatever pydicom raises of damaged files.
    """
    header = parse(io.BytesIO(data), _FIELDS, pixels=True)
    if not any(name in header for name in PIXELS):
        if "Rows" in header:
            raise _CUT
        if data[128:132] != b"DICM" and "SOPClassUID" not in header:
            raise Unreadable("not-an-image", "is no picture file, whatever its name")
        raise Unreadable("not-an-image", "is a DICOM file without pixels, such as a report, a contour or a DICOMDIR")
    if "PixelData" not in header:
        raise Unreadable("unsupported", "has floating-point pixels and does not say which value is white")
    rows, columns, samples = (int(header.get(name, 0) or 0) for name in ("Rows", "Columns", "SamplesPerPixel"))
    if rows < 1 or columns < 1 or samples not in (1, 3):
        raise Unreadable("corrupt", "has a header whose size in pixels means nothing. Export it again")
    if rows * columns * samples * frames_of(header) > MAX_PIXELS:
        raise Unreadable("too-large", f"has more than {MAX_PIXELS:,} values. Make it smaller, or cut it into files")
    return header


def frames_of(header: FileDataset) -> int:
    """Returns the number of frames; 1 where the file does not say."""
    return max(1, int(header.get("NumberOfFrames", 1) or 1))


def stored_values(header: FileDataset) -> Values:
    """Returns the pixels as stored: no LUT, window or inversion is applied; YBR is turned into RGB.

    Args:
        header: What `open_picture` returned; it is used up.

    Returns:
        Integers of shape (rows, columns), with 3 samples (rows, columns, 3), with several frames those before.

    Raises:
        Unreadable: The pixels are fewer than the header says, or compressed in a way that cannot be read.
        Exception: Whatever pydicom and its decoders raise of damaged files.
    """
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # no Part-10 header: pydicom found out how to read it
        implicit, little = header.original_encoding
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        syntax = syntax if little else uid.ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.RLELossless:
        _unpack(header)
        syntax = uid.ExplicitVRLittleEndian
    elif syntax not in _NATIVE:
        return _decompressed(header, syntax)
    _check_native(header)
    values, _ = get_decoder(syntax).as_array(header)
    return values


def _check_native(header: FileDataset) -> None:
    bits, highest = int(header.BitsStored), header.get("HighBit")
    if highest is not None and int(highest) != bits - 1:
        raise Unreadable("unsupported", "has pixels that do not fill the low bits. Export it again with HighBit right")
    each = int(header.SamplesPerPixel) * frames_of(header) * int(header.Rows) * int(header.Columns)
    if header.PhotometricInterpretation == "YBR_FULL_422":
        each = each * 2 // 3
    expected = (each * int(header.BitsAllocated) + 7) // 8
    if len(header.PixelData) < expected:
        raise _CUT
    if len(header.PixelData) > max(2 * expected - 1, expected + 1):  # one byte more makes an odd number even
        raise Unreadable("multi-frame", "has more frames than its header says. Save the one that the label means alone")


def _unpack(header: FileDataset) -> None:
    """Puts uncompressed pixels in the place of those in RLE."""
    bits = int(header.BitsAllocated)
    if bits not in (8, 16, 32):
        raise Unreadable("unsupported", "has RLE pixels of a depth that is not 8, 16 or 32 bits")
    samples, pixels = int(header.SamplesPerPixel), int(header.Rows) * int(header.Columns)
    frames = [
        unpack_rle(frame, samples=samples, bytes_each=bits // 8, pixels=pixels) for frame in _compressed_frames(header)
    ]
    header.PixelData = b"".join(frames)
    header.PlanarConfiguration = 1
    header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian


def _compressed_frames(header: FileDataset) -> list[bytes]:
    count = frames_of(header)
    frames = list(generate_frames(header.PixelData, number_of_frames=count))
    if len(frames) < count or not all(frames):
        raise _CUT
    return frames[:count]


def _decompressed(header: FileDataset, syntax: uid.UID) -> Values:
    plugin = _DECODERS.get(syntax)
    if plugin is None:
        raise Unreadable("unsupported", "is compressed in a way that cannot be read here, as video. Export it as PNG")
    streams = _compressed_frames(header)
    for stream in streams:
        frame = frame_of(stream)
        if (frame.rows, frame.columns, frame.samples) != (header.Rows, header.Columns, header.SamplesPerPixel):
            raise Unreadable("corrupt", "has compressed pixels of another size than its header says. Export it again")
        if plugin == "pillow" and frame.bits != 8:
            raise Unreadable(
                "unsupported",
                "is compressed as 12-bit JPEG. Unpack it, for instance with DCMTK: dcmdjpeg IN.dcm OUT.dcm",
            )
        if plugin == "pillow":
            check_jpeg(stream)
        if syntax in _JPEG_2000 and len(stream) > MOST_JPEG_2000_BYTES:
            raise Unreadable("too-large", f"has more than {MOST_JPEG_2000_BYTES:,} bytes of JPEG 2000. Make it smaller")
    decoder = get_decoder(syntax)
    if plugin not in decoder.available_plugins:
        raise Unreadable("unsupported", "needs a decoder that is not installed. Run: pip install 'medimg[dicom]'")
    header.PixelData = encapsulate(streams)  # what was checked, and not what else a file may hold
    values, _ = decoder.as_array(header, decoding_plugin=plugin)
    return values
