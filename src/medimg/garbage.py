"""Python's search for garbage, kept from what is made to stay.

The more objects there are, the longer each search takes: of 100,000 images it is half of the time in which their table
is read, and more than in proportion to those of 10,000.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["frozen", "paused"]

_lock = threading.Lock()
_pauses = 0  # that have not ended: of several threads the last one ends them all
_resume = False  # whether the search went on before the first


@contextmanager
def paused() -> Iterator[None]:
    """Lets a block, or a function that it decorates, make many objects without a search among them.

    Blocks may lie within each other and in several threads. The search goes on after the last, if it did before the
    first.
    """
    global _pauses, _resume
    with _lock:
        if _pauses == 0:
            _resume = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if _pauses == 0 and _resume:
                gc.enable()


@contextmanager
def frozen() -> Iterator[None]:
    """Pauses likewise, and spares what the block has made from every later search: for what stays to the end."""
    with paused():
        try:
            yield
        finally:
            gc.freeze()
