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


class _Latest:
    """The images of one model that were answered last, in whatever order they come; no more than twice as many."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: dict[str, Seen] = {}
        self._count = 0

    def add(self, seen: Seen) -> None:
        self._count += 1
        # The same image once, at the time of its last answer; one without an id counts each time.
        key = seen.id or f"#{self._count}"
        if key not in self._seen or self._seen[key].time < seen.time:
            self._seen[key] = seen
        if len(self._seen) > 2 * self._size:
            ranked = sorted(self._seen.items(), key=lambda each: each[1].time)
            self._seen = dict(ranked[-self._size :])

    def ranked(self) -> list[Seen]:
        """Returns the images, the oldest first."""
        return sorted(self._seen.values(), key=lambda seen: seen.time)[-self._size :]


def health_of(lines: Iterable[str], *, size: int = WINDOW) -> dict[str, Any]:
    """Returns the health of the model that answered last, as GET /health does.

    Args:
        lines: Of the log, in any order: a cloud's log has a stream for each machine, one after the other. Of several
            models that were never asked, the last line's counts.
        size: How many of the last images are compared.

    Raises:
        ModelFolderError: The reference is of a later version of medimg.
    """
    answered: dict[str, _Latest] = {}
    references: dict[str, Any] = {}
    newest, newest_time = "", float("-inf")
    for line in read(lines):
        digest = str(line.get("digest"))
        if line.get("medimg") == "reference":
            references[digest] = line.get("reference")
        elif (seen := seen_in(line, digest)) is not None:
            answered.setdefault(digest, _Latest(size)).add(seen)
            if seen.time >= newest_time:
                newest, newest_time = digest, seen.time
    if not answered and not references:
        return {**unknown(), "message": "The log has no line of a request: nothing was asked yet, or it is not ours."}
    digest = newest if answered else list(references)[-1]
    images = answered[digest].ranked() if digest in answered else []
    reference = references.get(digest)
    if reference is None:
        return unknown(len(images))
    window = Window(Reference.from_json(reference), size)
    for seen in images:
        window.add(seen)
    return window.health()
