"""A download arrives whole and right, goes on after a cut, and leaves nothing wrong behind."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer, certificate, serving

from medimg import download as downloads
from medimg.download import download
from medimg.errors import DownloadError, StorageError, WeightsError


@pytest.fixture
def server() -> Iterator[FileServer]:
    """Yields a running server of files."""
    with serving() as state:
        yield state


def fetch(url: str, path: Path, **wanted: Any) -> None:
    """Downloads without pauses."""
    download(url, path, **{"timeout_s": 5, "pause_s": 0.001, **wanted})


def md5(content: bytes) -> str:
    """Returns the MD5 of some bytes."""
    return hashlib.md5(content).hexdigest()  # noqa: S324


def sha256(content: bytes) -> str:
    """Returns the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def left(folder: Path) -> list[str]:
    """Returns the names of what is in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def test_a_cut_download_goes_on_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    """Twice in a row, and only the missing bytes are asked for; nothing but the file is left."""
    content = os.urandom(1000)
    url, server.cuts = server.add("file", content), 2
    seen: list[tuple[int, int | None]] = []
    fetch(url, tmp_path / "file", sha256=sha256(content), progress=lambda *step: seen.append(step))
    assert (tmp_path / "file").read_bytes() == content
    assert [wanted for _, wanted, _ in server.asked] == [None, "bytes=500-", "bytes=750-"]
    assert seen[-1] == (1000, 1000)
    assert left(tmp_path) == ["file"]


def test_a_download_that_keeps_breaking_resumes_in_the_next_call(server: FileServer, tmp_path: Path) -> None:
    """What arrived is kept under a hidden name; the real name does not appear."""
    content = os.urandom(1024)
    url, server.cuts = server.add("file", content), 4
    with pytest.raises(DownloadError, match=r"broke 4 times .*call again to go on"):
        fetch(url, tmp_path / "file")
    assert left(tmp_path) == [".file.part", ".file.part.json"]
    fetch(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    assert server.asked[-1][1] == "bytes=960-"


@pytest.mark.parametrize("published", [True, False])
def test_a_file_that_changed_in_between_is_not_glued_to_its_beginning(
    server: FileServer, tmp_path: Path, published: bool
) -> None:
    """The server is asked for the rest of the same file only (If-Range), whether or not a hash is published."""
    url, server.cuts = server.add("file", b"old " * 250), 4
    with pytest.raises(DownloadError, match="broke"):
        fetch(url, tmp_path / "file")
    new = b"new " * 300
    server.add("file", new)
    fetch(url, tmp_path / "file", sha256=sha256(new) if published else None)
    assert (tmp_path / "file").read_bytes() == new
    assert server.asked[-1][2] is not None


def test_without_a_name_for_its_version_a_file_is_resumed_only_if_its_hash_is_published(
    server: FileServer, tmp_path: Path
) -> None:
    """Else nothing would tell that the two halves are of one file; with a hash a wrong half is found and refetched."""
    server.tags = False
    old, new = b"old " * 250, b"new " * 250
    url, server.cuts = server.add("file", old), 1
    fetch(url, tmp_path / "unknown")
    assert [wanted for _, wanted, _ in server.asked] == [None, None]
    server.cuts = 4
    with pytest.raises(DownloadError, match="broke"):
        fetch(url, tmp_path / "known", md5=md5(new))
    server.add("file", new)
    fetch(url, tmp_path / "known", md5=md5(new))
    assert (tmp_path / "known").read_bytes() == new
    assert [wanted for _, wanted, _ in server.asked[-2:]] == ["bytes=937-", None]


@pytest.mark.parametrize("what", ["ranges", "wrong_part"])
def test_a_server_whose_parts_cannot_be_used_sends_the_whole_again(
    server: FileServer, tmp_path: Path, what: str
) -> None:
    """It ignores ranges, or sends another part than it was asked for; nothing is appended twice."""
    content = os.urandom(1000)
    url, server.cuts = server.add("file", content), 1
    setattr(server, what, what == "wrong_part")
    fetch(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


def test_a_complete_leftover_is_no_obstacle(server: FileServer, tmp_path: Path) -> None:
    """The server has nothing after its end to send (416): then everything is fetched again."""
    url = server.add("file", b"content")
    (tmp_path / ".file.part").write_bytes(b"content")
    fetch(url, tmp_path / "file", md5=md5(b"content"))
    assert (tmp_path / "file").read_bytes() == b"content"
    assert [wanted for _, wanted, _ in server.asked] == ["bytes=7-", None]


def test_a_server_that_is_silent_or_busy_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    """503 and 429, then half an answer and nothing for longer than we wait."""
    content = os.urandom(1000)
    url, server.statuses, server.stalls = server.add("file", content), [503, 429], 1
    fetch(url, tmp_path / "file", timeout_s=0.1)
    assert (tmp_path / "file").read_bytes() == content
    assert server.asked[-1][1] == "bytes=500-"


@pytest.mark.parametrize("kind", ["md5", "sha256", "server"])
def test_a_wrong_hash_is_an_error_and_nothing_is_left(server: FileServer, tmp_path: Path, kind: str) -> None:
    """The published one, or the one that Google's storage states."""
    url, right = server.add("file", b"corrupted"), b"published"
    if kind == "server":
        stated = base64.b64encode(hashlib.md5(right).digest()).decode()  # noqa: S324
        server.headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={stated}"}
    wanted = {"md5": {"md5": md5(right)}, "sha256": {"sha256": sha256(right)}, "server": {}}[kind]
    with pytest.raises(DownloadError, match=r"nothing of it was kept: (MD5|SHA-256) .* instead of") as error:
        fetch(url, tmp_path / "file", **wanted)
    assert (sha256(right) if kind == "sha256" else md5(right)) in str(error.value)
    assert left(tmp_path) == []


