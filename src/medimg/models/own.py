"""A network of the user's own, built in the job from the code that travelled with it, and checked before it trains."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np

from medimg.config import Task, TrainConfig
from medimg.errors import ConfigError
from medimg.models.classifier import Classifier

__all__ = ["build"]

_FEATURES = "features"
_CLOSE = 1e-4  # probabilities of one image from the whole network and from its parts


def build(config: TrainConfig, *, code: Path, channels: int, outputs: int, task: Task) -> Classifier:
    """Returns what the user's function makes, every layer trainable.

    Args:
        config: Its `model` is `module:function`.
        code: Folder of the code that travelled; the module is imported from nowhere else.
        channels: 1 for grey images, 3 for RGB.
        outputs: Probabilities an image.
        task: Decides between sigmoid and softmax.

    Raises:
        ConfigError: The code fails, or what it makes cannot be trained, saved and served as a classifier.
    """
    module, _, function = config.model.partition(":")
    with _failures_told(config.model, code):
        builder = getattr(_imported(module, code), function)
        built = builder(config, channels=channels, outputs=outputs, task=task)
    classifier = built if isinstance(built, Classifier) else None
    network = built if classifier is None else classifier.model
    if not isinstance(network, keras.Model):
        raise ConfigError(
            f"model={config.model!r} returned {type(network).__name__}, not a keras.Model or medimg.models.Classifier"
        )
    try:
        _check_layers(network)
        _check_shapes(network, config.image_size, channels, outputs)
        _check_activation(network, task)
        classifier = classifier or _with_parts(network)
        _check_probabilities(classifier, task)
    except ConfigError as error:
        raise ConfigError(f"model={config.model!r} cannot be trained: {error}") from None
    return classifier


def _imported(module: str, code: Path) -> ModuleType:
    top = module.partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is not None and not _is_inside(getattr(loaded, "__file__", None), code):
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]
    sys.path[:] = [str(code), *(path for path in sys.path if path != str(code))]
    return import_module(module)


def _is_inside(file: str | None, folder: Path) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(folder.resolve())


@contextmanager
def _failures_told(model: str, code: Path) -> Iterator[None]:
    """Turns an exception of the user's code into an error that shows their lines."""
    # The folder is shared by jobs and named by its content: nothing may be added to it.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    except Exception as error:
        lines = [
            f"  {Path(frame.filename).resolve().relative_to(code.resolve())}, line {frame.lineno}, in {frame.name}: "
            f"{frame.line}\n"
            for frame in traceback.extract_tb(error.__traceback__)
            if _is_inside(frame.filename, code)
        ]
        raise ConfigError(f"model={model!r} failed:\n{''.join(lines)}{type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = before


# -- checks -----------------------------------------------------------------------------------------------------------


def _check_layers(network: keras.Model) -> None:
    try:
        described = json.loads(network.to_json())
    except Exception as error:
        raise ConfigError(f"it cannot be written down ({type(error).__name__}: {error}). {_ONLY_KERAS}") from error
    if foreign := sorted(set(_foreign(described))):
        raise ConfigError(f"it uses {', '.join(foreign)}. {_ONLY_KERAS}")
    try:
        # A plain function is written down by its name alone, which only Keras' own survive.
        keras.saving.deserialize_keras_object(described, safe_mode=True)
    except Exception as error:
        reason = (re.search(r"Could not locate [^.]*", str(error)) or [str(error).partition(". ")[0]])[0]
        raise ConfigError(f"what is written down of it cannot be read again ({reason}). {_ONLY_KERAS}") from error


_ONLY_KERAS = (
    "A trained model must load wherever it is served, without your code and without running any that lies in the file: "
    "use what Keras brings (keras.layers but Lambda, keras.ops, keras.activations), joined by keras.Model(inputs, "
    "outputs) or keras.Sequential"
)


def _foreign(part: Any) -> Iterator[str]:
    """Yields what of a network's description only its author's code can make."""
    if isinstance(part, list):
        for one in part:
            yield from _foreign(one)
    if not isinstance(part, dict):
        return
    kind, module = part.get("class_name"), part.get("module")
    if kind in ("Lambda", "__lambda__"):
        yield "a Lambda"
    name = str(part.get("config") if kind == "function" else part.get("registered_name"))
    if ">" in name:  # registered under a name of theirs, which only their code does
        yield name.partition(">")[2]
    elif isinstance(module, str) and module.partition(".")[0] not in ("keras", "builtins"):
        yield f"{kind} of {module}"
    for one in part.values():
        yield from _foreign(one)


def _check_shapes(network: keras.Model, size: int, channels: int, outputs: int) -> None:
    wanted = (None, size, size, channels)
    given = [tuple(tensor.shape) for tensor in network.inputs or ()]
    if given != [wanted]:
        raise ConfigError(
            f"its input is {', '.join(map(str, given)) or 'not defined'}, not {wanted}. Begin with "
            "keras.Input((config.image_size, config.image_size, channels))"
        )
    found = [tuple(tensor.shape) for tensor in network.outputs]
    if found != [(None, outputs)]:
        raise ConfigError(
            f"its output is {', '.join(map(str, found))}, not {(None, outputs)}. End with "
            "keras.layers.Dense(outputs, …)"
        )
    if network.outputs[0].dtype != "float32":
        raise ConfigError(f"its output is {network.outputs[0].dtype}. Give the last layer dtype='float32'")


def _check_activation(network: keras.Model, task: Task) -> None:
    wanted = keras.activations.softmax if task == "multiclass" else keras.activations.sigmoid
    used = getattr(network.layers[-1], "activation", wanted)
    if used is not wanted:
        name = getattr(used, "__name__", type(used).__name__)
        raise ConfigError(
            f"its last layer's activation is {name}; a {task} task needs {wanted.__name__}. End with "
            f"keras.layers.Dense(outputs, activation={wanted.__name__!r}, dtype='float32')"
        )


def _check_probabilities(classifier: Classifier, task: Task) -> None:
    noise = np.random.default_rng(0).integers(0, 256, classifier.model.inputs[0].shape[1:])
    x = np.stack([noise, np.zeros_like(noise), np.full_like(noise, 255)]).astype(np.float32)
    p = np.asarray(classifier.model(x, training=False))
    sums = not np.allclose(p.sum(axis=1), 1, atol=_CLOSE) if task == "multiclass" else False
    if not np.isfinite(p).all() or p.min() < 0 or p.max() > 1 or sums:
        raise ConfigError(
            f"what it says of three images is no probabilities: {np.array2string(p, precision=3)}. It gets pixels in "
            "0..255 as float32 (n, height, width, channels), so that it must scale them itself"
        )
    if classifier.backbone is not None and classifier.head is not None:
        _check_features(classifier.backbone.outputs)
        again = np.asarray(classifier.head(classifier.backbone(x, training=False), training=False))
        if again.shape != p.shape or not np.allclose(again, p, atol=_CLOSE):
            raise ConfigError("its head on its backbone gives other probabilities than its model")


def _check_features(given: list[Any]) -> None:
    if [len(tensor.shape) for tensor in given] != [2] or given[0].dtype != "float32":
        found = ", ".join(f"{tensor.dtype} {tensor.shape}" for tensor in given)
        raise ConfigError(f"its features are {found}; those that a head is trained on are float32 (n, d)")


def _with_parts(network: keras.Model) -> Classifier:
    """Returns the network with a backbone and a head, if one of its layers is called "features"."""
    layer = next((layer for layer in network.layers if layer.name == _FEATURES), None)
    if layer is None:
        return Classifier(model=network, backbone=None, head=None)
    features = layer.output
    _check_features([features])
    try:
        head = keras.Model(features, network.outputs[0], name="head")
    except ValueError as error:
        raise ConfigError(f"its output needs more than its layer {_FEATURES!r} gives: {error}") from None
    return Classifier(model=network, backbone=keras.Model(network.inputs[0], features, name="backbone"), head=head)
