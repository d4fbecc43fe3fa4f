"""Names that follow from content: of jobs, of the code, and of the files a job needs beside its data."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import medimg
from medimg.artifact import ModelFolder
from medimg.data.pack import forget
from medimg.errors import ConfigError
from medimg.home import Use, atomic_copy, atomic_folder, drop, home, make_folder, storage_errors
from medimg.models.source_code import SourceCode

__all__ = [
    "NAME",
    "base_name",
    "check_name",
    "code_digest",
    "code_input",
    "file_input",
    "forget_shared",
    "inputs_folder",
    "link_tree",
    "model_input",
]

# What SageMaker, AzureML and a file system all take.
NAME = re.compile(r"[a-z][a-z0-9-]{1,30}[a-z0-9]")


def check_name(name: str, *, what: str) -> str:
    """Returns the name if every backend can use it.

    Raises:
        ConfigError: It cannot be a name; the message shows one that can.
    """
    if not NAME.fullmatch(name):
        better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32].strip("-")
        better = better if NAME.fullmatch(better) else "chest"
        raise ConfigError(
            f"{name!r} cannot be the name of {what}: 3 to 32 small letters, digits and hyphens, a letter first "
            f"and no hyphen last, such as {better!r}"
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
    make_folder(folder)
    return folder


def file_input(path: Path) -> Use:
    """Puts a file into the store; its name there is its hash and suffix, and it stays while the result lives."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    name = digest + "".join(path.suffixes[-2:] if path.name.endswith(".weights.h5") else path.suffixes[-1:])
    use = Use(inputs_folder() / name)
    if not use.path.exists():
        atomic_copy(path, use.path)
    return use


def code_input(code: SourceCode) -> Use:
    """Puts a user's code into the store; its name there is its hash, and it stays while the result lives."""
    use = Use(inputs_folder() / f"code-{code.digest[:16]}")
    if not use.path.exists():
        with atomic_folder(use.path) as folder:
            for name, content in code.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
    return use


def model_input(model: ModelFolder) -> Use:
    """Puts a model folder into the store; its name there is its digest, and it stays while the result lives."""
    use = Use(inputs_folder() / f"model-{model.digest[:16]}")
    if not use.path.exists():
        with atomic_folder(use.path) as folder:
            link_tree(model.path, folder)
    return use


def forget_shared(gone: Mapping[str, Any], left: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """Removes the pack, with its features, and inputs that a deleted job named and no job that is left does.

    Args:
        gone: The deleted job's `pack` and `inputs`, as in its specification.
        left: Returns those of the jobs that there are now.
    """

    def named(name: str) -> bool:
        return any(name in other.get("inputs", {}).values() for other in left())

    pack = gone.get("pack")
    if pack and forget(pack, wanted=lambda: any(other.get("pack") == pack for other in left())):
        shutil.rmtree(home() / "features" / pack, ignore_errors=True)
    for name in set(gone.get("inputs", {}).values()):
        drop(home() / "inputs" / name, wanted=partial(named, name))


def link_tree(source: Path, target: Path) -> None:
    """Copies a folder; files are linked where the file system can, since medimg never writes into a file in place.

    Raises:
        FileNotFoundError: There is no such folder, or it was removed meanwhile.
        StorageError: The disk is full or not writable.
    """
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        # Not copytree: it gathers errors into one that no longer says whether the disk is full.
        for old in sorted(source.iterdir()):
            new = target / old.name
            if old.is_dir():
                link_tree(old, new)
                continue
            try:
                os.link(old, new)
            except OSError:
                shutil.copy2(old, new)
