"""`Predicting`: the path of an image through the server, from the first byte of its request to the answer.

It is an ASGI app of its own, without the layers of a web framework: at hundreds of requests a second on the cores that
also decode and predict, each tenth of a millisecond here is some percent of all.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from medimg.errors import ImageRejected
from medimg.inference.answers import refusal
from medimg.serving.access.gate import Gate
from medimg.serving.answering import Answering
from medimg.serving.monitor import Monitor
from medimg.serving.refused import Refused
from medimg.serving.requests import MAX_BODY, Fetch, Images, RequestRefused, images_of, too_large
from medimg.serving.web.admission import Admission
from medimg.serving.web.connection import WHOLE
from medimg.serving.web.metrics import Metrics
from medimg.serving.web.secure_headers import SECURE_LINES

__all__ = ["Bodies", "Gone", "Predicting", "Receive", "Scope", "Send", "headers_of", "respond"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LINES = b"content-type: application/json\r\ncontent-length: %d\r\n%b"
_LARGE = 1 << 20  # bytes of a form or of JSON that the event loop may take apart itself: a millisecond or two


class Gone(Exception):  # noqa: N818 - nothing went wrong here
    """Whoever asked does not wait for the answer."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Returns a request's headers by their names in lower case."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def respond(send: Send, status: int, content: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """Sends an answer in JSON."""
    body = json.dumps(content).encode()
    told = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    told += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


class Bodies:
    """Reads the bodies of requests, as far as there is room for them. To be used in one event loop.

    Args:
        admission: Says whether there is.
        fetch: Gets images by their URLs; None: none.
    """

    def __init__(self, admission: Admission, fetch: Fetch | None = None) -> None:
        self._admission = admission
        self._fetch = fetch
        self._large = asyncio.Lock()

    @asynccontextmanager
    async def images(self, receive: Receive, headers: Mapping[str, str]) -> AsyncIterator[Images]:
        """Yields the images that a request brings; they count as its body as long.

        Raises:
            RequestRefused: There is none, or what `read` says.
            Refused: As of `read`.
            Gone: As of `read`.
        """
        body = await self.read(receive, headers)
        size = len(body)
        try:
            images = await self._apart(headers.get("content-type", ""), body)
            del body  # the images are no larger, and may wait
            yield images
        finally:
            self._admission.release(size)

    async def _apart(self, content_type: str, body: bytes) -> Images:
        kind = content_type.lower()
        in_json = "json" in kind
        if not in_json and "form" not in kind:
            return images_of(content_type, body, fetch=self._fetch)
        work = partial(images_of, content_type, body, fetch=self._fetch)
        # A host may take its time, and what is in base64 or a form some milliseconds a megabyte.
        if len(body) > _LARGE:
            async with self._large:  # one at a time: the copies on the way take several times its room
                return await asyncio.to_thread(work)
        if in_json and self._fetch is not None:
            return await asyncio.to_thread(work)
        return work()

    async def read(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """Returns a body; the admission counts it until its bytes are released there.

        Raises:
            RequestRefused: 413: it is too large.
            Refused: 503: there is no room for it now.
            Gone: The connection ended.
        """
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > MAX_BODY:
            raise too_large(MAX_BODY)
        parts: list[bytes] = []
        held = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                part: bytes = message["body"]
                # Counted while it arrives: the length a client declares may be wrong or missing.
                if held + len(part) > MAX_BODY:
                    raise too_large(MAX_BODY)
                self._admission.hold(len(part), before=held)
                held += len(part)
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
        except BaseException:
            self._admission.release(held)
            raise


class Predicting:
    """Answers requests for predictions.

    Args:
        answering: What answers images.
        gate: Who may ask.
        admission: How much at once.
        bodies: Reads what they bring.
        metrics: Is told of all.
        monitor: Is told of each image; None: nothing is watched or logged.
    """

    def __init__(
        self,
        answering: Answering,
        *,
        gate: Gate,
        admission: Admission,
        bodies: Bodies,
        metrics: Metrics,
        monitor: Monitor | None = None,
    ) -> None:
        self._answering = answering
        self._gate = gate
        self._admission = admission
        self._bodies = bodies
        self._metrics = metrics
        self._monitor = monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        began = time.perf_counter()
        headers: Mapping[str, str] = {}
        try:
            status, content = 200, await self._answer(scope, receive)
        except Gone:
            return
        except RequestRefused as refused:
            status, content = refused.status, refusal(refused)
            self._reject(b"", refused.status, refused.code, began)
        except ImageRejected as rejection:
            status, content = 415, refusal(rejection)
        except Refused as refused:
            status, content, headers = refused.status, refused.to_json(), refused.headers
        self._metrics.count(scope["path"], status)
        self._metrics.time(time.perf_counter() - began)
        whole = scope.get("extensions", {}).get(WHOLE)
        if whole is None:
            await respond(send, status, content, headers)
            return
        body = json.dumps(content).encode()
        lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
        await whole(status, _LINES % (len(body), lines) + SECURE_LINES, body)

    async def _answer(self, scope: Scope, receive: Receive) -> Mapping[str, Any]:
        headers = headers_of(scope)
        self._gate.admit(headers, method=scope["method"], path=scope["path"])
        if scope["method"] != "POST":
            raise Refused(405, "an image is sent by POST", headers={"Allow": "POST"})
        self._admission.check()  # before its body is read, where that can be told
        async with self._bodies.images(receive, headers) as images:
            count = len(images.contents)
            self._admission.enter(count)
            try:
                return await self._answer_all(images)
            finally:
                self._admission.leave(count)

    async def _answer_all(self, images: Images) -> Mapping[str, Any]:
        if not images.several:
            return await self._one(images.contents[0])
        found = await asyncio.gather(*(self._one(image) for image in images.contents), return_exceptions=True)
        told: list[Mapping[str, Any]] = []
        for answer in found:
            if isinstance(answer, ImageRejected):
                told.append(refusal(answer))
            elif isinstance(answer, BaseException):
                raise answer  # none of them is answered: the request can be sent again as it is
            else:
                told.append(answer)
        return {"predictions": told}

    async def _one(self, image: bytes) -> Mapping[str, Any]:
        began = time.perf_counter()
        try:
            answered = await self._answering.answer(image)
        except ImageRejected as rejection:
            self._reject(image, 415, rejection.code, began)
            raise
        if self._monitor is not None:
            self._monitor.answered(image, answered.answer, answered.statistics)
        return answered.answer

    def _reject(self, image: bytes, status: int, code: str, began: float) -> None:
        self._metrics.reject(code)
        if self._monitor is not None:
            self._monitor.refused(image, status, code, latency_ms=(time.perf_counter() - began) * 1e3)
