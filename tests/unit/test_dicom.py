"""DICOM pixels: the standard's order of operations, the real files, and what a hostile or chatty file may not do."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import BIRTH, NAME, PATIENT, dicom, encoded, header, look_up_table
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from medimg.data.decode import REJECTIONS, decode, inspect
from medimg.data.formats.dicom import file as parser
from medimg.data.formats.dicom import pixels as unpacking
from medimg.data.formats.dicom.pixels import _DECODERS, open_picture, stored_values
from medimg.data.pixels import MAX_PIXELS, Stored
from medimg.errors import ImageRejected

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16  # 0 to 4080: twelve bits of sixteen
TWELVE = {"BitsStored": 12}


def shown(pixels: np.ndarray, **elements: Any) -> np.ndarray:
    """Returns what the decoder makes of a DICOM file with such pixels."""
    return decode(dicom(pixels, **elements), name="x.dcm")


def rejection(data: bytes) -> ImageRejected:
    """Returns why the decoder refuses some bytes."""
    with pytest.raises(ImageRejected) as caught:
        decode(data, name="x.dcm")
    assert caught.value.code in REJECTIONS
    for secret in (NAME, "DOE", PATIENT, BIRTH):
        assert secret not in str(caught.value)
    return caught.value


# -- the real files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(real_data: Path) -> dict[str, dict[str, Any]]:
    """What is known of the 22 real files."""
    found: dict[str, dict[str, Any]] = json.loads((real_data / "dicom/expected.json").read_text())
    return found


def test_twenty_of_the_22_real_files_have_the_stored_values_of_pydicom_and_two_are_rejected(
    real_data: Path, expected: dict[str, dict[str, Any]]
) -> None:
    """Five kinds of compression, both byte orders, one bit and sixteen, with and without a prefix."""
    refused = {}
    for name, facts in expected.items():
        data = (real_data / "dicom" / name).read_bytes()
        if "decoded" not in facts:
            refused[name] = rejection(data).code
            continue
        values = stored_values(open_picture(data))
        assert list(values.shape) == facts["decoded"]["shape"], name
        assert hashlib.sha256(values.tobytes()).hexdigest() == facts["decoded"]["sha256"], name
    assert refused == {"RG3_JPLY.dcm": "unsupported", "MR_truncated.dcm": "truncated"}


def as_pydicom_shows(file: pydicom.FileDataset) -> np.ndarray:
    """Returns a grey file's brightness from 0 to 1, by pydicom's own modality and VOI transformations in float."""
    stored = stored_values(open_picture(Path(file.filename).read_bytes()))
    values = np.asarray(apply_modality_lut(stored, file))
    if "WindowCenter" in file:
        out = apply_voi_lut(values, file)
        most = 2**file.BitsStored - 1
        low = -(2 ** (file.BitsStored - 1)) if file.PixelRepresentation else 0
        brightness = (out - low) / most
    else:
        out = np.asarray(apply_voi_lut(values, file), np.float64)
        picture = stored != file.get("PixelPaddingValue", int(stored.min()) - 1)
        plain = file.BitsStored == 8 and "VOILUTSequence" not in file
        low, high = (0, 255) if plain else (out[picture].min(), out[picture].max())
        brightness = ((out - low) / (high - low)).clip(0, 1)
    return 1 - brightness if file.PhotometricInterpretation == "MONOCHROME1" else brightness


def test_grey_files_look_as_by_pydicoms_own_transformations(
    real_data: Path, expected: dict[str, dict[str, Any]]
) -> None:
    """To half a count of 255, whatever the order of operations."""
    told = 0
    for name, facts in expected.items():
        if "decoded" not in facts or facts["frames"] > 1 or not facts["photometric"].startswith("MONOCHROME"):
            continue
        file = pydicom.dcmread(real_data / "dicom" / name, force=True)
        pixels = decode((real_data / "dicom" / name).read_bytes(), name=name)
        difference = np.abs(pixels / 255 - as_pydicom_shows(file)).max() * 255
        assert difference <= 0.51, (name, difference)
        told += 1
    assert told == 16


def test_the_palette_of_a_real_file_is_that_of_pydicom(real_data: Path) -> None:
    """A photograph of a face, by a palette of 16 bits."""
    from pydicom.pixels import apply_color_lut

    path = real_data / "dicom/OT-PAL-8-face.dcm"
    file = pydicom.dcmread(path, force=True)
    theirs = apply_color_lut(stored_values(open_picture(path.read_bytes())), file)
    assert np.abs(decode(path.read_bytes(), name="face") - theirs / 257).max() <= 0.5


# -- from stored values to grey ---------------------------------------------------------------------------------------


def test_a_window_goes_from_black_to_white_as_the_standard_says() -> None:
    """PS3.3 C.11.2.1.2.1: black up to centre - 0.5 - (width - 1) / 2, white above centre - 0.5 + (width - 1) / 2."""
    pixels = shown(RAMP, **TWELVE, WindowCenter=2048, WindowWidth=1024).ravel()
    by_hand = ((RAMP.ravel() - 2047.5) / 1023 + 0.5).clip(0, 1) * 255
    assert np.abs(pixels - by_hand).max() <= 0.5
    assert pixels[0] == 0
    assert pixels[-1] == 255


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [1, 700])
def test_each_kind_of_window_is_that_of_pydicom(function: str, width: int) -> None:
    """Also the narrowest, which divides by nothing."""
    data = dicom(RAMP, **TWELVE, WindowCenter=900, WindowWidth=width, VOILUTFunction=function)
    file = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
    with np.errstate(over="ignore"):
        theirs = apply_voi_lut(RAMP, file) / 4095
    assert np.abs(decode(data, name="x") / 255 - theirs).max() * 255 <= 0.51


def test_of_several_windows_the_first_is_taken() -> None:
    """Bone and soft tissue in one file: the first is what the modality meant to be shown."""
    both = shown(RAMP, **TWELVE, WindowCenter=[900, 3000], WindowWidth=[700, 100])
    assert np.array_equal(both, shown(RAMP, **TWELVE, WindowCenter=900, WindowWidth=700))
    assert not np.array_equal(both, shown(RAMP, **TWELVE, WindowCenter=3000, WindowWidth=100))


def test_a_window_without_a_width_counts_as_none() -> None:
    """Some programs write 0 where they have no window."""
    assert np.array_equal(shown(RAMP, **TWELVE, WindowCenter=0, WindowWidth=0), shown(RAMP, **TWELVE))


def test_the_rescale_comes_before_the_window() -> None:
    """A window of a CT is in Hounsfield units."""
    stored = (RAMP // 2).astype(np.int16) - 500
    pixels = shown(stored, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=40, WindowWidth=400)
    units = stored.astype(float) * 2 - 1000
    assert np.abs(pixels - ((units - 39.5) / 399 + 0.5).clip(0, 1) * 255).max() <= 0.5


def test_monochrome1_is_inverted_after_the_window() -> None:
    """Air is black, whichever way the detector wrote it."""
    window = {**TWELVE, "WindowCenter": 900, "WindowWidth": 700}
    pixels = shown(RAMP, **window)
    assert np.array_equal(shown(RAMP, **window, PhotometricInterpretation="MONOCHROME1"), 255 - pixels)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_an_inverse_presentation_shape_inverts_once(photometric: str) -> None:
    """PS3.3 C.8.11.1 asks for INVERSE in every MONOCHROME1 file of digital radiography: it is the same inversion."""
    plain = shown(RAMP, **TWELVE)
    turned = shown(RAMP, **TWELVE, PhotometricInterpretation=photometric, PresentationLUTShape="INVERSE")
    assert np.array_equal(turned, 255 - plain)


def test_without_a_window_the_picture_goes_from_its_lowest_value_to_its_highest_without_padding() -> None:
    """Padding far below everything else would leave nothing of the range to the patient."""
    stored = RAMP.astype(np.int16)
    stored[0] = -2000
    pixels = shown(stored, PixelPaddingValue=-2000)
    assert (pixels[0] == 0).all()
    assert pixels[1, 0] == 0
    assert pixels.max() == 255
    assert shown(stored)[1, 0] > 80
    stored[0, :8] = -1990
    assert shown(stored, PixelPaddingValue=-2000)[1, 0] > 80
    assert shown(stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)[1, 0] == 0


def test_eight_bits_without_a_window_are_taken_as_they_are() -> None:
    """A film of low contrast stays one."""
    stored = np.arange(100, 200, dtype=np.uint8).reshape(10, 10)
    assert np.array_equal(shown(stored), stored)
    assert np.array_equal(shown(stored, RescaleSlope=1, RescaleIntercept=0), stored)
    assert shown(stored, RescaleSlope=2, RescaleIntercept=-1024).min() == 0


def test_a_blank_picture_is_black() -> None:
    """There is nothing to stretch, and nothing to divide by."""
    assert (shown(np.full((4, 4), 1000, np.uint16)) == 0).all()


def test_a_voi_table_is_applied_and_goes_before_a_window() -> None:
    """Of 256 entries with a bend, for values from 1000 on; what lies outside has the first or the last."""
    entries = np.sqrt(np.linspace(0, 1, 256)) * 4095
    table = look_up_table(1000, entries, bits=12)
    pixels = shown(RAMP, **TWELVE, VOILUTSequence=table, WindowCenter=900, WindowWidth=700)
    by_hand = entries.astype(np.uint16)[(RAMP.astype(int) - 1000).clip(0, 255)] / 4095 * 255
    assert np.abs(pixels - by_hand).max() <= 0.51


def test_a_modality_table_comes_before_the_window() -> None:
    """Signed pixels: the table's first value is signed too."""
    stored = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
    entries = np.arange(256)[::-1] * 10
    table = look_up_table(0x10000 - 128, entries, bits=16)
    pixels = shown(stored, ModalityLUTSequence=table, WindowCenter=1275.5, WindowWidth=2551)
    assert np.abs(pixels.ravel() - entries / 10).max() <= 1
    assert pixels[0, 0] == 255


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize(
    ("stored", "intercept", "representation", "first"),
    [
        (RAMP, -1024, "SS", -1000),
        (RAMP, -1024, "US", 100),
        (RAMP.astype(np.int16) - 2000, None, "SS", -500),
        (RAMP * 16, None, "US", 40_000),
        (RAMP.astype(np.int16) - 2000, 40_000, "US", 39_500),
    ],
)
def test_the_first_value_of_a_voi_table_has_the_sign_that_the_standard_gives_it(
    stored: np.ndarray, intercept: int | None, representation: str, first: int, prefix: bool
) -> None:
    """PS3.3 C.11.2.1.1: that of its value representation; in a file without them, that of the modality's values."""
    bits = 12 if stored.max() < 4096 and stored.min() >= 0 else 16
    table = look_up_table(first, np.linspace(0, 65_535, 2000), bits=16, representation=representation)
    slope = None if intercept is None else 1
    elements = {"BitsStored": bits, "RescaleSlope": slope, "RescaleIntercept": intercept, "VOILUTSequence": table}
    file = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(stored, **elements)))
    theirs = apply_voi_lut(np.asarray(apply_modality_lut(stored, file)).astype(np.int64), file) / 65_535
    assert 0 == theirs.min() < theirs.max()
    assert np.abs(shown(stored, prefix=prefix, **elements) / 255 - theirs).max() * 255 <= 0.51


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("RescaleSlope", {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 900, "WindowWidth": 700}),
        ("RescaleIntercept", {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 900, "WindowWidth": 700}),
        ("WindowCenter", {"WindowCenter": 900, "WindowWidth": 700}),
        ("WindowWidth", {"WindowCenter": 900, "WindowWidth": 700}),
        ("VOILUTFunction", {"WindowCenter": 900, "WindowWidth": 700, "VOILUTFunction": "SIGMOID"}),
        ("VOILUTSequence", {"VOILUTSequence": look_up_table(1000, RAMP.ravel(), bits=12)}),
        ("ModalityLUTSequence", {"ModalityLUTSequence": look_up_table(1000, RAMP.ravel(), bits=12)}),
        ("PresentationLUTShape", {"PresentationLUTShape": "INVERSE"}),
        ("PixelPaddingValue", {"PixelPaddingValue": 0}),
        ("PixelPaddingRangeLimit", {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 1000}),
    ],
)
def test_an_element_without_a_value_counts_as_none(name: str, elements: dict[str, Any]) -> None:
    """Programs that take the patient out of a header empty other elements too."""
    file = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(RAMP, **TWELVE, **elements)))
    setattr(file, name, None)
    assert file[name].is_empty
    without = shown(RAMP, **TWELVE, **{**elements, name: None})
    assert np.array_equal(decode(encoded(file), name="x"), without)
    assert not np.array_equal(shown(RAMP, **TWELVE, **elements), without)


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("name", ["LUTDescriptor", "LUTData"])
def test_a_table_without_values_counts_as_none(sequence: str, name: str) -> None:
    """As a window without a width."""
    table = look_up_table(1000, RAMP.ravel(), bits=12)
    table[0][name].value = None
    assert np.array_equal(shown(RAMP, **TWELVE, **{sequence: table}), shown(RAMP, **TWELVE))


