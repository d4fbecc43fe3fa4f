"""Every kind of image that Pillow can store comes out as the pixels we say, or as a rejection that names it."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from medimg.data.decode import REJECTIONS, decode, read, to_pixels
from medimg.data.pixels import MAX_BYTES, MAX_PIXELS, as_mode, resize
from medimg.errors import ConfigError, ImageRejected

GREY = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10)
COLOUR = np.stack([GREY, GREY[::-1], np.full_like(GREY, 200)], axis=2)
WIDE = np.array([[0, 128, 129, 257, 385], [32767, 32896, 65406, 65407, 65535]], dtype=np.uint16)
NARROWED = np.round(WIDE / 257).astype(np.uint8)


def encode(image: Image.Image | npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    """Returns the image as a file of that kind."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def tiff(data: bytes, width: int, height: int, bits: int, photometric: int, sample_format: int = 1) -> bytes:
    """Returns an uncompressed little-endian TIFF of one strip, of kinds that Pillow reads and does not write."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(data)), (339, sample_format)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def png_of_size(width: int, height: int) -> bytes:
    """Returns a tiny PNG whose header promises that many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def rejection(data: bytes, name: str = "scan-7") -> ImageRejected:
    """Returns the rejection of bytes that must not decode."""
    with pytest.raises(ImageRejected) as caught:
        decode(data, name=name)
    assert caught.value.code in REJECTIONS
    assert caught.value.name == name
    assert name in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP"])
def test_grey_keeps_its_values_in_every_lossless_kind(kind: str) -> None:
    """Two dimensions, and not a count changed; WebP stores grey as colour."""
    pixels = decode(encode(GREY, kind, **({"lossless": True} if kind == "WEBP" else {})), name="grey")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, GREY)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_colour_keeps_its_values_in_every_lossless_kind(kind: str) -> None:
    """Three channels in the order red, green, blue."""
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encode(COLOUR, kind, **options), name="colour"), COLOUR)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_what_pillow_decodes(progressive: bool) -> None:
    """A flat grey JPEG is exact; a coloured one equals Pillow's own decoding."""
    flat = np.full((24, 16), 77, np.uint8)
    np.testing.assert_array_equal(decode(encode(flat, "JPEG", progressive=progressive), name="flat"), flat)
    data = encode(np.kron(COLOUR, np.ones((8, 8, 1), np.uint8)), "JPEG", quality=95, progressive=progressive)
    np.testing.assert_array_equal(decode(data, name="colour"), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("spread", [0, 1, 2])
def test_nearly_equal_channels_are_grey(spread: int) -> None:
    """A radiograph stored as RGB is (height, width); one count of JPEG's chroma does not make it colour."""
    rgb = np.stack([GREY, GREY, GREY + np.uint8(spread)], axis=2)
    pixels = decode(encode(rgb, "PNG"), name="rgb")
    assert pixels.shape == GREY.shape
    luma = np.round(0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2])
    np.testing.assert_array_equal(pixels, luma)


def test_one_coloured_pixel_makes_a_colour_image() -> None:
    """Three counts apart is colour, wherever it is: also in the last of several bands of rows."""
    rgb = np.full((1100, 1000, 3), 90, np.uint8)
    assert decode(encode(rgb, "BMP"), name="rgb").ndim == 2
    rgb[-1, -1, 2] = 93
    np.testing.assert_array_equal(decode(encode(rgb, "BMP"), name="rgb"), rgb)


def test_a_palette_gives_its_colours() -> None:
    """Indices are looked up; a palette of greys gives a grey image."""
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 90])
    expected = [[[10, 20, 30], [200, 0, 0]], [[0, 0, 90], [200, 0, 0]]]
    for kind in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(decode(encode(image, kind), name="palette"), expected)
    image.putpalette([9, 9, 9, 200, 200, 200, 55, 55, 55])
    np.testing.assert_array_equal(decode(encode(image, "PNG"), name="palette"), [[9, 200], [55, 200]])


