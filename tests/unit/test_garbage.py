"""When garbage is looked for, and when not."""

from __future__ import annotations

import gc
import threading

import pytest

from medimg.garbage import frozen, paused


def test_garbage_is_looked_for_again_after_imports_also_where_one_fails() -> None:
    """And never among what was imported."""
    before, made = gc.get_freeze_count(), []
    with pytest.raises(ImportError), frozen():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
        raise ImportError("no such module")
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_pauses_of_several_threads_end_with_the_last() -> None:
    """Whichever began first: none takes another's pause for what the program had set."""
    begun, ended = threading.Event(), threading.Event()

    def other() -> None:
        with paused():
            begun.set()
            ended.wait(30)

    thread = threading.Thread(target=other)
    with paused():
        thread.start()
        assert begun.wait(30)
    assert not gc.isenabled()
    ended.set()
    thread.join()
    assert gc.isenabled()


def test_a_pause_ends_where_it_began() -> None:
    """One within another, and one in a program that has switched the search off itself."""

    @paused()
    def inner() -> bool:
        return gc.isenabled()

    with paused():
        assert not inner() and not inner()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        assert not inner()
        assert not gc.isenabled()
    finally:
        gc.enable()
