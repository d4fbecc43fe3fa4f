"""The web app around the one Predictor. It imports neither Keras nor TensorFlow."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from medimg.errors import ImageRejected
from medimg.inference.predictor import Predictor

__all__ = ["MAX_BODY", "build_app"]

MAX_BODY = 64 * 1024 * 1024  # bytes of one encoded image: lossless, so more than its JPEG had


def build_app(predictor: Predictor, *, key_hash: str | None, workers: int, on_start: Callable[[], None]) -> FastAPI:
    """Returns the app.

    Args:
        predictor: The model.
        key_hash: SHA-256 of the API key as hexadecimal digits; None: no key is asked for.
        workers: Images decoded and predicted at once.
        on_start: Called when the app is about to answer.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="predict")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        on_start()
        yield
        pool.shutdown(wait=True)

    app = FastAPI(title="medimg", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    digest = predictor.model.digest

    def refused(status: int, error: str, **more: str) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return JSONResponse({"error": error, **more}, status, headers)

    @app.get("/ping")
    async def ping() -> dict[str, str]:
        return {"status": "ready", "digest": digest}

    async def predict(request: Request) -> JSONResponse:
        if key_hash is not None and not _authorised(request, key_hash):
            return refused(401, "the API key is missing or wrong. Send the header 'Authorization: Bearer KEY'")
        body = bytearray()
        # Counted while it arrives: the length a client declares may be wrong or missing.
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return refused(413, f"the image is larger than {MAX_BODY // 2**20} MB")
        try:
            work = partial(predictor.predict, bytes(body), name="image")
            prediction = await asyncio.get_running_loop().run_in_executor(pool, work)
        except ImageRejected as rejection:
            return refused(415, rejection.message, code=rejection.code)
        return JSONResponse({**prediction.to_json(), "digest": digest})

    for path in ("/invocations", "/predict"):
        app.post(path, response_model=None)(predict)
    return app


def _authorised(request: Request, key_hash: str) -> bool:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = request.headers.get("x-api-key", "")
    return hmac.compare_digest(hashlib.sha256(key.strip().encode()).hexdigest(), key_hash)
