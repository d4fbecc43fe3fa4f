"""What every job's process shares."""

from __future__ import annotations

import gc

import pytest

from medimg.job import importing


def test_garbage_is_looked_for_again_after_imports_also_where_one_fails() -> None:
    """And never among what was imported."""
    before, made = gc.get_freeze_count(), []
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
        raise ImportError("no such module")
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)
