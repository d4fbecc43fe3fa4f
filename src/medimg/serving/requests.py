"""From the body of an HTTP request to the bytes of its images. Needs the standard library only.

A body is

- the encoded image itself, whatever the content type says: its signature decides;
- `multipart/form-data`, as of a page's form: the files in it, one or several;
- `application/json`: {"image": "<base64>"}, a data URL in its place, {"images": [several of them]}, or
  {"url": "https://…"} where that is switched on.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from medimg.errors import ImageRejected

__all__ = ["MAX_BODY", "MAX_IMAGES", "Fetch", "Images", "RequestRefused", "images_of", "too_large"]

# Bytes of a request. A mammogram of 16 bits is 25 MB as it comes from the machine, and clients send pictures without
# loss: 10 MB, a usual limit, would refuse what is here to be answered.
MAX_BODY = 64 * 1024 * 1024
MAX_IMAGES = 32  # in one request

Fetch = Callable[[str, int], bytes]
"""From an image's URL and the largest number of bytes to its bytes; raises `RequestRefused`."""

_MAX_PARTS = 2 * MAX_IMAGES  # of a form: a page may send fields besides
_MAX_JSON_PARTS = 1000  # `MAX_IMAGES` data URLs have a hundred
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


@dataclass(frozen=True, slots=True)
class Images:
    """What a request brings.

    Attributes:
        contents: The encoded images, one at least.
        several: Whether the answer is a list: the request is in a form for several images, or has more than one.
    """

    contents: tuple[bytes, ...]
    several: bool = False


def too_large(limit: int) -> RequestRefused:
    """Returns the refusal of an image that has more bytes than `limit`."""
    size = f"{limit / 2**20:.3g} MB" if limit >= 2**20 else f"{limit:,} bytes"
    return RequestRefused(413, "too-large", f"is larger than {size}. Make it smaller, or send it as JPEG")


def images_of(content_type: str, body: bytes, *, max_bytes: int = MAX_BODY, fetch: Fetch | None = None) -> Images:
    """Returns the images that a request brings; whether they are some is for the decoder to say.

    Args:
        content_type: The header's value; "" where there is none.
        body: The body, whole.
        max_bytes: Of one image.
        fetch: Gets an image by its URL; None: requests may not name URLs.

    Raises:
        RequestRefused: There is no image, one that may not be, or more than `MAX_IMAGES`.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = _from_form(content_type, body)
    elif kind == "application/json" and body.lstrip(b" \t\r\n")[:1] == b"{":
        # Clients that send a picture without its content type are told to have sent JSON.
        found = _from_json(body, max_bytes, fetch)
    elif body[:64].lstrip(b" \t\r\n")[:1] == b"{" and body[128:132] != b"DICM":
        # curl says that it sends a form, unless it is told.
        raise _malformed(
            "seems to be in JSON, which the request does not say. Add the header Content-Type: application/json"
        )
    else:
        found = Images((body,))
    if any(len(image) > max_bytes for image in found.contents):
        raise too_large(max_bytes)
    return found


# -- JSON -------------------------------------------------------------------------------------------------------------


def _from_json(body: bytes, max_bytes: int, fetch: Fetch | None) -> Images:
    # Base64 has none of these. Millions of small values would take a gigabyte, and stop the whole process meanwhile.
    if sum(body.count(mark) for mark in (b"{", b"[", b",")) > _MAX_JSON_PARTS:
        raise _malformed(f"is in JSON of more than {_MAX_JSON_PARTS:,} parts")
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"is not in valid JSON ({type(error).__name__})") from None
    given = [name for name in ("image", "images", "url") if name in fields]
    content = fields[given[0]] if len(given) == 1 else None
    if given == ["images"] and isinstance(content, list) and content and all(isinstance(text, str) for text in content):
        _check_count(len(content))
        return Images(tuple(_from_base64(text, max_bytes) for text in content), several=True)
    if given == ["images"] or not isinstance(content, str):
        raise _malformed(
            'is not in the JSON. Send {"image": "<base64>"}, {"images": ["<base64>", …]} or {"url": "https://…"}'
        )
    if given == ["image"]:
        return Images((_from_base64(content, max_bytes),))
    if fetch is None:
        raise RequestRefused(
            403, "url-refused", "is given by its URL, which this endpoint does not fetch. Deploy it with url_hosts=[…]"
        )
    return Images((fetch(content, max_bytes),))


def _check_count(count: int) -> None:
    if count > MAX_IMAGES:
        raise RequestRefused(
            413, "too-many-images", f"is one of {count}; a request brings at most {MAX_IMAGES}. Send several requests"
        )


def _from_base64(text: str, max_bytes: int) -> bytes:
    if text[:5].lower() == "data:":
        found = _DATA_URL.match(text)
        if found is None:
            raise _malformed("is a data URL without base64. Send data:image/png;base64,…")
        text = text[found.end() :]
    if not text.isascii():  # four bytes a character, in each copy
        raise _malformed("is not valid base64. Encode the file's bytes, with padding")
    # A line break after every 76 characters is common; the longest text that still fits has no more than that.
    if len(text) > (max_bytes + 2) // 3 * 4 * 78 // 76 + 2:
        raise too_large(max_bytes)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("is not valid base64. Encode the file's bytes, with padding") from None


# -- forms ------------------------------------------------------------------------------------------------------------


def _from_form(content_type: str, body: bytes) -> Images:
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
    found: list[bytes] = []
    for _ in range(_MAX_PARTS):
        start = at + len(mark)
        if body.startswith(b"--", start):
            if not found:
                raise _malformed("is missing: the form holds no file")
            _check_count(len(found))
            return Images(tuple(found), several=len(found) > 1)
        line_end = body.find(b"\r\n", start, start + 80)  # blanks may follow a boundary
        if line_end < 0 or body[start:line_end].strip(b" \t"):
            raise _malformed("is in a form that is cut off or broken")
        end = body.find(b"\r\n" + mark, line_end)
        if end < 0:
            raise _malformed("is in a form that ends too early. Send it again")
        content = _file_in(body, line_end + 2, end)
        if content is not None:
            found.append(content)
        at = end + 2
    _check_count(len(found))
    raise _malformed(f"is in a form of more than {_MAX_PARTS} parts")


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