def test_transparent_pixels_become_black() -> None:
    """RGBA, grey with alpha, a palette's transparent entry and a colour key are laid over black."""
    alpha = np.full_like(GREY, 255)
    alpha[0], alpha[1] = 0, 128
    over = np.where(alpha == 255, GREY, np.round(GREY * (alpha / 255.0))).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(np.dstack([GREY, alpha]), "PNG"), name="la"), over)
    np.testing.assert_array_equal(decode(encode(np.dstack([GREY, GREY, GREY, alpha]), "PNG"), name="rgba"), over)
    np.testing.assert_array_equal(
        decode(encode(np.dstack([COLOUR, alpha]), "PNG"), name="rgba"),
        np.round(COLOUR * (alpha[..., np.newaxis] / 255.0)),
    )
    np.testing.assert_array_equal(decode(encode(np.dstack([COLOUR, alpha | 255]), "PNG"), name="opaque"), COLOUR)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 200, 0, 0])
    for transparency in (1, b"\xff\0"):
        data = encode(palette, "PNG", transparency=transparency)
        np.testing.assert_array_equal(decode(data, name="palette"), [[[10, 20, 30], [0, 0, 0]]])
    wide = decode(encode(WIDE, "PNG", transparency=32767), name="wide")
    np.testing.assert_array_equal(wide, np.where(WIDE == 32767, 0, NARROWED))
    keyed = decode(encode(GREY, "PNG", transparency=200), name="keyed")
    np.testing.assert_array_equal(keyed, np.where(GREY == 200, 0, GREY))


def test_one_bit_becomes_black_and_white() -> None:
    """1-bit images have 0 and 255, in PNG, fax-compressed TIFF and PBM."""
    bits = GREY % 16 == 0
    for kind, options in (("PNG", {}), ("TIFF", {"compression": "group4"}), ("PPM", {})):
        data = encode(Image.fromarray(bits), kind, **options)
        np.testing.assert_array_equal(decode(data, name="bits"), np.where(bits, 255, 0))


def test_sixteen_bits_become_eight_over_the_full_range() -> None:
    """Rounded value / 257, from PNG and from TIFF of either byte order."""
    assert NARROWED.tolist() == [[0, 0, 1, 1, 1], [127, 128, 254, 255, 255]]
    big_endian = Image.frombytes("I;16B", (5, 2), WIDE.astype(">u2").tobytes())
    for data in (
        encode(WIDE, "PNG"),
        encode(WIDE, "TIFF"),
        encode(WIDE, "TIFF", compression="tiff_lzw"),
        encode(big_endian, "TIFF"),
        b"P5 5 2 65535\n" + WIDE.astype(">u2").tobytes(),
    ):
        np.testing.assert_array_equal(decode(data, name="wide"), NARROWED)


def test_the_white_of_twelve_bits_is_4095() -> None:
    """A 12-bit TIFF and a PGM with that maximum reach white."""
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10])
    assert decode(tiff(packed, 4, 1, bits=12, photometric=1), name="t").tolist() == [[0, 255, 128, 1]]
    values = np.array([0, 4095, 2048, 16], ">u2")
    assert decode(b"P5 4 1 4095\n" + values.tobytes(), name="p").tolist() == [[0, 255, 128, 1]]


def test_white_is_zero_is_inverted() -> None:
    """A TIFF whose zero is white comes out like any other, at 8 and at 16 bits."""
    assert decode(tiff(bytes([0, 55, 255]), 3, 1, bits=8, photometric=0), name="t").tolist() == [[255, 200, 0]]
    wide = np.array([0, 257 * 55, 65535], "<u2").tobytes()
    assert decode(tiff(wide, 3, 1, bits=16, photometric=0), name="t").tolist() == [[255, 200, 0]]


def test_thirty_two_bits_are_taken_as_sixteen_or_refused() -> None:
    """Integers within 16 bits have a white; beyond, and as floats, they have none."""
    assert decode(tiff(WIDE.astype("<i4").tobytes(), 5, 2, 32, 1, 2), name="t").tolist() == NARROWED.tolist()
    for value in (-1, 65536):
        error = rejection(tiff(struct.pack("<ii", 7, value), 2, 1, 32, 1, 2))
        assert error.code == "unsupported"
        assert str(value) in str(error)
    for value in (0.5, float("nan")):
        assert rejection(tiff(struct.pack("<f", value), 1, 1, 32, 1, 3)).code == "unsupported"


