"""From a name to a Keras network: pretrained backbones, two small networks, and those of the user's own.

Importing this package loads neither Keras nor NumPy, so a notebook checks names, options and weights in
milliseconds, before a job is sent; only `build` needs Keras.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal, cast

from medimg.config import Task, TrainConfig
from medimg.errors import ConfigError, WeightsError
from medimg.models.classifier import Builder, Classifier, freeze, top_layers
from medimg.models.registry import architecture, available, check, is_own

__all__ = ["Builder", "Classifier", "available", "build", "check", "freeze", "top_layers"]


def build(
    config: TrainConfig,
    *,
    channels: Literal[1, 3],
    outputs: int,
    task: Task,
    weights: Path | None,
    code: Path | None = None,
) -> Classifier:
    """Returns a new classifier, every layer trainable; never downloads anything.

    Initial weights and dropout follow `keras.utils.set_random_seed`, which the caller sets.

    Args:
        config: The architecture, its options, the image size and the dropout.
        channels: 1 for grey images, 3 for RGB.
        outputs: Probabilities an image: 1 for a binary task, else the number of classes.
        task: Decides between sigmoid and softmax.
        weights: The file that `medimg.models.weights.resolve(config)` returned, wherever it lies by now.
        code: Of a network of the user's own: the folder with its code.

    Raises:
        ConfigError: The configuration names no such network, or the user's own cannot be trained.
        WeightsError: The file is missing or belongs to another network.
    """
    check(config)
    if (outputs == 1) != (task == "binary"):
        raise ValueError(f"task={task!r} with outputs={outputs}: a binary task has one output, every other task more")
    if (weights is None) != (config.weights is None):
        raise WeightsError(
            f"the configuration says weights={config.weights!r} but the file given is {weights}. "
            "Pass what medimg.models.weights.resolve(config) returns"
        )
    if is_own(config.model):
        if code is None:
            raise ConfigError(f"model={config.model!r}: its code is missing. Give the folder that it lies in as code=")
        from medimg.models import own

        classifier = own.build(config, code=code, channels=channels, outputs=outputs, task=task)
    else:
        module, _, function = architecture(config.model).builder.partition(":")
        builder = cast(Builder, getattr(import_module(module), function))
        classifier = cast(Classifier, builder(config, channels=channels, outputs=outputs, task=task))
    if weights is not None:
        if classifier.backbone is None:
            raise WeightsError(
                f"weights={config.weights!r}: {config.model} has no backbone that could take them. Call the layer "
                'whose output the head is to learn from "features", or set weights=None'
            )
        from medimg.models.pretrained import load

        load(classifier.backbone, weights, config)
    return classifier
