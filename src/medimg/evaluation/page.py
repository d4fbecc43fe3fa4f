"""The report as one HTML page that needs nothing but itself, and as a short fragment for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

from medimg.evaluation import tables
from medimg.evaluation.cases import Case
from medimg.evaluation.checklist import CLAIM, TRIPOD, Checklist, fill
from medimg.evaluation.drawing import Figure
from medimg.evaluation.intervals import Interval
from medimg.evaluation.metrics import ClassMetrics, Metrics
from medimg.evaluation.summary import (
    asked,
    believed,
    caveats,
    findings,
    question,
    range_text,
    sentence,
    share,
    shown,
    split_name,
    useful,
)

if TYPE_CHECKING:
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
<section class="answer"><div class="tiles">$tiles</div>$method$findings</section>
$worries
<section class="caveats">$caveats</section>
$sections
</main>
<footer><p>Made by medimg, software for research and teaching. Not a medical device; not for diagnosis.</p></footer>
</body>
</html>
""")

# Name of a figure: its heading and what to see in it.
_CAPTIONS = {
    "roc": (
        "Receiver operating characteristic",
        "Sensitivity against false alarms over all thresholds. Dashed diagonal: chance.",
    ),
    "precision_recall": (
        "Precision and recall",
        "How many alarms are right, as more of the images are found. Dashed: the prevalence, which is chance.",
    ),
    "calibration": (
        "Calibration",
        "Of images given a probability, how many have it: ten bins of equal size. On the diagonal the probabilities "
        "mean what they say; below it they are too high.",
    ),
    "scores": (
        "Spread of the scores",
        "The less the two overlap, the easier the decision.",
    ),
    "confusion": ("Confusion", "Images, and their share of the row."),
    "decision_curve": (
        "Decision curve",
        "True alarms an image, less false ones at their price. Who would act from a probability of 20% takes four "
        "false alarms for a true one: read there. The highest line is the best policy.",
    ),
    "predictive_values": (
        "Elsewhere: predictive values by prevalence",
        "What an alarm and an all-clear are worth where the finding is rarer or more frequent than here, if "
        "sensitivity and specificity stay as they are. Bands: between their 95% bounds.",
    ),
    "learning": ("Learning curves", "Train falling while validation rises is overfitting."),
}

_CHAPTERS = (
    ("ranking", "Does it rank well?", ("roc", "precision_recall")),
    ("decisions", "What does it decide?", ("scores", "confusion")),
    ("probabilities", "Can its probabilities be believed?", ("calibration",)),
    ("use", "Would acting on it help?", ("decision_curve", "predictive_values")),
)

_KINDS = {
    "wrong": ("Most certain, and wrong", "The first to look at: what misled it?"),
    "uncertain": ("Least certain", "Where the decision hung by a hair."),
    "right": ("Most certain, and right", "Is it right for the right reason?"),
}


class _Tile(NamedTuple):
    """One headline figure: a bar shows value, interval and chance."""

    name: str
    key: str
    value: float | None
    interval: Interval | None
    note: str
    chance: float | None = None


def page(report: Report) -> str:
    """Returns the whole page."""
    headline = report.splits[report.headline]
    name, names = _model_name(report.record), list(headline.confusion)
    sections = list(_sections(report, headline))
    links = " · ".join(f'<a href="#{place}">{escape(title)}</a>' for place, title, _ in sections)
    return _PAGE.substitute(
        title=escape(f"{name or 'medimg'}: evaluation report"),
        style=resources.files("medimg.evaluation").joinpath("page.css").read_text(encoding="utf-8"),
        model=f" · {escape(name)}" if name else "",
        question=escape(question(report)),
        asked=escape(asked(report)),
        among=f'<p class="among">{escape(" · ".join(names))}</p>' if len(names) > 4 else "",
        tiles="".join(_tile(tile) for tile in _tiles(headline)),
        method=f'<p class="hint">{escape(headline.interval_method)}</p>' if headline.interval_method else "",
        findings="".join(f"<p>{escape(sentence)}</p>" for sentence in findings(report)),
        worries=_worries(report.worries),
        caveats="".join(f"<div><h3>{escape(head)}</h3><p>{escape(text)}</p></div>" for head, text in caveats(report)),
        sections=f'<nav aria-label="Contents">{links}</nav>'
        + "".join(
            f'<section id="{place}"><h2>{escape(title)}</h2>{content}</section>' for place, title, content in sections
        ),
    )


def fragment(report: Report) -> str:
    """Returns the headline for a notebook: no style sheet of its own, so it follows a dark theme."""
    headline = report.splits[report.headline]
    tiles = "".join(
        f'<td style="text-align:left;padding:.2em 2em .4em 0"><span style="opacity:.7">{escape(tile.name)}</span><br>'
        f'<strong style="font-size:1.5em">{escape(shown(tile.key, tile.value))}</strong><br>'
        f"<small>{_reach(tile)}{escape(tile.note)}</small></td>"
        for tile in _tiles(headline)
    )
    worries = "".join(f"<li>{escape(sentence(worry))}</li>" for worry in report.worries)
    warned = f"<p><strong>What to worry about</strong></p><ul>{worries}</ul>" if worries else ""
    return (
        f"<p><strong>{escape(question(report))}</strong><br>Asked of {escape(asked(report))}.</p>"
        f'<table style="border:0"><tr style="background:none">{tiles}</tr></table>'
        f"{''.join(f'<p>{escape(sentence)}</p>' for sentence in findings(report))}{warned}"
    )


