"""Two small networks that train from scratch, as students use them on medical images."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from medimg.config import Task, TrainConfig
from medimg.models.backbones import probabilities
from medimg.models.classifier import Classifier

__all__ = ["mini_xception", "small_cnn"]

_GRID = 7


def small_cnn(config: TrainConfig, *, channels: int, outputs: int, task: Task) -> Classifier:
    """Returns the small convolutional network of the MNIST tutorials: two convolutions and two dense layers.

    10 and 20 filters of 5×5, each followed by max pooling, then 50 hidden units, with dropout before both the
    second pooling and the output. The second pooling grows with the image (at 28 pixels it is the tutorials' 2×2)
    and leaves 7×7 cells at the usual sizes, at most 10×10: about 55,000 weights, not the 2.8 million of plain 2×2
    pooling at 224.
    """
    image, x = _scaled(config, channels)
    x = layers.Conv2D(10, 5, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(20, 5, activation="relu", name="conv2")(x)
    # Whole maps are dropped: neighbouring pixels of one map stand in for each other.
    x = layers.SpatialDropout2D(config.dropout, name="dropout_maps")(x)
    x = layers.MaxPooling2D(max(2, x.shape[1] // _GRID), name="pool2")(x)
    # Not global pooling: where in the chest a shadow lies matters, and averaging it away cost 0.05 of AUROC.
    x = layers.Flatten(name="flatten")(x)
    features = layers.Dense(50, activation="relu", dtype="float32", name="features")(x)
    dropout, last = layers.Dropout(config.dropout, dtype="float32", name="dropout"), probabilities(outputs, task)
    pooled = keras.Input((features.shape[-1],), dtype="float32", name="pooled")
    return Classifier(
        model=keras.Model(image, last(dropout(features)), name="small_cnn"),
        backbone=keras.Model(image, features, name="backbone"),
        head=keras.Model(pooled, last(dropout(pooled)), name="head"),
    )


def mini_xception(config: TrainConfig, *, channels: int, outputs: int, task: Task) -> Classifier:
    """Returns mini-Xception (Arriaga, Valdenegro and Plöger 2017, arXiv:1710.07557, figure 2).

    Four residual modules of depthwise separable convolutions, then one map an output and global average pooling in
    place of dense layers: about 52,000 weights at any image size.
    """
    image, x = _scaled(config, channels)
    for name in ("stem1", "stem2"):
        x = layers.Conv2D(8, 3, use_bias=False, name=f"{name}_conv")(x)
        x = layers.Activation("relu", name=f"{name}_relu")(_norm(f"{name}_norm")(x))
    for number, filters in enumerate((16, 32, 64, 128), start=1):
        x = _residual_module(x, filters, f"module{number}")
    x = layers.SpatialDropout2D(config.dropout, name="dropout_maps")(x)
    x = layers.Conv2D(outputs, 3, padding="same", name="class_maps")(x)
    x = layers.GlobalAveragePooling2D(dtype="float32", name="logits")(x)
    activation = "softmax" if task == "multiclass" else "sigmoid"
    x = layers.Activation(activation, dtype="float32", name="probabilities")(x)
    return Classifier(model=keras.Model(image, x, name="mini_xception"), backbone=None, head=None)


def _residual_module(x: Any, filters: int, name: str) -> Any:
    # The same as one 1×1 convolution of stride 2, whose gradient corrupts memory in TensorFlow 2.21 on AVX-512 CPUs
    # (oneDNN): training at 96 or 224 pixels died of it.
    shortcut = layers.MaxPooling2D(1, strides=2, padding="same", name=f"{name}_shortcut_pool")(x)
    shortcut = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut")(shortcut)
    shortcut = _norm(f"{name}_shortcut_norm")(shortcut)
    x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    x = layers.Activation("relu", name=f"{name}_relu")(_norm(f"{name}_norm1")(x))
    x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(x)
    x = _norm(f"{name}_norm2")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name=f"{name}_pool")(x)
    return layers.Add(name=f"{name}_add")([x, shortcut])


def _norm(name: str) -> keras.layers.Layer:
    # Keras' momentum of 0.99 needs hundreds of steps to forget its start: a few thousand images at batch 32 would
    # end several epochs with statistics that are not theirs yet, and early stopping would act on that.
    return layers.BatchNormalization(momentum=0.9, name=name)


def _scaled(config: TrainConfig, channels: int) -> tuple[Any, Any]:
    image = keras.Input((config.image_size, config.image_size, channels), dtype="float32", name="image")
    return image, layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="preprocess")(image)
