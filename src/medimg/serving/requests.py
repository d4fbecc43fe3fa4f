"""From the body of an HTTP request to the bytes of one image. Needs the standard library only.

A body is

- the encoded image itself, whatever the content type says: its signature decides;
- `multipart/form-data`, as of a page's form: the first file in it;
- `application/json`: {"image": "<base64>"}, a data URL in its place, or {"url": "https://…"} where that is switched on.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from medimg.errors import ImageRejected

__all__ = ["MAX_BODY", "Fetch", "RequestRefused", "image_of", "too_large"]

MAX_BODY = 64 * 1024 * 1024  # bytes of one encoded image: lossless, so more than its JPEG had

Fetch = Callable[[str, int], bytes]
"""From an image's URL and the largest number of bytes to its bytes; raises `RequestRefused`."""

_MAX_PARTS = 32
_MAX_HEADER_BYTES = 8 * 1024
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_DATA_URL = re.compile(r"data:[^,;]{0,100}(;[^,;]{0,100}){0,4};base64,", re.IGNORECASE)


class RequestRefused(ImageRejected):
    """A request out of which no image can be had.

    Attributes:
        status: The HTTP status that says so: 400 (it cannot be read), 403 (not allowed) or 413 (too large).
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code, "image", message)
        self.status = status


def too_large(limit: int) -> RequestRefused:
    """Returns the refusal of an image that has more bytes than `limit`."""
    size = f"{limit / 2**20:.3g} MB" if limit >= 2**20 else f"{limit:,} bytes"
    return RequestRefused(413, "too-large", f"is larger than {size}. Make it smaller, or send it as JPEG")


def image_of(content_type: str, body: bytes, *, max_bytes: int = MAX_BODY, fetch: Fetch | None = None) -> bytes:
    """Returns the bytes of the image that a request brings; whether they are one is for the decoder to say.

    Args:
        content_type: The header's value; "" where there is none.
        body: The body, whole.
        max_bytes: Of the image.
        fetch: Gets an image by its URL; None: requests may not name URLs.

    Raises:
        RequestRefused: There is no image, or one that may not be.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        image = _from_form(content_type, body)
    elif kind == "application/json" and body.lstrip(b" \t\r\n")[:1] == b"{":
        # Clients that send a picture without its content type are told to have sent JSON.
        image = _from_json(body, max_bytes, fetch)
    else:
        image = body
    if len(image) > max_bytes:
        raise too_large(max_bytes)
    return image


# -- JSON -------------------------------------------------------------------------------------------------------------


def _from_json(body: bytes, max_bytes: int, fetch: Fetch | None) -> bytes:
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"is not in valid JSON ({type(error).__name__})") from None
    given = [name for name in ("image", "url") if name in fields]
    if len(given) != 1 or not isinstance(fields[given[0]], str):
        raise _malformed('is not in the JSON. Send {"image": "<base64>"} or {"url": "https://…"}')
    if given == ["image"]:
        return _from_base64(fields["image"], max_bytes)
    if fetch is None:
        raise RequestRefused(
            403, "url-refused", "is given by its URL, which this endpoint does not fetch. Deploy it with url_hosts=[…]"
        )
    return fetch(fields["url"], max_bytes)


def _from_base64(text: str, max_bytes: int) -> bytes:
    if text[:5].lower() == "data:":
        found = _DATA_URL.match(text)
        if found is None:
            raise _malformed("is a data URL without base64. Send data:image/png;base64,…")
        text = text[found.end() :]
    # A line break after every 76 characters is common; the longest text that still fits has no more than that.
    if len(text) > (max_bytes + 2) // 3 * 4 * 78 // 76 + 2:
        raise too_large(max_bytes)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("is not valid base64. Encode the file's bytes, with padding") from None


# -- forms ------------------------------------------------------------------------------------------------------------


def _from_form(content_type: str, body: bytes) -> bytes:
    header = Message()
    try:
        header["content-type"] = content_type
        boundary = header.get_boundary("")
    except (ValueError, LookupError):
        boundary = ""
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed("is in a form without a valid boundary in its Content-Type")
    mark = b"--" + boundary.encode("ascii")
    # The delimiter is preceded by a line's end, which the first may lack.
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if at == 1:
        raise _malformed("is in a form whose boundary never comes")
    for _ in range(_MAX_PARTS):
        start = at + len(mark)
        if body.startswith(b"--", start):
            raise _malformed("is missing: the form holds no file")
        line_end = body.find(b"\r\n", start, start + 80)  # blanks may follow a boundary
        if line_end < 0 or body[start:line_end].strip(b" \t"):
            raise _malformed("is in a form that is cut off or broken")
        end = body.find(b"\r\n" + mark, line_end)
        if end < 0:
            raise _malformed("is in a form that ends too early. Send it again")
        content = _file_in(body, line_end + 2, end)
        if content is not None:
            return content
        at = end + 2
    raise _malformed(f"is not among the first {_MAX_PARTS} parts of the form")


def _file_in(body: bytes, start: int, end: int) -> bytes | None:
    """Returns the content of the part between two places of a form where it is a file, else None."""
    stop = body.find(b"\r\n\r\n", start, min(end, start + _MAX_HEADER_BYTES))
    if stop < 0:
        raise _malformed(f"is in a form's part without an end of its headers in {_MAX_HEADER_BYTES:,} bytes")
    try:
        headers = BytesHeaderParser().parsebytes(body[start : stop + 4])
        disposition, name = headers.get_content_disposition(), headers.get_filename()
    except (ValueError, LookupError, IndexError, TypeError, AttributeError):  # the parser's own, on hostile headers
        raise _malformed("is in a form's part whose headers cannot be read") from None
    return body[stop + 4 : end] if disposition == "form-data" and name is not None else None


def _malformed(message: str) -> RequestRefused:
    return RequestRefused(400, "bad-request", message)