def test_bits_above_those_stored_are_not_pixels() -> None:
    """Old files keep overlays there."""
    assert np.array_equal(shown(RAMP | 0xF000, **TWELVE), shown(RAMP, **TWELVE))
    signed = (RAMP.astype(np.int16) - 2048) & 0x0FFF
    assert np.array_equal(shown(signed.astype(np.int16), **TWELVE), shown(RAMP.astype(np.int16) - 2048))


def test_32_bits_keep_their_order() -> None:
    """A dose map has values that no table can list."""
    pixels = shown(np.linspace(0, 4_000_000_000, 256).astype(np.uint32).reshape(16, 16)).ravel().astype(int)
    assert pixels[0] == 0
    assert pixels[-1] == 255
    assert (np.diff(pixels) >= 0).all()
    assert np.abs(pixels - np.arange(256)).max() <= 1


# -- colour -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", [0, 1])
def test_colours_of_16_bits_are_scaled_over_the_full_range(plane: int) -> None:
    """However their samples are laid out."""
    colours = np.random.default_rng(0).integers(0, 2**16, (8, 6, 3), np.uint16)
    laid_out = colours if plane == 0 else np.moveaxis(colours, 2, 0)
    pixels = shown(colours, PlanarConfiguration=plane, PixelData=laid_out.tobytes())
    assert np.array_equal(pixels, np.round(colours / 257).astype(np.uint8))


