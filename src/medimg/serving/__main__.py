"""`python -m medimg.serving --model FOLDER`: serves a model folder over HTTP.

With `--model-file FILE`, a JSON file {"model": path, "digest": …}, the model can be changed without a gap: write the
file anew and send SIGHUP. The server starts workers of the new model, which check its golden inputs while the old one
answers, then changes over, and says in `--served-file` which model answers and, where it is not the one asked for, why.
Without that option SIGHUP ends the server as SIGTERM does: its terminal was closed.

The first worker is started before the web framework is imported: it loads the model meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import ipaddress
import json
import secrets
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medimg.errors import ConfigError, MedimgError
from medimg.home import atomic_write, cores, salt
from medimg.serving.access.gate import RATE_LIMIT, Gate, hosts_of
from medimg.serving.access.keys import Keys
from medimg.serving.access.sessions import Sessions
from medimg.serving.processes import allocator
from medimg.serving.processes.choice import Choice
from medimg.serving.processes.process import SECONDS, WorkerProcess

if TYPE_CHECKING:
    from medimg.artifact import ModelFolder
    from medimg.serving.monitor import Monitor
    from medimg.serving.processes.served import Served
    from medimg.serving.requests import Fetch

_IMAGES_A_WORKER = 64  # that may wait: some tenths of a second's work


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medimg.serving")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=Path, help="the model folder")
    model.add_argument(
        "--model-file", type=Path, help="a file that names model folder and digest; SIGHUP reads it anew"
    )
    parser.add_argument("--digest", help="the digest that the model must have")
    parser.add_argument("--version", default="", help="of the registered model, such as chest/2")
    parser.add_argument("--runtime", default="", help="what runs the network; by default the fastest it has")
    parser.add_argument("--image-seconds", type=float, default=SECONDS, help="that one image may take")
    parser.add_argument("--workers", type=int, help="processes that decode and predict; by default one a core")
    parser.add_argument("--served-file", type=Path, help="is told which model answers, at every change")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--host-name", action="append", default=[], help="a name that a proxy in front goes by")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--keys", type=Path, help="the file of keys, one of which each request must carry")
    keys.add_argument("--key-hash-file", type=Path, help="SHA-256 of the one key that requests must carry")
    parser.add_argument("--session-secret", type=Path, help="the file of the secret that signs the page's sessions")
    parser.add_argument(
        "--rate-limit", type=float, default=RATE_LIMIT, help="requests a second of a key that was handed out; 0: any"
    )
    parser.add_argument("--url-host", action="append", default=[], help="a host that images may be fetched from")
    parser.add_argument("--log-folder", type=Path, help="of the request log; without it nothing is logged or compared")
    parser.add_argument("--address-file", type=Path, help="is written when the server answers")
    parser.add_argument("--end-with-input", action="store_true", help="end when standard input does: with its owner")
    return parser


def main() -> int:
    """Checks the model against its golden inputs, then serves until SIGTERM; returns the exit status."""
    given = _parser().parse_args()
    early: list[int] = []
    if given.model_file:
        signal.signal(signal.SIGHUP, lambda number, _: early.append(number))  # one that comes too soon must not end it
    first: WorkerProcess | None = None
    try:
        if not (given.keys or given.key_hash_file or ipaddress.ip_address(given.host).is_loopback):
            raise ConfigError(f"{given.host} can be reached from other machines: a key is needed (--keys FILE)")
        choice = (
            Choice.read(given.model_file)
            if given.model_file
            else Choice(given.model.resolve(), given.digest, given.version)
        )
        first = choice.launch(given.runtime, given.image_seconds)
        # Only now: the worker loads the model while the web framework is imported.
        from medimg.serving.web.server import in_loop

        return in_loop(_serve(given, choice, first, early))
    except KeyboardInterrupt:  # told again when all was finished
        return 0
    except (MedimgError, OSError, ValueError) as error:
        if first is not None:
            first.process.kill()
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log is where a user looks
        return 1


async def _serve(given: argparse.Namespace, choice: Choice, first: WorkerProcess, early: list[int]) -> int:
    from medimg.serving.processes.explaining import Explaining
    from medimg.serving.processes.served import Served
    from medimg.serving.web.admission import Admission
    from medimg.serving.web.app import build_app
    from medimg.serving.web.server import BACKLOG, bound, end_with_terminal, serve

    allocator.keep()
    broken: list[str] = []
    ended = asyncio.Event()

    def on_broken(why: str) -> None:
        broken.append(why)
        ended.set()

    gate = _gate(given)
    fetch = _fetch(given.url_host)
    listening = bound(given.host, given.port)
    workers = given.workers or (cores() if choice.computes_on_one_core(given.runtime) else 1)
    served = Served(
        choice, first, workers, model_file=given.model_file, served_file=given.served_file, on_broken=on_broken,
        launch=partial(Choice.launch, runtime=given.runtime, seconds=given.image_seconds),
    )  # fmt: skip
    await served.start()
    loop = asyncio.get_running_loop()
    if given.model_file:
        loop.add_signal_handler(signal.SIGHUP, served.want_change)
        if early:
            served.want_change()
    else:
        end_with_terminal(ended)
    if given.end_with_input:

        def input_ended() -> None:
            loop.remove_reader(sys.stdin)
            ended.set()

        loop.add_reader(sys.stdin, input_ended)
    monitor = _monitor(given.log_folder, served)
    explaining = Explaining(served.folder)
    served.on_change.append(explaining.change)
    host, port = listening.getsockname()[:2]
    print(f"golden inputs agree (largest difference {served.worst:.1e}); serving on {host}:{port}", flush=True)  # noqa: T201

    def tell() -> None:
        listening.listen(BACKLOG)
        if given.address_file:
            atomic_write(given.address_file, json.dumps({"host": host, "port": port}))

    app = build_app(
        served, gate=gate, admission=Admission(images=_IMAGES_A_WORKER * workers), monitor=monitor,
        explaining=explaining, picture=served.picture, fetch=fetch, on_start=tell,
    )  # fmt: skip
    gc.freeze()  # what is there now stays: no collection goes through it again
    await serve(app, listening, ended=ended)
    for why in broken:
        print(f"error: no worker can be started any more: {why}", file=sys.stderr)  # noqa: T201
    return 1 if broken else 0


def _gate(given: argparse.Namespace) -> Gate:
    keys = None
    if given.keys:
        keys = Keys.of_file(given.keys)
    elif given.key_hash_file:
        keys = Keys.of_hashes(given.key_hash_file.read_text())
    sessions = None
    if keys is not None:
        secret = given.session_secret
        sessions = Sessions.of_file(secret) if secret else Sessions(secrets.token_bytes(32))
    return Gate(keys, sessions, rate_limit=given.rate_limit or None, hosts=hosts_of(given.host, given.host_name))


def _fetch(hosts: list[str]) -> Fetch | None:
    if not hosts:
        return None
    from medimg.serving.urls import UrlFetcher  # brings ssl

    return UrlFetcher(hosts)


def _monitor(folder: Path | None, served: Served) -> Monitor | None:
    """Returns what watches the model that answers and logs its images; None without a folder for the log."""
    if folder is None:
        return None
    from medimg.inference.monitoring import Reference
    from medimg.serving.monitor import Monitor
    from medimg.serving.request_log import LogFile, RequestLog, tail

    monitor = Monitor(RequestLog(LogFile(folder), salt()))

    def watch(model: ModelFolder) -> None:
        monitor.watch(Reference.read(model.path), digest=model.digest, version=served.version, before=tail(folder))

    watch(served.folder)
    served.on_change.append(watch)
    return monitor


if __name__ == "__main__":
    raise SystemExit(main())
