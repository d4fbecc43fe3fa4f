"""What the suite is told of a backend, the place it works in, and the way into another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from medimg.config import ServeConfig, TrainConfig
from medimg.data.dataset import Dataset

if TYPE_CHECKING:
    from medimg.backends.base import Backend
    from medimg.backends.job import Job

__all__ = ["RESULT", "Elsewhere", "Flags", "Workspace", "phantom_dataset", "recipe", "until"]

RESULT = "result: "  # begins the line with which another process answers

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What differs between backends, so that one suite fits all.

    Attributes:
        state_in_home: Whether the backend keeps its state under `MEDIMG_HOME`. False: another process with an empty
            home must find everything, and is given one.
        unsupported: Name of a test to the error that the backend raises there: not yet. A test that passes all the
            same fails the suite, so that a flag cannot outlive its reason.
        skips: Name of a test to the reason why it can never apply.
        seconds: The longest that one step may take: a training of a few seconds on 72 small images, or a cancellation.
        poll_seconds: Between two questions to the backend.
        ttl_seconds: The shortest life of an endpoint, longer than its start takes.
        serve: How endpoints are served.
        submits: Identical submits at the same moment.
    """

    state_in_home: bool = True
    unsupported: Mapping[str, type[Exception]] = field(default_factory=dict)
    skips: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 300.0
    poll_seconds: float = 0.1
    ttl_seconds: float = 15.0
    serve: ServeConfig = field(default_factory=ServeConfig)
    submits: int = 8


@dataclass(frozen=True)
class Workspace:
    """A place where nothing is yet: one account of the backend and one `MEDIMG_HOME`.

    Attributes:
        factory: "module:callable" that makes the backend.
        options: Its keywords.
        variables: The environment's variables, `MEDIMG_HOME` among them.
        flags: What differs from other backends.
    """

    factory: str
    options: Mapping[str, Any]
    variables: Mapping[str, str]
    flags: Flags

    @property
    def home(self) -> Path:
        """The `MEDIMG_HOME` of this process."""
        return Path(self.variables["MEDIMG_HOME"])

    def backend(self) -> Backend:
        """Returns a new backend, which has nothing in memory from those before it."""
        made: Backend = resolve_name(self.factory)(**self.options)
        return made

    def forget(self) -> None:
        """Removes the local copies of fetched results and models, so that the next use fetches them."""
        shutil.rmtree(self.home / "fetched", ignore_errors=True)

    def start(self, task: str, **arguments: Any) -> Elsewhere:
        """Starts a function of `medimg.testing.elsewhere` in another process."""
        given = {"factory": self.factory, "options": self.options, "task": task, "arguments": arguments}
        return Elsewhere(json.dumps(given), None if self.flags.state_in_home else self.home.parent)

    def elsewhere(self, task: str, **arguments: Any) -> Any:
        """Returns what a function of `medimg.testing.elsewhere` returns in another process."""
        with self.start(task, **arguments) as process:
            return process.result(self.flags.seconds)


class Elsewhere(AbstractContextManager["Elsewhere"]):
    """A function that runs in another process.

    Args:
        given: What to run, as JSON.
        homes: Where to make a new empty `MEDIMG_HOME` for it; None: it shares ours.
    """

    def __init__(self, given: str, homes: Path | None) -> None:
        environment = dict(os.environ)
        if homes is not None:
            environment["MEDIMG_HOME"] = tempfile.mkdtemp(prefix="home-", dir=homes)
        command = [sys.executable, "-m", "medimg.testing.elsewhere", given]
        self._process = subprocess.Popen(
            command, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def result(self, seconds: float) -> Any:
        """Waits for it and returns its answer.

        Raises:
            AssertionError: It failed; the message holds its output.
        """
        output, errors = self._process.communicate(timeout=seconds)
        answers = [line for line in output.splitlines() if line.startswith(RESULT)]
        assert self._process.returncode == 0 and answers, f"the other process failed:\n{output}\n{errors}"
        return json.loads(answers[-1].removeprefix(RESULT))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def phantom_dataset(root: str | Path) -> Dataset:
    """Returns the dataset in a folder that `write_phantoms` wrote."""
    return Dataset.from_folder(root, group=r"(patient\d+)")


def recipe(*, epochs: int = 6, seed: int = 0, image_size: int = 32) -> TrainConfig:
    """Returns a training that takes a second or two where it has started, and whose result depends on `seed`."""
    return TrainConfig(
        model="small_cnn", weights=None, image_size=image_size, epochs=epochs, batch_size=16, learning_rate=0.003,
        augment=False, early_stopping=None, cases=0, seed=seed,
    )  # fmt: skip


def until(answer: Callable[[], T], flags: Flags, *, seconds: float | None = None) -> T:
    """Asks again and again until the answer is true or the time is up, and returns the last answer."""
    deadline = time.monotonic() + (flags.seconds if seconds is None else seconds)
    while True:
        found = answer()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(flags.poll_seconds)


def has_ended(job: Job) -> bool:
    """Tells whether a job is neither queued nor running."""
    return job.status not in ("queued", "running")
