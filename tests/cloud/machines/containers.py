"""Containers: processes with a Python, a home and a folder of their own, that cannot import the checkout."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import guardian

__all__ = ["Container", "Containers", "Place"]

_PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
_BATCH_SECONDS = 0.1

# Runs as root of a user namespace: a folder under /opt and a host name that only this container sees.
_NAMESPACE = r"""
set -e
root="$1"; shift
for folder in $READ_ONLY; do
  mount --bind "$folder" "$folder"
  mount -o remount,bind,ro "$folder"
done
if [ -n "$PLACE" ]; then
  if [ ! -d "$PLACE" ]; then
    mkdir -p "$root$PLACE"
    for entry in /opt/*; do
      if [ -d "$entry" ]; then
        mkdir -p "$root/opt/${entry##*/}"
        mount --rbind "$entry" "$root/opt/${entry##*/}"
      fi
    done
    mount --rbind "$root/opt" /opt
  fi
  mount --rbind "$root/files" "$PLACE"
  (cat /etc/hosts; echo 127.0.0.1 "$HOST") > "$root/hosts"
  mount --bind "$root/hosts" /etc/hosts
fi
unset READ_ONLY PLACE HOST
exec "$@"
"""


@dataclass(frozen=True)
class Place:
    """What a container sees of itself.

    Attributes:
        path: Of its folder, under /opt.
        host: Its name.
    """

    path: str
    host: str


class Container:
    """One container.

    Attributes:
        root: Everything of it.
        files: A folder of its own, which it sees at its place.
        started: Whether its first process was started.

    Args:
        root: A folder that does not exist yet.
        mark: Which all its processes carry.
        packages: Of its image.
        namespaces: Whether it sees its folder at the place, or is told where it is in MEDIMG_ROOT.
        place: Under /opt; None: it sees its folder where that is.
    """

    def __init__(self, root: Path, mark: str, packages: Path, *, namespaces: bool, place: Place | None) -> None:
        self.root = root
        self.files = root / "files"
        self._mark = mark
        self._namespaces = namespaces
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._output: threading.Thread | None = None
        self._lock = threading.Lock()
        for folder in ("home", "tmp", "files"):
            (root / folder).mkdir(parents=True)
        self.python = _make_environment(root / "venv", packages)

    @property
    def started(self) -> bool:
        """Whether its first process was started."""
        return self._process is not None

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Callable[[list[str]], None],
        *,
        folder: Path | None = None,
        read_only: Sequence[Path] = (),
    ) -> None:
        """Starts the first process.

        Args:
            command: What it runs.
            environment: Beside what every container has; nothing of the caller's.
            log: Gets what it writes, a few lines at a time.
            folder: Where it starts; None: its own.
            read_only: Folders that it may not write to.
        """
        given = {
            "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "LANG": "C.UTF-8",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
            guardian.MARK: self._mark,
            **environment,
        }
        command = list(command)
        if self._namespaces:
            given["READ_ONLY"] = " ".join(map(str, read_only))
            given |= {"PLACE": self._place.path, "HOST": self._place.host} if self._place else {"PLACE": ""}
            command = ["unshare", "-Urm", "sh", "-c", _NAMESPACE, "sh", str(self.root), *command]
        else:
            if self._place:
                given["MEDIMG_ROOT"] = str(self.files)
            for each in read_only:
                each.chmod(0o555)
        with self._lock:
            self._process = subprocess.Popen(
                command, env=given, cwd=folder or self.files, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        self._output = threading.Thread(target=_pump, args=(self._process.stdout, log), daemon=True)
        self._output.start()

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status once the container has ended and its output is written."""
        assert self._process is not None and self._output is not None
        status = self._process.wait(timeout)
        guardian.sweep(self._mark)  # what it left behind ends with it, and holds its output open no longer
        self._output.join()
        return status

    @property
    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The first process's id."""
        assert self._process is not None
        return self._process.pid

    def stop(self, grace_seconds: float) -> None:
        """Sends SIGTERM to the first process, and kills what is left after the grace; returns at once."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return
            self._process.terminate()

        def end() -> None:
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)
            self.kill()

        threading.Thread(target=end, daemon=True).start()

    def kill(self) -> None:
        """Kills all its processes."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
        guardian.sweep(self._mark)

    def remove(self) -> None:
        """Kills it and deletes its files."""
        self.kill()
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self.root, ignore_errors=True)


class Containers:
    """All containers of an emulator.

    Attributes:
        namespaces: Whether they see their folder at its place.

    Args:
        root: Where their files are.
        packages: Returns the folder of an image's packages.
        namespaces: None: where this machine allows it.
    """

    def __init__(self, root: Path, packages: Callable[[str], Path], namespaces: bool | None = None) -> None:
        self.namespaces = _can_unshare() if namespaces is None else namespaces
        self._root = root
        self._packages = packages
        self._mark = uuid.uuid4().hex
        self._all: list[Container] = []
        self._guardian = subprocess.Popen([sys.executable, guardian.__file__, self._mark], stdin=subprocess.PIPE)

    def make(self, image: str, name: str, place: Place | None = None) -> Container:
        """Returns a new container of an image, not started yet."""
        unique = f"{name[:80]}-{uuid.uuid4().hex[:8]}"
        container = Container(
            self._root / unique,
            f"{self._mark}/{unique}",
            self._packages(image),
            namespaces=self.namespaces,
            place=place,
        )
        self._all.append(container)
        return container

    def running(self) -> list[str]:
        """Returns the names of the containers whose first process runs."""
        return [container.root.name.rpartition("-")[0] for container in list(self._all) if container.alive]

    def remove(self, container: Container) -> None:
        """Ends a container."""
        container.remove()
        if container in self._all:
            self._all.remove(container)

    def close(self) -> None:
        """Kills everything; also the guardian does so when it is not called."""
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        self._guardian.wait()


def _can_unshare() -> bool:
    try:
        trial = ["unshare", "-Urm", "mount", "--bind", "/tmp", "/tmp"]  # noqa: S108 - nothing is written there
        return subprocess.run(trial, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _make_environment(folder: Path, packages: Path) -> Path:
    """Makes a virtual environment that sees an image's packages and has room for its own; returns its Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / f"python{version}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("python", "python3", f"python{version}"):
        (folder / "bin" / name).symlink_to(_PYTHON)
    (folder / "pyvenv.cfg").write_text(f"home = {_PYTHON.parent}\ninclude-system-site-packages = false\n")
    # Python reads no .pth file of a folder that a .pth file names.
    (site / "image.pth").write_text(f"{packages}\n")
    return folder / "bin" / "python"


def _pump(output: IO[bytes], log: Callable[[list[str]], None]) -> None:
    """Passes output on by lines, those of a moment together, none later than a moment."""
    rest, lines, first = b"", list[str](), 0.0
    waiting = select.poll()  # select() knows only the first 1024 files of a process
    waiting.register(output, select.POLLIN)
    while True:
        ready = waiting.poll(_BATCH_SECONDS * 1000 if lines else None)
        chunk = os.read(output.fileno(), 65_536) if ready else b""
        if chunk:
            *whole, rest = (rest + chunk).split(b"\n")
            first = first if lines else time.monotonic()
            lines += [line.decode(errors="replace").rstrip("\r") for line in whole]
        ended = bool(ready) and not chunk
        if ended and rest:
            lines.append(rest.decode(errors="replace"))
        if lines and (ended or not ready or time.monotonic() - first > _BATCH_SECONDS):
            log(lines)
            lines = []
        if ended:
            output.close()
            return
