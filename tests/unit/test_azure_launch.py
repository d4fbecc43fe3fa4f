"""The first process of a job at AzureML: what is kept for a restart, and how the job ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medimg.backends.azureml.launch import Mirror, main


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """The machine's own disk."""
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """What survives the machine."""
    folder = tmp_path / "mount"
    folder.mkdir()
    return folder


def _save(folder: Path, number: int, *, content: bytes | None = None) -> Path:
    """Saves a checkpoint as the trainer does: it appears complete."""
    files = {"arrays.npz": content or b"arrays %d" % number, "state.json": b"{}"}
    draft = folder / f".step-{number:08d}-x"
    draft.mkdir()
    for name, data in files.items():
        (draft / name).write_bytes(data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (draft / "hashes.json").write_text(json.dumps(hashes))
    return draft.rename(folder / f"step-{number:08d}")


def _steps(folder: Path) -> dict[str, bytes]:
    """Returns what there is that a trainer would believe."""
    return {
        step.name: (step / "arrays.npz").read_bytes()
        for step in sorted(folder.glob("step-*"))
        if (step / "hashes.json").exists()
    }


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_complete_checkpoints_are_copied_and_two_are_kept(local: Path, mount: Path) -> None:
    """A draft is not one yet, and what the trainer has removed goes there too."""
    mirror = Mirror(local, mount)
    for number in range(1, 6):
        _save(local, number)
        if number > 2:
            shutil.rmtree(local / f"step-{number - 2:08d}")
        (local / f".step-{number + 1:08d}-y").mkdir()
        mirror.update()
        assert _steps(mount) == _steps(local)
    assert _names(mount) == ["step-00000004", "step-00000005"]
    assert _names(mount / "step-00000005") == ["arrays.npz", "hashes.json", "state.json"]


def test_the_hashes_are_written_last(local: Path, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They vouch for the others: where the machine is lost before, nothing is believed."""
    _save(local, 1)
    written: list[str] = []
    write = Path.write_bytes

    def cut_off(path: Path, content: bytes) -> int:
        if path.is_relative_to(mount):
            if len(written) == 2:
                raise OSError("the machine is lost")
            written.append(path.name)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", cut_off)
    Mirror(local, mount).update()
    assert sorted(written) == ["arrays.npz", "state.json"]
    assert _steps(mount) == {}


def test_nothing_is_renamed_where_a_rename_is_not_one_step(
    local: Path, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a mount of Blob Storage without folders of its own."""

    def refuse(rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def refused(path: Path, target: Path) -> Path:
            if mount in (path.parent, Path(target).parent):
                raise OSError("a folder cannot be renamed here")
            return rename(path, target)

        return refused

    monkeypatch.setattr(Path, "rename", refuse(Path.rename))
    monkeypatch.setattr(Path, "replace", refuse(Path.replace))
    saved = _save(local, 1)
    Mirror(local, mount).update()
    shutil.rmtree(saved)
    Mirror(local, mount).restore()
    assert _steps(local) == _steps(mount) == {"step-00000001": b"arrays 1"}


def test_a_restart_finds_the_last_two(local: Path, mount: Path) -> None:
    """And does not send them again."""
    for number in (1, 2):
        _save(mount, number)
    mirror = Mirror(local, mount)
    mirror.restore()
    assert _names(local) == ["step-00000001", "step-00000002"]
    (mount / "step-00000002" / "state.json").write_bytes(b"as it was")
    mirror.update()
    assert (mount / "step-00000002" / "state.json").read_bytes() == b"as it was"


@pytest.mark.parametrize("damage", ["no-hashes", "half-hashes", "other-content", "no-file"])
def test_what_was_cut_off_is_not_restored_and_is_written_anew(local: Path, mount: Path, damage: str) -> None:
    """The one before it is; the trainer gives the torn one's number to the next."""
    _save(mount, 1)
    torn = _save(mount, 2)
    if damage == "no-hashes":
        (torn / "hashes.json").unlink()
    elif damage == "half-hashes":
        (torn / "hashes.json").write_text('{"arrays.n')
    elif damage == "other-content":
        (torn / "arrays.npz").write_bytes(b"half")
    else:
        (torn / "arrays.npz").unlink()
    mirror = Mirror(local, mount)
    mirror.restore()
    assert _names(local) == ["step-00000001"]
    _save(local, 2, content=b"anew")
    mirror.update()
    assert _steps(mount) == {"step-00000001": b"arrays 1", "step-00000002": b"anew"}


@pytest.mark.parametrize("unreadable", [1, 2])
def test_one_that_cannot_be_read_costs_only_itself(
    local: Path, mount: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unreadable: int
) -> None:
    """The training goes on from the other one, and neither is removed for it."""
    for number in (1, 2):
        _save(mount, number)
    copy = shutil.copytree

    def failing(source: Path, target: Path) -> Path:
        copy(source, target)
        if source.name.endswith(str(unreadable)):
            raise OSError("the mount does not answer")
        return Path(target)

    monkeypatch.setattr(shutil, "copytree", failing)
    mirror = Mirror(local, mount)
    mirror.restore()
    mirror.update()
    assert _names(local) == [f"step-0000000{3 - unreadable}"]
    assert len(_steps(mount)) == 2
    assert "cannot be read: the mount does not answer" in capsys.readouterr().out


def test_a_number_that_is_written_anew_is_not_vouched_for_by_the_old_hashes(
    local: Path, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off again in the same place, it is still not believed."""
    torn = _save(mount, 1)
    (torn / "arrays.npz").write_bytes(b"half")
    _save(local, 1)

    def full(path: Path, content: bytes) -> int:
        raise OSError("the machine is lost")

    monkeypatch.setattr(Path, "write_bytes", full)
    Mirror(local, mount).update()
    assert _steps(mount) == {}


def test_a_mount_that_fails_is_told_once_and_ends_no_job(
    local: Path, mount: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training goes on; what was missed is copied when it works again."""
    _save(local, 1)
    mirror = Mirror(local, mount)
    mount.rmdir()
    mount.write_bytes(b"no folder")
    for _ in range(3):
        mirror.update()
    assert capsys.readouterr().out.count("cannot be kept") == 1
    mount.unlink()
    mirror.update()
    assert _steps(mount) == {"step-00000001": b"arrays 1"}


def test_a_checkpoint_that_the_trainer_removes_meanwhile_is_left_out(
    local: Path, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps two, and does not wait for the copy."""
    _save(local, 1)
    _save(local, 2)
    read = Path.read_bytes

    def removing(path: Path) -> bytes:
        if path.parent == local / "step-00000001":
            shutil.rmtree(path.parent, ignore_errors=True)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", removing)
    Mirror(local, mount).update()
    assert _steps(mount) == {"step-00000002": b"arrays 2"}


# -- the job's process ------------------------------------------------------------------------------------------------

JOB = """
import argparse, hashlib, json, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
for name in ("spec", "out", "checkpoints"):
    parser.add_argument(f"--{name}", type=pathlib.Path)
given = parser.parse_args()
def save(number):
    draft = given.checkpoints / f".draft-{number}"
    draft.mkdir()
    (draft / "arrays.npz").write_bytes(b"arrays %d" % number)
    digest = hashlib.sha256(b"arrays %d" % number).hexdigest()
    (draft / "hashes.json").write_text(json.dumps({"arrays.npz": digest}))
    draft.rename(given.checkpoints / f"step-{number:08d}")
def stop(*_):
    save(9)
    raise SystemExit(143)
signal.signal(signal.SIGTERM, stop)
print("found", sorted(os.listdir(given.checkpoints)), flush=True)
"""


def _job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str) -> list[str]:
    """Writes a module that the launcher runs, and returns the launcher's arguments."""
    (tmp_path / "trainer.py").write_text(JOB + textwrap.dedent(work))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return ["trainer", "--spec", "a", "--checkpoints", str(tmp_path / "mount"), "--out", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("work", "status"),
    [("save(1)", 0), ("raise SystemExit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9)],
)
def test_the_exit_status_is_the_jobs(
    tmp_path: Path, mount: Path, monkeypatch: pytest.MonkeyPatch, work: str, status: int
) -> None:
    """As a shell reports it; the last checkpoint is kept even where the job ends at once."""
    assert main(_job(tmp_path, monkeypatch, work)) == status
    assert len(_steps(mount)) == (status == 0)


def test_sigterm_is_passed_on_and_the_last_checkpoint_is_kept(
    tmp_path: Path, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is taken away: the next one goes on from there."""
    arguments = _job(tmp_path, monkeypatch, "save(1)\nwhile True: time.sleep(0.01)")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "medimg.backends.azureml.launch", *arguments], stdout=subprocess.PIPE, text=True
    )
    with launcher:
        deadline = time.monotonic() + 30
        while not _steps(mount):
            assert time.monotonic() < deadline and launcher.poll() is None
            time.sleep(0.02)
        launcher.send_signal(signal.SIGTERM)
        said, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 143
    assert said.splitlines() == ["found []"]
    assert _steps(mount) == {"step-00000001": b"arrays 1", "step-00000009": b"arrays 9"}
    again = subprocess.run(
        [sys.executable, "-m", "medimg.backends.azureml.launch", *_job(tmp_path, monkeypatch, "")],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert again.stdout.splitlines() == ["found ['step-00000001', 'step-00000009']"]


def test_the_launcher_loads_nothing_that_its_image_may_not_have() -> None:
    """Its own environment has no azure-ai-ml."""
    code = "import sys, medimg.backends.azureml.launch; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert not {"azure", "numpy", "pydantic", "tensorflow"} & set(loaded)
