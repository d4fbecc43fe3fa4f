"""`python -m medimg.serving --model FOLDER`: serves a model folder over HTTP."""

from __future__ import annotations

import argparse
import ipaddress
import json
import socket
import sys
from pathlib import Path

import uvicorn

from medimg.artifact import ModelFolder
from medimg.errors import ConfigError, MedimgError
from medimg.home import atomic_write
from medimg.inference.predictor import Predictor
from medimg.serving.app import build_app


def main() -> int:
    """Checks the model against its golden inputs, then serves until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m medimg.serving")
    parser.add_argument("--model", type=Path, required=True, help="the model folder")
    parser.add_argument("--digest", help="the digest that the model must have")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--key-hash-file", type=Path, help="SHA-256 of the API key that requests must carry")
    parser.add_argument("--address-file", type=Path, help="is written when the server answers")
    given = parser.parse_args()
    try:
        key_hash = given.key_hash_file.read_text().strip() if given.key_hash_file else None
        if key_hash is None and not ipaddress.ip_address(given.host).is_loopback:
            raise ConfigError(f"{given.host} can be reached from other machines: a key is needed (--key-hash-file)")
        predictor = Predictor(ModelFolder.load(given.model, digest=given.digest))
        worst = predictor.check_golden()
    except (MedimgError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log is where a user looks
        return 1
    listening = socket.create_server((given.host, given.port), backlog=512)
    host, port = listening.getsockname()[:2]
    print(f"golden inputs agree (largest difference {worst:.1e}); serving on {host}:{port}", flush=True)  # noqa: T201

    def tell() -> None:
        if given.address_file:
            atomic_write(given.address_file, json.dumps({"host": host, "port": port}))

    workers = getattr(predictor.runtime, "workers", 1)
    app = build_app(predictor, key_hash=key_hash, workers=workers, on_start=tell)
    # No access log: it would hold the addresses of those who ask.
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=20)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
