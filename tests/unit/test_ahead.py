"""Reading ahead of a network."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from medimg.training.ahead import read_ahead

BATCHES = [np.arange(start, start + 4) for start in (0, 4, 8)]


def test_batches_come_in_order_and_whole() -> None:
    """Whoever reads is another thread."""
    threads = set()

    def read(rows: np.ndarray) -> np.ndarray:
        threads.add(threading.get_ident())
        return rows * 10

    assert [batch.tolist() for batch in read_ahead(read, BATCHES)] == [(rows * 10).tolist() for rows in BATCHES]
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
    assert list(read_ahead(read, [])) == []


def test_one_batch_is_read_ahead_and_no_more() -> None:
    """Memory holds two; what is not asked for any more is not read."""
    asked: list[int] = []
    second = threading.Event()

    def read(rows: np.ndarray) -> np.ndarray:
        asked.append(int(rows[0]))
        if len(asked) == 2:
            second.set()
        return rows

    with closing(read_ahead(read, BATCHES)) as several:
        next(several)
        assert second.wait(10)
    assert asked == [0, 4]


def test_what_fails_in_reading_is_raised_where_its_batch_is_asked_for() -> None:
    """Not a batch sooner: what was read before is of use."""

    def read(rows: np.ndarray) -> np.ndarray:
        if rows[0]:
            raise OSError("damaged")
        return rows

    several = read_ahead(read, BATCHES)
    assert next(several).tolist() == [0, 1, 2, 3]
    with pytest.raises(OSError, match="damaged"):
        next(several)
