"""How much a server holds at once, and how long whoever is too many is told to stay away."""

from __future__ import annotations

import asyncio

import pytest

from medimg.serving.refused import Refused
from medimg.serving.requests import MAX_BODY, RequestRefused
from medimg.serving.web.admission import Admission
from medimg.serving.web.predicting import Bodies


def test_beyond_the_limit_images_are_refused_at_once() -> None:
    """With 503 and a Retry-After of some seconds; when others have left there is room again."""
    admission = Admission(images=4)
    admission.enter(3)
    admission.check()
    admission.enter(1)
    for refused in (admission.check, lambda: admission.enter(1)):
        with pytest.raises(Refused) as caught:
            refused()
        assert caught.value.status == 503
        assert 1 <= int(caught.value.headers["Retry-After"]) <= 30
    admission.leave(4)
    admission.check()
    assert admission.images == 0


def test_a_request_of_many_images_is_let_in_where_nothing_else_is() -> None:
    """Else a small server would never answer it."""
    admission = Admission(images=4)
    admission.enter(32)
    with pytest.raises(Refused):
        admission.check()


def test_the_busier_the_longer_they_stay_away() -> None:
    """A crowd that came back every second would take the cores from those who are answered."""

    def longest(refused: int) -> int:
        admission = Admission(images=1)
        admission.enter(1)
        found = []
        for _ in range(refused):
            with pytest.raises(Refused) as caught:
                admission.check()
            found.append(int(caught.value.headers["Retry-After"]))
        return max(found)

    assert longest(1) <= 5
    assert longest(1000) > 10


def test_large_bodies_leave_room_for_small_ones() -> None:
    """Two that never end would keep everyone out otherwise; a body that grows beyond a megabyte is small no more."""
    admission = Admission(images=4, max_bytes=16_000_000)
    admission.hold(7_000_000)
    admission.hold(7_000_000, before=7_000_000)
    with pytest.raises(Refused):
        admission.hold(1_000_000, before=14_000_000)
    admission.hold(900_000)
    with pytest.raises(Refused):
        admission.hold(200_000, before=900_000)
    admission.hold(900_000)
    with pytest.raises(Refused):
        admission.hold(900_000)


def test_bodies_are_held_up_to_a_number_of_bytes() -> None:
    """Those of all requests together; a refused one lets go of what it had."""
    admission = Admission(images=4, max_bytes=1000)
    bodies = Bodies(admission)

    async def read(*parts: bytes, length: str = "") -> bytes:
        left = list(parts)

        async def receive() -> dict[str, object]:
            part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        return await bodies.read(receive, {"content-length": length} if length else {})

    held = asyncio.run(read(b"a" * 300, b"b" * 300))
    assert held == b"a" * 300 + b"b" * 300
    with pytest.raises(Refused, match="Send this one again"):
        asyncio.run(read(b"a" * 300, b"b" * 300))
    assert admission.held_bytes == 600
    admission.release(len(held))
    with pytest.raises(RequestRefused, match="64 MB"):
        asyncio.run(read(b"", length=str(MAX_BODY + 1)))
    assert admission.held_bytes == 0
