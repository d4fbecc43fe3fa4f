"""Local state: nothing half-written, nothing of another user's, clear words when the disk is full."""

from __future__ import annotations

import errno
import os
import stat
import tracemalloc
from pathlib import Path

import pytest

from medimg import home as homes
from medimg.errors import StorageError
from medimg.home import Use, atomic_copy, atomic_folder, atomic_write, cores, drop, home, make_folder, salt


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


def test_a_new_home_is_its_owners_alone(own_home: Path, tmp_path: Path) -> None:
    """It holds patients' pixels; a folder that was there keeps its mode, and so do folders elsewhere."""
    atomic_write(own_home / "packs" / "pack.json", "{}")
    assert stat.S_IMODE(own_home.stat().st_mode) == 0o700
    own_home.chmod(0o750)
    atomic_write(own_home / "jobs" / "record.json", "{}")
    assert stat.S_IMODE(own_home.stat().st_mode) == 0o750
    make_folder(tmp_path / "elsewhere")
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) != 0o700


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_the_salt_is_made_where_hard_links_are_refused(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As on many network and USB disks: it is still the owner's, and made once."""

    def refuse(old: Path, new: Path) -> None:
        raise OSError(code, os.strerror(code), str(old), None, str(new))

    monkeypatch.delenv("MEDIMG_SALT")
    monkeypatch.setattr(os, "link", refuse)
    first = salt()
    assert len(first) == 32
    assert salt() == first
    assert [path.name for path in own_home.iterdir()] == ["salt"]
    assert stat.S_IMODE((own_home / "salt").stat().st_mode) == 0o600


def test_a_salt_cannot_be_kept_on_a_read_only_disk(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to do, also where the home itself cannot be made."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.delenv("MEDIMG_SALT")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="Set MEDIMG_HOME to a folder you may write to"):
        salt()


def test_an_empty_salt_is_refused(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids made with an empty key can be turned back by anybody."""
    monkeypatch.delenv("MEDIMG_SALT")
    monkeypatch.setattr(homes, "_SALT_SECONDS", 0.05)
    atomic_write(own_home / "salt", "")
    with pytest.raises(StorageError, match=r"salt is empty.*Remove it"):
        salt()


def test_a_source_that_cannot_be_read_is_not_called_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the source; one about our own folder, or about no file, is the disk's."""

    def refused(*names: object) -> OSError:
        return PermissionError(errno.EACCES, "Permission denied", *names)

    source, target = tmp_path / "theirs" / "scan.png", tmp_path / "ours" / "done"
    with pytest.raises(PermissionError, match=r"scan\.png") as caught, atomic_folder(target):
        raise refused(str(source))
    assert not isinstance(caught.value, StorageError)
    for names in ((str(target.parent / "x"),), (str(tmp_path),), (), (str(source), None, str(target / "scan.png"))):
        with pytest.raises(StorageError, match="cannot write"), atomic_folder(target):
            raise refused(*names)


def test_a_file_is_copied_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without reading all of it into memory."""
    source, target = tmp_path / "weights.h5", tmp_path / "store" / "w.h5"
    source.write_bytes(bytes(range(256)) * 40_000)
    tracemalloc.start()
    atomic_copy(source, target)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert target.read_bytes() == source.read_bytes()
    assert peak < 5_000_000
    target.unlink()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        atomic_copy(source, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_in_use_is_not_dropped(tmp_path: Path, kind: str) -> None:
    """In whichever order uses end; what something on record wants stays too."""
    path = tmp_path / "shared"
    uses = [Use(path), Use(path)]
    if kind == "file":
        path.touch()
    else:
        (path / "inside").mkdir(parents=True)
    assert not drop(path, wanted=lambda: False)
    uses.pop()
    assert not drop(path, wanted=lambda: False)
    uses.pop()
    assert not drop(path, wanted=lambda: True)
    assert path.exists()
    assert drop(path, wanted=lambda: False)
    assert not path.exists()
    assert not drop(path, wanted=lambda: False)


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container or a scheduler may give fewer than there are; not every system tells."""
    if hasattr(os, "sched_getaffinity"):
        assert cores() == len(os.sched_getaffinity(0))
        monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