def test_ybr_becomes_rgb() -> None:
    """PS3.3 C.7.6.3.1.2: pure red is (76, 85, 255)."""
    red = np.broadcast_to(np.array([76, 85, 255], np.uint8), (4, 4, 3))
    assert np.abs(shown(red, PhotometricInterpretation="YBR_FULL").astype(int) - [254, 0, 0]).max() <= 1


def test_grey_that_is_stored_as_colour_is_grey() -> None:
    """A secondary capture of a radiograph: the same rule as for pictures of other kinds."""
    stored = np.repeat(np.arange(48, dtype=np.uint8).reshape(8, 6, 1), 3, axis=2)
    assert np.array_equal(shown(stored), stored[..., 0])


def test_a_palette_gives_colours() -> None:
    """Also where its first entry stands for another value than 0."""
    ramp = (np.arange(4) * 21845).astype("<u2")
    tables = {"Red": ramp, "Green": ramp[::-1], "Blue": np.zeros(4, "<u2")}
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in tables.items():
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [4, 10, 16]
        elements[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    pixels = shown(np.array([[9, 10, 11], [12, 13, 14]], np.uint8), **elements)
    assert pixels.tolist() == [
        [[0, 255, 0], [0, 255, 0], [85, 170, 0]],
        [[170, 85, 0], [255, 0, 0], [255, 0, 0]],
    ]


# -- how a file holds its pixels --------------------------------------------------------------------------------------


def test_the_audit_learns_what_the_file_says() -> None:
    """A class that is all MONOCHROME1 beside one of PNG files is a class from another place."""
    _, stored = inspect(dicom(RAMP, **TWELVE, PhotometricInterpretation="MONOCHROME1"), name="x")
    assert stored == Stored("MONOCHROME1", 12, 1)


@pytest.mark.parametrize("prefix", [True, False])
def test_the_header_may_be_missing(prefix: bool) -> None:
    """Older archives write the elements alone."""
    assert np.array_equal(shown(RAMP, prefix=prefix), shown(RAMP))


def test_a_deflated_file_is_unpacked() -> None:
    """Everything after the header is one stream."""
    assert np.array_equal(shown(RAMP, syntax=DeflatedExplicitVRLittleEndian), shown(RAMP))


@pytest.mark.parametrize("pixels", [RAMP, np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)])
def test_rle_is_unpacked(pixels: np.ndarray) -> None:
    """Bytes of one place of all pixels, run by run."""
    file = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(pixels)))
    file.compress(RLELossless, encoding_plugin="pydicom")
    assert np.array_equal(decode(encoded(file, syntax=RLELossless), name="x"), shown(pixels))


