"""A real server to attack, and how to speak to it without the manners of an HTTP library."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medimg.key_file import KeyFile
from medimg.serving.access.sessions import Sessions

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """A running server.

    Attributes:
        process: The front process.
        port: Where it listens, on 127.0.0.1.
        image: An encoded image that it answers.
        key: A good key.
        ended: A key that was revoked.
        file: The file of its keys.
        session: Its cookie of a session of the good key.
        expired: One whose time is up, made with the server's own secret.
        orphan: One of the revoked key.
        log: What it wrote.
    """

    process: subprocess.Popen[bytes]
    port: int
    image: bytes
    key: str
    ended: str
    file: KeyFile
    session: str
    expired: str
    orphan: str
    log: Path

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Returns status and body of a well-formed request; "_" in the names of headers stands for "-"."""
        status, content, _ = self._asked(method, path, body, headers)
        return status, content

    def headers(self, method: str, path: str, body: bytes | None = None, **headers: str) -> dict[str, str]:
        """Returns the headers of the answer, with names in lower case."""
        return self._asked(method, path, body, headers)[2]

    def _asked(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, response.read(), found
        finally:
            connection.close()

    def post(self, body: bytes, kind: str = "application/octet-stream") -> str:
        """Returns status and code of the answer to an image that is sent with the key."""
        status, said = self.ask("POST", "/predict", body, Authorization=f"Bearer {self.key}", Content_Type=kind)
        with contextlib.suppress(ValueError):
            return f"{status} {json.loads(said).get('code', '')}".strip()
        return str(status)

    def say(
        self, *parts: bytes, pause: float = 0.0, seconds: float = 5.0, over: bool = False, statuses: int | None = None
    ) -> str:
        """Sends bytes as they are and tells what came back, such as "400, closed" or "200, open".

        Args:
            parts: What to send, one after the other, until the server closes.
            pause: Seconds between two parts.
            seconds: How long to wait for more after the last part.
            over: Whether to end our side after the last part.
            statuses: Stop waiting after as many answers; None: when the server closes, or at the end of the time.
        """
        got, state, began = b"", "open", time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as line:
            line.settimeout(10)
            try:
                for part in parts:
                    line.sendall(part)
                    if select.select([line], [], [], pause)[0]:
                        got += (more := line.recv(65_536))
                        if not more:
                            state = "closed"
                            break
                if over:
                    line.shutdown(socket.SHUT_WR)
                deadline = time.monotonic() + seconds
                while state == "open" and (statuses is None or len(_STATUS.findall(got)) < statuses):
                    if not select.select([line], [], [], max(0.0, deadline - time.monotonic()))[0]:
                        break
                    got += (more := line.recv(65_536))
                    state = "open" if more else "closed"
            except TimeoutError:
                state = "not read"
            except (ConnectionResetError, BrokenPipeError):
                state = "closed"
        found = [status.decode() for status in _STATUS.findall(got)]
        told = ", ".join([*(found if len(found) < 5 else [f"{len(found)} × {'/'.join(sorted(set(found)))}"]), state])
        passed = time.monotonic() - began
        return f"{told} after {passed:.0f} s" if passed > 3 else told

    def answers(self) -> bool:
        """Tells whether it answers an image with the key, rightly, now."""
        try:
            return self.post(self.image) == "200"
        except OSError:
            return False

    def processes(self) -> list[int]:
        """Returns the front process and those that it started."""
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def memory_mb(self, *, peak: bool = False) -> tuple[float, float]:
        """Returns resident memory of the front process and of the largest that it started, in megabytes."""
        found = [_memory(pid, "VmHWM" if peak else "VmRSS") for pid in self.processes()]
        return found[0], max(found[1:], default=0.0)


def _memory(pid: int, what: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


@contextlib.contextmanager
def served(model: Path, folder: Path, image: bytes, options: Sequence[str] = ()) -> Iterator[Target]:
    """Starts a server of a model with two keys, one of them revoked, and ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = KeyFile(folder / "keys.json")
    (key, good), (ended, revoked) = file.add("good", limited=False), file.add("revoked")
    sessions = Sessions.of_file(folder / "session-secret")
    old = Sessions((folder / "session-secret").read_bytes(), clock=lambda: time.time() - 12 * 3600 - 1)
    cookies = [
        made.partition(";")[0]
        for made in (
            sessions.begin(good.id, secure=False), old.begin(good.id, secure=False),
            sessions.begin(revoked.id, secure=False),
        )
    ]  # fmt: skip
    file.revoke("revoked")
    address, log = folder / "address.json", folder / "log"
    command = [sys.executable, "-m", "medimg.serving", "--model", str(model), "--keys", str(file.path)]
    command += ["--session-secret", str(folder / "session-secret"), "--address-file", str(address), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not address.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        port = int(json.loads(address.read_text())["port"])
        yield Target(process, port, image, key, ended, file, *cookies, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
