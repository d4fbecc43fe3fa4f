"""DICOM: from the bytes of a file to the pixels that a network sees, and to the few header fields that a reader asks.

Needs pydicom and its decoders (`pip install 'medimg[dicom]'`), which `picture` loads; to tell DICOM from other bytes
needs neither.

What is done, in the standard's order (PS3.4 N.2): stored values → modality LUT, or rescale slope and intercept → VOI
LUT, else window → inversion → 8 bits.

- Of several VOI LUTs or windows the first is taken; where there are both, the LUT. Black is a LUT's smallest entry and
  white its largest.
- No window: unsigned pixels of at most 8 bits are taken as they are; of others, black is the lowest value in the
  picture and white the highest, the padding value left out.
- MONOCHROME1, or a presentation LUT shape of INVERSE, is inverted (once: the standard asks for both together), so that
  air is black everywhere.
- Palettes, YBR and 16-bit colour become 8-bit RGB. Segmented palettes are rejected.
- Several frames are rejected, as of any picture. So are files without pixels: reports, contours, a DICOMDIR.
- Overlays, colour profiles, shutters and the shape of a pixel are ignored. Text that is burned into the pixels stays.

No value of a header is in any rejection, and nothing that pydicom says of one gets out: patients' names are there.
"""

from __future__ import annotations

import re

from medimg.data.formats.strictness import strict_decoders
from medimg.data.pixels import Pixels, Stored
from medimg.errors import ImageRejected

__all__ = ["is_dicom", "picture"]

# With the prefix; or without, as older archives have them: then group 8 comes first, or the group of the prefix itself.
_SIGNATURE = re.compile(
    rb".{128}DICM|\x02\0[\0-\x16]\0[A-Z]{2}|\x08\0[\0-\x22]\0([A-Z]{2}|..\0\0)|\0\x08\0[\0-\x22][A-Z]{2}", re.DOTALL
)


def is_dicom(data: bytes) -> bool:
    """Tells whether the first bytes of a file look like DICOM, with its prefix or without."""
    return _SIGNATURE.match(data) is not None


def picture(data: bytes, *, name: str) -> tuple[Pixels, Stored]:
    """Returns a file's pixels, and how it holds them.

    Args:
        data: The whole file.
        name: What to call the image in an error.

    Raises:
        ImageRejected: With a code of `medimg.data.decode.REJECTIONS`; no value of the header is in its message.
    """
    with strict_decoders():
        try:
            from medimg.data.formats.dicom import display
        except ImportError:
            raise ImageRejected(
                "unsupported",
                name,
                "is a DICOM file, which needs more packages. Run: pip install 'medimg[dicom]'. Or save it as PNG",
            ) from None
        return display.picture(data, name=name)
