"""Decoders that neither warn nor take half a file, whatever the host program has told them to do."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from PIL import ImageFile

__all__ = ["strict_decoders"]

_lock = threading.Lock()
_inside = 0
_host_takes_truncated = False
_silence = ("ignore", None, Warning, re.compile(r"(PIL|pydicom|pylibjpeg|libjpeg|openjpeg)\b"), 0)


@contextmanager
def strict_decoders() -> Iterator[None]:
    """Keeps the warnings of Pillow and of DICOM's packages in and truncated files out while any thread is inside.

    `warnings.catch_warnings` swaps the whole list of filters and is not safe over threads; this adds one entry that
    concerns these modules only and takes it away when the last thread leaves. A host that has set
    `LOAD_TRUNCATED_IMAGES` would otherwise get half a radiograph on grey, and a confident prediction of it.
    """
    global _inside, _host_takes_truncated
    filters = cast("list[Any]", warnings.filters)
    with _lock:
        if _inside == 0:
            _host_takes_truncated = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        if _silence not in filters:
            filters.insert(0, _silence)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            filters = cast("list[Any]", warnings.filters)
            if _inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _host_takes_truncated
                if _silence in filters:
                    filters.remove(_silence)