def test_jpeg_2000_needs_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lossless, so the picture is the same; and without the decoder the rejection says which command brings it."""
    large = np.tile(RAMP, (4, 4))
    file = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(large, **TWELVE)))
    file.compress(JPEG2000Lossless)
    data = encoded(file, syntax=JPEG2000Lossless)
    assert np.array_equal(decode(data, name="x"), shown(large, **TWELVE))
    monkeypatch.setitem(_DECODERS, JPEG2000Lossless, "one that nobody has")
    assert "pip install 'medimg[dicom]'" in str(rejection(data))
    monkeypatch.setattr(unpacking, "MOST_JPEG_2000_BYTES", 100)
    assert rejection(data).code == "too-large"


# -- what is rejected -------------------------------------------------------------------------------------------------


def test_several_frames_are_rejected() -> None:
    """Nobody can tell which one the label means."""
    error = rejection(dicom(np.zeros((4, 4), np.uint16), NumberOfFrames=2, PixelData=b"\0" * 64))
    assert error.code == "multi-frame"
    assert "file of its own" in str(error)


def test_files_without_pixels_are_rejected() -> None:
    """Reports, contours and a DICOMDIR lie among the images."""
    error = rejection(encoded(header(Modality="SR")))
    assert (error.code, "report" in str(error)) == ("not-an-image", True)
    assert rejection(encoded(header(Rows=4, Columns=4))).code == "truncated"


@pytest.mark.parametrize(
    ("code", "elements"),
    [
        ("truncated", {"PixelData": b"\0" * 100}),
        ("corrupt", {"Rows": 0}),
        ("corrupt", {"SamplesPerPixel": 3}),
        ("corrupt", {"BitsStored": 17}),
        ("corrupt", {"PhotometricInterpretation": None}),
        ("corrupt", {"RescaleSlope": 0, "RescaleIntercept": 1}),
        ("corrupt", {"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}),
        ("unsupported", {"PhotometricInterpretation": "HSV"}),
        ("unsupported", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("unsupported", {"BitsStored": 12, "HighBit": 15}),
        ("too-large", {"Rows": 60_000, "Columns": 60_000}),
        ("too-large", {"NumberOfFrames": MAX_PIXELS}),
    ],
)
def test_a_header_that_contradicts_its_pixels_is_told_by_a_code(code: str, elements: dict[str, Any]) -> None:
    """And never by the values in it."""
    assert rejection(dicom(RAMP, **elements)).code == code


def test_floating_point_pixels_are_rejected() -> None:
    """They do not say which value is white."""
    found = header(Rows=2, Columns=2, SamplesPerPixel=1, BitsAllocated=32, PhotometricInterpretation="MONOCHROME2")
    found.FloatPixelData = np.zeros(4, np.float32).tobytes()
    assert rejection(encoded(found)).code == "unsupported"


def test_video_is_rejected() -> None:
    """An endoscopy is no picture."""
    assert rejection(dicom(RAMP, syntax=MPEG2MPML, PixelData=encapsulate([b"\0\0\1\xb3"]))).code == "unsupported"


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (JPEGBaseline8Bit, b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00" + b"\0" * 64),
        (
            JPEG2000Lossless,
            b"\xff\x4f\xff\x51\x00\x29\x00\x00" + b"\xff\xff\xff\xff" * 2 + b"\0" * 20 + b"\x00\x01\x07" * 9,
        ),
        (RLELossless, (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + b"\0" * 56 + b"\x81\x00" * 100_000),
    ],
)
def test_compressed_pixels_that_claim_to_be_larger_never_reach_a_decoder(syntax: str, stream: bytes) -> None:
    """65,535 × 65,535 pixels behind a header that says 16 × 16: no decoder is asked to make room for them."""
    data = dicom(np.zeros((16, 16), np.uint8), syntax=syntax, PixelData=encapsulate([stream]))
    tracemalloc.start()
    try:
        if syntax == RLELossless:  # it says nothing of its size; what goes beyond the picture is not unpacked
            assert (decode(data, name="x") == 0).all()
        else:
            assert rejection(data).code == "corrupt"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_more_pixels_than_the_header_says_are_several_frames() -> None:
    """Pydicom takes what is left over for further frames; the byte that makes an odd number even is none."""
    odd = np.arange(15, dtype=np.uint8).reshape(3, 5) * 17
    np.testing.assert_array_equal(decode(dicom(odd, PixelData=odd.tobytes() + b"\0"), name="x"), odd)
    assert rejection(dicom(odd, PixelData=odd.tobytes() * 2)).code == "multi-frame"


def test_a_deflated_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of its size in the file."""
    monkeypatch.setattr(parser, "MOST_UNPACKED_BYTES", 1_000_000)
    data = dicom(RAMP, syntax=DeflatedExplicitVRLittleEndian)
    body = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = data[:body] + packer.compress(b"\0" * 50_000_000) + packer.flush()
    assert len(bomb) < 60_000
    assert rejection(bomb).code == "too-large"


