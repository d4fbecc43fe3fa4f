"""Runs the emulator as a process: `python tests/cloud/azure_cloud/__main__.py --root DIR --azurite NODE_MODULES …`."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from process import parser, serve

from azure_cloud.server import Server


def main() -> None:
    """Serves until it is told to end, or until the process that started it is gone."""
    arguments = parser(__doc__)
    arguments.add_argument("--azurite", type=Path, required=True, help="the node_modules that have Azurite")
    arguments.add_argument("--images", type=Path, required=True, help="the packages that images have")
    arguments.add_argument("--schemas", type=Path, help="the archive of Microsoft's schemas")
    given = arguments.parse_args()
    server = Server(given.root.resolve(), given.azurite.resolve(), given.images.resolve(), given.schemas)
    serve(server, given)


if __name__ == "__main__":
    main()
