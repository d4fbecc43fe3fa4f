"""A real server under attack: each attack gets what it may get, and the others are answered meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack_list import ATTACKS
from attacked import Target, served

from medimg.artifact import ModelFolder

QUICK_SECONDS = 0.5  # the others are in benchmarks/studies/attacks.py
FRONT_MB = 250  # it holds a body of 64 MB, and once more while its pieces are put together


@pytest.fixture(scope="module")
def target(trained: ModelFolder, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with a good key and a revoked one, that may fetch from "localhost"."""
    image = min(phantoms.glob("test/NODULE/*")).read_bytes()
    options = ["--url-host", "localhost", "--workers", "1"]
    with served(trained.path, tmp_path_factory.mktemp("attacked"), image, options) as target:
        yield target


def test_no_attack_gets_more_than_it_may(target: Target) -> None:
    """And after each the next one is met by a server that answers."""
    got: dict[str, str] = {}
    for attack in ATTACKS:
        if attack.seconds <= QUICK_SECONDS:
            found = attack.run(target)
            if attack.succeeds(found):
                got[attack.name] = found
            assert target.answers(), attack.name
    assert got == {}
    assert target.process.poll() is None


@pytest.mark.parametrize("name", ["a header of 200 MB that never ends", "headers after the body, without end"])
def test_what_never_ends_is_ended_before_it_fills_the_memory(target: Target, name: str) -> None:
    """The server keeps no more of it than a head may have."""
    attack = next(attack for attack in ATTACKS if attack.name == name)
    before, _ = target.memory_mb()
    assert not attack.succeeds(attack.run(target))
    after, _ = target.memory_mb()
    assert after - before < 20
    assert target.memory_mb(peak=True)[0] < FRONT_MB


def test_a_thousand_silent_connections_keep_nobody_out(target: Target) -> None:
    """Nor as many bodies that were promised and never come."""
    for name in ("1,000 connections on which nothing is said", "1,000 bodies that are promised and never sent"):
        attack = next(attack for attack in ATTACKS if attack.name == name)
        assert attack.run(target) == "others are answered"


def test_a_key_is_revoked_while_the_server_runs(target: Target) -> None:
    """At once; and a session that was begun with it ends."""
    key, _ = target.file.add("ward 3")
    bearer = {"Authorization": f"Bearer {key}"}
    assert target.ask("POST", "/predict", target.image, **bearer)[0] == 200
    target.file.revoke("ward 3")
    began = time.monotonic()
    assert target.ask("POST", "/predict", target.image, **bearer)[0] == 401
    assert time.monotonic() - began < 1


def test_a_log_holds_no_key_no_cookie_and_no_address(target: Target) -> None:
    """Whatever was sent; and no attack was a failure of the server's own."""
    log = target.log.read_text()
    for secret in (target.key, target.ended, target.session, target.file.read()[0].hash, "evil.example", "keys.json"):
        assert secret not in log
    assert "Traceback" not in log


def test_every_answer_tells_the_browser_to_be_careful(target: Target) -> None:
    """The refusals too; nothing names the software, and nothing allows another site."""
    for method, path, key in (("GET", "/ping", ""), ("GET", "/x", ""), ("POST", "/predict", target.key)):
        said = target.headers(method, path, target.image, Authorization=f"Bearer {key}")
        assert said["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in said["content-security-policy"]
        assert said["cache-control"] == "no-store"
        assert "server" not in said
        assert not any(name.startswith("access-control") for name in said)
