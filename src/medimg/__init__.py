"""Train a medical image classifier once; run it on your machine and in the cloud.

dataset = medimg.Dataset.from_folder("chest_xray")
backend = medimg.backend("local")
job = backend.train(dataset)
endpoint = backend.deploy()
endpoint.predict("unseen.jpeg")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medimg.artifact import ModelFolder
    from medimg.backends import available_backends, backend
    from medimg.backends.base import Backend
    from medimg.backends.handles import Endpoint, Job, ModelVersion
    from medimg.backends.local import LocalBackend
    from medimg.config import Augment, Resources, ServeConfig, TrainConfig
    from medimg.data.dataset import Dataset, Sample
    from medimg.evaluation.report import Report
    from medimg.inference.decision import Prediction
    from medimg.inference.predictions import Predictions

__version__ = "0.1.0"

# Loaded at first use (PEP 562): importing medimg takes milliseconds and loads no framework.
_HOMES = {
    "Augment": "medimg.config",
    "Backend": "medimg.backends.base",
    "Dataset": "medimg.data.dataset",
    "Endpoint": "medimg.backends.handles",
    "Job": "medimg.backends.handles",
    "LocalBackend": "medimg.backends.local",
    "ModelFolder": "medimg.artifact",
    "ModelVersion": "medimg.backends.handles",
    "Prediction": "medimg.inference.decision",
    "Predictions": "medimg.inference.predictions",
    "Report": "medimg.evaluation.report",
    "Resources": "medimg.config",
    "Sample": "medimg.data.dataset",
    "ServeConfig": "medimg.config",
    "TrainConfig": "medimg.config",
    "available_backends": "medimg.backends",
    "backend": "medimg.backends",
}

__all__ = [
    "Augment",
    "Backend",
    "Dataset",
    "Endpoint",
    "Job",
    "LocalBackend",
    "ModelFolder",
    "ModelVersion",
    "Prediction",
    "Predictions",
    "Report",
    "Resources",
    "Sample",
    "ServeConfig",
    "TrainConfig",
    "available_backends",
    "backend",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("medimg.errors")
    if name not in _HOMES:
        from medimg.errors import did_you_mean

        raise AttributeError(f"module 'medimg' has no attribute {name!r}.{did_you_mean(name, _HOMES)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "errors"])
