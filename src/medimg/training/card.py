"""The model card: Markdown with the front matter that the Hugging Face hub reads (its documentation, "Model cards")."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from medimg.artifact import ModelRecord
from medimg.evaluation.metrics import ClassMetrics, Metrics
from medimg.evaluation.report import Report
from medimg.evaluation.summary import (
    asked,
    believed,
    caveats,
    figure,
    findings,
    policy,
    question,
    sentence,
    split_name,
    with_interval,
)

__all__ = ["card"]

# Our figure to the hub's name of it and the words of the table.
_FIGURES = {
    "auroc": ("roc_auc", "AUROC"),
    "auprc": ("average_precision", "AUPRC"),
    "sensitivity": ("recall", "Sensitivity"),
    "specificity": ("specificity", "Specificity"),
    "ppv": ("precision", "PPV"),
    "npv": ("npv", "NPV"),
    "balanced_accuracy": ("balanced_accuracy", "Balanced accuracy"),
    "accuracy": ("accuracy", "Accuracy"),
    "mcc": ("matthews_correlation", "MCC"),
    "brier": ("brier_score", "Brier score"),
    "calibration_slope": ("calibration_slope", "Calibration slope"),
    "calibration_intercept": ("calibration_intercept", "Calibration intercept"),
    "ece": ("ece", "ECE"),
}

_MARKUP = re.compile(r"[\\`*\[\]|]")


def card(record: ModelRecord, report: Report) -> str:
    """Returns the card of a model: what it is for, what it was trained on, how good it is, what to mind.

    The front matter names no licence: that is for the owner of the data and the model to choose.
    """
    title = _words(f"{record.config.model}: {', '.join(record.classes)}")
    parts = (
        _front_matter(record, report), f"# {title}\n", _use(record, report),
        _data(record), _performance(record, report), _limitations(report), _audit(report), _training(record),
    )  # fmt: skip
    return "\n".join(part for part in parts if part)


def _front_matter(record: ModelRecord, report: Report) -> str:
    lines = [
        "---",
        "library_name: keras",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("medical-imaging", "medimg", f"{record.task}-classification")),
        "model-index:",
        f"- name: {json.dumps(record.config.model)}",
        "  results:",
    ]
    for split, metrics in report.splits.items():
        lines += [
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            "      type: imagefolder",
            f"      name: {json.dumps('dataset ' + str(record.data.get('fingerprint', ''))[:12])}",
            f"      split: {split_name(split)}",
            "    metrics:",
        ]
        for name, (kind, words) in _FIGURES.items():
            if found := figure(metrics, name):
                lines += [f"    - type: {kind}", f"      name: {json.dumps(words)}", f"      value: {found[0]:.6f}"]
    return "\n".join([*lines, "---\n"])


def _use(record: ModelRecord, report: Report) -> str:
    positive = f" The finding to detect is **{_words(record.positive)}**." if record.positive else ""
    return f"""A {record.task} image classifier.{positive} {_words(question(report))}

## Intended use
Research and teaching: this is not a medical device, it is not approved for diagnosis, and nobody has checked it for
patients other than those it was tested on. It answers for images like those it was trained on, and it has an answer for
any picture, also for one of another body part.

```python
from medimg import ModelFolder

ModelFolder.load("path/of/this/folder").predict("image.png")
```
"""


def _data(record: ModelRecord) -> str:
    counts = ", ".join(f"{count:,} {split_name(split)}" for split, count in record.data.get("counts", {}).items())
    side = record.preprocessing.image_size
    return f"""## Data
{counts} images, resized to {side} × {side} pixels. Fingerprint of the dataset: `{record.data.get("fingerprint", "")}`.
"""


def _performance(record: ModelRecord, report: Report) -> str:
    thresholds = ", ".join(f"{name} ≥ {value:.4f}" for name, value in record.thresholds.items())
    splits = sorted(report.splits, key=lambda name: name != report.headline)
    heads = [f"{split_name(name)}{' (optimistic)' if name == 'val' else ''}" for name in splits]
    rows = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(splits)}"]
    for name, (_, words) in _FIGURES.items():
        found = [figure(report.splits[split], name) for split in splits]
        if any(found):
            cells = ["–" if one is None else with_interval(name, *one) for one in found]
            rows.append(f"| {words} | {' | '.join(cells)} |")
    looks = "once" if report.test_looks == 1 else f"{report.test_looks} times"
    tested = f" Test was scored {looks}." if report.test_looks else " No test images were scored."
    how = f"{thresholds} ({policy(report.thresholds)})" if thresholds else "the most probable class"
    lines = [
        f"Asked of {asked(report)}. Decision: {_words(how)}.{tested}",
        *map(_words, findings(report)),
        *map(_words, believed(report)),
        "\n".join(rows),
        *_details(report),
    ]
    method = report.splits[report.headline].interval_method
    return "## Performance\n" + "\n\n".join([*lines, *([f"In brackets: {method}"] if method else [])]) + "\n"


def _details(report: Report) -> Iterator[str]:
    """Yields the tables of classes and of subgroups, where there are some."""
    metrics = report.splits[report.headline]
    figures = ("sensitivity", "specificity", "auroc")
    head = f"{' | '.join(_FIGURES[name][1] for name in figures)} |\n|---|---|{'---|' * len(figures)}\n"
    if len(metrics.per_class) > 1:
        rows = [f"| {_words(one.name)} | {one.positives:,} | {_cells(one, figures)} |" for one in metrics.per_class]
        yield f"| | Images with | {head}" + "\n".join(rows)
    if report.subgroups:
        rows = [
            f"| {_words(f'{group.column}: {group.value}')} | {group.images:,} | "
            + (
                " | ".join([_words(group.reason or "")] * 3)
                if group.metrics is None
                else _cells(group.metrics, figures)
            )
            + " |"
            for group in report.subgroups
        ]
        yield f"| Subgroup | Images | {head}" + "\n".join(rows)


def _cells(source: Metrics | ClassMetrics, figures: tuple[str, ...]) -> str:
    values = [(name, getattr(source, name)) for name in figures]
    return " | ".join(
        "–" if value is None else with_interval(name, value, source.intervals.get(name)) for name, value in values
    )


def _words(text: str) -> str:
    """Returns a text on one line that Markdown shows as it is: names of classes may hold anything."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")


def _limitations(report: Report) -> str:
    lines = [f"- {_words(sentence(worry))}" for worry in report.worries]
    lines += [f"- {_words(f'{heading}. {text}')}" for heading, text in caveats(report)]
    return "## Limitations\n" + "\n".join(lines) + "\n"


def _audit(report: Report) -> str:
    if not report.audit:
        return ""
    rows = [f"| {one.check} | {one.level} | {_words(sentence(one.message))} |" for one in report.audit]
    return "## Audit of the data\n| Check | Verdict | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _training(record: ModelRecord) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return f"""## Training
```json
{record.config.model_dump_json()}
```

Made by job `{record.job}` on {record.created} with {versions}. All figures, curves and images: report/report.html.
"""
