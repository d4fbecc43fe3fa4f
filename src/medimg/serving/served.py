"""`Served`: the model that a server answers with now, which can be changed while it serves."""

from __future__ import annotations

import json
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

from medimg.artifact import ModelFolder
from medimg.errors import ConfigError, MedimgError
from medimg.home import atomic_write
from medimg.inference.predictor import Predictor

__all__ = ["Choice", "Served"]


@dataclass(frozen=True)
class Choice:
    """The model that a server shall serve.

    Attributes:
        path: Its folder.
        digest: The digest that it must have; None: any.
    """

    path: Path
    digest: str | None

    @classmethod
    def read(cls, file: Path) -> Choice:
        """Returns the choice in a JSON file: {"model": path, "digest": …}.

        Raises:
            ConfigError: There is none in it.
        """
        try:
            found = json.loads(file.read_bytes())
            return cls(Path(found["model"]), str(found["digest"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'{file} does not hold {{"model": path, "digest": …}}: {error}') from None


class Served:
    """Answers with one model until another has proved itself.

    Args:
        choice: The first model.
        model_file: Where `change` finds the next one, see `Choice.read`; None: there is no next one.
        served_file: Is told of every change: {"digest": of the model that answers, "asked": of the one that was
            chosen, "error": why they differ, or null}. None: nothing is told.

    Attributes:
        predictor: The model that answers now. Who answers a request takes it once, so that the digest in the answer is
            that of the model that computed it.
        worst: Its largest difference on the golden inputs.

    Raises:
        MedimgError: The first model cannot be served.
    """

    def __init__(self, choice: Choice, *, model_file: Path | None = None, served_file: Path | None = None) -> None:
        self._model_file = model_file
        self._served_file = served_file
        self._wanted: queue.SimpleQueue[None] = queue.SimpleQueue()  # put() may interrupt itself, which set() may not
        self.predictor, self.worst = _proved(choice)
        self._tell(self.predictor.model.digest, None)

    def want_change(self, *_: object) -> None:
        """Asks for the model in the model file; may be called by a signal. Several calls at once may be one change."""
        self._wanted.put(None)

    def change_when_wanted(self) -> None:
        """Starts a thread that makes each change that is wanted: the old model answers until the new one can."""
        threading.Thread(target=self._changes, name="change", daemon=True).start()

    def _changes(self) -> None:
        while True:
            self._wanted.get()
            while not self._wanted.empty():
                self._wanted.get()
            self.change()

    def change(self) -> None:
        """Loads the model in the model file, checks digest and golden inputs, and then answers with it.

        Where that fails the old model stays, and the served file says why.
        """
        asked = ""
        try:
            if self._model_file is None:
                raise ConfigError("this server was started without --model-file: it serves one model")
            choice = Choice.read(self._model_file)
            asked = choice.digest or ""
            self.predictor, self.worst = _proved(choice)
        except Exception as error:  # whatever it is, the old model serves on and the reason is told
            message = str(error) if isinstance(error, MedimgError) else f"{type(error).__name__}: {error}"
            print(f"error: the model was not changed: {message}", flush=True)  # noqa: T201
            self._tell(asked, message)
        else:
            told = f"golden inputs agree (largest difference {self.worst:.1e}); now serving"
            print(f"{told} {self.predictor.model.digest[:12]}", flush=True)  # noqa: T201
            self._tell(asked, None)

    def _tell(self, asked: str, error: str | None) -> None:
        if self._served_file is not None:
            told = {"digest": self.predictor.model.digest, "asked": asked, "error": error}
            atomic_write(self._served_file, json.dumps(told))


def _proved(choice: Choice) -> tuple[Predictor, float]:
    predictor = Predictor(ModelFolder.load(choice.path, digest=choice.digest))
    return predictor, predictor.check_golden()
