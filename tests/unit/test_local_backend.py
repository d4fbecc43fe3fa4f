"""The local backend where something goes wrong: dead servers, full disks, two who delete at once."""

from __future__ import annotations

import errno
import fcntl
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medimg.backends import local, supervisor
from medimg.backends.job import Job
from medimg.backends.local import LocalBackend
from medimg.backends.resource import Kind
from medimg.errors import BackendError, EndpointError, NotFoundError, StorageError
from medimg.progress import silent

LONG_AGO = 1_700_000_000.0


@pytest.fixture
def backend() -> LocalBackend:
    """A backend in an empty home."""
    return LocalBackend()


def thing(home: Path, kind: Kind, id: str, **record: Any) -> Path:
    """Returns the folder of a job or endpoint of which only the record is there."""
    folder = home / f"{kind}s" / id
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"created": LONG_AGO, "digest": "right", **record}))
    return folder


def run(folder: Path, *code: str, **options: Any) -> None:
    """Starts a process of Python in a folder."""
    given = {"max_seconds": None, "remove": False, "environment": {}, **options}
    supervisor.start(folder, [sys.executable, "-c", *code], **given)


def end_of(folder: Path) -> dict[str, Any]:
    """Returns what is known of the end of a process, when it has ended."""
    deadline = time.monotonic() + 30
    while not (folder / "exit.json").exists():
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.02)
    found: dict[str, Any] = json.loads((folder / "exit.json").read_text())
    return found


# -- asking -----------------------------------------------------------------------------------------------------------


def test_the_key_is_not_sent_to_whoever_has_the_port_of_a_dead_server(backend: LocalBackend, own_home: Path) -> None:
    """The system gives ports again, also to another user's program."""
    folder = thing(own_home, "endpoint", "dead")
    (folder / "key").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0.3)
        (folder / "address.json").write_text(json.dumps({"host": "127.0.0.1", "port": stranger.getsockname()[1]}))
        with pytest.raises(EndpointError, match="failed"):
            backend._invoke("dead", b"an image")
        with pytest.raises(TimeoutError):
            stranger.accept()


@pytest.fixture
def other_server() -> Iterator[int]:
    """The port of a server that answers for another model."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"digest": "wrong", "probabilities": {}}')

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_an_answer_of_another_model_is_an_error(backend: LocalBackend, own_home: Path, other_server: int) -> None:
    """Each answer names its model; it is the one that was deployed."""
    folder = thing(own_home, "endpoint", "other")
    (folder / "address.json").write_text(json.dumps({"host": "127.0.0.1", "port": other_server}))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EndpointError, match="another model"):
            backend._invoke("other", b"an image")


# -- deleting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["job", "endpoint"])
def test_what_somebody_else_deletes_at_the_same_time_is_not_found(
    backend: LocalBackend, own_home: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """Another process, or its own deadline: no raw FileNotFoundError."""
    thing(own_home, kind, "twice")
    monkeypatch.setattr(backend, "_terminate", shutil.rmtree)
    with pytest.raises(NotFoundError):
        backend._delete(kind, "twice")


def test_what_is_removed_while_it_is_described_is_not_called_failed(
    backend: LocalBackend, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its lock it would look dead."""
    folder = thing(own_home, "endpoint", "going")

    def remove(_: Path) -> bool:
        shutil.rmtree(folder)
        return False

    monkeypatch.setattr(supervisor, "is_alive", remove)
    with pytest.raises(NotFoundError):
        backend._describe("endpoint", "going")


