"""A figure of pictures that a notebook shows by itself."""

from __future__ import annotations

import io
import warnings

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medimg.data.dataset import Sample
from medimg.data.decode import decode, read
from medimg.errors import ImageRejected

__all__ = ["Sheet", "picture"]


class Sheet(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a class name in a script without a font
            self.savefig(stream, format="png")
        return stream.getvalue()


def picture(axis: Axes, sample: Sample) -> None:
    """Draws a sample's picture, or the reason why it cannot be read."""
    try:
        axis.imshow(decode(read(sample.path), name=sample.path.name), cmap="gray", vmin=0, vmax=255)
    except ImageRejected as rejection:
        axis.text(0.5, 0.5, rejection.code, ha="center", va="center")
