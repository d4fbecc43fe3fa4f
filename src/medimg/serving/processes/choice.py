"""`Choice`: which model a server shall serve. Needs the standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from medimg.errors import ConfigError
from medimg.serving.processes.process import SECONDS, WorkerProcess, launch

__all__ = ["Choice"]


@dataclass(frozen=True)
class Choice:
    """The model that a server shall serve.

    Attributes:
        path: Its folder.
        digest: The digest that it must have; None: any.
        version: Of the registered model, such as "chest/2"; "" where it is not known.
    """

    path: Path
    digest: str | None
    version: str = ""

    @classmethod
    def read(cls, file: Path) -> Choice:
        """Returns the choice in a JSON file: {"model": path, "digest": …, "version": …}; the last may be missing.

        Raises:
            ConfigError: There is none in it.
        """
        try:
            found = json.loads(file.read_bytes())
            return cls(Path(found["model"]), str(found["digest"]), str(found.get("version", "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f'{file} does not hold {{"model": path, "digest": …}}: {error}') from None

    def launch(self, runtime: str = "", seconds: float = SECONDS) -> WorkerProcess:
        """Starts a worker of this model; its arguments are those of `medimg.serving.processes.process.launch`."""
        return launch(self.path, self.digest, version=self.version, runtime=runtime, seconds=seconds)

    def computes_on_one_core(self, runtime: str) -> bool:
        """Returns whether a worker of this model needs no more than one core: not Keras, which takes all there are."""
        if runtime:
            return runtime != "keras"
        try:
            return "litert" in json.loads((self.path / "medimg.json").read_bytes())["runtimes"]
        except (OSError, ValueError, KeyError, TypeError):
            return False  # a worker will say what is wrong with it
