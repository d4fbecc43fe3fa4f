"""The web app: its routes. What they do is in the parts that it is given; it imports neither Keras nor TensorFlow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from medimg.errors import ImageRejected
from medimg.inference.answers import refusal
from medimg.serving.access.gate import MAX_SIGN_IN, Gate
from medimg.serving.answering import Answering
from medimg.serving.monitor import Monitor
from medimg.serving.refused import Refused
from medimg.serving.requests import MAX_BODY, MAX_IMAGES, Fetch, RequestRefused
from medimg.serving.web import reference
from medimg.serving.web.admission import Admission
from medimg.serving.web.metrics import CONTENT_TYPE, Metrics
from medimg.serving.web.pages import page_file
from medimg.serving.web.predicting import Bodies, Gone, Predicting, Receive, Scope, Send, headers_of, respond
from medimg.serving.web.secure_headers import SecureHeaders

if TYPE_CHECKING:
    from medimg.serving.processes.explaining import Explaining

__all__ = ["PREDICT_PATHS", "build_app"]

PREDICT_PATHS = ("/predict", "/invocations", "/score")
"""Of medimg, SageMaker and AzureML: the same is answered on each."""

_SIGNING = (("POST", "/session"), ("DELETE", "/session"))  # in and out: they ask the gate in words of their own

_NOT_WATCHED = {
    "status": "unknown", "images": 0, "since": None, "alarm_since": "", "measures": [],
    "message": "The images are not compared with those of validation here. Of an endpoint elsewhere: medimg drift.",
}  # fmt: skip


def build_app(
    answering: Answering,
    *,
    gate: Gate,
    admission: Admission,
    monitor: Monitor | None = None,
    explaining: Explaining | None = None,
    picture: Callable[[bytes], Awaitable[bytes]] | None = None,
    fetch: Fetch | None = None,
    on_start: Callable[[], None] | None = None,
) -> SecureHeaders:
    """Returns the app, for an ASGI server.

    Args:
        answering: What answers images; the app closes it at its end.
        gate: Who may ask.
        admission: How much at once.
        monitor: Compares the images with those of validation, and logs them; None: nobody does.
        explaining: Explains images; None: they cannot be.
        picture: From an image to a PNG that a browser can draw; None: there is no such route.
        fetch: Gets images by their URLs; None: none.
        on_start: Called when the app is about to answer.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if on_start is not None:
            on_start()
        yield
        await answering.close()
        if explaining is not None:
            await explaining.close()
        if monitor is not None:
            monitor.close()

    def health() -> Mapping[str, Any]:
        return _NOT_WATCHED if monitor is None else monitor.health()

    app = FastAPI(title="medimg", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    metrics = Metrics(answering, admission, health)
    bodies = Bodies(admission, fetch)
    predicting = Predicting(answering, gate=gate, admission=admission, bodies=bodies, metrics=metrics, monitor=monitor)

    @asynccontextmanager
    async def image_in(request: Request) -> AsyncIterator[bytes]:
        """Yields the one image of a request, which is counted as long."""
        admission.check()
        try:
            async with bodies.images(request.receive, request.headers) as images:
                if len(images.contents) > 1:
                    message = f"is one of {len(images.contents)}; this path takes one. Send several requests"
                    raise RequestRefused(400, "bad-request", message)
                yield images.contents[0]
        except Gone:
            raise _cut_off() from None

    @app.get("/ping")
    async def ping() -> dict[str, str]:
        """Says that the server lives, and which model answers."""
        return {"status": "ready" if answering.ready() else "waiting", "digest": str(answering.model()["digest"])}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Says whether images are answered now: 200 or 503."""
        if not answering.ready():
            raise Refused(503, "no worker is ready", headers={"Retry-After": "1"})
        return {"status": "ready"}

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """Describes the model: classes, thresholds, card."""
        return {
            **answering.model(),
            "explains": explaining is not None and explaining.available,
            "auth": gate.auth,
            "limits": {"body_bytes": MAX_BODY, "images": MAX_IMAGES},
        }

    @app.get("/health", name="health")
    async def tell_health() -> Mapping[str, Any]:
        """Compares the latest images with those of validation."""
        return health()

    @app.get("/metrics")
    async def tell_metrics() -> Response:
        """Returns counts and times for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.post("/explain")
    async def explain(
        request: Request, target: Annotated[str | None, Query(alias="class")] = None
    ) -> Mapping[str, Any]:
        """Returns where in an image the network found what it says of a class, by Grad-CAM."""
        if explaining is None:
            raise Refused(404, "images are not explained here", code="not-explained")
        async with image_in(request) as image:
            return await explaining.explain(image, target)

    @app.post("/picture")
    async def draw(request: Request) -> Response:
        """Returns an image, such as a DICOM, as a PNG of at most 1024 pixels that a browser can draw."""
        if picture is None:
            raise Refused(404, "images are not drawn here")
        async with image_in(request) as image:
            admission.enter(1)
            try:
                return Response(await picture(image), media_type="image/png")
            finally:
                admission.leave(1)

    @app.post("/session", status_code=204)
    async def sign_in(request: Request) -> Response:
        """Signs in with {"key": …}: sets a cookie that lasts for twelve hours."""
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > MAX_SIGN_IN:
                    break  # refused by its length
        except ClientDisconnect:
            raise _cut_off() from None
        return Response(status_code=204, headers={"Set-Cookie": gate.sign_in(request.headers, bytes(body))})

    @app.delete("/session", status_code=204)
    async def sign_out(request: Request) -> Response:
        """Signs out."""
        return Response(status_code=204, headers={"Set-Cookie": gate.sign_out(request.headers)})

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Mapping[str, Any]:
        return reference.openapi(app, PREDICT_PATHS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(reference.page(reference.openapi(app, PREDICT_PATHS)), media_type="text/html")

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @app.api_route("/page/{_:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        found = page_file(request.url.path)
        if found is None:
            raise Refused(404, "there is no such page")
        status, headers, content = found.answer(request.headers.get("if-none-match", ""))
        return Response(content, status, dict(headers))

    _answer_refusals(app, metrics)
    return SecureHeaders(_Guarded(predicting, app, gate, metrics))


def _cut_off() -> Refused:
    return Refused(400, "the request ended before its body did", code="bad-request")


def _answer_refusals(app: FastAPI, metrics: Metrics) -> None:
    """Has the routes answer what their parts raise."""

    @app.exception_handler(Refused)
    async def _(_: Request, refused: Refused) -> JSONResponse:
        return JSONResponse(refused.to_json(), refused.status, refused.headers)

    @app.exception_handler(ImageRejected)
    async def _(_: Request, rejection: ImageRejected) -> JSONResponse:
        metrics.reject(rejection.code)
        return JSONResponse(refusal(rejection), rejection.status if isinstance(rejection, RequestRefused) else 415)

    @app.exception_handler(404)
    async def _(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "there is nothing at this path. GET /docs says what there is"}, 404)

    @app.exception_handler(405)
    async def _(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "this path is not asked in this way. GET /docs says how"}, 405)


class _Guarded:
    """Asks the gate before any route, so that a new one is not open, and counts the answers.

    Predictions go past the framework's layers, and do both themselves.
    """

    def __init__(self, predicting: Predicting, app: FastAPI, gate: Gate, metrics: Metrics) -> None:
        self._predicting = predicting
        self._app = app
        self._gate = gate
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in PREDICT_PATHS:
            await self._predicting(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                self._metrics.count(getattr(route, "path", "other"), message["status"])
            await send(message)

        try:
            if (scope["method"], scope["path"]) not in _SIGNING:
                self._gate.admit(headers_of(scope), method=scope["method"], path=scope["path"])
        except Refused as refused:
            await respond(counted, refused.status, refused.to_json(), refused.headers)
            return
        await self._app(scope, receive, counted)