def test_print_and_video_colours_become_rgb() -> None:
    """CMYK, LAB and YCbCr have the colours that they mean."""
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 255, 0], [0, 255, 0, 255]]], np.uint8)
    data = encode(Image.frombytes("CMYK", (4, 1), inks.tobytes()), "TIFF")
    np.testing.assert_array_equal(
        decode(data, name="cmyk"), [[[255, 255, 255], [0, 255, 255], [255, 255, 0], [0, 0, 0]]]
    )
    pale = Image.new("CMYK", (16, 16), (0, 0, 0, 55))
    np.testing.assert_array_equal(decode(encode(pale, "JPEG", quality=100), name="cmyk"), np.full((16, 16), 200))
    lab = decode(encode(Image.fromarray(COLOUR).convert("LAB"), "TIFF"), name="lab").astype(int)
    assert np.abs(lab - COLOUR).mean() < 3  # eight bits of LAB hold fewer colours than eight of RGB
    video = Image.frombytes("YCbCr", (2, 1), bytes([128, 128, 128, 76, 85, 255]))
    np.testing.assert_array_equal(to_pixels(video), [[[128, 128, 128], [254, 0, 0]]])


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize(
    ("head", "values", "expected"),
    [
        (b"P5 3 1 4095\n", b"\0\0\x08\0\x0f\xff", [[0, 128, 255]]),
        (b"P5 3 1 100\n", b"\0\x32\x65", [[0, 128, 255]]),  # 101 is above white
        (b"P2\n# of a workstation\n3 1\n65535\n", b"0 # black\n32896\n65535", [[0, 128, 255]]),
        (b"P1 3 2\n", b"010 1 1\n0", [[255, 0, 255], [0, 0, 255]]),
        (b"P4 3 2\n", b"\x5f\xdf", [[255, 0, 255], [0, 0, 255]]),
        (b"P3 2 1 7 ", b"7 0 0\n0 7 0", [[[255, 0, 0], [0, 255, 0]]]),
        (b"P6\t2 1 511 ", b"\1\xff\0\0\0\0" + b"\1\0" * 3, [[[255, 0, 0], [128, 128, 128]]]),
    ],
)
def test_netpbm_pictures_are_scaled_to_their_white(head: bytes, values: bytes, expected: list[Any]) -> None:
    """As text or binary, of any depth, with comments; cut, or with a word among the numbers, they are rejected."""
    np.testing.assert_array_equal(decode(head + values, name="x"), np.array(expected, np.uint8))
    assert rejection(head + values[:1]).code == "truncated"
    for wrong in (b"P5 0 1 255\n0", b"P5 1 1 0\n0", b"P5 1 1 65536\n00", b"P5 1 1 white\n" + bytes(100)):
        assert rejection(wrong).code == "corrupt"
    if head[1:2] in b"23":
        assert rejection(head + b"white " + values).code == "corrupt"