def test_results_that_are_deleted_while_they_are_fetched_are_not_found(
    backend: LocalBackend, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also halfway."""
    folder = thing(own_home, "job", "going")
    (folder / "out").mkdir()

    def link_tree(source: Path, _: Path) -> None:
        shutil.rmtree(folder)
        source.stat()

    monkeypatch.setattr(local, "link_tree", link_tree)
    with pytest.raises(NotFoundError):
        backend._fetch("job", "going", tmp_path, silent)


def test_an_endpoint_whose_time_is_up_is_renamed_before_it_is_removed(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sees half of it."""
    folder = thing(own_home, "endpoint", "short")
    plan = {"command": [sys.executable, "-c", ""], "max_seconds": 1, "remove": True, "started": time.time()}
    (folder / "command.json").write_text(json.dumps(plan))
    removed: list[Path] = []
    monkeypatch.setattr(supervisor.shutil, "rmtree", lambda path, **_: removed.append(path))
    monkeypatch.setattr(supervisor.signal, "signal", lambda *_: None)
    monkeypatch.setattr(supervisor._Supervisor, "_watch", lambda _, process: (process.wait(), "time is up"))
    told, tell = os.pipe()
    supervisor._Supervisor(folder).run(tell)
    os.close(told)
    assert [path.parent == folder.parent and path.name.startswith(".short-") for path in removed] == [True]
    assert not folder.exists()


# -- starting and ending ----------------------------------------------------------------------------------------------


def test_a_job_that_cannot_be_started_says_why_and_is_not_queued(backend: LocalBackend, own_home: Path) -> None:
    """The error ends with the log, and the job is known to have failed at once."""
    folder = thing(own_home, "job", "broken", created=time.time())
    with pytest.raises(BackendError, match="no-such-program"):
        supervisor.start(folder, ["/no-such-program"], max_seconds=None, remove=False, environment={})
    found = backend._describe("job", "broken")
    assert found.status == "failed"
    assert "could not be started" in found.details["reason"] and "no-such-program" in found.details["reason"]


def test_a_full_disk_at_the_start_is_a_storage_error(
    backend: LocalBackend, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the advice of all storage errors."""
    folder = thing(own_home, "job", "full", created=time.time())
    finished = subprocess.CompletedProcess[str]([], errno.ENOSPC, "", "")
    monkeypatch.setattr(supervisor.subprocess, "run", lambda *_, **__: finished)
    with pytest.raises(StorageError, match="disk is full"):
        run(folder, "")
    assert backend._describe("job", "full").status == "failed"


def test_a_supervisor_tells_which_error_of_the_file_system_stopped_it(own_home: Path) -> None:
    """The number comes back as the exit status of the process that was waited for."""
    folder = thing(own_home, "job", "full")
    (folder / "command.json").write_text(json.dumps({"command": ["true"], "max_seconds": None, "remove": False}))
    code = (
        "import errno, os, sys; from medimg.backends import supervisor\n"
        "def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "supervisor._Supervisor.run = full; sys.argv[1:] = [sys.argv[1]]; supervisor.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == errno.ENOSPC


def test_a_job_that_is_cancelled_before_it_begins_does_not_begin(backend: LocalBackend, own_home: Path) -> None:
    """Between its record and its lock nobody is there to be told."""
    folder = thing(own_home, "job", "early", created=time.time())
    backend._stop("early")
    assert backend._describe("job", "early").status == "cancelled"
    run(folder, "open('began', 'w').close()")
    assert end_of(folder)["code"] is None
    assert not (folder / "began").exists()
    assert backend._describe("job", "early").status == "cancelled"


def test_a_command_whose_supervisor_was_killed_is_stopped_with_its_group(backend: LocalBackend, own_home: Path) -> None:
    """Its number is still that of the group, so nobody else's process is hit."""
    folder = thing(own_home, "job", "orphan")
    run(folder, "import time; time.sleep(600)")
    os.kill(int((folder / "pids").read_text().split()[0]), 9)
    assert supervisor.is_alive(folder)
    backend._stop("orphan")
    assert not supervisor.is_alive(folder)
    assert backend._describe("job", "orphan").status == "cancelled"


def test_a_process_of_another_user_is_not_ours(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process numbers are given again."""

    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert local._runs(1) is False


# -- logs -------------------------------------------------------------------------------------------------------------


def test_lines_end_at_line_feeds_only(backend: LocalBackend, own_home: Path) -> None:
    """JSON may hold U+2028 and U+0085 as they are: an event must not be cut in two."""
    lines = ['{"event": "log", "message": "a\u2028b\x85c\x0cd"}', "", "the end"]
    (thing(own_home, "job", "lines") / "log").write_text("\n".join(lines) + "\n")
    assert list(Job(backend, "lines").logs()) == lines


def test_the_last_words_of_a_job_that_was_killed_are_read(backend: LocalBackend, own_home: Path) -> None:
    """They have no end of line; while the job runs the line may still grow."""
    folder = thing(own_home, "job", "words")
    (folder / "log").write_text("first\nout of memo")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert backend._log("job", "words", 0) == (["first"], 6)
    lines, position = backend._log("job", "words", 6)
    assert lines == ["out of memo"]
    assert backend._log("job", "words", position) == ([], position)
