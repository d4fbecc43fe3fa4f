"""What a compressed frame says of itself, read before any decoder allocates memory for it; and RLE."""

from __future__ import annotations

from dataclasses import dataclass

from medimg.data.formats.dicom.file import Unreadable

__all__ = ["Frame", "frame_of", "unpack_rle"]


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a compressed frame.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        samples: Channels.
        bits: Of one sample.
    """

    rows: int
    columns: int
    samples: int
    bits: int


def frame_of(stream: bytes) -> Frame:
    """Returns the size that a JPEG, JPEG-LS or JPEG 2000 stream declares.

    Raises:
        Unreadable: It is none of these, or ends before it says so.
    """
    if stream[:2] == b"\xff\xd8":
        return _of_jpeg(stream)
    if stream[:4] == b"\xff\x4f\xff\x51":
        return _of_jpeg_2000(stream)
    at = stream.find(b"jp2c\xff\x4f\xff\x51", 0, 65_536)  # in the boxes of a JP2 file
    if stream[4:8] == b"jP  " and at >= 0:
        return _of_jpeg_2000(stream[at + 4 :])
    raise Unreadable("corrupt", "has compressed pixels that do not begin as they should. Export it again")


def _of_jpeg(stream: bytes) -> Frame:
    """Reads the frame header of ISO 10918-1 B.2.2, which that of JPEG-LS (ISO 14495-1 C.2.2) is alike."""
    at = 2
    while at + 10 <= len(stream):
        marker = stream[at + 1]
        if stream[at] != 0xFF or marker in (0xD8, 0xD9, 0xDA):
            break
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = (int.from_bytes(stream[at + n : at + n + 2], "big") for n in (5, 7))
            return Frame(rows, columns, samples=stream[at + 9], bits=stream[at + 4])
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise Unreadable("corrupt", "has compressed pixels whose size is not said. Export it again")


def _of_jpeg_2000(stream: bytes) -> Frame:
    """Reads the SIZ marker of ISO 15444-1 A.5.1."""
    if len(stream) < 44:
        raise Unreadable("truncated", "ends before its pixels do. Copy or export it again")
    right, bottom, left, top = (int.from_bytes(stream[at : at + 4], "big") for at in (8, 12, 16, 20))
    samples = int.from_bytes(stream[40:42], "big")
    return Frame(bottom - top, right - left, samples, (stream[42] & 0x7F) + 1)


def unpack_rle(frame: bytes, *, samples: int, bytes_each: int, pixels: int) -> bytes:
    """Returns an RLE frame as uncompressed pixels in little endian, one sample after the other (PS3.5 annex G).

    It stops where the picture is full, whatever the frame says, so a small frame never becomes a large array.

    Args:
        frame: The compressed frame.
        samples: Channels.
        bytes_each: Bytes of one sample.
        pixels: Of one channel.

    Raises:
        Unreadable: It has another number of segments, or ends early.
    """
    numbers = [int.from_bytes(frame[at : at + 4], "little") for at in range(0, 64, 4)]
    count, offsets = numbers[0], [*numbers[1 : numbers[0] + 1], len(frame)]
    if count != samples * bytes_each or len(offsets) != count + 1 or offsets != sorted(offsets) or offsets[0] < 64:
        raise Unreadable("corrupt", "has RLE pixels whose segments contradict its header. Export it again")
    unpacked = bytearray(samples * bytes_each * pixels)
    for number in range(count):
        sample, place = divmod(number, bytes_each)
        plane = _unpack_bits(frame[offsets[number] : offsets[number + 1]], pixels)
        first = sample * bytes_each * pixels + bytes_each - 1 - place  # the most significant byte comes first
        unpacked[first : (sample + 1) * bytes_each * pixels : bytes_each] = plane
    return bytes(unpacked)


def _unpack_bits(segment: bytes, length: int) -> bytes:
    found = bytearray()
    at, end = 0, len(segment) - 1
    while at < end and len(found) < length:
        control = segment[at]
        if control < 128:
            found += segment[at + 1 : at + 2 + control]
            at += control + 2
        else:
            if control > 128:
                found += segment[at + 1 : at + 2] * (257 - control)
                at += 1
            at += 1
    if len(found) < length:
        raise Unreadable("truncated", "ends before its pixels do. Copy or export it again")
    return bytes(found[:length])
