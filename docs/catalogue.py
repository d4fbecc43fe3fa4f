"""Writes the table in docs/how-to/download-a-public-set.md from the catalogue: `python docs/catalogue.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from medimg.data.public.catalogue import catalogue, one_row_a_set

PAGE = Path(__file__).parent / "how-to" / "download-a-public-set.md"
BEGIN, END = "<!-- made by docs/catalogue.py -->", "<!-- end -->"


def table() -> str:
    """Returns the table."""
    rows = ["| name | what | images | download | licence |", "|---|---|---|---|---|"]
    for label, each in one_row_a_set(catalogue()):
        where = {"open": each.size, "kaggle": "from Kaggle", "manual": "by agreement"}[each.host]
        images = " + ".join(f"{count:,} {split}" for split, count in each.images.items() if count)
        title = each.title.removesuffix(", 28 × 28")
        name = label.replace("|", "\\|")
        rows.append(f"| `{name}` | [{title}]({each.page}) | {images} | {where} | {each.licence} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """Returns the page with a fresh table."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        if text != page(text):
            raise SystemExit(f"{PAGE.name} is out of date: run python docs/catalogue.py")
    else:
        PAGE.write_text(page(text), encoding="utf-8")