def _sections(report: Report, headline: Metrics) -> Iterable[tuple[str, str, str]]:
    """Yields anchor, heading and content of each section below the answer."""
    images = f"{escape(split_name(report.headline))} images"
    yield "numbers", "In numbers", _hint("In small print: 95% intervals.") + tables.splits(report)
    if len(headline.per_class) > 1:
        yield "classes", f"By {'label' if headline.task == 'multilabel' else 'class'}", _classes(headline, images)
    for place, title, names in _CHAPTERS:
        plots = [_plot(name, report.figures[name], headline) for name in names if name in report.figures]
        if plots:
            words = {"probabilities": believed(report), "use": useful(report)}.get(place, ())
            said = "".join(f"<p class='said'>{escape(sentence)}</p>" for sentence in words)
            if place == "probabilities" and " wide" not in plots[0][:40]:
                aside = f'<div class="aside">{said}{tables.calibration(headline)}</div>'
                yield place, title, f'<div class="plots">{plots[0]}{aside}</div>'
            elif place == "probabilities":
                yield place, title, f'{said}<div class="plots">{plots[0]}</div>{tables.calibration(headline)}'
            else:
                yield place, title, f'{said}<div class="plots">{"".join(plots)}</div>'
    if report.patients:
        told = (
            "Each patient once, at the same thresholds: by the mean of the probabilities of their images, or by the "
            "highest. A patient has the finding if any image shows it."
        )
        yield "patients", "By patient", _hint(told) + tables.patients(report)
    if report.subgroups:
        told = (
            f"Parts of the {images}, all at the same thresholds, with 95% intervals, which are wide where the "
            "part is small. A difference between parts that chance alone hardly explains is among the worries above."
        )
        if headline.task == "multilabel":
            told += " Averages are over the labels that can be estimated in a part: not the same ones everywhere."
        yield "subgroups", "Subgroups", _hint(told) + tables.subgroups(report.subgroups)
    if report.cases:
        yield "images", "Images to look at", _cases(report.cases)
    if report.audit:
        told = "What was checked before training, and what was found."
        yield "audit", "Audit of the data", _hint(told) + tables.audit(report.audit)
    learning = report.figures.get("learning")
    curves = f'<div class="plots">{_plot("learning", learning, headline)}</div>' if learning else ""
    if report.record or curves:
        yield "record", "Record", tables.record(report.record) + curves
    yield "checklists", "Reporting checklists", "".join(_checklist(one, report) for one in (TRIPOD, CLAIM))


def _model_name(record: Mapping[str, Any]) -> str:
    model = record.get("model", "")
    return str(model.get("name") or model.get("architecture", "") if isinstance(model, Mapping) else model)


def _tiles(metrics: Metrics) -> Iterable[_Tile]:
    def tile(source: Metrics | ClassMetrics, key: str, name: str, note: str, chance: float | None = None) -> _Tile:
        return _Tile(name, key, getattr(source, key), source.intervals.get(key), note, chance)

    baseline = metrics.baseline_accuracy
    right = f"{metrics.correct:,} of {metrics.decisions:,}; majority {share(baseline)}"
    if metrics.task == "binary":
        one = metrics.per_class[0]
        yield tile(one, "sensitivity", "Sensitivity", f"{one.true_positives:,} of {one.positives:,} images")
        yield tile(one, "specificity", "Specificity", f"{one.true_negatives:,} of {one.negatives:,} images")
        yield tile(one, "auroc", "AUROC", "chance is 0.5", 0.5)
        yield tile(metrics, "accuracy", "Accuracy", right, baseline)
        return
    known = sum(one.auroc is not None for one in metrics.per_class)
    if metrics.task == "multiclass":
        yield tile(metrics, "accuracy", "Accuracy", right, baseline)
        even = 1 / len(metrics.per_class)
        yield tile(metrics, "balanced_accuracy", "Balanced accuracy", "mean over classes", even)
    else:
        yield tile(metrics, "sensitivity", "Mean sensitivity", f"over {known} labels")
        yield tile(metrics, "specificity", "Mean specificity", f"over {known} labels")
    yield tile(metrics, "auroc", "Mean AUROC", f"over {known}; chance is 0.5", 0.5)
    yield tile(metrics, "auprc", "Mean AUPRC", f"over {known}")


