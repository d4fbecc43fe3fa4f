"""A server's explanations: the same as the model's own, by a process that may hang, die or be missing."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medimg.artifact import ModelFolder
from medimg.errors import ImageRejected
from medimg.serving.processes.explaining import Explaining, Limits
from medimg.serving.refused import Refused


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """The event loop of all tests here, as a server has one."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def explaining(runner: asyncio.Runner, trained: ModelFolder) -> Iterator[Explaining]:
    """What explains images of the trained model; its process loads Keras once, at the first wish."""
    made = Explaining(trained)
    yield made
    runner.run(made.close())


@pytest.fixture(scope="module")
def image(phantoms: Path) -> bytes:
    """One encoded test image."""
    return min(phantoms.glob("test/NODULE/*")).read_bytes()


def pixels(text: str) -> np.ndarray:
    """Returns the pixels of a PNG in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_the_map_is_the_models_own(
    runner: asyncio.Runner, explaining: Explaining, trained: ModelFolder, image: bytes
) -> None:
    """As `model.explain` gives it, as 8-bit grey of the network's size, with the picture that it lies on."""
    assert explaining.available
    for target in (None, "CLEAR"):
        found = runner.run(explaining.explain(image, target))
        own = trained.explain(image, target)
        heat = pixels(found["heat"])
        assert (heat.shape, heat.dtype) == (own.map.shape, np.uint8)
        assert np.abs(heat / 255 - own.map).max() < 0.01
        assert np.array_equal(pixels(found["picture"]), own.image)
        assert (found["class"], found["digest"]) == (own.target, trained.digest)
        assert found["probability"] == pytest.approx(own.prediction.probabilities[own.target], abs=1e-5)
        assert own.target in found["message"]


def test_an_unknown_class_is_refused_with_those_there_are(
    runner: asyncio.Runner, explaining: Explaining, trained: ModelFolder, image: bytes
) -> None:
    """Whoever asks knows what to ask for then."""
    with pytest.raises(Refused) as refused:
        runner.run(explaining.explain(image, "NODULES"))
    assert (refused.value.status, refused.value.code) == (400, "unknown-class")
    assert all(name in str(refused.value) for name in trained.record.classes)


def test_what_is_no_image_is_rejected_and_the_process_lives_on(
    runner: asyncio.Runner, explaining: Explaining, image: bytes
) -> None:
    """With the decoder's code, as for a prediction."""
    with pytest.raises(ImageRejected) as rejected:
        runner.run(explaining.explain(b"hello"))
    assert (rejected.value.code, rejected.value.name) == ("not-an-image", "image")
    before = explaining.pid
    runner.run(explaining.explain(image))
    assert explaining.pid == before


def test_who_goes_away_does_not_leave_the_answer_to_the_next(
    runner: asyncio.Runner, explaining: Explaining, image: bytes
) -> None:
    """The wish of a client that closed its connection is cancelled; the next gets its own class."""

    async def ask() -> Any:
        first = asyncio.ensure_future(explaining.explain(image, "CLEAR"))
        await asyncio.sleep(0)
        first.cancel()
        return await explaining.explain(image, "NODULE")

    assert runner.run(ask())["class"] == "NODULE"


def test_too_many_at_once_are_told_to_come_back(runner: asyncio.Runner, explaining: Explaining, image: bytes) -> None:
    """One is explained, four wait, and the sixth is refused at once."""

    async def ask() -> list[Any]:
        return await asyncio.gather(*(explaining.explain(image) for _ in range(6)), return_exceptions=True)

    *explained, refused = runner.run(ask())
    assert all(one["class"] == "NODULE" for one in explained)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.headers) == (503, {"Retry-After": "5"})


