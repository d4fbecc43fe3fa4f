"""`Explaining`: a server's explanations, made by a process of its own that is started at the first wish.

That process loads Keras, which takes seconds and hundreds of megabytes, so it ends after some minutes without a wish.
It explains one image at a time; one that hangs or dies is replaced at the next wish.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from medimg.artifact import ModelFolder
from medimg.config import Framework
from medimg.errors import ConfigError, ImageRejected
from medimg.framework import chosen, installed
from medimg.serving.processes.explainer import LENGTH, framed
from medimg.serving.refused import Refused

__all__ = ["Explaining", "Limits"]

_NOT_LOADED = "the model could not be loaded; the server's log says why"
_FRAMEWORKS: tuple[Framework, ...] = ("tensorflow", "jax")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds, and how many may wait.

    Attributes:
        start: From the process' start to its readiness.
        explanation: Of one image.
        idle: Without a wish, after which the process ends.
        waiting: Wishes that may wait for the one that is being explained.
    """

    start: float = 120.0
    explanation: float = 30.0
    idle: float = 600.0
    waiting: int = 4


class Explaining:
    """Explains images of one model, which can be changed. To be used in one event loop.

    Args:
        model: The model that the server answers with.
        limits: Of time and number.
        installed: Tells whether a package can be imported, without importing it.
    """

    def __init__(
        self, model: ModelFolder, *, limits: Limits | None = None, installed: Callable[[str], bool] = installed
    ) -> None:
        self._model = model
        self._limits = limits or Limits()
        self._frameworks = [name for name in _FRAMEWORKS if installed("keras") and installed(name)]
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._wishes = 0
        self._failed = ""  # why this model cannot be explained, once that is known
        self._ending: asyncio.TimerHandle | None = None

    @property
    def why_not(self) -> str:
        """Why nothing can be explained here; "" where it can."""
        if not self._frameworks:
            return (
                "images are explained by Keras on TensorFlow or JAX, which is not installed where this model is "
                "served. Run there: pip install medimg"
            )
        if not (self._model.path / "model.keras").exists():
            return "images are explained by the trained network, and this server was given its exports only"
        return self._failed

    @property
    def available(self) -> bool:
        """Whether images can be explained, as far as is known."""
        return not self.why_not

    @property
    def pid(self) -> int | None:
        """Of the process that explains, while there is one."""
        return self._process.pid if self._process is not None else None

    async def explain(self, image: bytes, target: str | None = None) -> Mapping[str, Any]:
        """Returns what spoke for a class in one image: see `medimg.serving.processes.explainer.to_json`.

        Args:
            image: Encoded.
            target: The class; None: the positive one of a binary task, else the most probable.

        Raises:
            ImageRejected: It cannot be read.
            Refused: 404 where nothing can be explained, 400 for a class that the model has not, 503 with Retry-After
                where too many wait, or where the process did not start, took too long or ended.
        """
        if self.why_not:
            raise Refused(404, f"no explanations: {self.why_not}", code="not-explained")
        classes = self._model.record.classes
        if target is not None and target not in classes:
            message = f"the model has no class {target!r}. Its classes: {', '.join(classes)}"
            raise Refused(400, message, code="unknown-class")
        if self._wishes > self._limits.waiting:
            raise _busy("several explanations are being made. Ask again in some seconds", seconds=5)
        self._wishes += 1
        work = asyncio.create_task(self._explain(image, target))
        work.add_done_callback(self._done)
        # Who asks may go away; an answer that nobody read would be taken for that of the next wish.
        return await asyncio.shield(work)

    def change(self, model: ModelFolder) -> None:
        """Explains another model from now on."""
        self._model, self._failed = model, ""
        self._end()

    async def close(self) -> None:
        """Ends the process, and with it what it is explaining."""
        process = self._process
        self._end()
        if process is not None:
            await process.wait()

    def _done(self, work: asyncio.Task[Mapping[str, Any]]) -> None:
        self._wishes -= 1
        if not work.cancelled():
            work.exception()  # seen, also where nobody waits for it any more

    async def _explain(self, image: bytes, target: str | None) -> Mapping[str, Any]:
        async with self._turn:
            if self._ending is not None:
                self._ending.cancel()
            process = self._process
            # The end of its output is seen before the loop is told that it ended.
            if process is None or process.stdout is None or process.stdout.at_eof():
                process = await self._start()
            answer = await self._asked(
                process, framed({"target": target, "bytes": len(image)}, image), self._limits.explanation
            )
            self._ending = asyncio.get_running_loop().call_later(self._limits.idle, self._end)
        if "rejected" in answer:
            raise ImageRejected(answer["rejected"]["code"], "image", answer["rejected"]["message"])
        if "unexplained" in answer:
            raise Refused(404, f"no explanation: {answer['unexplained']}", code="not-explained")
        found: Mapping[str, Any] = answer["explanation"]
        return found

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "medimg.serving.processes.explainer"]
        return [*command, "--model", str(self._model.path), "--digest", self._model.digest]

    async def _start(self) -> Process:
        model = self._model
        # On a GPU it would take all of the memory, for a tenth of a second's work.
        environment = os.environ | {
            "KERAS_BACKEND": self._preferred(),
            "CUDA_VISIBLE_DEVICES": "-1",
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",  # or it speaks of the GPU that it is not to use
        }
        process = await asyncio.create_subprocess_exec(*self._command(), stdin=PIPE, stdout=PIPE, env=environment)
        self._process = process
        answer = await self._asked(process, b"", self._limits.start)
        if "error" in answer:
            self._end()
            # It names paths of this machine, which are not for those who ask.
            print(f"error: images cannot be explained: {answer['error']}", file=sys.stderr, flush=True)  # noqa: T201
            if model is self._model:
                self._failed = _NOT_LOADED
            raise Refused(404, f"no explanations: {_NOT_LOADED}", code="not-explained")
        if model is not self._model:  # it was changed meanwhile
            self._end(process)
            return await self._start()
        return process

    def _preferred(self) -> Framework:
        """Returns what Keras shall compute with: what is chosen on this machine, where that is here, else what is."""
        try:
            preferred = chosen()
        except ConfigError:  # one that medimg does not train on
            return self._frameworks[0]
        return preferred if preferred in self._frameworks else self._frameworks[0]

    async def _asked(self, process: Process, request: bytes, seconds: float) -> dict[str, Any]:
        """Returns the process' next message; one that does not come in time is the process' end."""
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - they are pipes
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(request)
                await process.stdin.drain()
                length = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))[0]
                answer: dict[str, Any] = json.loads(await process.stdout.readexactly(length))
                return answer
        except TimeoutError:
            self._end(process)
            raise _busy(f"the explanation was not there after {seconds:.0f} s and was given up", seconds=5) from None
        except (OSError, asyncio.IncompleteReadError):
            self._end(process)
            raise _busy("the process that explains has ended. Ask again: another one is started", seconds=1) from None

    def _end(self, process: Process | None = None) -> None:
        """Ends the process that explains, if it still is the one that is meant (None: whichever it is)."""
        ended = process or self._process
        if self._process is ended:
            self._process = None
        if self._ending is not None:
            self._ending.cancel()
        if ended is not None:
            with suppress(ProcessLookupError):
                ended.kill()


def _busy(message: str, *, seconds: int) -> Refused:
    return Refused(503, message, headers={"Retry-After": str(seconds)})
