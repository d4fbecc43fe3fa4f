"""What the audit of a dataset costs: the first time, with every image read and compared, and again from the cache.

    python benchmarks/audit.py [DATA] [--images 5000] [--rounds 3]

Generated radiographs of 224 pixels, and the 4,746 of DATA's chestxray/kaggle224. Every round has a home of its own, so
that nothing of an earlier one is found. `benchmarks/studies/copies.py` asks how well copies are told.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from films import write_films
from measured import Measured, Row, Table, folder_named, some, timed

import medimg

LIMIT_SECONDS = 60.0
PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"


@contextmanager
def empty_home() -> Iterator[None]:
    """Gives medimg a home of its own for a while."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDIMG_HOME"] = home
        yield


def measure(work: str, dataset: Callable[[], medimg.Dataset], rounds: int) -> list[Row]:
    """Returns the rows of a dataset, which is read anew in each round: what an object remembers would be found."""
    first: list[tuple[float, float]] = []
    again: list[tuple[float, float]] = []
    for _ in range(rounds):
        with empty_home():
            first.append(timed(lambda: dataset().audit()))
            again.append(timed(lambda: dataset().audit()))

    def figure(took: list[tuple[float, float]]) -> Measured:
        return Measured(tuple(wall for wall, _ in took), tuple(used for _, used in took))

    return [Row(work, figure(first), goal=LIMIT_SECONDS), Row(f"{work}, again", figure(again))]


def main() -> int:
    """Prints the table; returns 1 where the limit was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=folder_named, nargs="?")
    parser.add_argument("--images", type=some, default=5000)
    parser.add_argument("--rounds", type=some, default=3)
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_films(Path(scratch) / "images", given.images)
        work = f"audit of {given.images:,} generated radiographs"
        rows += measure(work, lambda: medimg.Dataset.from_folder(folder, group=r"(patient\d+)"), given.rounds)
    notes: tuple[str, ...] = ()
    if given.data is None:
        notes = ("left out: real radiographs, which need DATA",)
    else:
        chest = given.data / "chestxray" / "kaggle224"
        count = sum(1 for _ in chest.rglob("*.jpeg"))
        work = f"audit of {count:,} real radiographs"
        rows += measure(work, lambda: medimg.Dataset.from_folder(chest, group=PATIENT), given.rounds)
    compared = f"Images of 224 pixels, files to findings; medians of {given.rounds} rounds, each in an empty home."
    return Table("Audit", compared, tuple(rows), notes).print()


if __name__ == "__main__":
    raise SystemExit(main())
