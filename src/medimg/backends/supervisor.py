"""Keeps one process of the local backend: `python -m medimg.backends.supervisor FOLDER`.

It detaches itself from the notebook that started it, runs the command in `FOLDER/command.json` with its output in
`FOLDER/log`, ends it at its deadline, and writes `FOLDER/exit.json`. It and its child hold a lock on `FOLDER/lock`: as
long as that lock is held the work lives, whatever became of the notebook. A process id would not do: they are reused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from medimg.errors import BackendError, MedimgError
from medimg.home import storage_errors

__all__ = ["is_alive", "main", "start"]

GRACE_SECONDS = 30.0  # from SIGTERM to SIGKILL: time to write a checkpoint
_LAST_LINES = 15
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # as exit statuses they cannot be taken for another


def start(
    folder: Path, command: list[str], *, max_seconds: float | None, remove: bool, environment: dict[str, str]
) -> None:
    """Starts a command that outlives this process; returns when it is running, or was cancelled before it began.

    Args:
        folder: Where its state is kept.
        command: What to run, in `folder`.
        max_seconds: It is ended after so long; None: never.
        remove: Whether the folder goes when the time is up.
        environment: Variables to add.

    Raises:
        StorageError: The disk is full or cannot be written.
        BackendError: It could not be started; the message ends with the log. `exit.json` says so too.
    """
    try:
        with storage_errors(folder):
            _start(folder, command, max_seconds, remove, environment)
    except (MedimgError, OSError) as error:
        try:
            _write_exit(folder, None, f"it could not be started: {str(error).splitlines()[-1].strip()}")
        except OSError:
            # What cannot even be told must not look as if it were about to start.
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, MedimgError):
            raise
        raise BackendError(f"{folder.name} could not be started: {error}") from error


def _start(
    folder: Path, command: list[str], max_seconds: float | None, remove: bool, environment: dict[str, str]
) -> None:
    plan = {"command": command, "max_seconds": max_seconds, "remove": remove, "started": time.time()}
    (folder / "command.json").write_text(json.dumps(plan))
    # This first process only forks and ends, so that the notebook gets neither a child nor a zombie.
    first = subprocess.run(
        [sys.executable, "-m", "medimg.backends.supervisor", str(folder)],
        check=False, cwd=folder, env=os.environ | environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="replace",
    )  # fmt: skip
    if first.returncode in _STORAGE:
        raise OSError(first.returncode, os.strerror(first.returncode), str(folder))
    if first.returncode:
        log = folder / "log"
        said = first.stderr + (log.read_text(errors="replace") if log.exists() else "")
        last = "\n".join(f"  {line}" for line in said.splitlines()[-_LAST_LINES:])
        raise BackendError(f"{folder.name} could not be started\nLast lines of its log:\n{last}")


def _write_exit(folder: Path, code: int | None, reason: str) -> None:
    part = folder / ".exit.json"
    part.write_text(json.dumps({"code": code, "reason": reason, "ended": time.time()}))
    part.replace(folder / "exit.json")


def is_alive(folder: Path) -> bool:
    """Tells whether the supervisor or its command lives."""
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


class _Supervisor:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = json.loads((folder / "command.json").read_text())
        self.asked = False

    def run(self, ready: int) -> None:
        """Runs the command to its end."""
        # Locked before it has its name: else one who asks just then would find it free, and hold it for a moment.
        unnamed = self.folder / ".lock"
        lock = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(self.folder / "lock")
        signal.signal(signal.SIGTERM, self._ask)
        # Looked for under the lock: who cancels after this look finds the lock held, and waits for the command to end.
        if (self.folder / "cancelled").exists():
            _write_exit(self.folder, None, "cancelled before it began")
            os.write(ready, b"1")
            return
        with (self.folder / "log").open("ab", buffering=0) as log:
            process = subprocess.Popen(
                self.plan["command"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, pass_fds=[lock]
            )
        try:
            (self.folder / "pids").write_text(f"{os.getpid()} {process.pid}")
        except OSError:
            process.kill()  # nobody could find it
            raise
        os.write(ready, b"1")
        os.close(ready)
        code, reason = self._watch(process)
        if reason == "time is up" and self.plan["remove"]:
            # Renamed first, so that nobody sees one that is half removed.
            grave = self.folder.with_name(f".{self.folder.name}-{secrets.token_hex(4)}")
            with contextlib.suppress(FileNotFoundError):
                self.folder.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)
            return
        with contextlib.suppress(FileNotFoundError):
            _write_exit(self.folder, code, reason)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def _watch(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        # The wall clock, so that the hours a laptop sleeps count.
        deadline = float("inf") if self.plan["max_seconds"] is None else self.plan["started"] + self.plan["max_seconds"]
        reason, kill_at = "", float("inf")
        while True:
            try:
                return process.wait(0.2), reason
            except subprocess.TimeoutExpired:
                now = time.time()
            # Whose folder was removed by hand could not be found, or ended, by anybody any more.
            orphaned = not (self.folder / "command.json").exists()
            if not reason and (self.asked or orphaned or now > deadline):
                reason = "stopped" if self.asked or orphaned else "time is up"
                process.terminate()
                kill_at = now + GRACE_SECONDS
            elif now > kill_at:
                process.kill()


def main() -> None:
    """Forks away from the caller, which is told when the command runs."""
    folder = Path(sys.argv[1]).resolve()
    supervisor = _Supervisor(folder)
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        # "1" when the command runs, else the number of the error of the file system, else nothing.
        answer = os.read(told, 8)
        raise SystemExit(0 if answer == b"1" else int(answer or b"1"))
    os.close(told)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(null, standard)
    with (folder / "log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 2)
    try:
        supervisor.run(tell)
    except OSError as error:
        if error.errno in _STORAGE:
            # After the command ran nobody listens any more.
            with contextlib.suppress(OSError):
                os.write(tell, str(error.errno).encode())
        raise
    # No exit handlers of the first process in this one.
    os._exit(0)


if __name__ == "__main__":
    main()
