"""What the C library does with memory that was freed, in processes that get and free an image's worth again and again.

By default glibc gives it back to the system and gets it anew: a page fault for every 4 KB, some tenths of a millisecond
an image. Only glibc is told; elsewhere nothing is done. Needs the standard library only.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["give_back", "keep"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT_BYTES = 32 << 20  # free ones at the heap's end
_LARGE_BYTES = 4 << 20  # of one piece, which goes back as soon as it is freed: of large pictures


@cache
def _glibc() -> Any:
    """Returns the C library where it is glibc, else None."""
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "gnu_get_libc_version") else None
    except (OSError, TypeError):  # no such thing here
        return None


def keep() -> None:
    """Has this process keep what an image's work needs, for the next one."""
    if (library := _glibc()) is not None:
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Gives the system all that is free, also between pieces that are not: of use after many were freed at once."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)
