"""Weights files as Keras writes them: which network one holds, and how it gets into a backbone.

Three formats: Keras 2's `.h5` (layers in order, as keras.applications publishes), Keras 3's `.weights.h5`, and the
`.keras` archive with the latter inside.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py  # type: ignore[import-untyped]

from medimg.config import TrainConfig
from medimg.errors import WeightsError
from medimg.models.registry import describe, network_of

if TYPE_CHECKING:
    import keras

__all__ = ["check_file", "load"]


def check_file(path: Path, config: TrainConfig) -> None:
    """Checks from shapes alone that a file holds the weights of the configured network.

    Raises:
        WeightsError: The file cannot be read, or is of another network; the message names both.
    """
    wanted, count = describe(config)
    with _opened(path) as file:
        sizes = [(array.ndim, array.size) for array in _arrays(file)]
    found = sum(size for axes, size in sizes if axes == 4)
    other = network_of(found, sum(size for axes, size in sizes if axes == 1))
    if count is None or other == wanted:
        return
    raise WeightsError(
        f"{path} holds the weights of {other or f'an unknown network ({found:,} convolution weights)'}, but the "
        f"configuration asks for {wanted} ({count:,}). Change model and model_options, or give a file of {wanted}"
    )


def load(backbone: keras.Model, path: Path, config: TrainConfig) -> None:
    """Puts a file's weights into a newly built backbone; a classification top in the file is left out.

    Raises:
        WeightsError: The file cannot be read, or does not fit.
    """
    check_file(path, config)
    wanted, _ = describe(config)
    try:
        if path.name.endswith((".keras", ".weights.h5")):
            with warnings.catch_warnings():
                # Keras 3.15 says this of an index that it keeps beside the layers; a layer left out is an error.
                warnings.filterwarnings("ignore", message="Skipping nested container", category=UserWarning)
                backbone.load_weights(path)
        else:
            with _opened(path) as file:
                _load_in_order(backbone, file)
    except ValueError as error:
        reason = str(error).split("\n\n")[-1][:300]
        raise WeightsError(
            f"{path} does not fit {wanted}: {reason}. Give a file that Keras wrote with "
            "backbone.save_weights('….weights.h5')"
        ) from error


def _load_in_order(backbone: keras.Model, file: Any) -> None:
    """Loads Keras 2's format, in which the n-th layer with weights belongs to the n-th layer of the network.

    `keras.Model.load_weights` does the same but refuses a file that goes on with a top.
    """
    import keras

    layers = [layer for layer in backbone.layers if layer.weights]
    groups = [group for group in (file[name] for name in _names(file, "layer_names")) if _names(group, "weight_names")]
    if len(groups) < len(layers):
        raise ValueError(f"it holds {len(groups)} layers with weights, the network has {len(layers)}")
    for layer, group in zip(layers, groups, strict=False):
        values = [group[name][()] for name in _names(group, "weight_names")]
        # Keras 2 wrote what is trained before what is not, also of the layers inside a layer.
        targets = layer.trainable_weights + layer.non_trainable_weights
        shapes = [value.shape for value in values]
        expected = [tuple(weight.shape) for weight in targets]
        if shapes != expected:
            raise ValueError(f"its layer {group.name} has shapes {shapes}, {layer.name} needs {expected}")
        for target, value in zip(targets, values, strict=True):
            target.assign(value)
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # its mean and variance are weights, and what it computes with a copy of them


def _names(group: Any, attribute: str) -> list[str]:
    # HDF5 limits an attribute to 64 KB: Keras cuts longer lists into attribute0, attribute1, …
    keys = [attribute] if attribute in group.attrs else _chunks(group, attribute)
    return [name.decode() if isinstance(name, bytes) else str(name) for key in keys for name in group.attrs[key]]


def _chunks(group: Any, attribute: str) -> list[str]:
    keys: list[str] = []
    while f"{attribute}{len(keys)}" in group.attrs:
        keys.append(f"{attribute}{len(keys)}")
    return keys


def _arrays(file: Any) -> Iterator[Any]:
    """Yields every array of a file or group except an optimiser's, which repeats the shapes of the weights."""
    for name, item in file.items():
        if isinstance(item, h5py.Dataset):
            yield item
        elif not name.startswith("optimizer"):
            yield from _arrays(item)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yields the HDF5 group of a file's weights."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                source: Any = io.BytesIO(archive.read("model.weights.h5"))
        else:
            source = path
        # Unlocked: we only read, and a download in progress holds a lock of its own on the file.
        with h5py.File(source, "r", locking=False) as file:
            yield file.get("model_weights", file)
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path} cannot be read as a Keras weights file (.h5, .weights.h5 or .keras): {error}. "
            "It may be cut off: fetch it again"
        ) from error