def _tile(tile: _Tile) -> str:
    bar = "" if tile.value is None else f'<i class="fill" style="width:{tile.value:.1%}"></i>'
    if tile.interval is not None:
        low, high = tile.interval
        bar += f'<i class="range" style="left:{low:.1%};width:{high - low:.1%}"></i>'
    if tile.chance is not None:
        bar += f'<i class="chance" style="left:{tile.chance:.1%}"></i>'
    return (
        f'<div class="tile"><span class="name">{escape(tile.name)}</span>'
        f'<span class="value">{escape(shown(tile.key, tile.value))}</span>'
        f'<span class="range">{_reach(tile)}</span><span class="bar">{bar}</span>'
        f'<span class="note">{escape(tile.note)}</span></div>'
    )


def _reach(tile: _Tile) -> str:
    return f"95% interval {range_text(tile.key, tile.interval)}<br>" if tile.interval is not None else ""


def _worries(worries: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence(worry))}</li>" for worry in worries)
    kind, body = ("worry", f"<ul>{items}</ul>") if items else ("fine", "<p>The automatic checks found nothing.</p>")
    return f'<section class="{kind}"><h2>What to worry about</h2>{body}</section>'


def _classes(metrics: Metrics, images: str) -> str:
    rule = (
        "Each label at its frozen threshold" if metrics.task == "multilabel" else "The most probable class is decided"
    )
    note = " “–”: not estimable, with the reason above." if any(one.reason for one in metrics.per_class) else ""
    return (
        f"<p class='hint'>Each against all others, on {images}. {rule}. In small print: 95% intervals.{note}</p>"
        f"{tables.classes(metrics)}"
    )


def _plot(key: str, figure: Figure, metrics: Metrics) -> str:
    name, caption = _CAPTIONS[key]
    if key == "roc" and metrics.task != "multiclass":
        caption += " Ring: the frozen threshold."
    if key == "scores" and metrics.task != "multiclass":
        caption += " In the uncertain band another draw of validation patients might have decided otherwise."
    if key == "calibration" and metrics.task == "binary":
        caption += " Upright lines: 95% intervals. At the foot: how the probabilities of either class are spread."
    if key in ("decision_curve", "predictive_values"):
        dotted = "the frozen threshold" if key == "decision_curve" else "the prevalence here"
        caption += "" if key == "decision_curve" and metrics.task == "multiclass" else f" Dotted: {dotted}."
        if len(figure.panels) > 1:
            caption += {
                "decision_curve": " Solid: the model; dashed: acting on everyone; level: acting on no one.",
                "predictive_values": " Solid: PPV, alarms that are right; dashed: NPV, all-clears that are right.",
            }[key]
    if key == "confusion" and metrics.task == "multilabel":
        caption = (
            "Images, and their share of those with the label (found, missed) or without it (false alarm, cleared)."
        )
    wide = len(figure.panels) > 2 or figure.panels[0].width > 500
    panels = "".join(panel.svg() for panel in figure.panels)
    body = f'<div class="panels">{panels}</div>' if len(figure.panels) > 1 else panels
    kind = f"{key} wide" if wide else key
    return f'<figure class="{kind}"><h3>{name}</h3>{body}<figcaption>{caption}</figcaption></figure>'


def _cases(cases: Sequence[Case]) -> str:
    told = (
        "Each image beside itself with Grad-CAM over it: the brighter, the more the place spoke for the class. The map "
        "says what moved the network, not that it is right to be moved."
    )
    parts = [_hint(told)]
    for kind, (title, hint) in _KINDS.items():
        of_kind = [_case(case) for case in cases if case.kind == kind]
        if of_kind:
            parts.append(f'<h3>{title} <small>{hint}</small></h3><div class="cases">{"".join(of_kind)}</div>')
    return "".join(parts)


def _case(case: Case) -> str:
    pictures = "".join(
        f'<img alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        for words, content in (("The image", case.image), (f"What spoke for {case.target}", case.overlay))
    )
    return (
        f'<figure class="case"><div>{pictures}</div><figcaption><b>{escape(case.label)}</b>'
        f" {share(case.probabilities[case.target])} {escape(case.target)}<br>truth: {escape(case.truth)}"
        f"</figcaption></figure>"
    )


def _checklist(checklist: Checklist, report: Report) -> str:
    answers = fill(checklist, report)
    rows = "".join(
        f'<tr><td>{escape(item.number)}</td><th scope="row">{escape(item.words)}</th>'
        f"<td>{escape(answers[item.number])}</td></tr>"
        for item in checklist.items
        if item.number in answers
    )
    left = "; ".join(
        f"{escape(item.number)} {escape(item.words)}" for item in checklist.items if item.number not in answers
    )
    return (
        f"<h3>{escape(checklist.name)}</h3><p class='hint'>{escape(checklist.source)}. Filled in as far as this report "
        f"knows: {len(answers)} of {len(checklist.items)} items.</p>"
        f'<div class="scroll" tabindex="0"><table class="checklist"><tbody>{rows}</tbody></table></div>'
        f"<p class='left'><b>To be written by you:</b> {left}.</p>"
    )


def _hint(words: str) -> str:
    return f'<p class="hint">{escape(words)}</p>'
