"""The report's tables, as HTML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from medimg.config import Finding
from medimg.evaluation.intervals import Interval
from medimg.evaluation.metrics import Metrics
from medimg.evaluation.subgroups import Subgroup
from medimg.evaluation.summary import figure, range_text, sentence, share, shown, split_name

if TYPE_CHECKING:
    from medimg.evaluation.report import Report

__all__ = ["audit", "calibration", "classes", "patients", "record", "splits", "subgroups"]

# Name of the figure, its words, what it says. Of a binary task those of its one target stand in for the macro averages.
_ROWS = (
    ("auroc", "AUROC", "ranking over all thresholds; chance is 0.5"),
    ("auprc", "AUPRC", "precision over all thresholds; chance is the prevalence"),
    ("sensitivity", "Sensitivity", "share of the images with it that were found"),
    ("specificity", "Specificity", "share of the images without it that were cleared"),
    ("ppv", "PPV", "share of the alarms that are right, at this prevalence"),
    ("npv", "NPV", "share of the all-clears that are right, at this prevalence"),
    ("lr_positive", "Likelihood ratio +", "how much an alarm raises the odds"),
    ("lr_negative", "Likelihood ratio −", "how much an all-clear lowers the odds"),
    ("balanced_accuracy", "Balanced accuracy", "every class counts the same"),
    ("accuracy", "Accuracy", "share of right answers"),
    ("baseline_accuracy", "Majority baseline", "accuracy of always giving the most frequent answer"),
    ("mcc", "MCC", "Matthews correlation of decision and truth; chance is 0"),
    ("kappa", "Weighted kappa", "agreement, a near miss counting less; chance is 0"),
    ("brier", "Brier score", "mean squared error of the probabilities; 0 is perfect"),
    ("calibration_slope", "Calibration slope", "1 is ideal; below 1 the probabilities are too extreme"),
    ("calibration_intercept", "Calibration intercept", "0 is ideal; below 0 they are too high on average"),
    ("ece", "ECE", "mean gap between probability and frequency, in bins of equal size"),
)
_MACRO = ("auroc", "auprc", "sensitivity", "specificity", "brier", "ece")
_PATIENT_ROWS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "accuracy", "brier")


def splits(report: Report) -> str:
    """Returns the figures of every split, the headline first."""
    order = sorted(report.splits, key=lambda name: name != report.headline)
    heads = {
        name: f"{escape(split_name(name)).capitalize()}{' <small>optimistic</small>' if name == 'val' else ''}"
        for name in order
    }
    return _columns([(heads[name], report.splits[name]) for name in order], [name for name, *_ in _ROWS])


def patients(report: Report) -> str:
    """Returns the headline split by image and by patient."""
    heads = {"mean": "By patient <small>mean of their images</small>", "max": "By patient <small>highest</small>"}
    columns = [("By image", report.splits[report.headline])]
    columns += [(heads[how], metrics) for how, metrics in report.patients.items()]
    return _columns(columns, _PATIENT_ROWS, hints=False)


def calibration(metrics: Metrics) -> str:
    """Returns the figures of calibration: one row a target, or where there is one target one row a figure."""
    names = ("calibration_slope", "calibration_intercept", "ece")
    words = {name: title for name, title, _ in _ROWS}
    if metrics.task == "binary":
        known = [(name, found) for name in names if (found := figure(metrics, name))]
        return _scroll("splits", "", [_row(words[name], "", [_cell(name, *found)]) for name, found in known])
    titles = (words[name].removeprefix("Calibration ") for name in names)
    head = "".join(f'<th scope="col">{title[0].upper()}{title[1:]}</th>' for title in titles)
    rows = []
    for one in metrics.per_class:
        values = [(name, getattr(one, name)) for name in names]
        if any(value is not None for _, value in values):
            cells = ["–" if value is None else _cell(name, value, one.intervals.get(name)) for name, value in values]
            rows.append(_row(one.name, "", cells))
    return _scroll("classes", f"<tr><td></td>{head}</tr>", rows) if rows else ""


def _columns(columns: Sequence[tuple[str, Metrics]], names: Sequence[str], *, hints: bool = True) -> str:
    first = columns[0][1]
    facts = {
        "Cases": [f"{metrics.n:,}" for _, metrics in columns],
        "Patients": ["unknown" if metrics.patients is None else f"{metrics.patients:,}" for _, metrics in columns],
    }
    if first.task == "binary":
        name = f"Prevalence of {first.per_class[0].name}"
        facts[name] = [share(metrics.per_class[0].prevalence) for _, metrics in columns]
    # An empty interval, so that all figures stand below one another.
    rows = [_row(name, "", [f"{value}<small></small>" for value in values]) for name, values in facts.items()]
    for name, words, hint in _ROWS:
        found = [figure(metrics, name) for _, metrics in columns]
        if name in names and any(one is not None for one in found):
            cells = ["not estimable" if one is None else _cell(name, *one) for one in found]
            rows.append(_row(_title(first, name, words), hint if hints else "", cells))
    head = "".join(f'<th scope="col">{words}</th>' for words, _ in columns)
    return _scroll("splits", f"<tr><td></td>{head}</tr>", rows)


def _title(metrics: Metrics, name: str, words: str) -> str:
    # The Brier score of classes that exclude each other is no mean over them.
    if metrics.task == "binary" or name not in _MACRO or (name == "brier" and metrics.task == "multiclass"):
        return words
    return f"Mean {words.lower() if name in ('sensitivity', 'specificity') else words}"


def _cell(name: str, value: float, interval: Interval | None) -> str:
    low_high = range_text(name, interval)
    return f"{escape(shown(name, value).replace('-', '−'))}<small>{low_high}</small>"


def classes(metrics: Metrics) -> str:
    """Returns one row a class or label, each against all others."""
    names = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv")
    words = {name: title for name, title, _ in _ROWS}
    labels = metrics.task == "multilabel"
    unknown = labels and any(one.unknown for one in metrics.per_class)
    extra = [*(["Unknown"] if unknown else []), *(["Threshold"] if labels else [])]
    heads = ["Images with", *extra, *(words[name] for name in names)]
    rows = []
    for one in metrics.per_class:
        cells = [f"{one.positives:,}<small>{share(one.prevalence)}</small>"]
        cells += [f"{one.unknown:,}"] if unknown else []
        cells += [shown("threshold", one.threshold)] if labels else []
        for name in names:
            value = getattr(one, name)
            cells.append("–" if value is None else _cell(name, value, one.intervals.get(name)))
        rows.append(_row(one.name, "", cells))
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return _scroll("classes", f"<tr><td></td>{head}</tr>", rows)


def subgroups(groups: Sequence[Subgroup]) -> str:
    """Returns one row a part, under the name of its column, with bars for the eye."""
    names = ("sensitivity", "specificity", "auroc")
    words = {name: title for name, title, _ in _ROWS}
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Images", "Patients", *(words[name] for name in names)))
    rows = []
    for place, group in enumerate(groups):
        if place == 0 or groups[place - 1].column != group.column:
            rows.append(f'<tr class="part"><th scope="rowgroup" colspan="6">{escape(group.column)}</th></tr>')
        cells = [f"{group.images:,}", "unknown" if group.patients is None else f"{group.patients:,}"]
        if group.metrics is None:
            cells.append(f'<td class="why" colspan="3">{escape(group.reason or "")}</td>')
        else:
            for name in names:
                value, interval = getattr(group.metrics, name), group.metrics.intervals.get(name)
                cells.append("–" if value is None else f"{_bar(value, interval)}{_cell(name, value, interval)}")
        rows.append(_row(group.value, "", cells))
    return _scroll("groups", f"<tr><td></td>{head}</tr>", rows)


def _bar(value: float, interval: Interval | None) -> str:
    reach = ""
    if interval is not None:
        low, high = interval
        reach = f'<i style="left:{low:.1%};width:{high - low:.1%}"></i>'
    return f'<span class="reach" aria-hidden="true">{reach}<b style="left:{value:.1%}"></b></span>'


def audit(found: Sequence[Finding]) -> str:
    """Returns what the checks of the data found; the fine ones are folded away."""
    order = {"error": "Error", "warning": "Warning", "unknown": "Not checked", "fine": "Fine"}
    rows = {level: [_finding(one, order[level]) for one in found if one.level == level] for level in order}
    open_ = [row for level in ("error", "warning", "unknown") for row in rows[level]]
    parts = [f'<table class="audit"><tbody>{"".join(open_)}</tbody></table>'] if open_ else []
    if rows["fine"]:
        count = len(rows["fine"])
        parts.append(
            f"<details><summary>{count} check{'' if count == 1 else 's'} found nothing</summary>"
            f'<table class="audit"><tbody>{"".join(rows["fine"])}</tbody></table></details>'
        )
    return "".join(parts)


def _finding(one: Finding, word: str) -> str:
    name = escape(one.check.replace("-", " ").capitalize())
    return (
        f'<tr class="{one.level}"><td><span class="level">{word}</span></td><th scope="row">{name}</th>'
        f"<td>{escape(sentence(one.message))}</td></tr>"
    )


def record(facts: Mapping[str, Any]) -> str:
    """Returns facts in sections."""
    loose = {name: value for name, value in facts.items() if not isinstance(value, Mapping)}
    sections = {name: value for name, value in facts.items() if isinstance(value, Mapping)}
    if loose:
        sections = {"general": loose, **sections}
    parts = "".join(
        f"<div><h3>{escape(_words(name).capitalize())}</h3><dl>"
        + "".join(f"<dt>{escape(_words(str(key)))}</dt><dd>{_value(value)}</dd>" for key, value in part.items())
        + "</dl></div>"
        for name, part in sections.items()
    )
    return f'<div class="record">{parts}</div>' if parts else ""


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)) and all(isinstance(one, (str, int, float)) for one in value):
        return escape(", ".join(str(one) for one in value)) or "none"
    if isinstance(value, Mapping) and all(isinstance(one, (str, int, float)) for one in value.values()):
        return escape(", ".join(f"{key} {_plain(one)}" for key, one in value.items())) or "none"
    if isinstance(value, (Mapping, list, tuple)):
        return f"<code>{escape(json.dumps(value, default=str, ensure_ascii=False))}</code>"
    return escape(_plain(value) if isinstance(value, float) else str(value))


def _plain(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _row(name: str, hint: str, cells: Iterable[str]) -> str:
    below = f"<small>{escape(hint)}</small>" if hint else ""
    data = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(name)}{below}</th>{data}</tr>'


def _scroll(kind: str, head: str, rows: Iterable[str]) -> str:
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
