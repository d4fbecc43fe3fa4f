"""A comparison of two models in plain words, as a page that needs nothing but itself, and for notebooks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from medimg.evaluation.drawing import COLOURS, INK, LINE, MUTED, Canvas, short
from medimg.evaluation.summary import number, share, split_name

if TYPE_CHECKING:
    from medimg.evaluation.comparison import Comparison, Difference
    from medimg.evaluation.paired import Quantity

__all__ = ["as_text", "figure", "fragment", "page"]

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
<p class="eyebrow">Two models on the same cases</p>
<h1>$verdict</h1>
<p class="asked">$models on <strong>$asked</strong>.</p>
</header>
<main>
<section class="answer">$sentences</section>
<section><h2>How far they differ</h2>
<p class="hint">Dot: the difference on these cases. Line: its 95% interval; one that crosses 0 shows no difference.</p>
<div class="scroll">$figure</div></section>
<section><h2>In numbers</h2>$table</section>
$classes
$notices
<section class="caveats">$caveats</section>
</main>
<footer><p>Made by medimg, software for research and teaching. Not a medical device; not for diagnosis.</p></footer>
</body>
</html>
""")

_WORDS: dict[Quantity, str] = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "brier": "Brier score",
}
_RATES = ("sensitivity", "specificity", "accuracy")


def page(comparison: Comparison) -> str:
    """Returns the whole page."""
    several = len(comparison.per_class) > 1
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in comparison.notices)
    return _PAGE.substitute(
        title=escape(f"{comparison.names[0]} and {comparison.names[1]}: comparison"),
        style=resources.files("medimg.evaluation").joinpath("page.css").read_text(encoding="utf-8"),
        verdict=escape(_verdict(comparison)),
        models=escape(" against ".join(comparison.names)),
        asked=escape(_asked(comparison)),
        sentences="".join(f"<p>{escape(sentence)}</p>" for sentence in _sentences(comparison)),
        figure=figure(comparison).svg(' style="width:100%;max-width:760px;min-width:560px;height:auto"'),
        table=_table(comparison.names, comparison.differences),
        classes=_classes(comparison) if several else "",
        notices=f'<section class="worry"><h2>What to worry about</h2><ul>{notices}</ul></section>' if notices else "",
        caveats="".join(
            f"<div><h3>{escape(head)}</h3><p>{escape(text)}</p></div>" for head, text in _caveats(comparison)
        ),
    )


def fragment(comparison: Comparison) -> str:
    """Returns the comparison for a notebook: no style sheet of its own, so it follows a dark theme."""
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in comparison.notices)
    return (
        f"<p><strong>{escape(_verdict(comparison))}</strong><br>"
        f"{escape(' against '.join(comparison.names))} on {escape(_asked(comparison))}.</p>"
        f"{''.join(f'<p>{escape(sentence)}</p>' for sentence in _sentences(comparison))}"
        f"{_table(comparison.names, comparison.differences)}{f'<ul>{notices}</ul>' if notices else ''}"
    )


def as_text(comparison: Comparison) -> str:
    """Returns the comparison for a terminal."""
    models = " against ".join(comparison.names)
    lines = [f"{_verdict(comparison)}. {models} on {_asked(comparison)}.", *_sentences(comparison)]
    if comparison.notices:
        lines += ["", *(f"- {notice}" for notice in comparison.notices)]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="  " if line[:2] == "- " else "") for line in lines)


def figure(comparison: Comparison) -> Canvas:
    """Returns the differences with their intervals; to the right of 0 the second model is better."""
    shown = [one for one in comparison.differences if one.interval is not None]
    first, second = (short(name, 28) for name in comparison.names)
    left, right, row, top = 120.0, 520.0, 34.0, 34.0
    reach = max((abs(bound) for one in shown for bound in one.interval or ()), default=0.1) * 1.05
    middle, bottom = (left + right) / 2, top + row * len(shown)
    words = "; ".join(_sentence(comparison.names, one) for one in shown)
    canvas = Canvas(760, bottom + 14, f"Differences between {first} and {second}. {words}")
    canvas.text(middle - 12, 16, f"← {first} better", anchor="end", colour=INK)
    canvas.text(middle + 12, 16, f"{second} better →", colour=INK)
    canvas.path([(middle, 24), (middle, bottom)], LINE, width=1.5)
    for place, one in enumerate(shown):
        y = top + row * (place + 0.5)
        sign = -1 if one.quantity == "brier" else 1  # an error: less of it is better
        low, high = sorted(sign * bound for bound in one.interval or ())
        colour = COLOURS[0] if one.better else MUTED
        across = [middle + value / reach * (right - middle) for value in (low, sign * one.difference, high)]
        word = _WORDS[one.quantity]
        canvas.text(0, y + 4, word[0].upper() + word[1:], colour=INK, size=13)
        canvas.path([(across[0], y), (across[2], y)], colour, width=2.5)
        canvas.dot(across[1], y, colour, radius=5)
        canvas.text(right + 20, y + 4, f"{_change(one, one.difference)}  ({_bounds(one)})", size=12.5, colour=INK)
    return canvas


