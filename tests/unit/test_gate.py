"""The gate: a key or a session, no other site's page, no other name, and not too many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medimg.key_file import Key, KeyFile
from medimg.serving.access.gate import MAX_SIGN_IN, Gate, hosts_of
from medimg.serving.access.keys import Keys
from medimg.serving.access.sessions import Sessions
from medimg.serving.clouds.http_api import HttpApi
from medimg.serving.refused import Refused

HERE = {"host": "127.0.0.1:8000"}
OWN_PAGE = {**HERE, "sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"}


@dataclass
class Door:
    """A gate with two keys, the owner's and one that was handed out, and a clock."""

    folder: Path
    now: float = 100.0
    rate_limit: float | None = 5.0
    file: KeyFile = field(init=False)
    gate: Gate = field(init=False)
    owner: str = field(init=False)
    guest: str = field(init=False)
    guest_key: Key = field(init=False)

    def __post_init__(self) -> None:
        self.file = KeyFile(self.folder / "keys.json")
        self.owner, _ = self.file.add("owner", limited=False)
        self.guest, self.guest_key = self.file.add("guest")
        self.gate = Gate(
            Keys.of_file(self.file.path), Sessions(bytes(32)), rate_limit=self.rate_limit,
            hosts=hosts_of("127.0.0.1"), clock=lambda: self.now,
        )  # fmt: skip

    def ask(self, headers: Mapping[str, str], *, method: str = "POST", path: str = "/predict") -> int:
        """Returns the status that a request gets; 200: it is let in."""
        try:
            self.gate.admit(headers, method=method, path=path)
        except Refused as refused:
            assert refused.message and (refused.status != 429 or int(refused.headers["Retry-After"]) >= 1)
            return refused.status
        return 200

    def sign_in(self, key: str, headers: Mapping[str, str] = OWN_PAGE) -> str:
        """Returns the cookie of a sign-in."""
        return self.gate.sign_in(headers, json.dumps({"key": key}).encode()).partition(";")[0]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """A gate."""
    return Door(tmp_path)


def bearer(key: str) -> dict[str, str]:
    """Returns the headers of a program with a key."""
    return {**HERE, "authorization": f"Bearer {key}"}


def test_a_key_lets_in_and_says_whose_it_is(door: Door) -> None:
    """By its id, which tells nothing of the key."""
    assert door.gate.admit(bearer(door.guest), method="POST", path="/predict") == door.guest_key.id
    assert door.ask({**HERE, "x-api-key": door.owner}) == 200
    assert door.ask(HERE) == door.ask(bearer("wrong")) == 401
    door.file.revoke("guest")
    assert door.ask(bearer(door.guest)) == 401


@pytest.mark.parametrize("path", ["/", "/ping", "/ready", "/page/page.js"])
def test_what_everyone_may_read_needs_no_key(door: Door, path: str) -> None:
    """Read, not written."""
    assert door.ask(HERE, method="GET", path=path) == door.ask(HERE, method="HEAD", path=path) == 200
    assert door.ask(HERE, path=path) == 401


@pytest.mark.parametrize(
    "path", ["/model", "/health", "/metrics", "/docs", "/openapi.json", "/page", "//", "/ping/", "/Ping", "/x", ""]
)
def test_everything_else_needs_one(door: Door, path: str) -> None:
    """Whether it is there or not: who has no key learns nothing."""
    assert door.ask(HERE, method="GET", path=path) == 401
    assert door.ask(bearer(door.owner), method="GET", path=path) == 200


def test_a_session_lets_in_from_our_own_page_alone(door: Door) -> None:
    """Where its browser says so: by Sec-Fetch-Site, or by Origin where there is no https."""
    cookie = door.sign_in(door.guest)
    own = [
        OWN_PAGE,
        {**HERE, "sec-fetch-site": "same-origin"},
        {**HERE, "origin": "http://127.0.0.1:8000"},
        {**HERE, "sec-fetch-site": "same-origin", "origin": "https://proxy.example"},  # behind one that renames
    ]
    assert [door.ask({**headers, "cookie": cookie}) for headers in own] == [200] * 4
    other = [
        {**HERE, "sec-fetch-site": "cross-site"},
        {**HERE, "sec-fetch-site": "same-site"},  # another port of this machine
        {**HERE, "origin": "http://127.0.0.1:8888"},
        {**HERE, "origin": "https://evil.example"},
        {**HERE, "origin": "null"},
        {**HERE, "origin": "http://[" * 3},
        HERE,
    ]
    assert [door.ask({**headers, "cookie": cookie}) for headers in other] == [403] * 7
    assert door.ask({**HERE, "cookie": cookie}, method="GET", path="/model") == 200
    assert door.ask({**HERE, "cookie": cookie, "sec-fetch-site": "cross-site"}, method="GET", path="/model") == 403


