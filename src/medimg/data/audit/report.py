"""`AuditReport`: what the checks found, as text, in a notebook, as a page and as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from medimg.data.labels import amount
from medimg.home import atomic_write

if TYPE_CHECKING:
    from medimg.config import Finding
    from medimg.data.audit.findings import Found, Pair
    from medimg.data.sheet import Sheet

__all__ = ["AuditReport"]

_MARKS = {"error": "✗", "warning": "!", "fine": "✓", "unknown": "?"}
_COLOURS = {"error": "#b3261e", "warning": "#8a5a00", "fine": "#1b6e3c", "unknown": "#555"}
_ON_PAGE = 50  # examples of one check: whoever needs more has the JSON
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;"
    "padding:.4rem .6rem;border-bottom:1px solid #ddd}img{max-width:100%}li{overflow-wrap:anywhere}"
    "td:last-child{overflow-wrap:anywhere}@media print{body{margin:0}tr,li{break-inside:avoid}}"
    "@media(max-width:40rem){td{display:block;border:0;padding:.1rem 0}tr{display:block;padding:.6rem 0;"
    "border-bottom:1px solid #ddd}}"
)


@dataclass(frozen=True, repr=False)
class AuditReport:
    """What the audit of a dataset found; `print` it, or leave it as the last line of a notebook's cell.

    `findings` name no file and no patient and travel with a job. `examples`, the page and the JSON name files: they are
    for you.

    Attributes:
        name: The dataset's.
        images: How many can be read.
        splits: How many are in each split, as training would have them.
        found: What each check found, with what stays at home.
        notices: What training does to the dataset first, such as cutting a validation split out of train.
    """

    name: str
    images: int
    splits: Mapping[str, int]
    found: tuple[Found, ...]
    notices: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One finding a check."""
        return tuple(each.finding for each in self.found)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops training unless it is named in `allow`."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is to be weighed."""
        return tuple(finding for finding in self.findings if finding.level == "warning")

    @property
    def examples(self) -> dict[str, tuple[str, ...]]:
        """Check to lines that name the files or patients in question."""
        return {each.finding.check: each.examples for each in self.found if each.examples}

    @property
    def duplicates(self) -> tuple[str, ...]:
        """Ids of copies to leave out, so that no picture is in two splits: `dataset.without(audit.duplicates)`.

        Those in test stay, else those in validation.
        """
        return self._drop("duplicate-images")

    @property
    def near_duplicates(self) -> tuple[str, ...]:
        """Ids of images that look like copies of one in test, else in validation: look at `sheet()` first."""
        return self._drop("near-duplicates")

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Images that look like copies of one in another split, each with the most alike; the most alike pair first."""
        return tuple(pair for each in self.found for pair in each.pairs)

    def sheet(self, most: int = 12) -> Sheet:
        """Returns the contact sheet: the pairs that look like copies, side by side, the most alike first.

        Args:
            most: Pairs to show.
        """
        from medimg.data.audit.sheet import contact_sheet

        return contact_sheet(self.pairs[:most])

    def to_json(self, path: str | Path) -> Path:
        """Writes everything, file names too, and returns the path."""
        content = {
            "format": "medimg-audit-1", "name": self.name, "images": self.images, "splits": dict(self.splits),
            "notices": list(self.notices),
            "findings": [{**each.finding.model_dump(), "examples": list(each.examples)} for each in self.found],
        }  # fmt: skip
        return _written(path, json.dumps(content, indent=1, ensure_ascii=False))

    def to_html(self, path: str | Path) -> Path:
        """Writes one page that needs nothing beside it, with file names and the contact sheet; returns the path."""
        title = f"Audit of {escape(self.name)}"
        return _written(
            path,
            f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
            "<meta name='viewport' content='width=device-width,initial-scale=1'>"
            "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none';style-src 'unsafe-inline';"
            f'img-src data:"><style>{_STYLE}</style></head><body><h1>{title}</h1><p>{escape(self._headline)}</p>'
            f"{self._html()}{self._details()}</body></html>",
        )

    def __repr__(self) -> str:
        width = max(len(finding.check) for finding in self.findings)
        lines = [self._headline, *(f"  {notice}" for notice in self.notices)]
        lines += [f"  {_MARKS[f.level]} {f.check:<{width}}  {f.message}" for f in self.findings]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<div><p><b>{escape(self._headline)}</b></p>{self._html()}</div>"

    @property
    def _headline(self) -> str:
        sizes = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        verdict = f"{amount(len(self.errors), 'error')}, {amount(len(self.warnings), 'warning')}"
        return f"audit of {self.name}: {amount(self.images, 'image')}{f' ({sizes})' if sizes else ''}: {verdict}"

    def _html(self) -> str:
        notices = "".join(f"<li>{escape(notice)}</li>" for notice in self.notices)
        rows = "".join(
            f"<tr><td style='color:{_COLOURS[f.level]};white-space:nowrap'><b>{_MARKS[f.level]} {f.level}</b></td>"
            f"<td style='white-space:nowrap'>{escape(f.check)}</td>"
            f"<td style='text-align:left'>{escape(f.message)}</td></tr>"
            for f in self.findings
        )
        return f"{f'<ul>{notices}</ul>' if notices else ''}<table><tbody>{rows}</tbody></table>"

    def _details(self) -> str:
        parts = []
        for check, lines in self.examples.items():
            items = "".join(f"<li>{escape(line)}</li>" for line in lines[:_ON_PAGE])
            more = f"<p>and {len(lines) - _ON_PAGE:,} more</p>" if len(lines) > _ON_PAGE else ""
            parts.append(f"<h2>{escape(check)}</h2><ul>{items}</ul>{more}")
        if self.pairs:
            picture = base64.b64encode(self.sheet()._repr_png_()).decode()
            parts.append(
                "<h2>Pairs that look like copies</h2><img alt='Pairs of images of different splits, side by side, with "
                f"their files&#39; names' src='data:image/png;base64,{picture}'>"
            )
        return "".join(parts)

    def _drop(self, check: str) -> tuple[str, ...]:
        return tuple(id for each in self.found if each.finding.check == check for id in each.drop)


def _written(path: str | Path, text: str) -> Path:
    path = Path(path)
    atomic_write(path, text.encode(errors="backslashreplace"))  # a file's name may be no Unicode
    return path
