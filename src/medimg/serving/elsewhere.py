"""`Elsewhere`: the page and the routes of this server in front of an endpoint that runs somewhere else.

Images are decoded here, DICOM too, in worker processes that have no model, and their pixels alone are sent on: what
else a file holds stays on this machine, and so do the credentials that the endpoint asks for.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from medimg.errors import AccessError, EndpointError, ImageRejected, MedimgError, NotFoundError, UnreachableError
from medimg.home import cores
from medimg.serving.access.gate import Gate
from medimg.serving.answering import Answered
from medimg.serving.processes import process
from medimg.serving.processes.workers import Workers, refusal_in
from medimg.serving.refused import Refused
from medimg.serving.web.admission import Admission
from medimg.serving.web.app import build_app
from medimg.serving.web.server import BACKLOG, end_with_terminal, in_loop, serve

__all__ = ["Ask", "Describe", "Elsewhere", "serve_elsewhere"]

Ask = Callable[[bytes], Mapping[str, Any]]
"""From an encoded image to the JSON of its answer; raises what `Endpoint.predict` does."""

Describe = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From an answer to what GET /model tells of the model that gave it, see `medimg.serving.web.description`."""

_AT_ONCE = 8  # images on their way to the endpoint
_MOST_IMAGES = 64  # that wait or are on their way
_BUSY = (429, 503)  # statuses of an endpoint that asks to be tried again
_RETRY_SECONDS = 5  # where it does not say when
_TOO_LARGE = 413


class Elsewhere:
    """Answers images by asking an endpoint. To be used in one event loop.

    Args:
        ask: Asks it.
        describe: Is called with the first answer of each model, for the endpoint may go on to another.
        first: An answer of the model that it serves now.
        where: Of the endpoint, such as "sagemaker endpoint chest".
        workers: Decode; they have no model.
    """

    def __init__(self, ask: Ask, describe: Describe, first: Mapping[str, Any], *, where: str, workers: Workers) -> None:
        self._ask = ask
        self._describe = describe
        self._where = where
        self._workers = workers
        self._known: dict[str, Mapping[str, Any]] = {}  # by digest
        self._describing = threading.Lock()
        self._told = self._model_of(first)
        self._slots = asyncio.Semaphore(_AT_ONCE)  # also of what was decoded and waits to be sent
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="elsewhere")
        self._closing = False

    async def answer(self, image: bytes) -> Answered:
        """Returns the answer to one image.

        Raises:
            ImageRejected: It cannot be read, here or there.
            Refused: 503 with Retry-After where the endpoint is busy or out of reach; 502 where it does not answer.
        """
        async with self._slots:
            encoded = await self._worked(process.ENCODED, image)
            answer, told = await asyncio.get_running_loop().run_in_executor(self._threads, self._asked, encoded)
        self._told = told
        return Answered({**answer, "version": answer.get("version") or told["version"]}, {})

    async def picture(self, image: bytes) -> bytes:
        """Returns one image as a PNG that a browser can draw.

        Raises:
            ImageRejected: It cannot be read.
            Refused: 503 with Retry-After where its worker ended.
        """
        return await self._worked(process.PICTURE, image)

    def model(self) -> Mapping[str, Any]:
        """Returns what GET /model tells: of the model that answered last."""
        return self._told

    def ready(self) -> bool:
        """Returns whether an image would be passed on now."""
        return not self._closing and self._workers.alive > 0

    async def close(self) -> None:
        """Waits for the answers that are on their way."""
        self._closing = True
        await self._workers.close()
        await asyncio.to_thread(self._threads.shutdown)

    async def _worked(self, wanted: int, image: bytes) -> bytes:
        kind, body = await self._workers.ask(wanted, image)
        if kind != wanted:
            raise refusal_in(kind, body)
        return body

    def _asked(self, encoded: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Returns an answer, and what is told of the model that gave it."""
        try:
            answer = self._ask(encoded)
        except ImageRejected:
            raise
        except MedimgError as error:
            # For the owner of this server alone: a cloud's messages name the account.
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
            raise self._refused(error) from None
        with self._describing:
            return answer, self._model_of(answer)

    def _model_of(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        digest = str(answer.get("digest", ""))
        if digest not in self._known:
            self._known[digest] = {**self._describe(answer), "where": self._where}
        return self._known[digest]

    def _refused(self, error: MedimgError) -> Refused | ImageRejected:
        if isinstance(error, EndpointError) and error.status == _TOO_LARGE:
            return ImageRejected("too-large", "image", "is larger than the endpoint takes. Make it smaller")
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


def serve_elsewhere(
    ask: Ask,
    describe: Describe,
    first: Mapping[str, Any],
    listening: socket.socket,
    *,
    where: str,
    gate: Gate,
    on_start: Callable[[], None],
) -> int:
    """Serves the page and the routes in front of an endpoint until Ctrl-C or SIGTERM; returns the exit status.

    Args:
        ask: As `describe`, `first` and `where`: see `Elsewhere`.
        describe: See there.
        first: See there.
        listening: A socket that is bound.
        where: See there.
        gate: Who may ask.
        on_start: Called when this server is about to answer.
    """
    broken: list[str] = []

    def begin() -> None:
        listening.listen(BACKLOG)
        on_start()

    async def work() -> int:
        ended = asyncio.Event()
        end_with_terminal(ended)

        def on_broken(why: str) -> None:
            broken.append(why)
            ended.set()

        workers = Workers(lambda: process.launch(None), process.launch(None), cores(), on_broken)
        await workers.start()
        elsewhere = Elsewhere(ask, describe, first, where=where, workers=workers)
        app = build_app(
            elsewhere, gate=gate, admission=Admission(images=_MOST_IMAGES), picture=elsewhere.picture, on_start=begin
        )
        await serve(app, listening, ended=ended)
        for why in broken:
            print(f"error: no worker can be started any more: {why}", file=sys.stderr)  # noqa: T201
        return 1 if broken else 0

    return in_loop(work())
