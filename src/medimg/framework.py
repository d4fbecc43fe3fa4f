"""What Keras computes with, TensorFlow or JAX: found out without importing either, and chosen before Keras is."""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import get_args

from medimg.config import Framework
from medimg.errors import ConfigError

__all__ = ["chosen", "found_here", "installed", "load", "use"]

# Keras and TensorFlow import them for what they offer beside: wrappers, a gallery, a conversion, tables as data.
_BESIDE = ("IPython", "jax", "matplotlib", "pandas", "sklearn")


def chosen() -> Framework:
    """Returns what Keras is to compute with on this machine: `KERAS_BACKEND`, else `keras.json`, else TensorFlow.

    Raises:
        ConfigError: medimg does not train on it.
    """
    name = os.environ.get("KERAS_BACKEND") or _in_keras_json() or "tensorflow"
    known: dict[str, Framework] = {framework: framework for framework in get_args(Framework)}
    if name not in known:
        raise ConfigError(
            f"Keras computes with {name!r} here (KERAS_BACKEND, or keras.json), which medimg does not train on. "
            "Run: export KERAS_BACKEND=tensorflow, or export KERAS_BACKEND=jax"
        )
    return known[name]


def found_here() -> Framework:
    """Returns the same, where it can be used.

    Raises:
        ConfigError: medimg does not train on it, or it is not installed.
    """
    name = chosen()
    if not installed(name):
        others = [
            f", or use what is: export KERAS_BACKEND={other}" for other in get_args(Framework) if installed(other)
        ]
        raise ConfigError(
            f"Keras computes with {name} here, which is not installed. Run: pip install {name}{''.join(others)}"
        )
    return name


def _in_keras_json() -> str:
    home = os.environ.get("KERAS_HOME")
    folder = Path(home).expanduser() if home else Path.home() / ".keras"
    try:
        return str(json.loads((folder / "keras.json").read_text()).get("backend", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def installed(package: str) -> bool:
    """Tells whether a package is installed, also in a process that is kept from importing it; imports nothing."""
    return PathFinder.find_spec(package) is not None


def use(framework: Framework) -> None:
    """Has Keras compute with a framework in this process; to be called before Keras is imported.

    On JAX TensorFlow is kept out, even where it is installed: Keras would import it only to seed its random numbers
    and to look for its types, which takes seconds and hundreds of MB.
    """
    os.environ["KERAS_BACKEND"] = framework
    if framework != "tensorflow":
        sys.meta_path.insert(0, _WithoutTensorFlow())


def load() -> None:
    """Imports Keras without what it only offers something for, which takes as long again.

    Whoever needs one of those packages imports it afterwards.
    """
    apart = [name for name in _BESIDE if name not in sys.modules and name != os.environ.get("KERAS_BACKEND")]
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None: it cannot be imported
    modules.update(dict.fromkeys(apart))
    try:
        importlib.import_module("keras")
    finally:
        for name in apart:
            del modules[name]


class _WithoutTensorFlow(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "tensorflow":
            raise ModuleNotFoundError("this process runs Keras on JAX, without TensorFlow", name=fullname)
