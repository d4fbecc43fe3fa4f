"""Runs the benchmarks of speed one after another and writes what they found to `benchmarks/results.md`.

    python benchmarks/bench.py [DATA] [--peers FOLDER] [--only upload,audit,…]

`make bench` does so, and draws them in `docs/images/speed.svg`; with `--only` both stay as they are. DATA holds the
real images (without it, made ones serve where that is possible), FOLDER the environments of the servers that are
compared (`python benchmarks/serving.py --peers FOLDER --make` makes them); what is left out without them is named. Each
script runs in a process and a home of its own. The status is 0 where all ran and reached their goals, 1 where a goal
was missed, and 2 where a script failed or something was left out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from drawing import FOLDER, RESULTS, draw
from measured import HEADER, command, folder_named, machine, versions

SUMMARY = ("work", "against", "goal", "measured", "reached")
MAX_MINUTES = 12.0
END_SECONDS = 60.0  # to end all servers, one after the other
SPREAD = re.compile(r" \([^()]*\)$")


@dataclass(frozen=True)
class Script:
    """One script of this folder.

    Attributes:
        name: Its file's, without the ending.
        options: That it is given, to keep it short.
        takes: Whether it takes DATA and PEERS, in "data", "peers"; "needs data" where it cannot do without.
    """

    name: str
    options: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    def command(self, data: Path | None, peers: Path | None) -> list[str]:
        """Returns the command line."""
        given = [str(data)] if data is not None and {"data", "needs data"} & {*self.takes} else []
        if peers is not None and "peers" in self.takes:
            given += ["--peers", str(peers)]
        return [sys.executable, str(FOLDER / f"{self.name}.py"), *given, *self.options]


SCRIPTS = (
    Script("import_time", ("--rounds", "5")),
    Script("input", ("--rounds", "2"), takes=("data",)),
    Script("transfer", takes=("needs data",)),
    Script("training", ("--rounds", "1"), takes=("needs data",)),
    Script("prediction", ("--rounds", "5")),
    Script("serving", ("--rounds", "2", "--seconds", "3", "--starts", "1"), takes=("peers",)),
    Script("upload", ("--looped", "1000"), takes=("data",)),
    Script("audit", takes=("data",)),
    Script("bootstrap"),
    Script("scale"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a script.

    Attributes:
        name: The script's.
        minutes: That it took.
        found: What it printed from the heading of its table on; empty where there is none.
        problem: Why there is no table; empty where there is.
    """

    name: str
    minutes: float
    found: str = ""
    problem: str = ""

    @property
    def rows(self) -> tuple[dict[str, str], ...]:
        """The rows of its tables that have a goal, by the names of `HEADER`."""
        cells = [line[2:-2].split(" | ") for line in self.found.splitlines() if line.startswith("| ")]
        rows = [dict(zip(HEADER, row, strict=True)) for row in cells if len(row) == len(HEADER)]
        return tuple(row for row in rows if row["goal"] not in ("", "goal", "---"))

    @property
    def missing(self) -> tuple[str, ...]:
        """Why it gave no table, or what its notes name as left out."""
        notes = re.findall(r"^- (left out: .+)$", self.found, re.MULTILINE)
        return (self.problem,) if self.problem else tuple(notes)


