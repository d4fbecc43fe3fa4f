"""`Elsewhere`: the page and the routes of this server in front of an endpoint that runs somewhere else.

Images are decoded here, DICOM too, and their pixels alone are sent on: what else a file holds stays on this machine,
and so do the credentials that the endpoint asks for.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from medimg.data.encode import encode
from medimg.errors import AccessError, EndpointError, ImageRejected, MedimgError, NotFoundError, UnreachableError
from medimg.serving.admission import Admission
from medimg.serving.answering import Answered
from medimg.serving.app import build_app
from medimg.serving.gate import Gate
from medimg.serving.refused import Refused
from medimg.serving.server import BACKLOG, in_loop, serve
from medimg.serving.worker import picture

__all__ = ["Ask", "Elsewhere", "serve_elsewhere"]

Ask = Callable[[bytes], Mapping[str, Any]]
"""From an encoded image to the JSON of its answer; raises what `Endpoint.predict` does."""

_AT_ONCE = 8  # images on their way to the endpoint
_MOST_IMAGES = 64  # that wait or are on their way
_BUSY = (429, 503)  # statuses of an endpoint that asks to be tried again
_RETRY_SECONDS = 5  # where it does not say when


class Elsewhere:
    """Answers images by asking an endpoint.

    Args:
        ask: Asks it.
        told: What GET /model tells, see `medimg.serving.description`.
        where: Of the endpoint, such as "sagemaker endpoint chest".
    """

    def __init__(self, ask: Ask, told: Mapping[str, Any], *, where: str) -> None:
        self._ask = ask
        self._told = {**told, "where": where}
        self._where = where
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="elsewhere")
        self._closing = False

    async def answer(self, image: bytes) -> Answered:
        """Returns the answer to one image.

        Raises:
            ImageRejected: It cannot be read, here or there.
            Refused: 503 with Retry-After where the endpoint is busy or out of reach; 502 where it does not answer.
        """
        answer = await self._in_thread(partial(self._answer, image))
        return Answered({**answer, "version": answer.get("version") or self._told["version"]}, {})

    async def picture(self, image: bytes) -> bytes:
        """Returns one image as a PNG that a browser can draw.

        Raises:
            ImageRejected: It cannot be read.
        """
        drawn: bytes = await self._in_thread(partial(picture, image))
        return drawn

    def model(self) -> Mapping[str, Any]:
        """Returns what GET /model tells."""
        return self._told

    def ready(self) -> bool:
        """Returns whether an image would be passed on now."""
        return not self._closing

    async def close(self) -> None:
        """Waits for the answers that are on their way."""
        self._closing = True
        await asyncio.to_thread(self._threads.shutdown)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _answer(self, image: bytes) -> Mapping[str, Any]:
        try:
            return self._ask(encode(image))
        except ImageRejected:
            raise
        except MedimgError as error:
            # For the owner of this server alone: a cloud's messages name the account.
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
            raise self._refused(error) from None

    def _refused(self, error: MedimgError) -> Refused:
        if isinstance(error, UnreachableError) or (isinstance(error, EndpointError) and error.status in _BUSY):
            seconds = getattr(error, "retry_after", None) or _RETRY_SECONDS
            why = "cannot be reached" if isinstance(error, UnreachableError) else "is busy"
            return Refused(
                503, f"the {self._where} {why}. Send the image again", headers={"Retry-After": str(math.ceil(seconds))}
            )
        if isinstance(error, AccessError):
            return Refused(502, f"the {self._where} does not let this server ask. Its log says which right is missing")
        if isinstance(error, NotFoundError):
            return Refused(502, f"the {self._where} is gone. Deploy it again, and start this server anew")
        return Refused(502, f"the {self._where} did not answer. The log of this server says why")


def serve_elsewhere(elsewhere: Elsewhere, listening: socket.socket, *, gate: Gate, on_start: Callable[[], None]) -> int:
    """Serves the page and the routes in front of an endpoint until Ctrl-C or SIGTERM; returns the exit status.

    Args:
        elsewhere: Asks the endpoint.
        listening: A socket that is bound.
        gate: Who may ask.
        on_start: Called when this server is about to answer.
    """

    def begin() -> None:
        listening.listen(BACKLOG)
        on_start()

    async def work() -> int:
        app = build_app(
            elsewhere, gate=gate, admission=Admission(images=_MOST_IMAGES), picture=elsewhere.picture, on_start=begin
        )
        await serve(app, listening)
        return 0

    return in_loop(work())