def test_what_the_caller_finds_wrong_is_an_error_and_nothing_is_left(server: FileServer, tmp_path: Path) -> None:
    """Such as a page where a file of weights should be."""

    def verify(part: Path) -> None:
        raise WeightsError(f"{part.read_bytes()[:6]!r} is no file of weights")

    with pytest.raises(DownloadError, match="is no file of weights"):
        fetch(server.add("file", b"<html></html>"), tmp_path / "file", verify=verify)
    assert left(tmp_path) == []


@pytest.mark.parametrize("added", [-400, 400])
def test_a_wrong_length_is_found_out(server: FileServer, tmp_path: Path, added: int) -> None:
    """Too short a length cuts the file, too long a one never comes to its end."""
    content = os.urandom(1000)
    url, server.length_added = server.add("file", content), added
    with pytest.raises(DownloadError, match=r"600 bytes instead of 1,000|1,400 bytes instead of 1,000"):
        fetch(url, tmp_path / "file", size=1000)
    assert left(tmp_path) == []
    with pytest.raises(DownloadError, match=r"SHA-256 .* instead of|Not Satisfiable"):
        fetch(url, tmp_path / "file", sha256=sha256(content))
    assert not (tmp_path / "file").exists()


def test_more_than_a_file_can_have_is_not_waited_for(server: FileServer, tmp_path: Path) -> None:
    """Whether or not the server says so before."""
    url = server.add("file", bytes(1_000_000))
    with pytest.raises(DownloadError, match="more than the 1,000 bytes that it can have"):
        fetch(url, tmp_path / "file", most_bytes=1000)
    assert left(tmp_path) == []


def test_redirections_are_followed_but_not_away_from_encryption(server: FileServer, tmp_path: Path) -> None:
    """Nor to files of this machine."""
    content = b"content"
    server.add("file", content)
    server.redirects = {"there": f"{server.url}/file", "local": "file:///etc/passwd", "loop": f"{server.url}/loop"}
    fetch(f"{server.url}/there", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    for path in ("local", "loop"):
        with pytest.raises(DownloadError, match=r"is not allowed|infinite loop"):
            fetch(f"{server.url}/{path}", tmp_path / path)
    with pytest.raises(DownloadError, match="no address that begins with https"):
        fetch("file:///etc/passwd", tmp_path / "other")
    assert left(tmp_path) == ["file"]


def test_a_redirection_from_https_to_http_is_refused(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real encrypted server leads to a plain one, which is not asked."""
    trusted = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with serving(trusted) as encrypted:
        encrypted.redirects["moved"] = server.add("file", b"content")
        fetch(encrypted.add("right", b"encrypted"), tmp_path / "right")
        with pytest.raises(DownloadError, match="which is not encrypted, and was not followed"):
            fetch(f"{encrypted.url}/moved", tmp_path / "file")
    assert (tmp_path / "right").read_bytes() == b"encrypted"
    assert server.asked == []


def test_two_that_want_the_same_file_fetch_it_once(server: FileServer, tmp_path: Path) -> None:
    """Jobs started together share a cache."""
    content = os.urandom(100_000)
    url = server.add("file", content)
    threads = [threading.Thread(target=fetch, args=(url, tmp_path / "file")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() == content
    assert len(server.asked) == 1


def test_a_disk_that_is_too_small_is_known_before_it_is_full(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names what is missing and how to go elsewhere; what arrived is kept."""
    content = os.urandom(1000)
    url, server.cuts = server.add("file", content), 4
    with pytest.raises(DownloadError, match="broke"):
        fetch(url, tmp_path / "file")
    usage = downloads.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(
        StorageError, match=r"GB free. Free some space, or give another DEST on a larger disk; what has"
    ):
        fetch(url, tmp_path / "file", elsewhere="give another DEST")
    assert len((tmp_path / ".file.part").read_bytes()) == 937


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_disk_that_becomes_full_is_a_storage_error(server: FileServer, tmp_path: Path) -> None:
    """Met while writing."""
    (tmp_path / ".file.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        fetch(server.add("file", bytes(1000)), tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_server_that_is_not_there_is_an_error_with_the_address(server: FileServer, tmp_path: Path) -> None:
    """At once: no name or port comes into being by waiting. Neither does a file that is not found."""
    for url in ("http://127.0.0.1:9/file", f"{server.url}/nothing"):
        with pytest.raises(DownloadError, match=url):
            fetch(url, tmp_path / "file")
    assert len(server.asked) == 1