def outcome_of(script: Script, data: Path | None, peers: Path | None, log: Path) -> Outcome:
    """Runs a script, with its messages in a log, and returns what became of it."""
    if data is None and "needs data" in script.takes:
        return Outcome(script.name, 0.0, problem="left out: it needs DATA")
    started = time.perf_counter()
    # What was stopped may still write there.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, log.open("w") as messages:
        environment = os.environ | {"MEDIMG_HOME": home, "TMPDIR": home, "TF_CPP_MIN_LOG_LEVEL": "3"}
        # A group of its own, so that what the script started ends with it.
        with subprocess.Popen(
            script.command(data, peers), stdout=subprocess.PIPE, stderr=messages, text=True, cwd=FOLDER.parent,
            env=environment, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                printed, _ = process.communicate(timeout=MAX_MINUTES * 60)
            except subprocess.TimeoutExpired:
                printed, problem = "", f"stopped after {MAX_MINUTES:g} minutes"
            else:
                problem = f"ended with {process.returncode}: {last_line(log)}"
            finally:
                end(process, Path(home))
    minutes = (time.perf_counter() - started) / 60
    heading = re.search(r"^## ", printed, re.MULTILINE)
    if heading is None or process.returncode not in (0, 1):
        return Outcome(script.name, minutes, problem=problem)
    return Outcome(script.name, minutes, found=printed[heading.start() :].strip())


def end(process: subprocess.Popen[str], home: Path) -> None:
    """Ends a script with all that it started.

    What is in a group of its own, as each server that is compared, the script must end itself: so it is asked first.
    Jobs and endpoints outlive whoever started them.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.send_signal(signal.SIGINT)
        process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if any((home / kind).is_dir() for kind in ("jobs", "endpoints")):
        left = "import medimg; medimg.backend('local').cleanup(kinds=('endpoint', 'job'))"
        subprocess.run([sys.executable, "-c", left], env=os.environ | {"MEDIMG_HOME": str(home)}, check=False)


def last_line(log: Path) -> str:
    """Returns the last line of a log, without this machine's folders."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return re.sub(r"(/[\w.-]+){2,}/", "…/", lines[-1]) if lines else "it said nothing"


def summary(outcomes: Sequence[Outcome]) -> str:
    """Returns the table of all rows with a goal, and of what was not measured."""
    lines = [SUMMARY, ("---",) * len(SUMMARY)]
    for outcome in outcomes:
        for row in outcome.rows:
            measured = row["ratio"] or ("" if row["theirs"] else SPREAD.sub("", row["medimg"]))
            lines.append((row["work"], row["against"], row["goal"], measured, row["reached"] or "not measured"))
        lines += [(f"`{outcome.name}.py`", "", "", why, "not measured") for why in outcome.missing]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(outcomes: Sequence[Outcome], started: datetime) -> str:
    """Returns the page of results."""
    minutes = sum(outcome.minutes for outcome in outcomes)
    parts = "; ".join(f"{outcome.name} {outcome.minutes:.1f}" for outcome in outcomes if outcome.found)
    environment = versions()
    # What is said above of all is not said again of each.
    tables = (outcome.found.replace(f"- {environment}\n", "") for outcome in outcomes if outcome.found)
    return "\n\n".join(
        [
            "# Speed, measured",
            f"`{command()}`, {started:%d %B %Y}, {minutes:.0f} minutes ({parts}).\n\n- {environment}\n- {machine()}",
            "A ratio is medimg's lead over its peer in the same run, of medians over interleaved rounds: on another "
            "machine the seconds differ, the ratios less.",
            summary(outcomes),
            *tables,
        ]
    ) + "\n"  # fmt: skip


def status(outcomes: Sequence[Outcome]) -> int:
    """Returns 0 where all was measured and reached, 1 where a goal was missed, 2 where something was not measured."""
    reached = [row["reached"] for outcome in outcomes for row in outcome.rows]
    if "" in reached or any(outcome.missing for outcome in outcomes):
        return 2
    return int(any(word != "yes" for word in reached))


def main() -> int:
    """Runs the scripts, writes the page and returns the status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what runs, as Ctrl-C does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=folder_named, nargs="?")
    parser.add_argument("--peers", type=folder_named)
    parser.add_argument("--only", help="names, with commas")
    given = parser.parse_args()
    names = [script.name for script in SCRIPTS]
    chosen = [name for name in given.only.split(",") if name] if given.only else names
    if unknown := {*chosen} - {*names}:
        parser.error(f"--only {','.join(sorted(unknown))}: there is {', '.join(names)}")
    data, peers = (path and path.resolve() for path in (given.data, given.peers))
    logs = FOLDER.parent / "build" / "bench"
    logs.mkdir(parents=True, exist_ok=True)
    started = datetime.now(UTC)
    outcomes: list[Outcome] = []
    for script in SCRIPTS:
        if script.name not in chosen:
            continue
        print(f"{script.name}: messages in build/bench/{script.name}.log", flush=True)
        outcomes.append(outcome_of(script, data, peers, logs / f"{script.name}.log"))
        print(f"{outcomes[-1].found or outcomes[-1].problem}\n", flush=True)
        if given.only is None:  # after each script: a run that is cut off leaves what it found
            RESULTS.write_text(page(outcomes, started), encoding="utf-8")
    print(summary(outcomes))
    if given.only is None:
        draw()
    return status(outcomes)


if __name__ == "__main__":
    raise SystemExit(main())