def test_a_header_of_a_million_elements_is_given_up() -> None:
    """Ten megabytes of empty elements would be seconds of work."""
    data = dicom(RAMP)
    at = data.index(b"\x08\x00\x18\x00UI")
    started = time.monotonic()
    flood = b"\x08\x00\x05\x00CS\x00\x00" * 1_000_000
    assert rejection(data[:at] + flood + data[at:]).code == "too-complex"
    assert time.monotonic() - started < 5


def test_an_element_that_is_far_too_long_is_not_read() -> None:
    """A window of a megabyte is no window."""
    data = dicom(RAMP, prefix=False, WindowCenter=1, WindowWidth=2)
    at = data.index(b"\x28\x00\x50\x10")
    long = b"\x28\x00\x50\x10" + (1_000_000).to_bytes(4, "little") + b"1\\" * 500_000
    assert rejection(data[:at] + long + data[at + 10 :]).code == "corrupt"


# -- what gets out ----------------------------------------------------------------------------------------------------


def test_a_patients_name_is_in_no_message_warning_or_log(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """What pydicom complains of it quotes."""
    broken = dicom(RAMP, prefix=False, WindowCenter=1, WindowWidth=2)
    broken = broken.replace(
        b"\x28\x00\x51\x10\x04\x00\x00\x002.0 ", b"\x28\x00\x51\x10\x10\x00\x00\x00" + NAME.encode() + b" "
    )
    with caplog.at_level(logging.DEBUG):
        error = rejection(broken)
    assert error.code == "corrupt"
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert not recwarn.list
    assert not [record for record in caplog.records if "DOE" in record.getMessage()]


def test_without_the_extra_the_rejection_names_the_command() -> None:
    """A serving environment has NumPy and Pillow, and still says what to do."""
    code = (
        "import sys\n"
        "sys.modules['pydicom'] = None\n"
        "from medimg.data.decode import decode\n"
        "from medimg.errors import ImageRejected\n"
        "try:\n"
        "    decode(bytes(128) + b'DICM' + bytes(50), name='x')\n"
        "except ImageRejected as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[unsupported]" in done.stdout
    assert "pip install 'medimg[dicom]'" in done.stdout


def test_the_header_of_a_sequence_is_not_the_pictures() -> None:
    """An icon inside has rows and pixels of its own."""
    icon = Dataset()
    icon.Rows, icon.Columns = 2, 2
    icon.add_new("PixelData", "OW", b"\0" * 4)
    assert np.array_equal(shown(RAMP, IconImageSequence=[icon]), shown(RAMP))
