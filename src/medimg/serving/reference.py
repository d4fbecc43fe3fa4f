"""What GET /openapi.json and GET /docs tell of the routes; nothing on the page comes from another address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import medimg
from medimg.serving.requests import MAX_BODY, MAX_IMAGES

__all__ = ["openapi", "page"]

_IMAGE = {"type": "string", "format": "byte"}
_PREDICT = {
    "summary": "Predict",
    "description": (
        f"Decides about one image or up to {MAX_IMAGES}, of {MAX_BODY >> 20} MB in all. Several images are answered by "
        "{'predictions': [one answer, or {'error', 'code'}, for each in order]}."
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
                            "label": {"type": "string"},
                            "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
                            "positives": {"type": "array", "items": {"type": "string"}},
                            "threshold": {"type": "object", "additionalProperties": {"type": "number"}},
                            "uncertain": {"type": "boolean"},
                            "latency_ms": {"type": "number"},
                            "digest": {"type": "string"},
                            "version": {"type": "string"},
                        },
                    }
                }
            },
        },
        "400": {"description": "The request cannot be read: {error, code}."},
        "401": {"description": "The key is missing or wrong: {error}."},
        "403": {"description": "Not allowed, such as an image by its URL: {error, code}."},
        "413": {"description": "It is too large: {error, code}."},
        "415": {"description": "The image cannot be read: {error, code}."},
        "429": {"description": "Too many requests with this key: Retry-After says when to come again."},
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
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>medimg: the endpoint</title><h1>The endpoint</h1>'
        "<p>Each request carries the header <code>Authorization: Bearer KEY</code> where keys are asked for. "
        'A program reads <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<h2>Routes</h2><dl>{''.join(rows)}</dl><h2>Answers to an image</h2><dl>{''.join(answers)}</dl></html>"
    )
