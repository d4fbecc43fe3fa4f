"""`python -m medimg.serving.processes.worker`: decodes and predicts one image after the other for a server.

It proves its model, says hello, and then answers what comes over its channel until that is closed, which it is when
the server ends, however it ends. An image that takes too long, or too much memory, costs this process and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from medimg.artifact import ModelFolder
from medimg.data.decode import decode
from medimg.data.encode import encode
from medimg.errors import ImageRejected, MedimgError
from medimg.inference.answers import refusal
from medimg.inference.predictor import Predictor
from medimg.inference.runtimes import Runtime, RuntimeName, open_runtime
from medimg.serving.clouds.handling import Handler
from medimg.serving.processes import allocator, process
from medimg.serving.requests import MAX_BODY

__all__ = ["main"]

# What decoding the largest picture may take (`medimg.data.decode`: 16 bytes a pixel, 1 GB), the model, and room.
_MEMORY = 2 << 30
_LONGER = 5.0  # seconds after which this process ends itself, where no server lives to do so
_PICTURE_SIDE = 1024  # pixels


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medimg.serving.processes.worker")
    parser.add_argument("--channel", type=int, required=True, help="the socket's descriptor")
    parser.add_argument("--model", type=Path, help="without one images are decoded only")
    parser.add_argument("--digest")
    parser.add_argument("--version", default="")
    parser.add_argument("--seconds", type=float, default=process.SECONDS, help="that one image may take")
    parser.add_argument("--runtime", default="", help="what runs the network; empty: the fastest that the model has")
    return parser


def _bound() -> None:
    """Bounds what this process may take, and leaves its end to the server."""
    allocator.keep()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal tells all of the server's group
    with contextlib.suppress(OSError):
        # Where the machine's memory ends, the worker is the one to go.
        Path("/proc/self/oom_score_adj").write_text("500")


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):  # a system that has no such limit, or a lower one
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _open(model: ModelFolder, name: str) -> Runtime:
    return open_runtime(model, cast("RuntimeName", name) if name else None, workers=1)


def picture(image: bytes) -> bytes:
    """Returns an image as a PNG that a browser can draw, at most 1024 pixels wide and high.

    Raises:
        ImageRejected: It cannot be read.
    """
    drawn = Image.fromarray(np.ascontiguousarray(decode(image, name="image")))
    drawn.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    content = io.BytesIO()
    drawn.save(content, "PNG", compress_level=1)
    return content.getvalue()


def _encoded(image: bytes) -> bytes:
    content = encode(image)
    if len(content) > MAX_BODY:  # a small file of a large picture
        raise ImageRejected("too-large", "image", "is too large to be passed on. Make it smaller")
    return content


def _reply(handler: Handler | None, kind: int, body: bytes) -> tuple[int, bytes]:
    try:
        if kind == process.PICTURE:
            return kind, picture(body)
        if handler is None or kind == process.ENCODED:
            return process.ENCODED, _encoded(body)
        answered = handler.answer(body)
        return process.ANSWER, _json([answered.answer, answered.statistics])
    except ImageRejected as rejection:
        return process.REJECTED, _json(refusal(rejection))
    except MemoryError:
        told = {"error": "takes more memory than one image may. Make it smaller", "code": "too-large"}
        return process.REJECTED, _json(told)
    except Exception as error:  # it must reach whoever asked, and this process has others to answer
        print(f"error: an image failed: {type(error).__name__}", file=sys.stderr, flush=True)  # noqa: T201
        return process.FAILED, _json({"error": type(error).__name__})


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _serve(channel: socket.socket, handler: Handler | None, seconds: float) -> None:
    while head := _read(channel, process.HEAD.size):
        number, kind, length = process.HEAD.unpack(head)
        body = _read(channel, length)
        if len(body) < length:
            return
        # Its default action ends the process also in the midst of a decoder's own code.
        signal.setitimer(signal.ITIMER_REAL, seconds + _LONGER)
        kind, content = _reply(handler, kind, body)
        signal.setitimer(signal.ITIMER_REAL, 0)
        del body
        _send(channel, number, kind, content)


def _read(channel: socket.socket, count: int) -> bytes:
    """Returns so many bytes in one piece, without a copy; b"" where the channel was closed before they came."""
    content = channel.recv(count, socket.MSG_WAITALL) if count else b""
    return content if len(content) == count else b""


def _send(channel: socket.socket, number: int, kind: int, content: bytes) -> None:
    channel.sendall(process.HEAD.pack(number, kind, len(content)) + content)


def main() -> int:
    """Serves until the channel is closed; returns the exit status."""
    given = _parser().parse_args()
    _bound()
    with socket.socket(fileno=given.channel) as channel, contextlib.suppress(ConnectionError):
        handler: Handler | None = None
        try:
            if given.model is not None:
                model = ModelFolder.load(given.model, digest=given.digest)
                handler = Handler.proved(Predictor(model, runtime=_open(model, given.runtime)), version=given.version)
        except Exception as error:  # whatever it is, the server must say why it does not answer
            told = str(error) if isinstance(error, MedimgError) else f"{type(error).__name__}: {error}"
            _send(channel, 0, process.FAILED, _json({"error": told}))
            return 1
        if handler is None or handler.predictor.runtime.name != "keras":  # which reserves far more than it uses
            _limit_memory()
        gc.freeze()  # what is there now stays: no collection goes through it again
        _send(channel, 0, process.HELLO, _json({"worst": 0.0 if handler is None else handler.worst}))
        _serve(channel, handler, given.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