def test_netpbm_text_of_any_length_is_read() -> None:
    """It is read in pieces, none of which may lose or split a number."""
    values = np.random.default_rng(0).integers(0, 256, (700, 1000), np.uint8)
    text = b" \n".join(b"%d" % value for value in values.ravel())
    assert len(text) > 3 * 2**20
    np.testing.assert_array_equal(decode(b"P2 1000 700 255\n" + text, name="x"), values)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int) -> None:
    """All eight, in each kind that carries EXIF, once and not twice."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for stored in (GREY, COLOUR):
        for kind, options in (
            ("PNG", {}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("WEBP", {"lossless": True}),
        ):
            pixels = decode(encode(stored, kind, exif=exif, **options), name="turned")
            np.testing.assert_array_equal(pixels, UPRIGHT[orientation](stored))
    np.testing.assert_array_equal(decode(encode(WIDE, "PNG", exif=exif), name="w"), UPRIGHT[orientation](NARROWED))
    corner = np.zeros((16, 24), np.uint8)
    corner[:8, :8] = 255
    jpeg = decode(encode(corner, "JPEG", quality=100, exif=exif), name="turned")
    np.testing.assert_array_equal(jpeg > 127, UPRIGHT[orientation](corner) > 127)


def test_broken_exif_leaves_the_pixels_as_stored() -> None:
    """Metadata that Pillow warns of costs no image and gives no warning."""
    data = encode(GREY, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    np.testing.assert_array_equal(decode(data, name="exif"), GREY)
    np.testing.assert_array_equal(decode(encode(GREY, "PNG", exif=b"Exif\0\0rubbish"), name="exif"), GREY)


def test_a_warning_of_pillow_costs_neither_the_image_nor_its_orientation() -> None:
    """EXIF that breaks off after the orientation: warnings are errors here, and must not become a rejection."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + b"\x1a\x01\x05"
    np.testing.assert_array_equal(decode(encode(GREY, "PNG", exif=exif), name="exif"), np.rot90(GREY, -1))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}), ("GIF", {}), ("TIFF", {}), ("WEBP", {})],
)
def test_a_file_cut_anywhere_is_rejected_as_truncated(
    kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never half an image on grey, also where the host program has told Pillow to accept that."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    data = encode(noise, kind, **options)
    for takes_truncated in (False, True):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", takes_truncated)
        for length in (20, len(data) // 4, len(data) // 2, len(data) - 40):
            assert rejection(data[:length]).code == "truncated", length
        assert takes_truncated == ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_whole_file_with_wrong_bytes_is_rejected_as_corrupt() -> None:
    """PNG carries a check of its data; a WebP that is all there is not called truncated."""
    data = bytearray(encode(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8), "PNG"))
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    assert rejection(bytes(data)).code == "corrupt"
    whole = bytearray(encode(COLOUR, "WEBP"))
    whole[20:40] = bytes(20)
    assert rejection(bytes(whole)).code == "corrupt"


def test_bytes_that_are_no_picture_say_what_they_are() -> None:
    """Nothing, a text, a web page, an archive, a DICOM and a HEIF file."""
    for data, code, word in (
        (b"", "empty", "no bytes"),
        (b"id,label\n1,NORMAL\n", "not-an-image", "no JPEG"),
        (b"\n <!DOCTYPE html><html>", "not-an-image", "web page"),
        (b"PK\x03\x04" + bytes(40), "not-an-image", "archive"),
        (bytes(128) + b"DICM" + bytes(40), "not-an-image", "DICOM"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "unsupported", "HEIF"),
    ):
        error = rejection(data)
        assert error.code == code
        assert word in str(error)


def test_too_many_pixels_are_refused_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny file with a giant header costs nothing, whatever limit the host has set."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)

    def never(self: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", never)
    data = png_of_size(60_000, 50_000)
    assert len(data) < 200
    error = rejection(data)
    assert error.code == "too-large"
    assert "60000 × 50000" in str(error)
    assert rejection(png_of_size(8000, MAX_PIXELS // 8000 + 1)).code == "too-large"
    assert rejection(png_of_size(0, 7)).code == "corrupt"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_several_frames_are_rejected(kind: str) -> None:
    """Nobody can tell which frame the label means; one frame saved as a list is fine."""
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert rejection(data).code == "multi-frame"
    np.testing.assert_array_equal(decode(encode(frames[0], kind, save_all=True, **options), name="one"), GREY)


def test_of_a_phone_photo_with_a_preview_the_first_picture_is_taken() -> None:
    """An MPO is a JPEG with more behind it."""
    first, second = Image.new("L", (16, 16), 40), Image.new("L", (16, 16), 200)
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    np.testing.assert_array_equal(decode(data, name="mpo"), np.full((16, 16), 40))


def test_threads_leave_the_host_programs_settings_as_they_were() -> None:
    """Warnings are kept in by one entry that goes when the last thread leaves."""
    noisy = encode(GREY, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    broken = encode(COLOUR, "JPEG")[:-200]
    before = list(warnings.filters)

    def work(number: int) -> str:
        if number % 2:
            return rejection(broken, name=f"n{number}").code
        return str(decode(noisy, name="noisy").shape)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(400))) == {"truncated", "(6, 10)"}
    assert list(warnings.filters) == before
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_path_is_read_whatever_its_ending(tmp_path: Path) -> None:
    """A PNG named .jpg with an Arabic name is a PNG."""
    path = tmp_path / "صورة.jpg"
    path.write_bytes(encode(GREY, "PNG"))
    np.testing.assert_array_equal(to_pixels(path), GREY)
    np.testing.assert_array_equal(to_pixels(str(path)), GREY)
    assert read(path) == path.read_bytes()


def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    """Missing, empty, a folder, a pipe that would wait for ever, a loop of links, a null in the name."""
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for path, code in (
        ("gone.png", "missing"),
        ("empty.png/inside.png", "missing"),
        ("empty.png", "empty"),
        (".", "unreadable"),
        ("pipe.png", "unreadable"),
        ("loop.png", "unreadable"),
        ("nul\0l.png", "unreadable"),
    ):
        with pytest.raises(ImageRejected) as caught:
            to_pixels(tmp_path / path)
        assert caught.value.code == code
        assert caught.value.name == str(tmp_path / path)
    with (tmp_path / "vast.tif").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: takes no disk
    with pytest.raises(ImageRejected, match="too-large"):
        read(tmp_path / "vast.tif")
    with pytest.raises(ImageRejected, match=r"^image 3: .*\[missing\]$"):
        read(tmp_path / "gone.png", name="image 3")


def test_bytes_pillow_images_and_arrays_give_the_same_pixels() -> None:
    """Whatever a user hands over; equal channels are grey in each."""
    data = encode(COLOUR, "PNG")
    for image in (data, bytearray(data), memoryview(data), Image.open(io.BytesIO(data)), COLOUR):
        np.testing.assert_array_equal(to_pixels(image), COLOUR)
    for grey in (GREY, GREY[..., np.newaxis], np.dstack([GREY] * 3), Image.fromarray(GREY), Image.fromarray(WIDE)):
        expected = NARROWED if isinstance(grey, Image.Image) and grey.mode == "I;16" else GREY
        np.testing.assert_array_equal(to_pixels(grey), expected)
    cut = Image.open(io.BytesIO(encode(COLOUR, "BMP")[:-60]))
    with pytest.raises(ImageRejected, match="truncated"):
        to_pixels(cut)


def test_arrays_that_are_not_pixels_say_what_to_pass() -> None:
    """A float array is refused with the line that converts it."""
    with pytest.raises(ImageRejected, match=r"float64.*Pass uint8.*255 \* x.*not-pixels") as caught:
        to_pixels(GREY / 255, name="x")
    assert caught.value.code == "not-pixels"
    for array in (GREY.astype(np.int64), GREY[0], np.zeros((2, 2, 4), np.uint8), np.zeros((0, 5), np.uint8)):
        with pytest.raises(
            ImageRejected, match=re.escape(str(array.dtype if array.ndim == 2 and array.size else array.shape))
        ):
            to_pixels(array)
    for thing in (3, None, [[0, 1]]):
        with pytest.raises(ConfigError, match=f"{type(thing).__name__} is not an image"):
            to_pixels(thing)  # type: ignore[arg-type]


def test_resize_averages_where_it_shrinks() -> None:
    """Stripes of one pixel become their mean, not the one or the other; the same size is the same array."""
    stripes = np.tile(np.array([0, 200], np.uint8), (32, 32))
    small = resize(stripes, (8, 16))
    assert small.shape == (8, 16)
    np.testing.assert_allclose(small[:, 1:-1], 100, atol=1)
    assert resize(COLOUR, (12, 7)).shape == (12, 7, 3)
    assert resize(GREY, GREY.shape) is GREY
    np.testing.assert_array_equal(resize(np.full((5, 5), 9, np.uint8), (11, 3)), np.full((11, 3), 9))


def test_as_mode_repeats_grey_and_weighs_colour() -> None:
    """One or three channels, always with the channels' axis."""
    np.testing.assert_array_equal(as_mode(GREY, 1), GREY[..., np.newaxis])
    np.testing.assert_array_equal(as_mode(GREY, 3), np.dstack([GREY] * 3))
    np.testing.assert_array_equal(as_mode(as_mode(GREY, 1), 3), np.dstack([GREY] * 3))
    assert as_mode(COLOUR, 3) is COLOUR
    luma = np.round(COLOUR @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(as_mode(COLOUR, 1)[..., 0] - luma).max() <= 1
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert as_mode(primaries, 1)[0, :, 0].tolist() == [76, 150, 29]
    with pytest.raises(ConfigError, match="channels=4"):
        as_mode(GREY, 4)  # type: ignore[arg-type]
