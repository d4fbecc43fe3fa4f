"""Runs the emulator as a process: `python tests/cloud/aws/__main__.py --port 0 --root DIR --address-file FILE`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

if __package__ in (None, ""):  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from aws.server import Server


def main() -> None:
    """Serves until it is told to end, or until the process that started it is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--root", type=Path, required=True, help="a folder for what it writes")
    parser.add_argument("--address-file", type=Path, help="gets the address once it answers")
    parser.add_argument("--parent", type=int, help="a process whose end is this one's too")
    parser.add_argument("--no-namespaces", action="store_true", help="as where user namespaces are forbidden")
    given = parser.parse_args()
    server = Server(given.root.resolve(), given.port, False if given.no_namespaces else None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    if given.parent is not None:
        threading.Thread(target=_outlive, args=(given.parent, server), daemon=True).start()
    if given.address_file is not None:
        written = given.address_file.with_suffix(".part")
        written.write_text(server.url)
        written.rename(given.address_file)
    print(server.url, flush=True)
    try:
        server.serve()
    finally:
        server.close()


def _outlive(parent: int, server: Server) -> None:
    """Ends this process soon after its parent."""
    while os.getppid() == parent:
        time.sleep(0.2)
    server.close()
    os._exit(0)


if __name__ == "__main__":
    main()
