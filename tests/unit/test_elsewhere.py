"""A server in front of an endpoint somewhere else: what it passes on, and what it says where that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from medimg.data.decode import decode
from medimg.errors import AccessError, EndpointError, ImageRejected, MedimgError, NotFoundError, UnreachableError
from medimg.serving.description import probe, told_by
from medimg.serving.elsewhere import Ask, Elsewhere
from medimg.serving.refused import Refused

BINARY = {"label": "ILL", "probabilities": {"ILL": 0.7, "WELL": 0.3}, "threshold": {"ILL": 0.4}, "digest": "d1"}


def outcome(ask: Ask, image: bytes) -> Mapping[str, Any] | Exception:
    """Returns the answer to an image, or what was raised."""

    async def work() -> Mapping[str, Any] | Exception:
        elsewhere = Elsewhere(ask, told_by(BINARY, name="e", version="lungs/2"), where="cloud endpoint e")
        try:
            return (await elsewhere.answer(image)).answer
        except (Refused, ImageRejected) as error:
            return error
        finally:
            await elsewhere.close()

    return asyncio.run(work())


def test_pixels_alone_are_passed_on() -> None:
    """As PNG, whatever came; the version of the registered model goes into the answer."""
    sent: list[bytes] = []

    def ask(image: bytes) -> Mapping[str, Any]:
        sent.append(image)
        return BINARY

    assert outcome(ask, probe()) == {**BINARY, "version": "lungs/2"}
    assert sent[0][:4] == b"\x89PNG"
    np.testing.assert_array_equal(decode(sent[0], name="sent"), decode(probe(), name="probe"))


def test_what_is_no_image_is_refused_here() -> None:
    """The endpoint is never asked."""

    def never(image: bytes) -> Mapping[str, Any]:
        raise AssertionError

    refused = outcome(never, b"hello")
    assert isinstance(refused, ImageRejected) and refused.code == "not-an-image"


@pytest.mark.parametrize(
    ("error", "status", "after"),
    [
        (UnreachableError("account 123456789012 timed out"), 503, "5"),
        (EndpointError("account 123456789012 is slow", status=503, retry_after=6.2), 503, "7"),
        (EndpointError("account 123456789012", status=429), 503, "5"),
        (EndpointError("account 123456789012 failed", status=500), 502, None),
        (AccessError("account 123456789012 lacks sagemaker:InvokeEndpoint"), 502, None),
        (NotFoundError("account 123456789012 has none"), 502, None),
    ],
)
def test_a_failure_is_told_without_the_clouds_words(
    error: MedimgError, status: int, after: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks learns whether to come again; the account's name is for this server's log."""

    def ask(image: bytes) -> Mapping[str, Any]:
        raise error

    refused = outcome(ask, probe())
    assert isinstance(refused, Refused)
    assert (refused.status, refused.headers.get("Retry-After")) == (status, after)
    assert "123456789012" not in refused.message and "cloud endpoint e" in refused.message
    assert "123456789012" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("probabilities", "threshold", "task", "positive"),
    [
        ({"A": 0.7, "B": 0.3}, {"A": 0.4}, "binary", "A"),
        ({"A": 0.7, "B": 0.3}, {"A": 0.4, "B": 0.5}, "multilabel", None),
        ({"A": 0.7, "B": 0.2, "C": 0.1}, {}, "multiclass", None),
    ],
)
def test_an_answer_tells_what_kind_of_model_it_is(
    probabilities: dict[str, float], threshold: dict[str, float], task: str, positive: str | None
) -> None:
    """By its classes and thresholds, which every answer carries."""
    told = told_by({"probabilities": probabilities, "threshold": threshold}, name="e")
    assert (told["task"], told["positive"], told["classes"]) == (task, positive, list(probabilities))
