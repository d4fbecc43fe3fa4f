"""What jobs and endpoints run in: one of Microsoft's base images and pinned packages, built once by Azure.

An environment's name has a hash of all that is in it, so that the same one is never built twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from importlib import metadata

from medimg.backends.azureml.assets import discard, ensure
from medimg.backends.azureml.errors import translated
from medimg.backends.azureml.instances import has_gpu
from medimg.backends.azureml.workspace import Workspace

__all__ = ["Environments"]

_API = "2024-10-01"
PYTHON = "3.11"
_CPU_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest"
_GPU_IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-cuda12.6-ubuntu24.04:latest"

# What is computed with has the versions that are installed here: a job computes as this machine would.
_TRAINING = (
    "ai-edge-litert",
    "h5py",
    "keras",
    "matplotlib",
    "numpy",
    "pillow",
    "platformdirs",
    "pydantic",
    "scikit-learn",
)
_SERVING = ("ai-edge-litert", "numpy", "pillow")
# azureml-mlflow has no version for MLflow after 3.15.
_TRACKING = ("azureml-mlflow>=1.62,<2", "mlflow-skinny<=3.15")
_SERVER = ("azureml-inference-server-http>=1.5,<2",)


class Environments:
    """The environments of a workspace.

    Args:
        workspace: Whose.
        image: Of the user's, for jobs; None: Microsoft's.
    """

    def __init__(self, workspace: Workspace, *, image: str | None = None) -> None:
        self._workspace = workspace
        self.image = image

    def training(self, instance: str) -> str:
        """Returns the id of the environment that jobs on such a machine run in."""
        gpu = has_gpu(instance)
        tensorflow = f"tensorflow{'[and-cuda]' if gpu else ''}=={metadata.version('tensorflow')}"
        image = self.image or (_GPU_IMAGE if gpu else _CPU_IMAGE)
        return self._ensure(f"train-{'gpu' if gpu else 'cpu'}", image, [tensorflow, *_pinned(_TRAINING), *_TRACKING])

    def serving(self) -> str:
        """Returns the id of the environment that endpoints run in."""
        # pydantic's version is the inference server's own.
        return self._ensure("serve", _CPU_IMAGE, [*_pinned(_SERVING), "pydantic>=2.9", *_SERVER])

    def _ensure(self, name: str, image: str, packages: Sequence[str]) -> str:
        conda = {
            "name": f"medimg-{name}",
            "channels": ["conda-forge"],
            "dependencies": [f"python={PYTHON}", "pip", {"pip": list(packages)}],
        }
        content = json.dumps([image, conda], sort_keys=True)
        name = f"{self._workspace.prefix}-{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

        def make(version: str) -> str:
            from azure.ai.ml.entities import Environment

            tags = self._workspace.tag_map()
            made = Environment(name=name, version=version, image=image, conda_file=conda, tags=tags)
            with translated(f"making the environment {name}"):
                return str(self._workspace.ml.environments.create_or_update(made).id)

        # Asked each time: a cleanup may have deleted it, in another process.
        return ensure(self._workspace, f"environments/{name}", make)

    def delete_all(self, needed: Callable[[], bool]) -> None:
        """Deletes all environments of ours; the next job or endpoint waits for its own to be built again.

        Args:
            needed: Tells whether there is a job or an endpoint; asked when it is known what environments there are, so
                that nothing newer is lost.
        """
        names = re.compile(rf"{self._workspace.prefix}-(train-[cg]pu|serve)-[0-9a-f]{{12}}")
        with translated("listing the environments"):
            found = [str(one["name"]) for one in self._workspace.arm_list(f"{self._workspace.id}/environments", _API)]
        for name in () if needed() else filter(names.fullmatch, found):
            discard(self._workspace, f"environments/{name}")


def _pinned(packages: Sequence[str]) -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in packages]
