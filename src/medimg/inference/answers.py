"""How an endpoint answers, and how its client reads that: the same for every server of a model.

| status | body |
|---|---|
| 200 | `Prediction.to_json()` and the `digest` of the model that computed it |
| 400, 403, 413, 415 | `error` and `code`: this image, or the request around it, is refused |
| 401, 500, 503 | `error` |

Needs the standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medimg.errors import EndpointError, ImageRejected

__all__ = ["read_answer", "refusal"]


def refusal(rejection: ImageRejected) -> dict[str, str]:
    """Returns the body that tells a client why its image is refused."""
    return {"error": rejection.message, "code": rejection.code}


def read_answer(status: int, body: bytes, *, endpoint: str = "", retry_after: str | None = None) -> Mapping[str, Any]:
    """Returns what an endpoint answered, for `Prediction.from_json`.

    Args:
        status: The HTTP status. SageMaker reports that of the container as OriginalStatusCode.
        body: The body, whole.
        endpoint: Its name, for the message.
        retry_after: The header of that name, where there is one: seconds.

    Raises:
        ImageRejected: The image was refused.
        EndpointError: Anything else but an answer; it carries the status.
    """
    answer = _object(body)
    if status == 200 and "probabilities" in answer:
        return answer
    found = _refused(answer)
    if found is not None:
        raise ImageRejected(found["code"], "image", found["error"])
    if status == 413:  # said by what stands before the server, in its own words
        raise ImageRejected(
            "too-large", "image", "is larger than the endpoint takes. Make it smaller, or send it as JPEG"
        )
    said = answer.get("error") or answer.get("message") or answer.get("Message") or answer.get("title")
    text = str(said) if said else body[:200].decode(errors="replace")
    raise EndpointError(
        f"the endpoint {endpoint!r} answered {status}: {text}" if endpoint else f"{status}: {text}",
        status=status,
        retry_after=float(retry_after) if retry_after and retry_after.isdecimal() else None,  # or a date: not ours
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refused(answer: Mapping[str, Any]) -> dict[str, str] | None:
    """Returns the refusal in a body, also where AWS's server of SageMaker models has wrapped it.

    It passes a handler's HTTP error on as {"title": …}, and any other exception as {"error": …} with status 500; which
    of both ours becomes depends on its version.
    """
    if isinstance(answer.get("code"), str) and isinstance(answer.get("error"), str):
        return {"code": answer["code"], "error": answer["error"]}
    for name in ("title", "error"):
        if isinstance(answer.get(name), str) and answer[name].startswith("{"):
            inner = _object(answer[name].encode())
            if isinstance(inner.get("code"), str) and isinstance(inner.get("error"), str):
                return {"code": inner["code"], "error": inner["error"]}
    return None