def _verdict(comparison: Comparison) -> str:
    main = comparison.differences[0] if comparison.differences else None
    if main is None or main.quantity != "auroc":
        return "Too few cases to compare the models"
    if main.interval is None and main.difference == 0:
        return "Both models rank the cases the same"
    if main.better is None:
        return "No difference in AUROC could be shown"
    return f"{comparison.names[main.better == 'second']} ranks the cases better"


def _asked(comparison: Comparison) -> str:
    split = f"{split_name(comparison.split)} " if comparison.split else ""
    whose = "" if comparison.patients is None else f" of {comparison.patients:,} patients"
    return f"{comparison.images:,} {split}images{whose}"


def _sentences(comparison: Comparison) -> Iterator[str]:
    for one in comparison.differences:
        yield _sentence(comparison.names, one)
    found = comparison.mcnemar
    what = "decisions" if comparison.task == "multilabel" else "images"
    yield (
        f"{comparison.names[0]} alone was right on {found.first_only:,} {what} and {comparison.names[1]} alone on "
        f"{found.second_only:,} (McNemar’s exact test: {_p(found.p)})."
    )
    if len(comparison.per_class) == 1 and (delong := comparison.per_class[0].delong) is not None:
        yield f"DeLong's test of the two AUROCs gives {_p(delong.p)}."


def _sentence(names: Sequence[str], one: Difference) -> str:
    word = _WORDS[one.quantity]
    both = f"{_value(one, one.first)} with {names[0]} and {_value(one, one.second)} with {names[1]}"
    if one.interval is None:
        if one.difference == 0:
            return f"The {word} of both is the same: {_value(one, one.first)}."
        return f"Whether they differ in {word} cannot be told from these cases: {both}."
    if one.better is None:
        return (
            f"No difference in {word} could be shown: {both}, a change of {_change(one, one.difference)} (95% interval "
            f"{_bounds(one)}; {_p(one.p)})."
        )
    winner = names[one.better == "second"]
    size = _change(one, abs(one.difference)).lstrip("+")
    low, high = sorted(abs(bound) for bound in one.interval)
    interval = f"95% interval {_plain(one, low)} to {_plain(one, high)}; {_p(one.p)}"
    return f"{winner} is better in {word} by {size} ({interval}): {both}."


def _value(one: Difference, value: float) -> str:
    return share(value) if one.quantity in _RATES else number(value)


def _plain(one: Difference, value: float) -> str:
    if one.quantity not in _RATES:
        return f"{value:.3f}".replace("-", "−")
    # Points of a hundred; of differences within one point two digits.
    digits = 1 if max(map(abs, (one.difference, *(one.interval or ())))) >= 0.01 else 2
    return f"{100 * value:.{digits}f}".replace("-", "−")


def _change(one: Difference, value: float) -> str:
    return f"{'+' if value > 0 else ''}{_plain(one, value)}{' points' if one.quantity in _RATES else ''}"


def _bounds(one: Difference) -> str:
    return "–" if one.interval is None else " to ".join(_plain(one, bound) for bound in one.interval)


def _p(value: float | None) -> str:
    if value is None:
        return "p not estimable"
    return "p < 0.001" if value < 0.0015 else f"p = {value:.3f}" if value < 0.0995 else f"p = {value:.2f}"


def _bare(value: float | None) -> str:
    return "–" if value is None else _p(value).removeprefix("p ").removeprefix("= ")


def _table(names: Sequence[str], differences: Sequence[Difference]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (*names, "Difference", "95% interval", "p"))
    rows = []
    for one in differences:
        word = _WORDS[one.quantity]
        cells = (
            _value(one, one.first), _value(one, one.second), _change(one, one.difference), _bounds(one),
            _bare(one.p),
        )  # fmt: skip
        rows.append(
            f'<tr><th scope="row">{word[0].upper() + word[1:]}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    return (
        f'<div class="scroll"><table class="classes"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _classes(comparison: Comparison) -> str:
    first, second = comparison.names
    columns = ("AUROC", "Difference", "In sensitivity, points", "In specificity, points", "McNemar’s p")
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    rows = []
    for one in comparison.per_class:
        known = {each.quantity: each for each in one.differences}
        area = known.get("auroc")
        areas = "–" if area is None else f"{_value(area, area.first)} and {_value(area, area.second)}"
        changes = [
            f"{_change(each, each.difference).removesuffix(' points')} ({_bounds(each)})" if each else "–"
            for each in (area, known.get("sensitivity"), known.get("specificity"))
        ]
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (areas, *changes, _bare(one.mcnemar.p)))
        rows.append(f'<tr><th scope="row">{escape(one.name)}</th>{cells}</tr>')
    return (
        f"<section><h2>By class</h2><p class='hint'>Each class against all others, {escape(first)} first, then "
        f"{escape(second)}; with 95% intervals. “–”: not estimable.</p><div class='scroll'><table class='classes'>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _caveats(comparison: Comparison) -> Iterator[tuple[str, str]]:
    yield (
        "How this was reckoned",
        f"{comparison.resamples:,} resamples of patients, the same ones for both models. Each model decides at its own "
        "frozen thresholds. The Brier score is an error: less is better.",
    )
    yield (
        "Not shown is not equal",
        "A difference that could not be shown may still be there: the interval says how large it may be.",
    )
    yield (
        "Several figures, several chances",
        "One figure in twenty shows a difference by chance alone. Name the one that counts before you look.",
    )
