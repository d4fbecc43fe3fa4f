"""Checkpoints that survive any crash: temporary folder → fsync → hashes → rename; the last two are kept.

A checkpoint holds every variable (weights, seed generators, optimiser, running means), the place in the data and the
state of early stopping, so that a resumed run gives the same bits as an undisturbed one. Stock Keras saves neither the
seed generators nor the place within an epoch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medimg.home import atomic_folder, atomic_write

__all__ = ["Checkpoint", "Checkpoints"]

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """One saved state.

    Attributes:
        state: Place, history and early stopping, as JSON.
        arrays: Name to list of variables' values, in the order in which they were given.
    """

    state: Mapping[str, Any]
    arrays: Mapping[str, Sequence[np.ndarray]]


class Checkpoints:
    """The checkpoints of one job.

    Args:
        root: Their folder.
        identity: What the job computes; checkpoints of anything else are not believed.
    """

    def __init__(self, root: Path, identity: str) -> None:
        self.root = root
        self.identity = identity
        root.mkdir(parents=True, exist_ok=True)
        for draft in root.glob(".step-*"):
            shutil.rmtree(draft, ignore_errors=True)  # of a save that was killed

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves a state; when it returns, the state is on disk.

        Raises:
            StorageError: The disk is full; the checkpoints before this one are untouched.
        """
        number = max((int(path.name.split("-")[1]) for path in self._folders()), default=0) + 1
        with atomic_folder(self.root / f"step-{number:08d}") as folder:
            packed = io.BytesIO()
            flat = {f"{name}/{i:05d}": a for name, values in checkpoint.arrays.items() for i, a in enumerate(values)}
            np.savez(packed, **flat)  # type: ignore[arg-type]
            state = {"identity": self.identity, "state": checkpoint.state}
            files = {"arrays.npz": packed.getvalue(), "state.json": json.dumps(state).encode()}
            for name, content in files.items():
                atomic_write(folder / name, content)
            hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
            atomic_write(folder / "hashes.json", json.dumps(hashes))
            _sync(folder)
        _sync(self.root)
        for old in self._folders()[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """Returns the newest valid state of this job, or None."""
        for folder in reversed(self._folders()):
            try:
                hashes = json.loads((folder / "hashes.json").read_text())
                files = {name: (folder / name).read_bytes() for name in hashes}
            except (OSError, ValueError):
                continue
            if any(hashlib.sha256(content).hexdigest() != hashes[name] for name, content in files.items()):
                continue
            saved = json.loads(files["state.json"])
            if saved["identity"] != self.identity:
                continue
            with np.load(io.BytesIO(files["arrays.npz"]), allow_pickle=False) as packed:
                arrays: dict[str, list[np.ndarray]] = {}
                for key in sorted(packed.files):
                    arrays.setdefault(key.split("/")[0], []).append(packed[key])
            return Checkpoint(saved["state"], arrays)
        return None

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.root.glob("step-*") if path.is_dir())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