def test_a_session_ends_with_its_key_and_a_wrong_key_beside_it_lets_nobody_in(door: Door) -> None:
    """Revoked, it ends at once."""
    cookie = door.sign_in(door.guest)
    assert door.ask({**OWN_PAGE, "cookie": cookie, "x-api-key": "wrong"}) == 401
    door.file.revoke("guest")
    assert door.ask({**OWN_PAGE, "cookie": cookie}) == 401


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, b'{"key": "x"}', 403),
        ({"origin": "https://evil.example"}, b'{"key": "x"}', 403),
        ({"host": "evil.example"}, b'{"key": "x"}', 403),
        ({}, b'{"key": "x"}', 401),
        ({}, b'{"key": 1}', 400),
        ({}, b"[]", 400),
        ({}, b"{", 400),
        ({}, b"\xff", 400),
        ({}, b"[" * MAX_SIGN_IN, 400),
        ({}, b'{"key": "\\ud800"}', 401),
        ({}, bytes(MAX_SIGN_IN + 1), 413),
    ],
)
def test_a_sign_in_is_refused_with_its_reason(door: Door, headers: dict[str, str], body: bytes, status: int) -> None:
    """Whatever is sent."""
    with pytest.raises(Refused) as caught:
        door.gate.sign_in({**HERE, **headers}, body)
    assert caught.value.status == status


def test_the_cookie_is_for_https_where_the_browser_came_by_it(door: Door) -> None:
    """A proxy in front says so."""
    body = json.dumps({"key": door.guest}).encode()
    assert "; Secure" in door.gate.sign_in({**HERE, "x-forwarded-proto": "https"}, body)
    assert "; Secure" not in door.gate.sign_in(HERE, body)
    assert "Max-Age=0" in door.gate.sign_out(OWN_PAGE)
    with pytest.raises(Refused):
        door.gate.sign_out({**HERE, "sec-fetch-site": "cross-site"})


def test_no_other_site_is_allowed_in_by_cors(door: Door) -> None:
    """A preflight is refused, with a key and without, and nothing allows anything."""
    for headers in (HERE, bearer(door.owner)):
        with pytest.raises(Refused) as caught:
            door.gate.admit({**headers, "origin": "https://evil.example"}, method="OPTIONS", path="/")
        assert caught.value.status == 403 and caught.value.headers == {}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200), ("127.0.0.1", 200), ("localhost:1", 200), ("LOCALHOST", 200), ("[::1]:8000", 200),
        ("localhost.", 200), ("evil.example:8000", 403), ("127.0.0.1.evil.example", 403), ("localhost@evil", 403),
        ("", 403), ("[::1", 200), ("10.0.0.1", 403), ("2130706433", 403), ("127.1", 403),
    ],
)  # fmt: skip
def test_a_name_that_was_bent_to_this_machine_is_refused(door: Door, host: str, status: int) -> None:
    """DNS rebinding; also for what everyone may read."""
    assert door.ask({"host": host}, method="GET", path="/ping") == status


def test_a_server_of_a_network_goes_by_any_name_unless_it_is_given_some() -> None:
    """There a key is asked for in any case."""
    assert hosts_of("10.0.0.5") is None
    assert hosts_of("127.0.0.1", ["Chest.example"]) == {"chest.example", "127.0.0.1", "localhost", "::1"}
    assert hosts_of("0.0.0.0", ["chest.example"]) is not None  # noqa: S104 - a name for it


