"""Checks the documentation: relative links lead somewhere, and the reference names every public name.

Run by `make docs`. It needs nothing beyond medimg.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import medimg

ROOT = Path(__file__).parents[1]
_CODE = re.compile(r"^(```|~~~).*?^\1[^\n]*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (unique := anchor if number == 0 else f"{anchor}-{number}") in found:
            number += 1
        found.add(unique)
    return found


def broken_links(page: Path) -> Iterator[str]:
    """Yields what is wrong with a page's relative links."""
    text = page.read_text(encoding="utf-8")
    for first, second in _LINK.findall(_CODE.sub("", text)):
        link = first or second
        if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        if not target.is_relative_to(ROOT):
            yield f"{link}: leads out of the repository"
        elif not target.exists():
            yield f"{link}: there is no {target.relative_to(ROOT)}"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"{link}: {target.relative_to(ROOT)} has no heading for it"


def missing_names(reference: Path) -> Iterator[str]:
    """Yields the public names that no page of the reference has as code."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(reference.rglob("*.md")))
    for name in medimg.__all__:
        if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`|^#+ .*\b{name}\b", text, re.MULTILINE):
            yield f"docs/reference: nothing on medimg.{name}"


def main() -> int:
    """Prints what is wrong, and returns 1 if anything is."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    wrong = [f"{page.relative_to(ROOT)}: {problem}" for page in pages for problem in broken_links(page)]
    wrong += missing_names(ROOT / "docs" / "reference")
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    sys.stdout.write(f"{len(pages)} pages, {len(medimg.__all__)} public names, {len(wrong)} problems\n")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
