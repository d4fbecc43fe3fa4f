"""Keys in a file: shown once, kept as hashes, several at once, rotated, revoked; and the server's look at them."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from typer.testing import CliRunner

from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.cli.app import app
from medimg.config import ServeConfig
from medimg.errors import AlreadyExistsError, ConfigError, NotFoundError
from medimg.home import atomic_write
from medimg.key_file import KeyFile
from medimg.serving.access.keys import Keys, key_in
from medimg.serving.refused import Refused

HOUR = 3600.0


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        """Returns the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The time of a test."""
    return Clock()


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> KeyFile:
    """A file of keys, with one that programs of the machine ask with."""
    found = KeyFile(tmp_path / "keys.json", own=tmp_path / "key", clock=clock)
    key, _ = found.add("owner", limited=False)
    (tmp_path / "key").write_text(key)
    return found


def seen(file: KeyFile, clock: Clock) -> Keys:
    """Returns the keys as a server sees them that started before all changes."""
    keys = Keys.of_file(file.path)
    keys._clock = clock
    return keys


def test_the_file_holds_no_key_and_is_the_owners_alone(file: KeyFile, tmp_path: Path) -> None:
    """Who reads it cannot ask the endpoint."""
    key, made = file.add("ward 3")
    text = file.path.read_text()
    assert key not in text and made.hash in text
    assert len(key) >= 43, "32 random bytes"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_notebook_that_shows_keys_shows_no_hash(file: KeyFile, tmp_path: Path) -> None:
    """`print(endpoint.keys)` says how many there are."""
    _, made = file.add("anna")
    assert re.fullmatch(r"KeyFile\('.*', \d+ keys?, \d+ valid\)", repr(file))
    assert made.hash not in repr(file) + repr(made) and made.id in repr(made)
    assert "is no file of keys" in repr(KeyFile(tmp_path / "absent.json"))


def test_several_keys_are_good_at_once_and_a_running_server_sees_each_change(file: KeyFile, clock: Clock) -> None:
    """Added, revoked, and expired by itself."""
    keys = seen(file, clock)
    first, _ = file.add("ward 3")
    second, ends = file.add("a study", expires_days=30)
    assert [found.name for found in (keys.find(first), keys.find(second)) if found] == ["ward 3", "a study"]
    file.revoke("ward 3")
    assert keys.find(first) is None
    assert keys.find(second) is not None and keys.get(ends.id) is not None
    clock.now += 30 * 24 * HOUR
    assert keys.find(second) is None and keys.get(ends.id) is None


@pytest.mark.parametrize("key", ["", "wrong", "\ud800", "key\x00", "ключ"])
def test_what_is_no_key_is_none(file: KeyFile, clock: Clock, key: str) -> None:
    """And no reason to fail."""
    assert seen(file, clock).find(key) is None


def test_the_hash_is_no_key(file: KeyFile, clock: Clock) -> None:
    """A copy of the file opens nothing."""
    (owner,) = file.read()
    assert seen(file, clock).find(owner.hash) is None


def test_a_rotated_key_is_good_until_its_time_is_up(file: KeyFile, tmp_path: Path, clock: Clock) -> None:
    """Both are, meanwhile; programs of the machine have the new one."""
    old, keys = (tmp_path / "key").read_text(), seen(file, clock)
    new, made = file.rotate("owner", grace_hours=2)
    assert (tmp_path / "key").read_text() == new != old
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert made.limited is False
    clock.now += 1.9 * HOUR
    assert keys.find(old) is not None and keys.find(new) is not None
    clock.now += 0.2 * HOUR
    assert keys.find(old) is None and keys.find(new) is not None
    with pytest.raises(NotFoundError, match=r"no valid key 'ownr'\. Did you mean 'owner'"):
        file.rotate("ownr")


def test_a_rotation_keeps_how_long_a_key_lives_and_lengthens_no_life(file: KeyFile, clock: Clock) -> None:
    """The old one does not outlive its own end by its grace."""
    old, made = file.add("a study", expires_days=30)
    clock.now += 29.99 * 24 * HOUR
    _, successor = file.rotate("a study", grace_hours=24)
    assert successor.expires == pytest.approx(clock.now + 30 * 24 * HOUR)
    kept = next(key for key in file.read() if key.id == made.id)
    assert kept.expires == made.expires
    assert seen(file, clock).find(old) is not None


def test_a_name_is_revoked_with_all_its_keys_and_an_id_alone(file: KeyFile, clock: Clock) -> None:
    """After a rotation two keys have the name; who revokes it means the one that got out, too."""
    keys = seen(file, clock)
    leaked, _ = file.add("ward 3")
    successor, _ = file.rotate("ward 3")
    assert [key.name for key in file.revoke("ward 3")] == ["ward 3", "ward 3"]
    assert keys.find(leaked) is None and keys.find(successor) is None
    first, made = file.add("a study")
    second, _ = file.rotate("a study")
    assert [key.id for key in file.revoke(made.id)] == [made.id]
    assert keys.find(first) is None and keys.find(second) is not None


def test_a_rotation_without_grace_ends_all_that_had_one(file: KeyFile, clock: Clock) -> None:
    """Not the last one only."""
    keys = seen(file, clock)
    old = file.own.read_text() if file.own else ""
    file.rotate("owner", grace_hours=24)
    assert keys.find(old) is not None
    file.rotate("owner", grace_hours=0)
    assert keys.find(old) is None
    assert file.own is not None and keys.find(file.own.read_text()) is not None


def test_the_key_that_this_machine_asks_with_is_rotated_not_revoked(file: KeyFile, clock: Clock) -> None:
    """The error says how to end it at once."""
    with pytest.raises(ConfigError, match="keys rotate ENDPOINT --grace-hours 0"):
        file.revoke("owner")
    old = file.own.read_text() if file.own else ""
    file.rotate("owner", grace_hours=0)
    assert seen(file, clock).find(old) is None


def test_a_key_is_rotated_once(file: KeyFile, tmp_path: Path) -> None:
    """In its grace it cannot have a second successor, of which nobody could tell which is this machine's own."""
    _, first = file.rotate("owner")
    with pytest.raises(ConfigError, match=f"Rotate its successor, '{first.id}'"):
        file.rotate(file.read()[0].id)
    _, second = file.rotate("owner")
    assert file.is_own(second) and second.expires is None
    assert len(file.read()) == 3


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_rotation_that_is_cut_off_leaves_programs_a_good_key(
    file: KeyFile, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """After any of its writes; and the next one is of the key that they ask with."""
    done: list[Path] = []

    def cut_off(path: Path, content: str, **options: bool) -> None:
        if len(done) == writes:
            raise InterruptedError
        done.append(path)
        atomic_write(path, content, **options)

    keys = seen(file, clock)
    monkeypatch.setattr("medimg.key_file.atomic_write", cut_off)
    with pytest.raises(InterruptedError):
        file.rotate("owner", grace_hours=0)
    monkeypatch.undo()
    clock.now += 48 * HOUR
    assert keys.find((tmp_path / "key").read_text()) is not None
    secret, made = file.rotate("owner", grace_hours=0)
    assert file.is_own(made) and keys.find(secret) is not None


def test_the_keys_of_what_was_deleted_are_not_made_anew(tmp_path: Path) -> None:
    """No folder is left that would keep its name from being used again."""
    folder = tmp_path / "chest"
    folder.mkdir()
    KeyFile(folder / "keys.json").add("owner")
    file = KeyFile(folder / "keys.json", own=folder / "key", of="the endpoint 'chest'")
    file.add("ward 3")
    shutil.rmtree(folder)
    changes: list[Callable[[], object]] = [
        file.read, lambda: file.add("a study"), lambda: file.rotate("ward 3"), lambda: file.revoke("ward 3")
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(NotFoundError, match="the endpoint 'chest' was deleted"):
            change()
    assert not folder.exists()


def test_no_change_is_lost_when_many_change_the_file_at_once(file: KeyFile, clock: Clock) -> None:
    """Each reads and writes under a lock."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: file.add(f"ward {number}"), range(40)))
    keys = seen(file, clock)
    assert all(keys.find(key) for key, _ in made)
    assert len({key.id for key in file.read()}) == 41


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 81])
def test_a_name_can_be_shown_on_one_line(file: KeyFile, name: str) -> None:
    """Or is refused."""
    with pytest.raises(ConfigError, match="1 to 80 printable"):
        file.add(name)


def test_a_name_stands_for_one_key(file: KeyFile) -> None:
    """As long as that is good."""
    file.add("ward 3")
    with pytest.raises(AlreadyExistsError, match="ward 3"):
        file.add("ward 3")
    file.revoke("ward 3")
    file.add("ward 3")


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"keys": [{"id": "a"}]}', b"\xff"])
def test_where_the_keys_cannot_be_read_nobody_is_let_in(file: KeyFile, clock: Clock, content: bytes | None) -> None:
    """What cannot be read may have been a revocation; a server does not even start with it."""
    key, _ = file.add("ward 3")
    keys = seen(file, clock)
    whole = file.path.read_bytes()
    if content is None:
        file.path.unlink()
    else:
        file.path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            keys.find(key)
        assert (caught.value.status, "Retry-After" in caught.value.headers) == (503, True)
    with pytest.raises(ConfigError, match="no file of keys"):
        Keys.of_file(file.path)
    file.path.write_bytes(whole)
    assert keys.find(key) is not None, "mended"


def test_a_file_of_the_same_time_and_size_is_read_anew_too(file: KeyFile, clock: Clock) -> None:
    """Two changes within one tick of the file system's clock are two files."""
    key, made = file.add("ward 3", expires_days=1)
    keys = seen(file, clock)
    before = file.path.stat()
    content = json.loads(file.path.read_bytes())
    content["keys"][1]["expires"] = made.created  # as many characters as before
    fresh = file.path.with_name("fresh")
    fresh.write_text(json.dumps(content, indent=1).ljust(before.st_size))
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.replace(file.path)
    assert keys.find(key) is None


def test_a_function_knows_its_keys_by_hashes_alone(clock: Clock, tmp_path: Path) -> None:
    """Several, so that they can be rotated there too."""
    file = KeyFile(tmp_path / "keys.json")
    (one, first), (two, second) = file.add("1"), file.add("2")
    keys = Keys.of_hashes(f"{first.hash}, {second.hash.upper()},")
    assert keys.find(one) and keys.find(two) and not keys.find(first.hash)
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        Keys.of_hashes("secret")


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer a.b"}, "a.b"),
        ({"authorization": "bearer  a"}, "a"),
        ({"x-api-key": " a "}, "a"),
        ({"authorization": "Basic a", "x-api-key": "b"}, "b"),
        ({"authorization": "Basic a"}, ""),
        ({"authorization": "Bearer"}, ""),
        ({}, ""),
    ],
)
def test_a_key_comes_in_either_header(headers: dict[str, str], key: str) -> None:
    """Bearer as RFC 6750 has it, or x-api-key."""
    assert key_in(headers) == key