def test_where_keras_is_missing_nothing_is_explained(
    runner: asyncio.Runner, trained: ModelFolder, image: bytes
) -> None:
    """The page hides it, and who asks all the same is told why. Neither framework, or no Keras on it."""
    for here in (set(), {"keras"}, {"tensorflow", "jax"}):
        without = Explaining(trained, installed=here.__contains__)
        assert not without.available
        with pytest.raises(Refused, match="Keras on TensorFlow or JAX, which is not installed") as refused:
            runner.run(without.explain(image))
        assert (refused.value.status, without.pid) == (404, None)
    assert Explaining(trained, installed={"keras", "jax"}.__contains__).available


class Standing(Explaining):
    """Explanations whose process is a stand-in: a line of Python."""

    line = ""

    def _command(self) -> list[str]:
        return [sys.executable, "-c", self.line]


READY = "import sys, time; sys.stdout.buffer.write(b'\\0\\0\\0\\2{}'); sys.stdout.flush()"


ANSWER = b'{"explanation": {"class": "NODULE"}}'
ANSWERS = f"{READY}; sys.stdout.buffer.write({bytes([0, 0, 0, len(ANSWER)]) + ANSWER!r}); sys.stdout.flush()"
ANSWERS += "; sys.stdin.read()"


def test_a_killed_process_is_replaced(runner: asyncio.Runner, trained: ModelFolder, image: bytes) -> None:
    """The wish in hand is refused with Retry-After; the next is answered by another process."""
    replaced = Standing(trained)
    replaced.line = f"{READY}; time.sleep(60)"

    async def ask() -> None:
        wish = asyncio.ensure_future(replaced.explain(image))
        while replaced.pid is None:
            await asyncio.sleep(0.01)
        killed = replaced.pid
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(Refused, match="has ended") as refused:
            await wish
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        replaced.line = ANSWERS
        assert await replaced.explain(image) == {"class": "NODULE"}
        assert replaced.pid not in (None, killed)
        os.kill(replaced.pid, signal.SIGKILL)  # while nobody asks: nobody notices
        await asyncio.sleep(0.1)
        assert await replaced.explain(image) == {"class": "NODULE"}
        await replaced.close()

    runner.run(ask())


def test_one_that_hangs_is_given_up(runner: asyncio.Runner, trained: ModelFolder, image: bytes) -> None:
    """After its time the process is ended and the wish refused; so is one that never becomes ready."""
    for line, limits in (
        (f"{READY}; time.sleep(60)", Limits(explanation=0.2)),
        ("import time; time.sleep(60)", Limits(start=0.2)),
    ):
        hanging = Standing(trained, limits=limits)
        hanging.line = line
        with pytest.raises(Refused, match="given up") as refused:
            runner.run(hanging.explain(image))
        assert (refused.value.status, hanging.pid) == (503, None)
        runner.run(hanging.close())


def test_a_model_that_cannot_be_explained_is_not_tried_again(
    runner: asyncio.Runner, trained: ModelFolder, image: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """The page hides it from then on, until the model changes; the log says why, in words that may name a path."""
    message = b'{"error": "/srv/models/a is damaged"}'
    without = Standing(trained)
    without.line = f"import sys; sys.stdout.buffer.write({bytes([0, 0, 0, len(message)]) + message!r})"
    for _ in range(2):
        with pytest.raises(Refused, match="could not be loaded") as refused:
            runner.run(without.explain(image))
        assert refused.value.status == 404 and "/srv" not in str(refused.value)
        assert not without.available
    assert capfd.readouterr().err.count("/srv/models/a is damaged") == 1
    without.change(trained)
    assert without.available
    runner.run(without.close())


def test_it_ends_where_nobody_asks(runner: asyncio.Runner, trained: ModelFolder, image: bytes) -> None:
    """Keras' memory is given back, and the next wish starts another process."""
    idle = Standing(trained, limits=Limits(idle=0.1))
    idle.line = ANSWERS

    async def ask() -> None:
        assert await idle.explain(image) == {"class": "NODULE"}
        assert idle.pid is not None
        await asyncio.sleep(0.3)
        assert idle.pid is None
        assert await idle.explain(image) == {"class": "NODULE"}
        await idle.close()

    runner.run(ask())
