"""What `import medimg` costs over bare Python, beside `import keras`: medians of fresh processes, interleaved."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

LIMIT_MS = 100.0
STATEMENTS = {"bare Python": "pass", "import medimg": "import medimg", "import keras": "import keras"}


def seconds(statement: str) -> float:
    """Returns how long a fresh Python takes for a statement, start and end included."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment, capture_output=True)
    return time.perf_counter() - started


def main() -> int:
    """Prints the table; returns 1 where medimg costs more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for statement in STATEMENTS.values():
        seconds(statement)  # compiled files and the system's cache are warm for all alike
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = medians["bare Python"]
    print(f"{'':14}  {'median ms':>9}  {'min':>7}  {'max':>7}  {'over bare':>9}")
    for name, values in times.items():
        print(f"{name:14}  {medians[name]:9.1f}  {min(values):7.1f}  {max(values):7.1f}  {medians[name] - bare:9.1f}")
    cost, keras = medians["import medimg"] - bare, medians["import keras"] - bare
    ratio = keras / max(cost, 1e-3)
    print(f"import medimg costs {cost:.1f} ms (limit {LIMIT_MS:.0f}); import keras costs {ratio:.0f} × that")
    return int(cost > LIMIT_MS)


if __name__ == "__main__":
    raise SystemExit(main())
