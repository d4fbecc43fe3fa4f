"""What `import medimg` costs, beside `import keras`: fresh processes, in turns, less what bare Python takes.

    python benchmarks/import_time.py [--rounds 9]

Seconds are those of a whole process, from its start to its end. The compiled files and the system's cache are warm for
all alike.
"""

from __future__ import annotations

import argparse
import sys

from measured import Measured, Row, Table, interleaved, some

LIMIT_MS = 100.0
GOAL = 30.0
LEAST_MS = 0.1  # a cost below this cannot be told from none


def main() -> int:
    """Prints the table; returns 1 where a goal was not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=some, default=9)
    rounds = parser.parse_args().rounds
    statements = {"bare": "pass", "medimg": "import medimg", "keras": "import keras"}
    found = interleaved({name: (sys.executable, "-c", code) for name, code in statements.items()}, rounds)
    bare = found["bare"].median

    def over_bare(name: str) -> Measured:
        return Measured(tuple(max((value - bare) * 1e3, LEAST_MS) for value in found[name].values))

    medimg, keras = over_bare("medimg"), over_bare("keras")
    rows = (
        Row("import medimg", medimg, "import keras", keras, "ms", GOAL),
        Row("import medimg", medimg, unit="ms", goal=LIMIT_MS),
    )
    compared = f"Medians of {rounds} fresh processes each, in turns, less the {bare * 1e3:.0f} ms of bare Python."
    return Table("Import", compared, rows).print()


if __name__ == "__main__":
    raise SystemExit(main())
