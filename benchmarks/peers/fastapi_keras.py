"""Plain FastAPI around `model.predict`, as tutorials have it. Run with the port."""

from __future__ import annotations

import os
import sys
from typing import Any

import keras
import uvicorn
from fastapi import FastAPI, Request
from network import opened, prepared

app = FastAPI()
model = keras.saving.load_model(os.environ["PEER_KERAS"], compile=False)


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """Answers one image."""
    image = opened(await request.body())
    return {"output": model.predict(prepared(image, model.input_shape), verbose=0)[0].tolist()}


@app.get("/")
async def alive() -> dict[str, str]:
    """Says that the server is there."""
    return {}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
