"""An emulator as a process of its own, which ends with the one that started it, and is told things over HTTP."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

__all__ = ["EmulatorProcess", "parser", "serve", "start_process"]

_START_SECONDS = 60.0


class Serving(Protocol):
    """What the process runs."""

    url: str

    def serve(self) -> None:
        """Answers until the process ends."""

    def close(self) -> None:
        """Ends everything that runs."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the arguments that every emulator has."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--root", type=Path, required=True, help="a folder for what it writes")
    arguments.add_argument("--address-file", type=Path, help="gets the address once it answers")
    arguments.add_argument("--parent", type=int, help="a process whose end is this one's too")
    return arguments


def serve(server: Serving, given: argparse.Namespace) -> None:
    """Serves until it is told to end, or until the process that started it is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    if given.parent is not None:
        threading.Thread(target=_outlive, args=(given.parent, server), daemon=True).start()
    if given.address_file is not None:
        written = given.address_file.with_suffix(".part")
        written.write_text(server.url)
        written.rename(given.address_file)
    print(server.url, flush=True)
    try:
        server.serve()
    finally:
        server.close()


def _outlive(parent: int, server: Serving) -> None:
    """Ends this process soon after its parent."""
    while os.getppid() == parent:
        time.sleep(0.2)
    server.close()
    os._exit(0)


def start_process(
    program: Path, root: Path, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, Path, subprocess.Popen[bytes]]:
    """Starts an emulator, and returns its address, its folder and its process once it answers.

    Args:
        program: Its `__main__.py`.
        root: A folder for what it writes.
        arguments: More of them.
        environment: Of the process.

    Raises:
        RuntimeError: It did not start; says what it wrote.
    """
    root.mkdir(parents=True, exist_ok=True)
    address = root / "address"
    address.unlink(missing_ok=True)
    command = [sys.executable, str(program), "--root", str(root), "--address-file", str(address), "--parent",
               str(os.getpid()), *arguments]  # fmt: skip
    with (root / "emulator.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environment))
    deadline = time.monotonic() + _START_SECONDS
    while not address.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the emulator did not start:\n{(root / 'emulator.log').read_text()[-4000:]}")
        time.sleep(0.02)
    return address.read_text(), root, process


class EmulatorProcess:
    """A running emulator.

    Args:
        url: Where it answers.
        root: Its folder.
        process: Which was started.

    Attributes:
        url: Where it answers.
        root: Its folder.
    """

    def __init__(self, url: str, root: Path, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.root = root
        self._process = process
        self._mark = 0

    def close(self) -> None:
        """Ends it with all that it runs."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Id of its process."""
        return self._process.pid

    def mark(self) -> None:
        """Makes `calls` begin here."""
        self._mark = int(self.tell("count"))

    def tell(self, verb: str, **given: Any) -> Any:
        """Tells the emulator something, and returns what it answers."""
        request = urllib.request.Request(f"{self.url}/_emulator/{verb}", json.dumps(given).encode(), method="POST")  # noqa: S310
        try:
            with _DIRECT.open(request) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{verb}: {error.read().decode()}") from None


# Never by the proxy that a test's environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
