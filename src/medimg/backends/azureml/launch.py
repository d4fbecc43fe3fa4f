"""`python -m medimg.backends.azureml.launch MODULE --spec … --data … --out … --checkpoints …`: a job's first process.

It runs `python -m MODULE` with its checkpoints on the machine's own disk. What survives the machine is a mount of Blob
Storage, where no folder is renamed in one step, and checkpoints rely on that: so each that is complete is copied there
file by file, the one that vouches for the others last, and copied back when the job starts again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from medimg.progress import Event, emit

__all__ = ["Mirror", "main"]

_KEEP = 2  # checkpoints, as many as the trainer keeps
_EVERY_SECONDS = 1.0
_HASHES = "hashes.json"  # of a checkpoint's other files; the last that the trainer writes, too
_STEP = re.compile(r"step-\d+")


class Mirror:
    """The copy of a job's checkpoints that survives its machine.

    Args:
        local: Where the job keeps them: a folder that is renamed in one step.
        mount: Where they survive: whole files appear there, and nothing more is certain.
    """

    def __init__(self, local: Path, mount: Path) -> None:
        self._local = local
        self._mount = mount
        self._copied: set[str] = set()
        self._failing = False

    def restore(self) -> None:
        """Copies back what is complete, the newest first; what was cut off in the middle is left alone."""
        try:
            found = _steps(self._mount)[-_KEEP:]
        except OSError as error:
            emit(Event("warning", message=f"the checkpoints of an earlier start cannot be read: {error}"))
            return
        for source in reversed(found):
            draft = self._local / f".{source.name}"
            try:
                shutil.copytree(source, draft)
                if _is_complete(draft):
                    draft.rename(self._local / source.name)
                    self._copied.add(source.name)
            except OSError as error:  # the other one may be readable
                emit(Event("warning", message=f"a checkpoint of an earlier start cannot be read: {error}"))
            shutil.rmtree(draft, ignore_errors=True)

    def update(self) -> None:
        """Copies the checkpoints that are new, and removes those that are too many; a mount that fails ends no job."""
        try:
            new = [step for step in _steps(self._local) if step.name not in self._copied]
            for step in new:
                self._copy(step)
            if new:
                self._tidy()
        except OSError as error:
            if not self._failing:
                emit(Event("warning", message=f"the checkpoints cannot be kept for a restart: {error}"))
            self._failing = True
        else:
            self._failing = False

    def _copy(self, step: Path) -> None:
        target = self._mount / step.name
        # Of an earlier start that was cut off here: its file would vouch for ours.
        (target / _HASHES).unlink(missing_ok=True)
        try:
            files = sorted(step.iterdir(), key=lambda file: file.name == _HASHES)
            contents = [(file.name, file.read_bytes()) for file in files]
        except FileNotFoundError:
            return  # too old meanwhile: the job has removed it, and there are newer ones
        target.mkdir(parents=True, exist_ok=True)
        for name, content in contents:
            (target / name).write_bytes(content)
        self._copied.add(step.name)

    def _tidy(self) -> None:
        """Removes what the job has removed, and what was cut off."""
        kept = {step.name for step in _steps(self._local)} & self._copied
        if not kept:
            return
        for step in self._mount.glob("step-*"):
            if step.name not in kept:
                (step / _HASHES).unlink(missing_ok=True)  # first, so that half of it is never believed
                shutil.rmtree(step, ignore_errors=True)


def _steps(folder: Path) -> list[Path]:
    """Returns the checkpoints that seem complete, oldest first."""
    return sorted(step for step in folder.glob("step-*") if _STEP.fullmatch(step.name) and (step / _HASHES).is_file())


def _is_complete(step: Path) -> bool:
    """Tells whether all files of a checkpoint are what they were when it was saved."""
    try:
        hashes = json.loads((step / _HASHES).read_text())
        return all(hashlib.sha256((step / name).read_bytes()).hexdigest() == told for name, told in hashes.items())
    except (ValueError, AttributeError, FileNotFoundError):
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a job's command and returns its exit status; SIGTERM is passed on to it.

    Args:
        argv: The command line; None: the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m medimg.backends.azureml.launch")
    parser.add_argument("module")
    parser.add_argument("--checkpoints", type=Path, required=True)
    given, others = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory(prefix="medimg-") as folder:
        local = Path(folder) / "checkpoints"
        local.mkdir()
        command = [sys.executable, "-m", given.module, *others, "--checkpoints", str(local)]
        return _run(command, Mirror(local, given.checkpoints))


def _run(command: list[str], mirror: Mirror) -> int:
    child: subprocess.Popen[bytes] | None = None
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        if child is not None:
            child.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        mirror.restore()
        child = subprocess.Popen(command)
        if asked:  # while the child was not there yet to be told
            child.terminate()
        while True:
            try:
                status = child.wait(_EVERY_SECONDS)
            except subprocess.TimeoutExpired:
                mirror.update()
            else:
                mirror.update()
                return status if status >= 0 else 128 - status
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    raise SystemExit(main())
