"""Runs the emulator as a process: `python tests/cloud/aws/__main__.py --port 0 --root DIR --address-file FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from process import parser, serve

from aws.server import Server


def main() -> None:
    """Serves until it is told to end, or until the process that started it is gone."""
    arguments = parser(__doc__)
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--no-namespaces", action="store_true", help="as where user namespaces are forbidden")
    given = arguments.parse_args()
    serve(Server(given.root.resolve(), given.port, False if given.no_namespaces else None), given)


if __name__ == "__main__":
    main()
