"""Cookies of those who signed in: signed, for a time, for one endpoint."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from medimg.errors import ConfigError
from medimg.serving.access.sessions import Sessions

SECRET = bytes(range(32))


def cookie(sessions: Sessions, key_id: str = "k1") -> str:
    """Returns what a browser sends back."""
    return sessions.begin(key_id, secure=True).partition(";")[0]


def test_a_session_holds_until_its_time_and_over_a_restart() -> None:
    """The key's id is all that it tells."""
    now = [1000.0]
    sessions = Sessions(SECRET, hours=12, clock=lambda: now[0])
    sent = cookie(sessions)
    again = Sessions(SECRET, clock=lambda: now[0])
    assert sessions.key_id(sent) == again.key_id(f"other=1; {sent}; more") == "k1"
    now[0] += 12 * 3600 - 1
    assert sessions.key_id(sent) == "k1"
    now[0] += 1
    assert sessions.key_id(sent) == ""
    assert sessions.has_cookie(sent)


def test_no_script_reads_it_and_no_other_site_sends_it() -> None:
    """And by https it never travels without."""
    sessions = Sessions(SECRET)
    parts = sessions.begin("k1", secure=True).split("; ")[1:]
    assert parts == ["Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict", "Secure"]
    assert "Secure" not in sessions.begin("k1", secure=False)
    assert "Max-Age=0" in sessions.end(secure=False)


@pytest.mark.parametrize(
    "forged",
    [
        "{name}=k1.{ends}.{mac:.42}", "{name}=k1.{ends}.{mac}A", "{name}=k1.{ends}.{mac}é", "{name}=k2.{ends}.{mac}",
        "{name}=k1.99999999999.{mac}", "{name}=k1.99999999999.", "{name}=", "{name}=.", "{name}=..", "{name}",
        "{name}x=k1.{ends}.{mac}", '{name}="k1.{ends}.{mac}"', "k1.{ends}.{mac}", "", "{name}=;" * 10_000,
    ],
)  # fmt: skip
def test_a_forged_cookie_is_none(forged: str) -> None:
    """However it is made, it fails nothing."""
    sessions = Sessions(SECRET)
    name, _, value = cookie(sessions).partition("=")
    key_id, ends, mac = value.split(".")
    assert sessions.key_id(f"{name}={key_id}.{ends}.{mac}") == "k1"
    assert sessions.key_id(forged.format(name=name, ends=ends, mac=mac)) == ""


def test_a_cookie_of_one_endpoint_is_none_at_another() -> None:
    """Not even by its name: a browser sends the cookies of one port to all."""
    one, other = Sessions(SECRET), Sessions(bytes(32))
    assert one.name != other.name
    assert other.key_id(cookie(one).replace(one.name, other.name)) == ""
    assert not other.has_cookie(cookie(one))


def test_the_secret_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    """Half of one is none."""
    path = tmp_path / "session-secret"
    sent = cookie(Sessions.of_file(path))
    assert Sessions.of_file(path).key_id(sent) == "k1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes, not 32"):
        Sessions.of_file(path)
    with pytest.raises(ConfigError, match="No such file"):
        Sessions.of_file(tmp_path / "nowhere" / "secret")
