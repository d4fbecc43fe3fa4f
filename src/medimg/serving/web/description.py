"""What GET /model tells of a model: from its folder, or where that is elsewhere from an answer of its.

Needs the standard library only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medimg.artifact import ModelFolder

__all__ = ["described", "probe", "told_by"]

_PROBE_SIDE = 32  # pixels


def described(model: ModelFolder, version: str) -> dict[str, Any]:
    """Returns what is told of a model; "version" is that of the registered model, or ""."""
    record = model.record
    try:
        card = model.card
    except OSError:  # a server may have been given no more than what it computes with
        card = ""
    return {
        "name": version.rpartition("/")[0] or record.job.rsplit("-", 2)[0] or "medimg",
        "digest": model.digest,
        "version": version,
        "classes": list(record.classes),
        "task": record.task,
        "positive": record.positive,
        "thresholds": dict(record.thresholds),
        "uncertain": {name: list(band) for name, band in record.uncertain.items()},
        "card": card,
        "notices": list(record.notices),
        "where": "",
    }


def told_by(answer: Mapping[str, Any], *, name: str, version: str = "") -> dict[str, Any]:
    """Returns what is told of a model that is known by one of its answers alone.

    Args:
        answer: To any image.
        name: What to call the model where its version does not say.
        version: Of the registered model.
    """
    classes, thresholds = list(answer["probabilities"]), dict(answer["threshold"])
    # Both classes of a binary model are in the answer, and the positive one has the only threshold.
    binary = len(classes) == 2 and len(thresholds) == 1
    return {
        "name": version.rpartition("/")[0] or name,
        "digest": answer.get("digest", ""),
        "version": version,
        "classes": classes,
        "task": "binary" if binary else "multilabel" if thresholds else "multiclass",
        "positive": next(iter(thresholds)) if binary else None,
        "thresholds": thresholds,
        "uncertain": {},
        "card": "",
        "notices": [],
        "where": "",
    }


def probe() -> bytes:
    """Returns a small grey PNG, to ask a model for an answer whatever it is."""
    rows = b"".join(b"\0" + bytes(8 * column for column in range(_PROBE_SIDE)) for _ in range(_PROBE_SIDE))
    head = struct.pack(">IIBBBBB", _PROBE_SIDE, _PROBE_SIDE, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
