"""`python -m medimg.export FOLDER`: exports a draft model folder in a process of its own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medimg.export.network import PATHS, TRAINED, write
from medimg.home import atomic_write


def main() -> None:
    """Writes what is wanted, and in `.exports.json` what came of it."""
    parser = argparse.ArgumentParser(prog="python -m medimg.export")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runtime", action="append", choices=PATHS, help="several times; as training does if left out")
    parser.add_argument("--images", type=Path, help="a .npy file of representative images, for int8")
    given = parser.parse_args()
    if given.runtime == ["int8"]:
        from medimg.export.quantised import quantise

        result = quantise(given.folder, given.images)
    else:
        result = write(given.folder, given.runtime or TRAINED)
    atomic_write(given.folder / ".exports.json", json.dumps(result))


if __name__ == "__main__":
    main()
