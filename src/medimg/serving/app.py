"""The web app around the one Predictor. It imports neither Keras nor TensorFlow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from medimg.errors import ImageRejected
from medimg.inference.answers import refusal
from medimg.serving.keys import NO_KEY, is_authorised
from medimg.serving.requests import MAX_BODY, Fetch, RequestRefused, image_of, too_large
from medimg.serving.served import Served

__all__ = ["build_app"]


def build_app(
    served: Served, *, key_hash: str | None, workers: int, on_start: Callable[[], None], fetch: Fetch | None = None
) -> FastAPI:
    """Returns the app.

    Args:
        served: The model, which may change.
        key_hash: SHA-256 of the API key as hexadecimal digits; None: no key is asked for.
        workers: Images decoded and predicted at once.
        on_start: Called when the app is about to answer.
        fetch: Gets images by their URLs; None: none.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="predict")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        on_start()
        yield
        pool.shutdown(wait=True)

    app = FastAPI(title="medimg", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    def answer(content_type: str, body: bytes) -> dict[str, Any]:
        predictor = served.predictor  # once: it may change meanwhile, and the digest must be its own
        prediction = predictor.predict(image_of(content_type, body, fetch=fetch), name="image")
        return {**prediction.to_json(), "digest": predictor.model.digest}

    @app.get("/ping")
    async def ping() -> dict[str, str]:
        return {"status": "ready", "digest": served.predictor.model.digest}

    async def predict(request: Request) -> JSONResponse:
        if key_hash is not None and not is_authorised(request.headers, key_hash):
            return JSONResponse({"error": NO_KEY}, 401, {"WWW-Authenticate": "Bearer"})
        try:
            body = bytearray()
            # Counted while it arrives: the length a client declares may be wrong or missing.
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise too_large(MAX_BODY)
            work = partial(answer, request.headers.get("content-type", ""), bytes(body))
            return JSONResponse(await asyncio.get_running_loop().run_in_executor(pool, work))
        except RequestRefused as refused:
            return JSONResponse(refusal(refused), refused.status)
        except ImageRejected as rejection:
            return JSONResponse(refusal(rejection), 415)

    for path in ("/invocations", "/predict"):
        app.post(path, response_model=None)(predict)
    return app
