"""The contact sheet of pairs that look like copies."""

from __future__ import annotations

from collections.abc import Sequence

from medimg.data.audit.findings import Pair
from medimg.data.sheet import Sheet, picture

__all__ = ["contact_sheet"]

_PAIRS_A_ROW = 2


def contact_sheet(pairs: Sequence[Pair]) -> Sheet:
    """Returns a figure with each pair side by side, its files' names and splits above and its similarity."""
    rows = max(1, -(-len(pairs) // _PAIRS_A_ROW))
    sheet = Sheet(figsize=(4.4 * _PAIRS_A_ROW, 2.6 * rows), layout="constrained")
    axes = sheet.subplots(rows, 2 * _PAIRS_A_ROW, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for number, pair in enumerate(pairs):
        for axis, sample in zip(axes[2 * number : 2 * number + 2], (pair.first, pair.second), strict=True):
            name = sample.path.name
            short = name if len(name) <= 28 else f"{name[:12]}…{name[-15:]}"
            # A name may hold $, which matplotlib would read as a formula.
            axis.set_title(f"{short}\n{sample.split}, {pair.similarity:.3f}", fontsize=7, parse_math=False)
            picture(axis, sample)
    if not pairs:
        axes[0].text(0, 0.5, "no two images of different splits look like copies")
    return sheet
