"""Reading ahead: the images of the next batch are read, and changed, while a network is busy with this one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

__all__ = ["read_ahead"]


def read_ahead(
    read: Callable[[np.ndarray], np.ndarray], batches: Sequence[np.ndarray]
) -> Generator[np.ndarray, None, None]:
    """Yields what is read of each batch, in order, one batch ahead in a thread; holds two of them at most.

    Close it (`contextlib.closing`) where the work may end early.

    Args:
        read: Rows to images or features; called in a thread of its own, one batch after the other.
        batches: The rows of each batch.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming = thread.submit(read, batches[0]) if batches else None
        for following in (*batches[1:], None):
            if coming is None:
                return
            batch = coming.result()
            coming = None if following is None else thread.submit(read, following)
            yield batch