def test_a_key_that_was_handed_out_is_limited_and_the_owners_is_not(door: Door) -> None:
    """Ten seconds' worth at once, then as they come; a session counts as its key."""
    cookie = door.sign_in(door.guest)
    assert [door.ask(bearer(door.guest)) for _ in range(50)] == [200] * 50
    assert door.ask(bearer(door.guest)) == 429
    assert door.ask({**OWN_PAGE, "cookie": cookie}) == 429
    assert [door.ask(bearer(door.owner)) for _ in range(500)] == [200] * 500
    door.now += 1
    assert [door.ask(bearer(door.guest)) for _ in range(6)] == [200] * 5 + [429]
    door.now -= 50  # a clock that is set back lets nobody wait for it
    assert door.ask(bearer(door.guest)) == 429
    door.now += 0.2
    assert door.ask(bearer(door.guest)) == 200


def test_one_who_tries_keys_is_slowed_and_locks_nobody_out(door: Door) -> None:
    """By header and by sign-in alike; a request without a key, or with a session that ended, is no try."""
    tries = [door.ask(bearer(f"guess {number}")) for number in range(20)]
    for _ in range(20):
        with pytest.raises(Refused) as caught:
            door.sign_in("guess")
        tries.append(caught.value.status)
    assert tries == [401] * 30 + [429] * 10
    assert door.ask(bearer(door.guest)) == 200
    assert door.sign_in(door.guest)
    assert door.ask(HERE) == 401
    assert door.ask({**OWN_PAGE, "cookie": "a=b"}) == 401
    door.now += 5
    assert door.ask(bearer("guess")) == 401


def test_without_keys_only_other_sites_are_turned_away(tmp_path: Path) -> None:
    """A page somewhere must not use a server of this machine; there is nothing to sign in to."""
    gate = Gate(None, Sessions(bytes(32)), rate_limit=1.0, hosts=hosts_of("127.0.0.1"))
    for _ in range(20):
        assert gate.admit(HERE, method="POST", path="/predict") == ""
    assert gate.auth == "none"
    assert gate.admit(OWN_PAGE, method="POST", path="/predict") == ""
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        with pytest.raises(Refused) as caught:
            gate.admit({**HERE, **headers}, method="POST", path="/predict")
        assert caught.value.status == 403
    with pytest.raises(Refused) as caught:
        gate.sign_in(HERE, b'{"key": "x"}')
    assert caught.value.status == 400


def test_a_function_has_sessions_too_and_keeps_no_file(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed with what it is given; of two keys each lets in, so that they can be changed one after the other."""
    hashes = [key.hash for key in door.file.read()]
    monkeypatch.setenv("MEDIMG_KEY_HASH", ",".join(hashes))
    api = HttpApi.from_environment(lambda _: {"label": "A"}, "d", lambda: {"digest": "d"})
    own = {"host": "a.example", "sec-fetch-site": "same-origin", "x-forwarded-proto": "https"}

    def ask(method: str, path: str, body: str = "", cookies: tuple[str, ...] = (), **headers: str) -> dict[str, Any]:
        http = {"method": method, "path": path}
        given = {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return api(
            {"rawPath": path, "requestContext": {"http": http}, "headers": given, "cookies": cookies, "body": body}
        )

    assert ask("POST", "/predict", "x")["statusCode"] == 401
    assert ask("POST", "/session", '{"key": "wrong"}')["statusCode"] == 401
    assert ask("POST", "/session", json.dumps({"key": door.guest}), sec_fetch_site="cross-site")["statusCode"] == 403
    signed_in = ask("POST", "/session", json.dumps({"key": door.guest}))
    (cookie,) = signed_in["cookies"]
    assert cookie.endswith("; Secure") and signed_in["headers"]["cache-control"] == "no-store"
    sent = ("a=b", cookie.partition(";")[0])
    assert ask("POST", "/predict", "x", cookies=sent)["statusCode"] == 200
    assert ask("POST", "/predict", "x", cookies=sent, sec_fetch_site="same-site")["statusCode"] == 403
    assert ask("POST", "/predict", "x", authorization=f"Bearer {door.owner}")["statusCode"] == 200
    assert "Max-Age=0" in ask("DELETE", "/session", cookies=sent)["cookies"][0]
    monkeypatch.setenv("MEDIMG_KEY_HASH", hashes[0])  # the guest's is gone, and every session with it
    api = HttpApi.from_environment(lambda _: {"label": "A"}, "d", lambda: {"digest": "d"})
    assert ask("POST", "/predict", "x", cookies=sent)["statusCode"] == 401
