"""The model card, in Markdown."""

from __future__ import annotations

from medimg.artifact import ModelRecord
from medimg.evaluation.report import Report

__all__ = ["card"]


def card(record: ModelRecord, report: Report) -> str:
    """Returns the card of a model: what it is for, what it was trained on, how good it is, what to mind."""
    counts = ", ".join(f"{count:,} {split}" for split, count in record.data.get("counts", {}).items())
    names = sorted({name for figures in record.metrics.values() for name in figures})
    splits = list(record.metrics)
    table = [f"| | {' | '.join(splits)} |", f"|---|{'---|' * len(splits)}"]
    for name in names:
        values = [record.metrics[split].get(name) for split in splits]
        table.append(f"| {name} | {' | '.join('–' if value is None else f'{value:.3f}' for value in values)} |")
    thresholds = (
        ", ".join(f"{name} ≥ {value:.4f}" for name, value in record.thresholds.items()) or "most probable class"
    )
    positive = f" The finding to detect is **{record.positive}**." if record.positive else ""
    notices = "\n".join(f"- {notice}" for notice in report.notices) or "- none"
    return f"""# {record.config.model}: {", ".join(record.classes)}

A {record.task} image classifier.{positive} Research use only: this is not a medical device, and nobody has checked it
for patients other than those it was tested on.

## Data
{counts} images at {record.preprocessing.image_size} × {record.preprocessing.image_size} pixels. Fingerprint
`{record.data.get("fingerprint", "")}`.

## Performance
Decision: {thresholds}, frozen on validation. Test was scored {report.test_looks} time(s).

{chr(10).join(table)}

## What to mind
{notices}

## Training
`{record.config.model_dump_json()}`

Made by job `{record.job}` on {record.created} with {", ".join(f"{n} {v}" for n, v in record.versions.items())}.
"""
