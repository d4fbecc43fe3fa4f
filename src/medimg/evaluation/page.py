"""The report as one HTML page that needs nothing but itself, and as a short fragment for notebooks."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from medimg.evaluation.metrics import ClassMetrics, Metrics
from medimg.evaluation.summary import asked, caveats, findings, number, question, share, split_name

if TYPE_CHECKING:
    from medimg.evaluation.plot import Plot
    from medimg.evaluation.report import Report

__all__ = ["fragment", "page"]

# The policy makes the browser itself refuse any outside address and any script, whatever a class is called.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<p class="eyebrow">Evaluation report$model</p>
<h1>$question</h1>
<p class="asked">Asked of <strong>$asked</strong>.</p>$among
</header>
<main>
<section class="answer"><div class="tiles">$tiles</div>$findings</section>
$notices
<section class="caveats">$caveats</section>
<section><h2>In numbers</h2>$table</section>
$classes
<section><h2>Curves and counts</h2>
<p class="hint">All on $headline images$unless.</p><div class="plots">$plots</div></section>
$record
</main>
<footer><p>Made by medimg, software for research and teaching. Not a medical device; not for diagnosis.</p></footer>
</body>
</html>
""")

_CAPTIONS = {
    "roc": (
        "Receiver operating characteristic",
        "Sensitivity against false alarms over all thresholds. Dashed diagonal: chance.",
    ),
    "precision_recall": (
        "Precision and recall",
        "How many alarms are right, as more of the images are found. Dashed: the prevalence, which is chance.",
    ),
    "confusion": ("Confusion", "Images, and their share of the row."),
    "scores": (
        "Spread of the scores",
        "The less the two overlap, the easier the decision; images near the threshold are uncertain.",
    ),
    "learning": ("Learning curves", "Train falling while validation rises is overfitting."),
}


def page(report: Report) -> str:
    """Returns the whole page."""
    headline = report.splits[report.headline]
    name, classes = _model_name(report.record), list(headline.confusion)
    return _PAGE.substitute(
        title=escape(f"{name or 'medimg'}: evaluation report"),
        style=resources.files("medimg.evaluation").joinpath("page.css").read_text(encoding="utf-8"),
        model=f" · {escape(name)}" if name else "",
        question=escape(question(report)),
        asked=escape(asked(report)),
        among=f'<p class="among">{escape(" · ".join(classes))}</p>' if len(classes) > 4 else "",
        tiles="".join(_tiles(headline)),
        findings="".join(f"<p>{escape(sentence)}</p>" for sentence in findings(report)),
        notices=_notices(report.notices),
        caveats="".join(f"<div><h3>{escape(head)}</h3><p>{escape(text)}</p></div>" for head, text in caveats(report)),
        table=_table(report),
        classes=_classes(headline) if len(headline.per_class) > 1 else "",
        headline=escape(split_name(report.headline)),
        unless=", at the frozen thresholds where one is needed" if report.thresholds.values else "",
        plots="".join(_plot(key, figure, headline) for key, figure in report.figures.items()),
        record=_record(report.record),
    )


def fragment(report: Report) -> str:
    """Returns the headline for a notebook: no style sheet of its own, so it follows a dark theme."""
    headline = report.splits[report.headline]
    tiles = "".join(
        f'<td style="text-align:left;padding:.2em 2em .4em 0"><span style="opacity:.7">{escape(name)}</span><br>'
        f'<strong style="font-size:1.5em">{escape(value)}</strong><br><small>{escape(note)}</small></td>'
        for name, value, note, _, _ in _figures(headline)
    )
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in report.notices)
    warned = f"<p><strong>What to worry about</strong></p><ul>{notices}</ul>" if notices else ""
    return (
        f"<p><strong>{escape(question(report))}</strong><br>Asked of {escape(asked(report))}.</p>"
        f'<table style="border:0"><tr style="background:none">{tiles}</tr></table>'
        f"{''.join(f'<p>{escape(sentence)}</p>' for sentence in findings(report))}{warned}"
    )


def _model_name(record: Mapping[str, Any]) -> str:
    model = record.get("model", "")
    return str(model.get("name") or model.get("architecture", "") if isinstance(model, Mapping) else model)


