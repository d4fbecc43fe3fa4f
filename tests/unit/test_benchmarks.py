"""The page of results: what is read from a script's table, what the summary says, and what the status tells."""

from __future__ import annotations

import importlib
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SLOW = """
import subprocess, sys, time
with subprocess.Popen(["sleep", "60"], start_new_session=True) as server:
    try:
        print(server.pid, subprocess.Popen(["sleep", "60"]).pid, file=sys.stderr, flush=True)
        time.sleep(60)
    finally:
        server.kill()
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The runner of the benchmarks, as its folder's scripts import it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("bench")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What all scripts print their table with."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("measured")


def runs(pid: int) -> bool:
    """Returns whether a process is there and has not ended, where the system tells (Linux)."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_script_of_the_run_is_there(bench: ModuleType) -> None:
    """A name that leads nowhere would be told only after half an hour."""
    assert [script.name for script in bench.SCRIPTS if not (FOLDER / f"{script.name}.py").is_file()] == []


def test_a_table_that_was_printed_is_read_again(bench: ModuleType, measured: ModuleType) -> None:
    """The row of each claim comes back with its ratio, its goal and whether that was reached."""
    faster = measured.Row(
        "later epochs", measured.Measured((2.0, 1.0, 9.0), (3.0, 3.0, 3.0)), "`fit`", measured.Measured((20.0,)), goal=5
    )
    more = measured.Row("answers", 50.0, "a server", 100.0, "answers/s", 1, more=True)
    late = measured.Row("audit", measured.Measured((61.0, 62.0)), goal=60)
    only_read = measured.Row("packing", 1.0)
    away = measured.Row("start", 0.5, "a server that is not installed", goal=1)
    table = measured.Table("Speed", "One with another.", (faster, more, late, only_read, away))
    outcome = bench.Outcome("speed", 1.0, found=table.markdown())
    assert [(row["work"], row["ratio"], row["goal"], row["reached"]) for row in outcome.rows] == [
        ("later epochs", "10.0 ×", "≥ 5 ×", "yes"),
        ("answers", "0.500 ×", "≥ 1 ×", "**no**"),
        ("audit", "", "≤ 60 s", "**no**"),
        ("start", "", "≥ 1 ×", ""),
    ]
    summary = bench.summary([outcome])
    assert "| audit |  | ≤ 60 s | 61.5 s | **no** |" in summary
    assert "| start | a server that is not installed | ≥ 1 × |  | not measured |" in summary
    assert table.print() == 1


def test_a_script_that_failed_is_named_with_why(bench: ModuleType) -> None:
    """The page says so in its summary, and holds the tables of the others."""
    good = bench.Outcome("audit", 1.0, found="## Audit\n\n| a | 1 s |  |  |  | ≤ 2 s | yes |\n\n- left out: real films")
    failed = bench.Outcome("scale", 0.1, problem="ended with 3: MemoryError")
    page = bench.page([good, failed], datetime(2030, 1, 2, tzinfo=UTC))
    assert "| `scale.py` |  |  | ended with 3: MemoryError | not measured |" in page
    assert "| `audit.py` |  |  | left out: real films | not measured |" in page
    assert "## Audit" in page
    assert "02 January 2030" in page


@pytest.mark.parametrize(
    ("reached", "note", "problem", "status"),
    [
        ("yes", "", "", 0),
        ("**no**", "", "", 1),
        ("", "", "", 2),
        ("yes", "- left out: DATA", "", 2),
        ("yes", "", "ended with 3", 2),
    ],
)
def test_the_status_tells_a_missed_goal_from_what_was_not_measured(
    bench: ModuleType, reached: str, note: str, problem: str, status: int
) -> None:
    """0 is only for a run in which everything was measured and reached."""
    found = f"| a | 1 s |  |  |  | ≤ 2 s | {reached} |\n\n{note}"
    assert bench.status([bench.Outcome("a", 1.0, found=found), bench.Outcome("b", 1.0, problem=problem)]) == status


def test_a_script_that_ends_badly_or_says_nothing_gives_no_table(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it printed before does not count, and the last line of its messages is the reason."""
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    script = "import sys; print('## Half'); print('no memory in /very/long/path', file=sys.stderr); sys.exit(3)"
    (tmp_path / "half.py").write_text(script)
    outcome = bench.outcome_of(bench.Script("half"), None, None, tmp_path / "log")
    assert (outcome.found, outcome.problem) == ("", "ended with 3: no memory in …/path")
    (tmp_path / "silent.py").write_text("")
    assert bench.outcome_of(bench.Script("silent"), None, None, tmp_path / "log").problem == (
        "ended with 0: it said nothing"
    )


def test_a_script_that_takes_too_long_is_stopped_with_what_it_started(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs costs its own minutes and leaves no process behind, also none in a group of its own."""
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    monkeypatch.setattr(bench, "MAX_MINUTES", 0.03)
    (tmp_path / "slow.py").write_text(SLOW)
    outcome = bench.outcome_of(bench.Script("slow"), None, None, tmp_path / "log")
    assert (outcome.found, outcome.problem) == ("", "stopped after 0.03 minutes")
    children = [int(number) for number in (tmp_path / "log").read_text().splitlines()[0].split()]
    end = time.monotonic() + 5
    while any(map(runs, children)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(runs, children))


def test_a_picture_shows_each_work_beside_its_fastest_peer(bench: ModuleType) -> None:
    """Of several peers the one over which the lead is least; a share of a floor is no lead."""
    drawing = importlib.import_module("drawing")
    lines = (
        "| a | `x` | ≥ 2 × | 1,200 × | yes |",
        "| a | y | ≥ 1.5 × | 1.40 × | **no** |",
        "| b |  | ≤ 2 s | 1 s | yes |",
        "| c | the floor | ≥ 0.65 × | 0.700 × | yes |",
    )
    (bar,) = drawing.bars("\n".join(lines) + "\n\n## A table\n| c | z | ≥ 2 × | 3 × | yes |")
    assert (bar.work, bar.peer, bar.goal, bar.ratio) == ("a", "y", 1.5, 1.4)


def test_ways_are_timed_in_turns_and_children_are_counted(measured: ModuleType) -> None:
    """Each runs as often as the others; a command that fails is an error."""
    calls: list[str] = []
    ways = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    found = measured.interleaved(ways, 3, warm=1)
    assert sorted(calls) == ["a"] * 4 + ["b"] * 4
    assert all({*calls[turn : turn + 2]} == {"a", "b"} for turn in range(0, 8, 2))
    assert len(found["a"].values) == 3
    _, processor = measured.timed([sys.executable, "-c", "sum(range(10**6))"])
    assert processor > 0.005
    with pytest.raises(RuntimeError, match="ended with 7"):
        measured.timed([sys.executable, "-c", "raise SystemExit(7)"])
