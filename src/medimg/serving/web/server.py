"""Runs the app on a socket until SIGTERM or Ctrl-C: uvicorn, with this server's own connections and limits."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import uvicorn
import uvloop

from medimg.serving.web.connection import KEEP_ALIVE_SECONDS, Connection, close_the_slow

__all__ = ["BACKLOG", "bound", "end_with_terminal", "in_loop", "serve"]

BACKLOG = 4096
"""Connections that the kernel keeps until they are taken."""

_DRAIN_SECONDS = 20  # for requests that have begun


def bound(host: str, port: int) -> socket.socket:
    """Returns a socket with that address, which takes no connection yet; port 0: a free one.

    Raises:
        OSError: The address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    return listening


def in_loop(work: Coroutine[Any, Any, int]) -> int:
    """Runs a server to its end and returns its exit status; as many files may be open as the system allows."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def end_with_terminal(ended: asyncio.Event) -> None:
    """Sets an event when the terminal is closed (SIGHUP), unless `nohup` says that this must not end the server."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, ended.set)


async def serve(app: Callable[..., Any], listening: socket.socket, *, ended: asyncio.Event | None = None) -> None:
    """Serves an app until SIGTERM, Ctrl-C, or the event; what has begun is finished first.

    Args:
        app: See `medimg.serving.web.app`.
        listening: The bound socket.
        ended: Ends the server where it is set.
    """
    # No access log: it would hold the addresses of those who ask. No configuration of the log: uvicorn's would close
    # the handlers of all others in the process; errors go to standard error without.
    config = uvicorn.Config(
        app, http=Connection, ws="none", lifespan="on", log_level="error", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )  # fmt: skip
    server = uvicorn.Server(config)

    async def end() -> None:
        if ended is not None:
            await ended.wait()
            server.should_exit = True

    others = [asyncio.create_task(close_the_slow(server.server_state.connections)), asyncio.create_task(end())]
    try:
        await server.serve(sockets=[listening])
    finally:
        for other in others:
            other.cancel()
