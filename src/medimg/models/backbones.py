"""Pretrained networks of `keras.applications` under a new head, with their preprocessing inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from medimg.config import Task, TrainConfig
from medimg.models.classifier import Classifier
from medimg.models.registry import option

__all__ = ["densenet121", "efficientnetv2_b0", "inception_v3", "mobilenet_v2", "probabilities"]

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

# `keras.applications.*.preprocess_input` as one multiplication and one addition: "tf" maps 0..255 to -1..1, "torch"
# subtracts ImageNet's mean and divides by its deviation. EfficientNetV2-B0 has the latter built in.
_TF: dict[str, Any] = {"scale": 1 / 127.5, "offset": -1.0}
_TORCH: dict[str, Any] = {
    "scale": [1 / (255 * std) for std in _STD],
    "offset": [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
}


def mobilenet_v2(config: TrainConfig, *, channels: int, outputs: int, task: Task) -> Classifier:
    """Returns MobileNetV2 (Sandler et al. 2018); option `alpha` is its width."""
    return _classifier(
        config, keras.applications.MobileNetV2, _TF, {"alpha": option(config, "alpha")}, channels, outputs, task
    )


def efficientnetv2_b0(config: TrainConfig, *, channels: int, outputs: int, task: Task) -> Classifier:
    """Returns EfficientNetV2-B0 (Tan and Le 2021)."""
    options = {"include_preprocessing": False}
    return _classifier(config, keras.applications.EfficientNetV2B0, _TORCH, options, channels, outputs, task)


def densenet121(config: TrainConfig, *, channels: int, outputs: int, task: Task) -> Classifier:
    """Returns DenseNet121 (Huang et al. 2017)."""
    return _classifier(config, keras.applications.DenseNet121, _TORCH, {}, channels, outputs, task)


def inception_v3(config: TrainConfig, *, channels: int, outputs: int, task: Task) -> Classifier:
    """Returns InceptionV3 (Szegedy et al. 2016)."""
    return _classifier(config, keras.applications.InceptionV3, _TF, {}, channels, outputs, task)


def probabilities(outputs: int, task: Task) -> keras.layers.Layer:
    """Returns the last layer: softmax where classes exclude each other, else sigmoid; float32."""
    activation = "softmax" if task == "multiclass" else "sigmoid"
    return keras.layers.Dense(outputs, activation=activation, dtype="float32", name="probabilities")


def _classifier(
    config: TrainConfig,
    application: Callable[..., keras.Model],
    preprocessing: dict[str, Any],
    options: dict[str, Any],
    channels: int,
    outputs: int,
    task: Task,
) -> Classifier:
    size = config.image_size
    image = keras.Input((size, size, channels), dtype="float32", name="image")
    # These stay in float32 under mixed precision: half precision would round pixels between the grey levels.
    rgb = image if channels == 3 else keras.layers.Concatenate(dtype="float32", name="rgb")([image] * 3)
    scaled = keras.layers.Rescaling(**preprocessing, dtype="float32", name="preprocess")(rgb)
    # `input_tensor` puts the application's layers straight into our graph: one flat model, in which Grad-CAM and
    # exporters find every layer, rather than a model within a model.
    maps = application(
        include_top=False, weights=None, input_tensor=scaled, input_shape=(size, size, 3), **options
    ).output
    features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(maps)
    backbone = keras.Model(image, features, name="backbone")
    dropout = keras.layers.Dropout(config.dropout, dtype="float32", name="dropout")
    last = probabilities(outputs, task)
    pooled = keras.Input((features.shape[-1],), dtype="float32", name="pooled")
    return Classifier(
        model=keras.Model(image, last(dropout(features)), name=config.model.replace("-", "_")),
        backbone=backbone,
        head=keras.Model(pooled, last(dropout(pooled)), name="head"),
    )
