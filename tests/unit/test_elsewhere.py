"""A server in front of an endpoint somewhere else: what it passes on, and what it says where that fails."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medimg.data.decode import decode
from medimg.errors import AccessError, EndpointError, ImageRejected, MedimgError, NotFoundError, UnreachableError
from medimg.serving.elsewhere import Ask, Elsewhere
from medimg.serving.processes import process
from medimg.serving.processes.workers import Workers
from medimg.serving.refused import Refused
from medimg.serving.web.description import probe, told_by

BINARY = {"label": "ILL", "probabilities": {"ILL": 0.7, "WELL": 0.3}, "threshold": {"ILL": 0.4}, "digest": "d1"}

Outcome = Callable[[Ask, bytes], Mapping[str, Any] | Exception]
Started = Callable[[Ask], tuple[asyncio.Runner, Elsewhere]]


@pytest.fixture(scope="module")
def elsewhere_of() -> Iterator[Started]:
    """Returns the event loop, and a server in front of what asks; they share one worker, which has 0.5 s an image."""

    async def started() -> Workers:
        def launch() -> process.WorkerProcess:
            return process.launch(None, seconds=0.5)

        workers = Workers(launch, launch(), 1, broken.append)
        await workers.start()
        return workers

    broken: list[str] = []
    with asyncio.Runner() as runner:
        workers = runner.run(started())

        async def made(ask: Ask) -> Elsewhere:
            def describe(answer: Mapping[str, Any]) -> Mapping[str, Any]:
                return told_by(answer, name="e", version="lungs/2" if answer["digest"] == "d1" else "")

            return Elsewhere(ask, describe, BINARY, where="cloud endpoint e", workers=workers)

        yield lambda ask: (runner, runner.run(made(ask)))
        runner.run(workers.close())
    assert broken == []


@pytest.fixture
def outcome(elsewhere_of: Started) -> Outcome:
    """Returns the answer to an image, or what was raised."""

    def found(ask: Ask, image: bytes) -> Mapping[str, Any] | Exception:
        runner, elsewhere = elsewhere_of(ask)
        try:
            return runner.run(elsewhere.answer(image)).answer
        except (Refused, ImageRejected) as error:
            return error

    return found


def test_pixels_alone_are_passed_on(outcome: Outcome) -> None:
    """As PNG, whatever came; the version of the registered model goes into the answer."""
    sent: list[bytes] = []

    def ask(image: bytes) -> Mapping[str, Any]:
        sent.append(image)
        return BINARY

    assert outcome(ask, probe()) == {**BINARY, "version": "lungs/2"}
    assert sent[0][:4] == b"\x89PNG"
    np.testing.assert_array_equal(decode(sent[0], name="sent"), decode(probe(), name="probe"))


def test_what_is_no_image_is_refused_here(outcome: Outcome) -> None:
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
    outcome: Outcome, error: MedimgError, status: int, after: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks learns whether to come again; the account's name is for this server's log."""

    def ask(image: bytes) -> Mapping[str, Any]:
        raise error

    refused = outcome(ask, probe())
    assert isinstance(refused, Refused)
    assert (refused.status, refused.headers.get("Retry-After")) == (status, after)
    assert "123456789012" not in refused.message and "cloud endpoint e" in refused.message
    assert "123456789012" in capsys.readouterr().err


def test_an_image_that_the_endpoint_does_not_take_is_the_images_fault(outcome: Outcome) -> None:
    """Whoever sent it can make it smaller; sending it again would not help."""

    def ask(image: bytes) -> Mapping[str, Any]:
        raise EndpointError("account 123456789012 takes 4 MB", status=413)

    refused = outcome(ask, probe())
    assert isinstance(refused, ImageRejected) and refused.code == "too-large"
    assert "Make it smaller" in refused.message and "123456789012" not in refused.message


def test_an_endpoint_that_goes_on_to_another_model_is_described_anew(elsewhere_of: Started) -> None:
    """Its answers do not get the version of the model before, and GET /model follows."""
    other = {**BINARY, "probabilities": {"SICK": 0.7, "WELL": 0.3}, "threshold": {"SICK": 0.4}, "digest": "d2"}
    answers = [BINARY, other, {**other, "version": "lungs/3"}]
    runner, elsewhere = elsewhere_of(lambda _: answers.pop(0))
    versions = [runner.run(elsewhere.answer(probe())).answer["version"] for _ in range(2)]
    assert versions == ["lungs/2", ""]
    told = elsewhere.model()
    assert (told["digest"], told["positive"], told["where"]) == ("d2", "SICK", "cloud endpoint e")
    assert runner.run(elsewhere.answer(probe())).answer["version"] == "lungs/3"


def test_decoding_has_the_bounds_of_a_worker(outcome: Outcome) -> None:
    """A small file of a large picture costs a worker its time, not this process its memory; the next is answered."""
    content = io.BytesIO()
    Image.new("RGB", (7900, 7900)).save(content, "PNG", compress_level=1)
    refused = outcome(lambda _: BINARY, content.getvalue())
    assert isinstance(refused, ImageRejected) and refused.code in ("too-slow", "too-large")
    assert isinstance(outcome(lambda _: BINARY, probe()), Mapping)


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
