"""Keeps one process of the local backend: `python -m medimg.backends.supervisor FOLDER`.

It detaches itself from the notebook that started it, runs the command in `FOLDER/command.json` with its output in
`FOLDER/log`, ends it at its deadline, and writes `FOLDER/exit.json`. It and its child hold a lock on `FOLDER/lock`: as
long as that lock is held the work lives, whatever became of the notebook. A process id would not do: they are reused.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["is_alive", "main", "start"]

GRACE_SECONDS = 30.0  # from SIGTERM to SIGKILL: time to write a checkpoint


def start(
    folder: Path, command: list[str], *, max_seconds: float | None, remove: bool, environment: dict[str, str]
) -> None:
    """Starts a command that outlives this process; returns when it is running.

    Args:
        folder: Where its state is kept.
        command: What to run, in `folder`.
        max_seconds: It is ended after so long; None: never.
        remove: Whether the folder goes when the time is up.
        environment: Variables to add.
    """
    plan = {"command": command, "max_seconds": max_seconds, "remove": remove, "started": time.time()}
    (folder / "command.json").write_text(json.dumps(plan))
    # This first process only forks and ends, so that the notebook gets neither a child nor a zombie.
    subprocess.run(
        [sys.executable, "-m", "medimg.backends.supervisor", str(folder)],
        check=True, cwd=folder, env=os.environ | environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip


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
        with (self.folder / "log").open("ab", buffering=0) as log:
            process = subprocess.Popen(
                self.plan["command"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, pass_fds=[lock]
            )
        (self.folder / "pids").write_text(f"{os.getpid()} {process.pid}")
        os.write(ready, b"1")
        os.close(ready)
        code, reason = self._watch(process)
        if reason == "time is up" and self.plan["remove"]:
            shutil.rmtree(self.folder, ignore_errors=True)
        if not self.folder.exists():
            return
        part = self.folder / ".exit.json"
        part.write_text(json.dumps({"code": code, "reason": reason, "ended": time.time()}))
        part.replace(self.folder / "exit.json")

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
        # Nothing comes if the command could not be started.
        raise SystemExit(0 if os.read(told, 1) == b"1" else f"could not start: see {folder / 'log'}")
    os.close(told)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(null, standard)
    with (folder / "log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 2)
    supervisor.run(tell)
    # No exit handlers of the first process in this one.
    os._exit(0)


if __name__ == "__main__":
    main()
