"""`Served`: the model that a server answers with now, in processes of its own; it can be changed while it serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from medimg.artifact import ModelFolder
from medimg.errors import ConfigError, MedimgError
from medimg.home import atomic_write
from medimg.serving.answering import Answered
from medimg.serving.processes import process
from medimg.serving.processes.choice import Choice
from medimg.serving.processes.process import WorkerProcess
from medimg.serving.processes.workers import Workers, refusal_in
from medimg.serving.web.description import described

__all__ = ["Served"]


class Served:
    """Answers with one model until another has proved itself. To be used in one event loop.

    Args:
        choice: The first model.
        first: Its first worker, which was started already.
        count: Workers of each model.
        launch: Starts a worker of a model.
        model_file: Where `change` finds the next one, see `Choice.read`; None: there is no next one.
        served_file: Is told of every change: {"digest": and "version": of the model that answers, "asked": the digest
            of the one that was chosen, "error": why they differ, or null}. None: nothing is told.
        on_broken: Is told why no worker of the model that answers can be started any more.

    Attributes:
        folder: The model that answers now.
        version: Of the registered model.
        worst: Its largest difference on the golden inputs.
        on_change: Called with each model that begins to answer after the first.
    """

    folder: ModelFolder
    _described: Mapping[str, Any]

    def __init__(
        self,
        choice: Choice,
        first: WorkerProcess,
        count: int,
        *,
        launch: Callable[[Choice], WorkerProcess] = Choice.launch,
        model_file: Path | None = None,
        served_file: Path | None = None,
        on_broken: Callable[[str], None],
    ) -> None:
        self.version = choice.version
        self.worst = 0.0
        self.on_change: list[Callable[[ModelFolder], None]] = []
        self._choice = choice
        self._count = count
        self._launch = launch
        self._model_file = model_file
        self._served_file = served_file
        self._on_broken = on_broken
        self._workers = self._workers_of(choice, first)
        self._restarts = 0  # of workers of earlier models
        self._wanted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # -- answering ----------------------------------------------------------------------------------------------------

    async def answer(self, image: bytes) -> Answered:
        """Returns the answer to one image.

        Raises:
            ImageRejected: It cannot be read.
            Refused: Its worker ended: 503 with Retry-After.
        """
        kind, body = await self._workers.ask(process.PREDICT, image)
        if kind != process.ANSWER:
            raise refusal_in(kind, body)
        answer, statistics = json.loads(body)
        return Answered(answer, statistics)

    async def picture(self, image: bytes) -> bytes:
        """Returns one image as a PNG that a browser can draw; raises as `answer` does."""
        kind, body = await self._workers.ask(process.PICTURE, image)
        if kind != process.PICTURE:
            raise refusal_in(kind, body)
        return body

    def model(self) -> Mapping[str, Any]:
        """Returns what GET /model tells of the model."""
        return self._described

    def ready(self) -> bool:
        """Returns whether an image would be answered now."""
        return not self._closing and self._workers.alive > 0

    @property
    def alive(self) -> int:
        """Workers that would take an image."""
        return self._workers.alive

    @property
    def waiting(self) -> int:
        """Images that no worker has begun with."""
        return self._workers.waiting

    @property
    def restarts(self) -> int:
        """Workers that were started in place of one that ended."""
        return self._restarts + self._workers.restarts

    # -- beginning and end --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Waits until the first model answers as it was trained.

        Raises:
            MedimgError: It cannot be served; its workers are ended.
        """
        loading = asyncio.create_task(
            asyncio.to_thread(ModelFolder.load, self._choice.path, digest=self._choice.digest)
        )
        try:
            self.worst = await self._workers.start()
        except BaseException:
            loading.cancel()
            raise
        self.folder = await loading
        self._described = described(self.folder, self.version)
        self._tell(self.folder.digest, None)
        self._keep(self._changes())

    async def close(self) -> None:
        """Answers what was asked, then ends the workers."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._workers.close()

    # -- another model ------------------------------------------------------------------------------------------------

    def want_change(self) -> None:
        """Asks for the model in the model file; several calls at once may be one change."""
        self._wanted.set()

    async def change(self) -> None:
        """Starts workers of the model in the model file, and answers with them when they have proved it.

        Where that fails the old model stays, and the served file says why.
        """
        asked = ""
        try:
            if self._model_file is None:
                raise ConfigError("this server was started without --model-file: it serves one model")
            choice = Choice.read(self._model_file)
            asked = choice.digest or ""
            workers = self._workers_of(choice, self._launch(choice))
            worst = await workers.start()
            try:
                await workers.all_ready()
                folder = await asyncio.to_thread(ModelFolder.load, choice.path, digest=choice.digest)
            except BaseException:
                await workers.close(drain=False)
                raise
        except Exception as error:  # whatever it is, the old model serves on and the reason is told
            message = str(error) if isinstance(error, MedimgError) else f"{type(error).__name__}: {error}"
            print(f"error: the model was not changed: {message}", flush=True)  # noqa: T201
            self._tell(asked, message)
            return
        old, self._workers = self._workers, workers
        self._restarts += old.restarts
        self.folder, self.version, self.worst = folder, choice.version, worst
        self._described = described(folder, choice.version)
        for told in self.on_change:
            told(folder)
        print(f"golden inputs agree (largest difference {worst:.1e}); now serving {folder.digest[:12]}", flush=True)  # noqa: T201
        self._tell(asked, None)
        self._keep(old.close())  # when it has answered what it was asked

    async def _changes(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.change()

    def _workers_of(self, choice: Choice, first: WorkerProcess) -> Workers:
        def on_broken(why: str) -> None:
            if workers is self._workers:  # else the model before, or after it, answers
                self._on_broken(why)

        workers = Workers(partial(self._launch, choice), first, self._count, on_broken)
        return workers

    def _keep(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, asked: str, error: str | None) -> None:
        if self._served_file is not None:
            told = {"digest": self.folder.digest, "version": self.version, "asked": asked, "error": error}
            atomic_write(self._served_file, json.dumps(told))
