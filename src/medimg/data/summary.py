"""A dataset as text, as HTML for a notebook, and as a figure."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING

from rich.cells import cell_len

from medimg.data.audit.classes import lacking, scarce
from medimg.data.labels import amount, listing
from medimg.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from medimg.data.dataset import Dataset

__all__ = ["figure", "html", "text"]

_HEADERS_READ = 300  # sizes are read from the headers of this many images, evenly spread
_MOST_CLASSES = 40  # of a longer list nobody reads the end


def _size(path: Path) -> tuple[int, int] | None:
    """Returns width and height as the file's header has them; why one cannot be read is `rejected()`'s to explain."""
    from PIL import Image

    with suppress(Exception), Image.open(path) as image:
        return image.size
    try:  # it may be a DICOM file
        from medimg.data.formats.dicom.header import read_header
    except ImportError:
        return None
    header = read_header(path, ("Columns", "Rows")) or {}
    width, height = header.get("Columns", ""), header.get("Rows", "")
    return (int(width), int(height)) if width.isdigit() and height.isdigit() else None


def _sizes(dataset: Dataset) -> str:
    step = max(1, len(dataset) // _HEADERS_READ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = Counter(size for sample in dataset.samples[::step] if (size := _size(sample.path)) is not None)
    if not sizes:
        return "unreadable"
    if len(sizes) == 1:
        (width, height), _ = sizes.most_common(1)[0]
        return f"{width}×{height} px"
    widths, heights = zip(*sizes, strict=True)
    return f"{min(widths)}×{min(heights)} to {max(widths)}×{max(heights)} px"


def _warnings(dataset: Dataset) -> list[str]:
    if not dataset.classes:
        return [*dataset.notices]
    found = [*dataset.notices, *lacking(dataset)]
    leaking = dataset.groups_in_two_splits()
    if leaking:
        found.append(f"{amount(len(leaking), 'group')} in more than one split: {listing(leaking, most=3)}")
    told = any("patients cannot be kept apart" in notice for notice in dataset.notices)
    if not told and all(sample.group is None for sample in dataset.samples):
        found.append("no patient key: pass group= if a patient can have several images")
    if not dataset.splits:
        found.append("no splits: call .split(), or training divides by group")
    elif not dataset.of("val"):
        found.append("no validation split: training cuts one out of train by group")
    elif few := scarce(dataset, "val"):
        found.append(f"validation is too small ({listing(few)}): training cuts its own out of train by group")
    return found


def _table(dataset: Dataset) -> tuple[list[str], list[list[str]]]:
    splits: list[str | None] = [*dataset.splits] or [None]
    counts = [dataset.counts(split) for split in splits]
    parts = [dataset.of(split) for split in splits]
    rows = [
        [name + (" (positive)" if name == dataset.positive else ""), *(f"{count[name]:,}" for count in counts)]
        for name in dataset.classes[:_MOST_CLASSES]
    ]
    if len(dataset.classes) > _MOST_CLASSES:
        rows.append([f"and {len(dataset.classes) - _MOST_CLASSES:,} more", *("" for _ in splits)])
    if dataset.task == "multilabel" and dataset.classes:
        rows.append(["none of these", *(f"{sum(not dataset.label_names(s) for s in part):,}" for part in parts)])
    rows.append(["images", *(f"{len(part):,}" for part in parts)])
    if any(sample.group is not None for sample in dataset.samples):
        rows.append(["groups", *(f"{len({s.group for s in part if s.group is not None}):,}" for part in parts)])
    return ["", *(split or "all" for split in splits)], rows


def _title(dataset: Dataset) -> str:
    kind = "labels" if dataset.task == "multilabel" else "classes"
    images = amount(len(dataset), "image")
    labelled = f"{len(dataset.classes)} {kind}, {dataset.task}" if dataset.classes else "without labels"
    return f"{dataset.name}: {images}, {labelled}, {_sizes(dataset)}"


def text(dataset: Dataset) -> str:
    """Returns the summary as aligned text."""
    header, rows = _table(dataset)
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    lines = [_title(dataset)]
    for row in [header, *rows]:
        # Chinese characters take two columns of a terminal, accents of their own none: str.ljust would count one.
        pads = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[0] + pads[0], *(pad + cell for pad, cell in zip(pads[1:], row[1:], strict=True))]
        lines.append("  " + "  ".join(cells))
    lines.extend(f"  ! {warning}" for warning in _warnings(dataset))
    return "\n".join(lines)


def html(dataset: Dataset) -> str:
    """Returns the summary as an HTML table."""
    header, rows = _table(dataset)
    head = "".join(f"<th style='text-align:right'>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th style='text-align:left' dir='auto'>{escape(row[0])}</th>"
        + "".join(f"<td style='text-align:right'>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in _warnings(dataset))
    return (
        f"<div><p><b>{escape(_title(dataset))}</b></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        + (f"<ul>{warnings}</ul>" if warnings else "")
        + "</div>"
    )


def figure(dataset: Dataset, *, count: int, split: str | None, seed: int) -> Figure:
    """Returns a figure with `count` random images of each class, one row a class."""
    from medimg.data.sheet import Sheet, picture

    pool = dataset.samples if split is None else dataset.of(split)
    if not dataset.samples:
        raise DatasetError("the dataset has no images")
    if not pool:
        raise DatasetError(f"there is no {split} split. Splits: {listing(dataset.splits) or 'none'}")
    if not dataset.classes:
        raise DatasetError("the dataset has no labels, and images are shown by class")
    if count < 1:
        raise DatasetError(f"count={count}: at least one image of each class")
    names = dataset.classes[:_MOST_CLASSES]
    draw = random.Random(seed)  # noqa: S311 - which pictures to show is no secret
    sheet = Sheet(figsize=(2.1 * count, 2.3 * len(names)), layout="constrained")
    axes = sheet.subplots(len(names), count, squeeze=False)
    for row, name in enumerate(names):
        shown = [sample for sample in pool if name in dataset.label_names(sample)]
        draw.shuffle(shown)
        # A name may hold $, which matplotlib would read as a formula.
        axes[row][0].set_title(name, loc="left", fontsize=10, parse_math=False)
        for column, axis in enumerate(axes[row]):
            axis.set_axis_off()
            if column < len(shown):
                picture(axis, shown[column])
    return sheet
