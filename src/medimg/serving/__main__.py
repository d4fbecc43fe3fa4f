"""`python -m medimg.serving --model FOLDER`: serves a model folder over HTTP.

With `--model-file FILE`, a JSON file {"model": path, "digest": …}, the model can be changed without a gap: write the
file anew and send SIGHUP. The server loads the new model and checks its golden inputs while the old one answers, then
changes over, and says in `--served-file` which model answers and, where it is not the one asked for, why.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from medimg.errors import ConfigError, MedimgError
from medimg.home import atomic_write
from medimg.serving.app import build_app
from medimg.serving.served import Choice, Served
from medimg.serving.urls import UrlFetcher


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medimg.serving")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=Path, help="the model folder")
    model.add_argument(
        "--model-file", type=Path, help="a file that names model folder and digest; SIGHUP reads it anew"
    )
    parser.add_argument("--digest", help="the digest that the model must have")
    parser.add_argument("--served-file", type=Path, help="is told which model answers, at every change")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--key-hash-file", type=Path, help="SHA-256 of the API key that requests must carry")
    parser.add_argument("--url-host", action="append", default=[], help="a host that images may be fetched from")
    parser.add_argument("--address-file", type=Path, help="is written when the server answers")
    return parser


def main() -> int:
    """Checks the model against its golden inputs, then serves until SIGTERM; returns the exit status."""
    given = _parser().parse_args()
    early: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: early.append(number))  # one that comes too soon must not end it
    try:
        key_hash = given.key_hash_file.read_text().strip() if given.key_hash_file else None
        if key_hash is None and not ipaddress.ip_address(given.host).is_loopback:
            raise ConfigError(f"{given.host} can be reached from other machines: a key is needed (--key-hash-file)")
        fetch = UrlFetcher(given.url_host) if given.url_host else None
        choice = Choice.read(given.model_file) if given.model_file else Choice(given.model, given.digest)
        served = Served(choice, model_file=given.model_file, served_file=given.served_file)
    except (MedimgError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log is where a user looks
        return 1
    signal.signal(signal.SIGHUP, served.want_change)
    if early:
        served.want_change()
    served.change_when_wanted()
    listening = socket.create_server((given.host, given.port), backlog=512)
    host, port = listening.getsockname()[:2]
    print(f"golden inputs agree (largest difference {served.worst:.1e}); serving on {host}:{port}", flush=True)  # noqa: T201

    def tell() -> None:
        if given.address_file:
            atomic_write(given.address_file, json.dumps({"host": host, "port": port}))

    workers = getattr(served.predictor.runtime, "workers", 1)
    app = build_app(served, key_hash=key_hash, workers=workers, on_start=tell, fetch=fetch)
    # No access log: it would hold the addresses of those who ask.
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=20)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
