"""Pretrained networks of `keras.applications` under a new head, with their preprocessing inside."""

from __future__ import annotations

from typing import Any

import keras

from medimg.config import Task, TrainConfig
from medimg.models.applications import Scaling
from medimg.models.classifier import Classifier
from medimg.models.registry import architecture, option

__all__ = ["application", "preprocess", "probabilities"]

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_BGR_MEAN = (103.939, 116.779, 123.68)

# What `keras.applications.*.preprocess_input`, or the network itself, does to pixels in 0..255, as one multiplication
# and one addition.
_SCALINGS: dict[Scaling, dict[str, Any]] = {
    "tf": {"scale": 1 / 127.5, "offset": -1.0},
    "torch": {
        "scale": [1 / (255 * std) for std in _STD],
        "offset": [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
    },
    "caffe": {"scale": 1.0, "offset": [-mean for mean in _BGR_MEAN]},
    "signed_byte": {"scale": 1 / 128, "offset": -1.0},
    # These normalise by themselves, with a mean and variance that lie among their weights. But ImageNet's file holds
    # deviations in place of variances, so that Keras divides by their root once more where it loads that file; here
    # the missing root is applied before, around the mean.
    "efficientnet": {
        "scale": [1 / std**0.5 for std in _STD],
        "offset": [255 * mean * (1 - 1 / std**0.5) for mean, std in zip(_MEAN, _STD, strict=True)],
    },
}


def application(config: TrainConfig, *, channels: int, outputs: int, task: Task) -> Classifier:
    """Returns the network of `keras.applications` that the configuration names, under a new head."""
    network = architecture(config.model)
    known = network.application
    assert known is not None  # noqa: S101 - the table names this function for applications alone
    options: dict[str, Any] = {name: option(config, name) for name in network.options}
    if known.has_preprocessing:
        options["include_preprocessing"] = False
    size = config.image_size
    image = keras.Input((size, size, channels), dtype="float32", name="image")
    # `input_tensor` puts the application's layers straight into our graph: one flat model, in which Grad-CAM and
    # exporters find every layer, rather than a model within a model.
    maps = getattr(keras.applications, known.name)(
        include_top=False,
        weights=None,
        input_tensor=preprocess(image, known.scaling),
        input_shape=(size, size, 3),
        **options,
    ).output
    features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(maps)
    backbone = _mended(keras.Model(image, features, name="backbone"))
    dropout = keras.layers.Dropout(config.dropout, dtype="float32", name="dropout")
    last = probabilities(outputs, task)
    pooled = keras.Input((features.shape[-1],), dtype="float32", name="pooled")
    return Classifier(
        model=keras.Model(backbone.input, last(dropout(backbone.output)), name=network.name.replace("-", "_")),
        backbone=backbone,
        head=keras.Model(pooled, last(dropout(pooled)), name="head"),
    )


def preprocess(image: Any, scaling: Scaling) -> Any:
    """Returns what a pretrained network expects, from pixels of one or three channels in 0..255.

    Args:
        image: A Keras tensor (n, height, width, 1 or 3).
        scaling: "tf": to -1..1; "torch": ImageNet's mean subtracted, divided by its deviation; "caffe": blue, green,
            red with their means subtracted; "signed_byte": to -1..1 by 128; "efficientnet": see above.
    """
    # These stay in float32 under mixed precision: half precision would round pixels between the grey levels.
    rgb = image if image.shape[-1] == 3 else keras.layers.Concatenate(dtype="float32", name="rgb")([image] * 3)
    if scaling == "caffe" and image.shape[-1] == 3:
        rgb = keras.ops.flip(rgb, axis=-1)
    return keras.layers.Rescaling(**_SCALINGS[scaling], dtype="float32", name="preprocess")(rgb)


def probabilities(outputs: int, task: Task) -> keras.layers.Layer:
    """Returns the last layer: softmax where classes exclude each other, else sigmoid; float32."""
    activation = "softmax" if task == "multiclass" else "sigmoid"
    return keras.layers.Dense(outputs, activation=activation, dtype="float32", name="probabilities")


def _mended(backbone: keras.Model) -> keras.Model:
    """Returns the same network without what breaks in it; its weights keep their names and order."""
    broken = {layer.name for layer in backbone.layers if _skips(layer) or _rounds(layer)}
    if not broken:
        return backbone

    def clone(layer: Any) -> Any:
        settings = layer.get_config()
        if layer.name in broken:
            settings |= {"strides": (1, 1)} if _skips(layer) else {"dtype": "float32"}
        return type(layer).from_config(settings)

    skipping = {layer.name: layer.strides for layer in backbone.layers if _skips(layer)}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name in skipping:
            pool = keras.layers.MaxPooling2D(1, strides=skipping[layer.name], name=f"{layer.name}_pool")
            return layer(pool(*args), **kwargs)
        return layer(*args, **kwargs)

    return keras.models.clone_model(backbone, clone_function=clone, call_function=call)


def _skips(layer: Any) -> bool:
    # The gradient of a 1×1 convolution of stride 2 corrupts memory in TensorFlow 2.21 on AVX-512 CPUs (oneDNN): a
    # pooling of 1×1 and that stride, and then the convolution, is the same without.
    return isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1) and layer.strides != (1, 1)


def _rounds(layer: Any) -> bool:
    scales = isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)
    return scales and layer.compute_dtype != "float32"
