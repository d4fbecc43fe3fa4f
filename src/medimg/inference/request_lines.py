"""The lines of an endpoint's request log, and the health that can be read from them, wherever the log is kept.

A line is JSON, whatever a cloud's log writes before it:

- `{"medimg": "reference", "digest", "version", "reference"}` when a server starts with a model: what
  `Reference.to_json` returns, or null, so that the log alone is enough;
- `{"medimg": "request", "time", "id", "status", "code", "latency_ms"}` for each image, and where it was answered
  `"label", "probabilities", "positives", "uncertain", "statistics", "digest"`.

No line holds a pixel, a file's name, a key or an address. The id is salted: without the salt nobody can find the line
of an image that he has. Needs the standard library only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medimg.errors import NotFoundError
from medimg.inference.monitoring import WINDOW, Reference, Seen, Window, unknown

__all__ = ["FILE", "answered_line", "health_of", "lines_of", "read", "reference_line", "refused_line", "seen_in"]

FILE = "requests.jsonl"
"""The log on this machine; older lines are in `requests.jsonl.1` and so on."""

_START = '{"medimg": "'


def reference_line(reference: Reference | None, *, digest: str, version: str) -> str:
    """Returns the line that says what a model's requests are compared with."""
    told = None if reference is None else reference.to_json()
    return json.dumps({"medimg": "reference", "digest": digest, "version": version, "reference": told})


def answered_line(seen: Seen, *, label: str, latency_ms: float, digest: str) -> str:
    """Returns the line of an answered image."""
    return json.dumps(
        {
            "medimg": "request", "time": _text(seen.time), "id": seen.id, "status": 200, "code": "",
            "latency_ms": round(latency_ms, 1), "label": label, "probabilities": seen.probabilities,
            "positives": seen.positives, "uncertain": seen.uncertain, "statistics": seen.statistics, "digest": digest,
        }
    )  # fmt: skip


def refused_line(*, time: float, id: str, status: int, code: str, latency_ms: float) -> str:
    """Returns the line of an image, or a request, that was refused."""
    told = {"medimg": "request", "time": _text(time), "id": id, "status": status, "code": code}
    return json.dumps({**told, "latency_ms": round(latency_ms, 1)})


def _text(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")


def lines_of(path: Path) -> Iterator[str]:
    """Yields the lines of a log on this machine: of a file, or of a folder's files, the oldest first.

    Raises:
        NotFoundError: There is none.
    """
    found = [path] if path.is_file() else _files(path)
    if not found:
        raise NotFoundError(f"{path}: there is no request log ({FILE}). An endpoint writes one when it is asked")
    for file in found:
        # One that was rotated away meanwhile was the oldest.
        with contextlib.suppress(FileNotFoundError), file.open(encoding="utf-8", errors="replace") as lines:
            yield from lines


def _files(folder: Path) -> list[Path]:
    older = {int(file.suffix[1:]): file for file in folder.glob(f"{FILE}.*") if file.suffix[1:].isdecimal()}
    newest = [folder / FILE] if (folder / FILE).is_file() else []
    return [older[number] for number in sorted(older, reverse=True)] + newest


def read(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields our lines of a log, read; what others wrote, or what was cut off, is passed over."""
    decoder = json.JSONDecoder()
    for line in lines:
        start = line.find(_START)
        if start < 0:
            continue
        try:
            found, _ = decoder.raw_decode(line, start)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def seen_in(line: Mapping[str, Any], digest: str) -> Seen | None:
    """Returns what monitoring keeps of a line where it is of an image that the model with the digest answered."""
    if line.get("medimg") != "request" or line.get("status") != 200 or line.get("digest") != digest:
        return None
    try:
        time = datetime.fromisoformat(line["time"]).timestamp()
        statistics = {str(name): float(value) for name, value in line["statistics"].items()}
        return Seen.of(line, statistics, id=str(line["id"]), time=time)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # of a later version of medimg


def health_of(lines: Iterable[str], *, size: int = WINDOW) -> dict[str, Any]:
    """Returns the health of the model that answered last, as GET /health does.

    Args:
        lines: Of the log, the oldest first.
        size: How many of the last images are compared.

    Raises:
        ModelFolderError: The reference is of a later version of medimg.
    """
    found = list(read(lines))
    digests = [str(line.get("digest")) for line in found if line.get("status") == 200]
    references = {str(line.get("digest")): line.get("reference") for line in found if line["medimg"] == "reference"}
    if not digests and not references:
        return {**unknown(), "message": "The log has no line of a request: nothing was asked yet, or it is not ours."}
    digest = digests[-1] if digests else list(references)[-1]
    images = [seen for line in found if (seen := seen_in(line, digest)) is not None]
    reference = references.get(digest)
    if reference is None:
        return unknown(len(images))
    window = Window(Reference.from_json(reference), size)
    for seen in images:
        window.add(seen)
    return window.health()
