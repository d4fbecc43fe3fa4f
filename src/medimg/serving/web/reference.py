"""What GET /openapi.json and GET /docs tell of the routes; nothing on the page comes from another address."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import medimg
from medimg.serving.requests import MAX_BODY, MAX_IMAGES

__all__ = ["openapi", "page"]

_CURL = """curl -H "Authorization: Bearer KEY" --data-binary @IMAGE ADDRESS/predict
curl -H "Authorization: Bearer KEY" -F file=@FIRST -F file=@SECOND ADDRESS/predict
curl -H "Authorization: Bearer KEY" -H "Content-Type: application/json" -d '{"image": "BASE64"}' ADDRESS/predict"""
_IMAGE = {"type": "string", "format": "byte"}
_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
_ANSWER = {
    "label": "PNEUMONIA", "probabilities": {"NORMAL": 0.03, "PNEUMONIA": 0.97}, "positives": ["PNEUMONIA"],
    "threshold": {"PNEUMONIA": 0.62}, "uncertain": False, "latency_ms": 6.1, "digest": "3138302b…",
    "version": "chest/2",
}  # fmt: skip
_PREDICT = {
    "summary": "Predict",
    "description": (
        f"Decides about one image or up to {MAX_IMAGES}, of {MAX_BODY >> 20} MB in all. Several images are answered by "
        '{"predictions": […]}, in their order: an answer each, or {"error": "…", "code": "…"} where one cannot be read.'
    ),
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": _IMAGE, "images": {"type": "array", "items": _IMAGE}, "url": {"type": "string"},
                    },
                }
            },
        },
    },
    "responses": {
        "200": {
            "description": "The decision.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "label": {"type": "string", "description": "The decision."},
                            "probabilities": {**_NUMBERS, "description": "Of each class, 0 to 1."},
                            "positives": {
                                "type": "array",
                                "items": {"type": "string"},
                                "description": "The classes at or over their thresholds; of many classes without "
                                "thresholds the most probable one.",
                            },
                            "threshold": {
                                **_NUMBERS,
                                "description": "From which probability on a class is called positive: as it was "
                                "frozen on validation.",
                            },
                            "uncertain": {
                                "type": "boolean",
                                "description": "Whether another sample of validation patients might have decided "
                                "otherwise: take the image as undecided.",
                            },
                            "latency_ms": {"type": "number", "description": "Of decoding and predicting, in ms."},
                            "digest": {"type": "string", "description": "Of the model: it tells which one answered."},
                            "version": {"type": "string", "description": "Of the registered model, or empty."},
                        },
                    },
                    "example": _ANSWER,
                }
            },
        },
        "400": {"description": 'The request cannot be read: {"error": "…", "code": "…"}.'},
        "401": {"description": 'The key is missing or wrong: {"error": "…"}.'},
        "403": {"description": 'Not allowed, such as an image by its URL: {"error": "…", "code": "…"}.'},
        "408": {"description": "The request came too slowly: 20 s without a byte, or 120 s in all."},
        "413": {"description": 'It is too large: {"error": "…", "code": "…"}.'},
        "415": {"description": 'The image cannot be read: {"error": "…", "code": "…"}.'},
        "429": {"description": "Too many requests with this key: Retry-After says when to come again."},
        "431": {"description": "More than 32 KB of headers."},
        "503": {"description": "Too many requests in all: Retry-After says when to come again."},
    },
}  # fmt: skip


def openapi(app: FastAPI, predict_paths: Iterable[str]) -> dict[str, Any]:
    """Returns the description of all routes: those of the app, and those that take images, which are not its own."""
    found = get_openapi(title="medimg", version=medimg.__version__, routes=app.routes)
    found["paths"] = {path: {"post": _PREDICT} for path in predict_paths} | found["paths"]
    found["components"] = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
    found["security"] = [{"key": []}]
    return found


def page(described: Mapping[str, Any]) -> str:
    """Returns the description as a plain page."""
    rows = [
        f"<dt><code>{escape(method.upper())} {escape(path)}</code></dt>"
        f"<dd>{escape(str(told.get('description', '')))}</dd>"
        for path, methods in described["paths"].items()
        for method, told in methods.items()
    ]
    answers = [
        f"<dt><code>{status}</code></dt><dd>{escape(told['description'])}</dd>"
        for status, told in _PREDICT["responses"].items()  # type: ignore[attr-defined]
    ]
    told = _PREDICT["responses"]["200"]["content"]["application/json"]["schema"]["properties"]  # type: ignore[index]
    fields = [f"<dt><code>{name}</code></dt><dd>{escape(field['description'])}</dd>" for name, field in told.items()]
    example = json.dumps(_ANSWER, indent=1, ensure_ascii=False)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>medimg: the endpoint</title><h1>The endpoint</h1>'
        "<p>Each request carries the header <code>Authorization: Bearer KEY</code> where keys are asked for. "
        'A program reads <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<h2>Ask</h2><p>In a shell; ADDRESS is this server's, such as 127.0.0.1:8000:</p><pre>{escape(_CURL)}</pre>"
        f"<p>The answer:</p><pre>{escape(example)}</pre><dl>{''.join(fields)}</dl>"
        f"<h2>Routes</h2><dl>{''.join(rows)}</dl><h2>Answers to an image</h2><dl>{''.join(answers)}</dl></html>"
    )
