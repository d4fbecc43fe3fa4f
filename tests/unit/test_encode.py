"""What leaves the machine of an image: its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medimg.data.decode import decode
from medimg.data.encode import encode
from medimg.errors import ImageRejected

CANARY = "Doe^Jane 1970-01-01"
DESCRIPTION = 0x010E  # of EXIF and TIFF


def telling(folder: Path, kind: str) -> Path:
    """Returns a file that holds a patient's name beside its pixels."""
    picture = Image.fromarray(np.arange(3600, dtype=np.uint8).reshape(60, 60))
    exif, text = Image.Exif(), PngInfo()
    exif[DESCRIPTION] = CANARY
    text.add_text("Comment", CANARY)
    file = folder / f"image.{kind.split()[0]}"
    given = {"jpeg exif": {"exif": exif}, "png exif": {"exif": exif}, "png text": {"pnginfo": text}}
    picture.save(file, **given.get(kind, {"tiffinfo": {DESCRIPTION: CANARY}}))
    return file


@pytest.mark.parametrize("kind", ["jpeg exif", "png exif", "png text", "tiff tags"])
def test_only_pixels_are_sent(tmp_path: Path, kind: str) -> None:
    """Headers stay, whether a path, bytes or a picture is given; the pixels arrive as they are decoded here."""
    file = telling(tmp_path, kind)
    content = file.read_bytes()
    assert CANARY.encode() in content
    with Image.open(file) as picture:
        picture.load()
        for image in (file, str(file), content, memoryview(content), picture):
            sent = encode(image)
            assert CANARY.encode() not in sent
            assert np.array_equal(decode(sent, name="sent"), decode(content, name="here"))


@pytest.mark.parametrize(("content", "code"), [(b"", "empty"), (b"<html>", "not-an-image"), (None, "missing")])
def test_what_is_no_image_is_rejected_by_its_name(tmp_path: Path, content: bytes | None, code: str) -> None:
    """Before anything is sent."""
    file = tmp_path / "scan7.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ImageRejected, match=r"scan7\.png") as caught:
        encode(file)
    assert caught.value.code == code
    assert "scan7" not in caught.value.message and code not in caught.value.message
