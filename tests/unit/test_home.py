"""Local state: nothing half-written, nothing of another user's, clear words when the disk is full."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from medimg.errors import StorageError
from medimg.home import atomic_folder, atomic_write, home, salt


def test_the_environment_names_the_home(own_home: Path) -> None:
    """And nothing is made there by asking."""
    assert home() == own_home
    assert not own_home.exists()


def test_the_salt_is_made_once_and_is_the_owners(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MEDIMG_SALT it lives in the home, readable by nobody else."""
    monkeypatch.delenv("MEDIMG_SALT")
    first = salt()
    assert len(first) == 32
    assert salt() == first
    assert stat.S_IMODE((own_home / "salt").stat().st_mode) == 0o600


def test_the_salt_may_come_from_the_environment(own_home: Path) -> None:
    """Then no file is made."""
    assert salt() == b"salt of the tests"
    assert not (own_home / "salt").exists()


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot write")])
def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    """The message says what to do, and no temporary file stays."""
    path = tmp_path / "state.json"
    atomic_write(path, "old")

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=words) as caught:
        atomic_write(path, "new")
    assert "MEDIMG_HOME" in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """An error in the middle leaves nothing."""
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "done") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "done") as folder:
        (folder / "whole").write_text("whole")
    assert (tmp_path / "done" / "whole").read_text() == "whole"


def test_of_two_that_build_the_same_folder_the_first_stays(tmp_path: Path) -> None:
    """The second is dropped without an error: the content is the same."""
    with atomic_folder(tmp_path / "same") as slow:
        (slow / "who").write_text("slow")
        with atomic_folder(tmp_path / "same") as quick:
            (quick / "who").write_text("quick")
    assert (tmp_path / "same" / "who").read_text() == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["same"]
