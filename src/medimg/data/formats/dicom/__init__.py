"""DICOM: from the bytes of a file to the pixels that a network sees, and to the few header fields that a reader asks.

Needs pydicom and its decoders (`pip install 'medimg[dicom]'`); `medimg.data.decode` loads it where bytes are DICOM.

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