def test_the_command_shows_a_key_once_and_lists_what_is_no_secret(tmp_path: Path) -> None:
    """Of a file here; standard output of `add` is the key alone."""
    path, runner = str(tmp_path / "keys.json"), CliRunner()
    added = runner.invoke(app, ["keys", "add", path, "--name", "ward 3"])
    assert added.exit_code == 0, added.output
    key = added.stdout.strip()
    keys = Keys.of_file(Path(path))
    assert keys.find(key) is not None
    rotated = runner.invoke(app, ["keys", "rotate", path, "ward 3", "--grace-hours", "0"]).stdout.strip()
    assert keys.find(key) is None and keys.find(rotated) is not None
    assert "revoked" in runner.invoke(app, ["keys", "revoke", path, "ward 3"]).stdout
    assert keys.find(rotated) is None
    listed = runner.invoke(app, ["keys", "list", path]).stdout
    assert listed.count("ward 3") == 2 and listed.count("ended") == 2
    assert key not in listed and rotated not in listed
    wrong = runner.invoke(app, ["keys", "revoke", path, "ward 3"])
    assert wrong.exit_code == 1 and "no valid key" in wrong.stderr


def test_an_endpoint_answers_over_a_rotation_and_a_handle_needs_no_key(trained: ModelFolder, phantoms: Path) -> None:
    """Of this process and of others; what has no keys of ours says whose they are."""
    here = backend("local")
    image = min(phantoms.glob("test/NODULE/*"))
    with here.deploy(trained, ServeConfig(rate_limit=0.01), name="keyed") as endpoint:
        own = (here._home / "endpoints" / "keyed" / "key").read_text()
        endpoint.keys.rotate("owner", grace_hours=0)
        assert endpoint.predict(image).label
        assert here.endpoint("keyed").predict(image).label
        key, _ = endpoint.keys.add("ward 3")
        statuses = [asked(endpoint.url, given, image.read_bytes()) for given in (own, key, key)]
        assert statuses == [401, 200, 429], "the next in a hundred seconds"
        assert [endpoint.predict(image).label for _ in range(5)], "the owner's is not limited"
        endpoint.keys.revoke("ward 3")
        assert asked(endpoint.url, key, image.read_bytes()) == 401
        held = endpoint.keys
    with pytest.raises(NotFoundError, match="'keyed' was deleted"):
        held.add("ward 4")
    assert not (here._home / "endpoints" / "keyed").exists()
    with here.deploy(trained, ServeConfig(auth="none"), name="open") as endpoint:
        with pytest.raises(ConfigError, match="auth='none'"):
            endpoint.keys.read()
        assert asked(endpoint.url, "", image.read_bytes()) == 200


def asked(url: str, key: str, image: bytes) -> int:
    """Returns the status of the answer to an image."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urlopen(Request(url, image, headers), timeout=30) as response:  # noqa: S310 - a server of ours
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code
