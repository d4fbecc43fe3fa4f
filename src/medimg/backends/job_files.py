"""What a job in a cloud is given beside its data: its files, under keys that follow from them, and what it is told of.

Everything that is known of a job is kept with it in the cloud, so that any process with the credentials finds it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medimg.config import JobSpec

__all__ = ["JOB_ID", "described", "details", "input_files", "orphans", "spec_file"]

JOB_ID = re.compile(r"[a-z][a-z0-9-]*-[0-9a-f]{10}-\d+")  # what `JobSpec.id` makes


def spec_file(spec: JobSpec) -> tuple[str, bytes]:
    """Returns the key of a job's specification, and its content."""
    content = spec.model_dump_json(indent=1).encode()
    # Named by its content: of two that submit the same job at once, the loser must not change the winner's.
    return f"jobs/{spec.id}/spec-{hashlib.sha256(content).hexdigest()[:8]}.json", content


def input_files(spec: JobSpec, inputs: Path) -> tuple[str, dict[str, Path]]:
    """Returns the one folder that holds all that a job is given beside its data, and its files by key.

    Args:
        spec: Its specification, which names them; at least one.
        inputs: Where they are here.
    """
    folder = _inputs_folder(spec.inputs)
    files: dict[str, Path] = {}
    for name in sorted(set(spec.inputs.values())):
        root = inputs / name
        found = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        files |= {f"{folder}{path.relative_to(inputs).as_posix()}": path for path in found}
    return folder, files


def _inputs_folder(inputs: Mapping[str, str]) -> str:
    names = sorted(set(inputs.values()))
    return f"inputs/{names[0] if len(names) == 1 else hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}/"


def described(spec: JobSpec, timings: Mapping[str, float]) -> dict[str, str]:
    """Returns what the cloud is to keep with a job, as texts; `details` reads them.

    Args:
        spec: Its specification.
        timings: Stage to seconds of what the submit did, beside those in the specification.
    """
    return {
        "medimg-task": spec.kind, "medimg-checkpoints": spec.checkpoints, "medimg-pack": spec.pack,
        "medimg-samples": spec.samples, "medimg-inputs": json.dumps(spec.inputs),
        "medimg-timings": json.dumps({**spec.timings, **timings}), "medimg-workload": json.dumps(spec.workload),
    }  # fmt: skip


def details(told: Mapping[str, str]) -> dict[str, Any]:
    """Returns the details of a job's `Resource` that `described` wrote."""
    return {
        "task": told["medimg-task"],
        "checkpoints": told["medimg-checkpoints"],
        "pack": told["medimg-pack"],
        "inputs": json.loads(told["medimg-inputs"]),
        "workload": json.loads(told["medimg-workload"]),
        "timings": json.loads(told["medimg-timings"]),
    }


def orphans(gone: Mapping[str, Any], left: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the folders that a deleted job named and no other job does.

    Args:
        gone: Its details.
        left: Those of the jobs that there are.
    """

    def folders(told: Mapping[str, Any]) -> list[str]:
        inputs = [_inputs_folder(told["inputs"])] if told["inputs"] else []
        return [f"packs/{told['pack']}/", f"checkpoints/{told['checkpoints']}/", *inputs]

    used = {folder for told in left for folder in folders(told)}
    return [folder for folder in folders(gone) if folder not in used]