def _figures(metrics: Metrics) -> Iterable[tuple[str, str, str, float | None, float | None]]:
    """Yields name, value, note, and for the bar the value and what chance gives."""
    baseline = metrics.baseline_accuracy
    accuracy = f"{metrics.correct:,} of {metrics.decisions:,}"
    if metrics.task == "binary":
        one = metrics.per_class[0]
        yield "Sensitivity", share(one.sensitivity), _of(one.true_positives, one.positives), one.sensitivity, None
        yield "Specificity", share(one.specificity), _of(one.true_negatives, one.negatives), one.specificity, None
        yield "AUROC", number(one.auroc), "chance is 0.5", one.auroc, 0.5
        yield "Accuracy", share(metrics.accuracy), f"{accuracy}; majority {share(baseline)}", metrics.accuracy, baseline
        return
    classes = sum(one.auroc is not None for one in metrics.per_class)
    if metrics.task == "multiclass":
        yield "Accuracy", share(metrics.accuracy), f"{accuracy}; majority {share(baseline)}", metrics.accuracy, baseline
        even = 1 / len(metrics.per_class)
        yield (
            "Balanced accuracy",
            share(metrics.balanced_accuracy),
            "mean over classes",
            metrics.balanced_accuracy,
            even,
        )
    else:
        yield "Mean sensitivity", share(metrics.sensitivity), f"over {classes} labels", metrics.sensitivity, None
        yield "Mean specificity", share(metrics.specificity), f"over {classes} labels", metrics.specificity, None
    yield "Mean AUROC", number(metrics.auroc), f"over {classes}; chance is 0.5", metrics.auroc, 0.5
    yield "Mean AUPRC", number(metrics.auprc), f"over {classes}", metrics.auprc, None


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} images"


def _tiles(metrics: Metrics) -> Iterable[str]:
    for name, value, note, length, chance in _figures(metrics):
        bar = "" if length is None else f'<i class="fill" style="width:{length:.1%}"></i>'
        tick = "" if chance is None else f'<i class="chance" style="left:{chance:.1%}"></i>'
        yield (
            f'<div class="tile"><span class="name">{escape(name)}</span><span class="value">{escape(value)}</span>'
            f'<span class="bar">{bar}{tick}</span><span class="note">{escape(note)}</span></div>'
        )


def _notices(notices: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(notice)}</li>" for notice in notices)
    kind, body = ("worry", f"<ul>{items}</ul>") if items else ("fine", "<p>The automatic checks found nothing.</p>")
    return f'<section class="{kind}"><h2>What to worry about</h2>{body}</section>'


