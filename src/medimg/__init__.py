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
    from medimg.backends.azureml.backend import AzureMLBackend as AzureMLBackend
    from medimg.backends.base import Backend
    from medimg.backends.compare import CostComparison, compare_costs
    from medimg.backends.endpoint import Endpoint
    from medimg.backends.job import Job
    from medimg.backends.local import LocalBackend
    from medimg.backends.model_version import ModelVersion
    from medimg.backends.sagemaker.backend import SageMakerBackend as SageMakerBackend
    from medimg.config import Augment, Resources, ServeConfig, TrainConfig
    from medimg.data.dataset import Dataset, Sample
    from medimg.evaluation.report import Report
    from medimg.inference.decision import Prediction
    from medimg.inference.predictions import Predictions

__version__ = "0.1.0"

# Loaded at first use (PEP 562): importing medimg takes milliseconds and loads no framework.
_HOMES = {
    "Augment": "medimg.config",
    "AzureMLBackend": "medimg.backends.azureml.backend",
    "Backend": "medimg.backends.base",
    "CostComparison": "medimg.backends.compare",
    "Dataset": "medimg.data.dataset",
    "Endpoint": "medimg.backends.endpoint",
    "Job": "medimg.backends.job",
    "LocalBackend": "medimg.backends.local",
    "ModelFolder": "medimg.artifact",
    "ModelVersion": "medimg.backends.model_version",
    "Prediction": "medimg.inference.decision",
    "Predictions": "medimg.inference.predictions",
    "Report": "medimg.evaluation.report",
    "Resources": "medimg.config",
    "SageMakerBackend": "medimg.backends.sagemaker.backend",
    "Sample": "medimg.data.dataset",
    "ServeConfig": "medimg.config",
    "TrainConfig": "medimg.config",
    "available_backends": "medimg.backends",
    "backend": "medimg.backends",
    "compare_costs": "medimg.backends.compare",
}

# Without the backends that need an extra: a star import must not ask for it.
__all__ = [
    "Augment",
    "Backend",
    "CostComparison",
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
    "compare_costs",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("medimg.errors")
    if name not in _HOMES:
        from importlib.util import find_spec

        from medimg.errors import did_you_mean

        is_module = name.isidentifier() and find_spec(f"medimg.{name}") is not None
        hint = f" It is a module: import medimg.{name}" if is_module else did_you_mean(name, _HOMES)
        # With an object of its own, or Python adds a second suggestion.
        raise AttributeError(f"module 'medimg' has no attribute {name!r}.{hint}", name=name, obj=None)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__", "errors"])
