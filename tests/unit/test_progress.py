"""Progress: JSON lines on one side, a bar or lines on the other."""

from __future__ import annotations

import json
import time

import pytest

from medimg.progress import Display, Event, Pace, emit, heartbeat, parse, pulse


def test_an_event_survives_the_way_through_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Written as one line, read back equal."""
    event = Event("epoch", "fitting", 2, 10, "größer", {"loss": 0.25}, time=1234.5)
    emit(event)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert parse(line) == event


@pytest.mark.parametrize("line", ["", "hello", "{", "{}", "[1]", '{"event": "party"}', json.dumps({"time": 1})])
def test_any_other_line_is_no_event(line: str) -> None:
    """A job's log holds what libraries print too."""
    assert parse(line) is None


def test_the_heartbeat_moves_while_work_is_silent() -> None:
    """Once at the start, then at its pace, and not after the end."""
    seen: list[Event] = []
    with heartbeat("exporting", seen.append, message="LiteRT", every=0.05):
        time.sleep(0.3)
    count = len(seen)
    assert count >= 3
    assert {event.stage for event in seen} == {"exporting"}
    time.sleep(0.12)
    assert len(seen) == count


def test_the_pulse_repeats_the_last_stage_while_nothing_is_said() -> None:
    """With its count, and only as long as it lasts."""
    seen: list[Event] = []
    with pulse(seen.append, every=0.06) as report:
        time.sleep(0.15)
        assert seen == [], "before the first stage there is nothing to repeat"
        report(Event("stage", "fitting", 3, 10, "epoch 1/3"))
        time.sleep(0.25)
        report(Event("stage", "exporting"))
    count = len(seen)
    assert count >= 4
    assert all((event.stage, event.done, event.total) == ("fitting", 3, 10) for event in seen[:-1])
    assert seen[1].message.startswith("epoch 1/3 ")
    time.sleep(0.1)
    assert len(seen) == count


def test_a_log_gets_one_line_a_stage_and_every_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    """Not one for each of a thousand steps."""
    with Display("job") as display:
        for done in range(1000):
            display(Event("stage", "fitting", done, 1000))
        display(Event("epoch", "fitting", 1, 3, values={"loss": 0.5}))
        display(Event("stage", "exporting"))
        display(Event("warning", message="small validation split"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[1] == "job: fitting  1/3  loss 0.5000"
    assert lines[3] == "job: warning: small validation split"


def test_a_log_gets_fewer_lines_the_longer_nobody_knows_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion of a minute is six lines, not thirty; the next stage begins anew."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Display("export") as display:
        for stage in ("converting", "checking"):
            for second in range(64):
                now += 1
                display(Event("stage", stage, message=f"{second} s"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("export: converting  ") for line in lines[:6]] == [
        "0 s", "2 s", "6 s", "14 s", "30 s", "62 s",
    ]  # fmt: skip
    assert lines[6] == "export: checking  0 s" and len(lines) == 12


def test_a_silent_display_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """For libraries on top of this one."""
    with Display("job", enabled=False) as display:
        display(Event("stage", "fitting"))
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_names_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar itself is rich's; the stage, count and note are ours."""
    import io

    import rich.console

    screen = io.StringIO()
    terminal = rich.console.Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(rich.console, "Console", lambda **_: terminal)
    with Display("chest-1") as display:
        display(Event("stage", "packing", 128, 4746, "a [note]"))
        time.sleep(0.15)
        display(Event("warning", message="no [patient] key"))
    text = screen.getvalue()
    for part in ("chest-1", "packing", "128/4,746", "a [note]", "no [patient] key"):
        assert part in text


def test_a_pace_counts_what_this_attempt_did_and_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attempt before did took none of this one's time."""
    clock = [100.0]
    monkeypatch.setattr("medimg.progress.time.monotonic", lambda: clock[0])
    pace = Pace(10_000, done=1_000)
    assert pace.text(1_000) == ""
    clock[0] += 10
    assert pace.text(1_500) == "50 images/s, 3 min left"
    assert pace.text(1_025) == "2.5 images/s, 60 min left"
    assert pace.text(1_002) == "0.2 images/s, 12.5 h left"
    assert pace.text(9_900) == "890 images/s, 0 s left"
    assert pace.text(10_000) == "900 images/s"