def _table(report: Report) -> str:
    order = sorted(report.splits, key=lambda name: name != report.headline)
    columns = [report.splits[name] for name in order]
    first = columns[0]
    macro = "" if first.task == "binary" else "Mean "

    def counted(value: float | None, part: int, whole: int) -> str:
        return f"{escape(share(value))} <small>{part:,} of {whole:,}</small>"

    def binary(attribute: str, right: str, whole: str) -> Callable[[Metrics], str]:
        if first.task != "binary":
            return lambda metrics: share(getattr(metrics, attribute))
        return lambda metrics: counted(
            getattr(metrics, attribute), getattr(metrics.per_class[0], right), getattr(metrics.per_class[0], whole)
        )

    rows: list[tuple[str, str, Callable[[Metrics], str]]] = [("Images", "", lambda metrics: f"{metrics.n:,}")]
    rows.append(("Patients", "", lambda m: "unknown" if m.patients is None else f"{m.patients:,}"))
    if first.task == "binary":
        rows.append((f"Prevalence of {first.per_class[0].name}", "", lambda m: share(m.per_class[0].prevalence)))
    rows += [
        (f"{macro}AUROC", "ranking over all thresholds; chance is 0.5", lambda m: number(m.auroc)),
        (f"{macro}AUPRC", "precision over all thresholds; chance is the prevalence", lambda m: number(m.auprc)),
        (
            f"{macro}sensitivity".capitalize(),
            "share of the images with it that were found",
            binary("sensitivity", "true_positives", "positives"),
        ),
        (
            f"{macro}specificity".capitalize(),
            "share of the images without it that were cleared",
            binary("specificity", "true_negatives", "negatives"),
        ),
        ("Balanced accuracy", "every class counts the same", lambda m: share(m.balanced_accuracy)),
        ("Accuracy", "share of right answers", lambda m: counted(m.accuracy, m.correct, m.decisions)),
        (
            "Majority baseline",
            "accuracy of always giving the most frequent answer",
            lambda m: share(m.baseline_accuracy),
        ),
    ]
    optimistic = "<small>optimistic</small>"
    head = "".join(
        f'<th scope="col">{escape(split_name(name)).capitalize()} {optimistic if name == "val" else ""}</th>'
        for name in order
    )
    body = "".join(
        f'<tr><th scope="row">{escape(name)}<small>{escape(hint)}</small></th>'
        f"{''.join(f'<td>{cell(metrics)}</td>' for metrics in columns)}</tr>"
        for name, hint, cell in rows
    )
    return (
        f'<div class="scroll"><table class="splits"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _classes(metrics: Metrics) -> str:
    thresholds = metrics.task == "multilabel"
    columns: list[tuple[str, Callable[[ClassMetrics], str]]] = [
        ("Images with", lambda one: f"{one.positives:,} <small>{share(one.prevalence)}</small>"),
        ("AUROC", lambda one: _short(number(one.auroc))),
        ("AUPRC", lambda one: _short(number(one.auprc))),
        ("Sensitivity", lambda one: _short(share(one.sensitivity))),
        ("Specificity", lambda one: _short(share(one.specificity))),
    ]
    if thresholds:
        columns.insert(1, ("Threshold", lambda one: number(one.threshold)))
        columns.insert(1, ("Unknown", lambda one: f"{one.unknown:,}"))
    head = "".join(f'<th scope="col">{name}</th>' for name, _ in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(one.name)}</th>{"".join(f"<td>{cell(one)}</td>" for _, cell in columns)}</tr>'
        for one in metrics.per_class
    )
    rule = "Each label at its frozen threshold." if thresholds else "The most probable class is decided."
    note = " “–”: not estimable, with the reason above." if any(one.reason for one in metrics.per_class) else ""
    return (
        f"<section><h2>By class</h2><p class='hint'>Each class against all others, on "
        f"{escape(split_name(metrics.split or ''))} images. {rule}{note}</p><div class='scroll'>"
        f"<table class='classes'><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _short(value: str) -> str:
    return "–" if value == "not estimable" else value


def _plot(key: str, figure: Plot, metrics: Metrics) -> str:
    name, caption = _CAPTIONS[key]
    if key == "roc" and metrics.task != "multiclass":
        caption += " Ring: the frozen threshold."
    if key == "confusion" and metrics.task == "multilabel":
        caption = (
            "Images, and their share of those with the label (found, missed) or without it (false alarm, cleared)."
        )
    width, height = figure.get_size_inches()
    wide = " wide" if width > 6.6 else ""
    source = base64.b64encode(figure.svg()).decode()
    return (
        f'<figure class="{key}{wide}"><h3>{name}</h3>'
        f'<img alt="{name}. {caption}" width="{width * 96:.0f}" height="{height * 96:.0f}" '
        f'src="data:image/svg+xml;base64,{source}"><figcaption>{caption}</figcaption></figure>'
    )


def _record(record: Mapping[str, Any]) -> str:
    loose = {name: value for name, value in record.items() if not isinstance(value, Mapping)}
    sections = {name: value for name, value in record.items() if isinstance(value, Mapping)}
    if loose:
        sections = {"general": loose, **sections}
    if not sections:
        return ""
    parts = "".join(
        f"<div><h3>{escape(name.replace('_', ' ').capitalize())}</h3><dl>"
        + "".join(
            f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{_value(value)}</dd>" for key, value in facts.items()
        )
        + "</dl></div>"
        for name, facts in sections.items()
    )
    return f'<section><h2>Record</h2><div class="record">{parts}</div></section>'


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)) and all(isinstance(one, (str, int, float)) for one in value):
        return escape(", ".join(str(one) for one in value)) or "none"
    if isinstance(value, (Mapping, list, tuple)):
        return f"<code>{escape(json.dumps(value, default=str, ensure_ascii=False))}</code>"
    return escape(str(value))
