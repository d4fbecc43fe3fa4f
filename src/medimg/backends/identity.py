"""Names that follow from content: of jobs, of the code, and of the files a job needs beside its data."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import medimg
from medimg.artifact import ModelFolder
from medimg.errors import ConfigError
from medimg.home import atomic_folder, atomic_write, home, storage_errors

__all__ = ["base_name", "check_name", "code_digest", "file_input", "inputs_folder", "link_tree", "model_input"]

# What SageMaker, AzureML and a file system all take.
_NAME = re.compile(r"[a-z][a-z0-9-]{1,31}")


def check_name(name: str, *, what: str) -> str:
    """Returns the name if every backend can use it.

    Raises:
        ConfigError: It cannot be a name; the message shows one that can.
    """
    if not _NAME.fullmatch(name):
        better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32]
        better = better if _NAME.fullmatch(better) else "chest"
        raise ConfigError(
            f"{name!r} cannot be the name of {what}: 2 to 32 small letters, digits and hyphens, a letter first, "
            f"such as {better!r}"
        )
    return name


@cache
def code_digest() -> str:
    """Returns a hash of medimg's own code: other code is another job."""
    root = Path(medimg.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def base_name(name: str, content: Mapping[str, Any]) -> str:
    """Returns a job's name without its attempt: the user's word and ten digits of a hash of what decides the result."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{name}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"


def inputs_folder() -> Path:
    """Returns the store of inputs; a job's specification names which of them it needs."""
    folder = home() / "inputs"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_input(path: Path) -> str:
    """Puts a file into the store and returns its name there: its hash and suffix."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    name = digest + "".join(path.suffixes[-2:] if path.name.endswith(".weights.h5") else path.suffixes[-1:])
    target = inputs_folder() / name
    if not target.exists():
        atomic_write(target, path.read_bytes())
    return name


def model_input(model: ModelFolder) -> str:
    """Puts a model folder into the store and returns its name there: its digest."""
    name = f"model-{model.digest[:16]}"
    target = inputs_folder() / name
    if not target.exists():
        with atomic_folder(target) as folder:
            link_tree(model.path, folder)
    return name


def link_tree(source: Path, target: Path) -> None:
    """Copies a folder; files are linked where the file system can, since medimg never writes into a file in place."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    with storage_errors(target):
        shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
