"""A worker's process, seen from the server: how it is started, and what the two say to each other.

Messages go over a pair of sockets: a head (number, kind, length of the body), then the body. A reply carries the number
of its request, so that no answer is ever taken for another's. Needs the standard library only: the server starts its
workers before it loads anything else.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ANSWER", "ENCODED", "FAILED", "HEAD", "HELLO", "PICTURE", "PREDICT", "REJECTED", "SECONDS", "WorkerProcess",
    "launch",
]  # fmt: skip

HEAD = struct.Struct("!QBI")
"""Number of the request, kind, bytes of the body that follows."""

PREDICT, PICTURE, ENCODED = 1, 2, 3
"""Kinds of request; the body is the encoded image. Of a picture the reply is a PNG that a browser can draw, of the last
one what is passed on to an endpoint: see `medimg.data.encode`."""

HELLO, ANSWER, REJECTED, FAILED = 10, 11, 12, 13
"""Kinds of reply, in JSON; a reply that is an image has the kind of its request."""

SECONDS = 10.0
"""How long one image may take to decode and predict, where nothing else is said."""

_BUFFER = 1 << 20  # bytes between server and worker: most images go over in one piece

# One interpreter computes on one thread: more of them would only wait for each other.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process that was started.

    Attributes:
        process: It.
        channel: The server's end of the sockets.
        seconds: That one image may take.
    """

    process: subprocess.Popen[bytes]
    channel: socket.socket
    seconds: float


def launch(
    model: Path | None,
    digest: str | None = None,
    *,
    version: str = "",
    runtime: str = "",
    seconds: float = SECONDS,
) -> WorkerProcess:
    """Starts a process that will say hello when its model has proved itself, or why it has not.

    Args:
        model: The model's folder; None: it predicts nothing.
        digest: That the model must have; None: any.
        version: Of the registered model, such as "chest/2"; it goes into the answers.
        runtime: What runs the network; "": the fastest that the model has.
        seconds: That one image may take; for the process' own end, where no server lives to end it.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        command = [sys.executable, "-m", "medimg.serving.processes.worker", "--channel", str(theirs.fileno())]
        command += ["--version", version, "--runtime", runtime, "--seconds", str(seconds)]
        if model is not None:
            command += ["--model", str(model)]
        if digest is not None:
            command += ["--digest", digest]
        # Not in a session of its own: who kills the server's group kills its workers too.
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=os.environ | _ONE_THREAD
        )
    ours.setblocking(False)
    return WorkerProcess(process, ours, seconds)
