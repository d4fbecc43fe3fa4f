"""A dataset as text, as HTML for a notebook, and as a figure."""

from __future__ import annotations

import random
from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from medimg.data.decode import decode, read
from medimg.data.labels import listing
from medimg.data.splits import LEAST_PER_CLASS
from medimg.errors import ImageRejected

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medimg.data.dataset import Dataset

__all__ = ["figure", "html", "text"]

_HEADERS_READ = 300  # sizes are read from the headers of this many images, evenly spread


def _sizes(dataset: Dataset) -> str:
    from PIL import Image

    step = max(1, len(dataset) // _HEADERS_READ)
    sizes = Counter()
    for sample in dataset.samples[::step]:
        try:
            with Image.open(sample.path) as image:
                sizes[image.size] += 1
        except Exception:  # noqa: S112, PERF203 - a header that cannot be read is `rejected()`'s to explain
            continue
    if not sizes:
        return "unreadable"
    if len(sizes) == 1:
        (width, height), _ = sizes.most_common(1)[0]
        return f"{width}×{height} px"
    widths, heights = zip(*sizes, strict=True)
    return f"{min(widths)}×{min(heights)} to {max(widths)}×{max(heights)} px"


def _warnings(dataset: Dataset) -> list[str]:
    found = list(dataset.notices)
    leaking = dataset.groups_in_two_splits()
    if leaking:
        found.append(f"{len(leaking):,} groups are in more than one split: {listing(leaking, most=3)}")
    if all(sample.group is None for sample in dataset.samples):
        found.append("no patient key: pass group= if a patient can have several images")
    if "train" in dataset.splits and dataset.task != "multilabel":
        few = {name: count for name, count in dataset.counts("val").items() if count < LEAST_PER_CLASS}
        if few:
            found.append(
                f"validation has fewer than {LEAST_PER_CLASS} images of {listing(few)}: training cuts its own by group"
            )
    return found


def _table(dataset: Dataset) -> tuple[list[str], list[list[str]]]:
    splits = [*dataset.splits] or [None]
    header = ["", *(split or "all" for split in splits)]
    by_split = {split: dataset.counts(split) for split in splits}
    rows = [
        [name + (" (positive)" if name == dataset.positive else ""), *(f"{by_split[split][name]:,}" for split in splits)]
        for name in dataset.classes
    ]
    rows.append(["images", *(f"{len(dataset.of(split)):,}" for split in splits)])
    if any(sample.group is not None for sample in dataset.samples):
        groups = [f"{len({s.group for s in dataset.of(split) if s.group is not None}):,}" for split in splits]
        rows.append(["groups", *groups])
    return header, rows


def _title(dataset: Dataset) -> str:
    return f"{dataset.name}: {len(dataset):,} images, {len(dataset.classes)} classes, {dataset.task}, {_sizes(dataset)}"


def text(dataset: Dataset) -> str:
    """Returns the summary as aligned text."""
    header, rows = _table(dataset)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [_title(dataset)]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells))
    lines.extend(f"  ! {warning}" for warning in _warnings(dataset))
    return "\n".join(lines)


def html(dataset: Dataset) -> str:
    """Returns the summary as an HTML table."""
    header, rows = _table(dataset)
    head = "".join(f"<th style='text-align:right'>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th style='text-align:left'>{escape(row[0])}</th>"
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
    from matplotlib.figure import Figure

    pool = dataset.samples if split is None else dataset.of(split)
    draw = random.Random(seed)  # noqa: S311 - which pictures to show is no secret
    drawing = Figure(figsize=(2.1 * count, 2.3 * len(dataset.classes)), layout="constrained")
    axes = drawing.subplots(len(dataset.classes), count, squeeze=False)
    for row, name in enumerate(dataset.classes):
        shown = [sample for sample in pool if name in dataset.label_names(sample)]
        draw.shuffle(shown)
        for column in range(count):
            axis = axes[row][column]
            axis.set_axis_off()
            if column < len(shown):
                sample = shown[column]
                try:
                    axis.imshow(decode(read(sample.path), name=sample.path.name), cmap="gray", vmin=0, vmax=255)
                except ImageRejected as rejection:
                    axis.text(0.5, 0.5, rejection.code, ha="center", va="center")
            if column == 0:
                axis.set_title(name, loc="left", fontsize=10)
    return drawing
